"""What both clients share: finding the socket, the exchange of messages, and coming back."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from kwsd.config import user_directory, why_too_long, why_unsafe
from kwsd.events import Event
from kwsd.protocol.commands import Subscribe
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.protocol.live import RunningScores, StreamAudio, StreamEnd
from kwsd.protocol.messages import Connection, End, FromServer, Greeting, Level, Received
from kwsd.protocol.parsing import Id
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import EventType, Request

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)
READ_BYTES = 1 << 16
GREETING_TIMEOUT_S = 10.0
MAX_SCORES = 64
"""Running scores that nobody has read, of which the oldest are dropped."""
RETRY_MIN_S = 0.25
"""First pause before a daemon that was lost is tried again; pauses double."""
RETRY_MAX_S = 5.0


def find_socket() -> Path:
    """Return the daemon's socket.

    It is `$KWSD_SOCKET`, else that of the user's own daemon where there is one, else the system's.
    """
    if named := os.environ.get("KWSD_SOCKET"):
        return Path(named)
    folder = user_directory()
    own = folder / "kwsd.sock"
    # In a folder of somebody else's, something else than the user's daemon may answer.
    return own if not why_unsafe(folder) and own.exists() else Path("/run/kwsd/kwsd.sock")


def unreachable(path: Path, error: OSError) -> DaemonError:
    if too_long := why_too_long(path):
        return DaemonError("unreachable", too_long)
    why = {
        FileNotFoundError: (
            "no daemon runs there; start it with `kwsd run` or `systemctl start kwsd`"
        ),
        ConnectionRefusedError: (
            "the daemon that made it is gone; start it again"
            if isinstance(error, ConnectionRefusedError) and path.is_socket()
            else "is not a socket; name the daemon's socket"
        ),
        TimeoutError: "something holds it, and does not answer; restart the daemon",
        PermissionError: (
            "you may not connect; join the socket's group (`sudo usermod -aG kwsd $USER`), "
            "then log in again"
        ),
    }.get(type(error), str(error))
    return DaemonError("unreachable", f"{path}: {why}")


class Exchange:
    """Requests and their replies, with no I/O: what both clients share."""

    def __init__(self) -> None:
        self.greeting: Greeting | None = None
        self.events: deque[Event] = deque()
        self.levels: deque[float] = deque()
        self.scores: deque[RunningScores] = deque(maxlen=MAX_SCORES)
        self.ended = False
        """Whether the recording that the daemon listens to has ended."""
        self._connection: Connection[FromServer] = Connection.client()
        self._replies: dict[Id, Reply | RequestError] = {}
        self._forgotten: set[Id] = set()
        self._streams: dict[int, deque[StreamAudio | StreamEnd]] = {}

    def send(self, command: Request[R]) -> tuple[int, bytes]:
        """Return the id and the line of a request. Raises DaemonError where it is too long."""
        return self._connection.request(command)

    def check(self) -> None:
        """Raise the DaemonError that ended the connection: no more can come."""
        if self._connection.error is not None:
            raise self._connection.error

    def receive(self, data: bytes) -> None:
        """Process what the daemon sent. Raises DaemonError."""
        if not data:
            raise DaemonError("closed", "the daemon has closed the connection")
        for message in self._connection.receive(data):
            match message:
                case Greeting():
                    self.greeting = message
                case Received() if message.id in self._forgotten:
                    self._forgotten.remove(message.id)
                case Received():
                    self._replies[message.id] = message.reply
                case Level():
                    self.levels.append(message.level_dbfs)
                case StreamAudio() | StreamEnd():
                    self._streams.setdefault(message.stream, deque()).append(message)
                case RunningScores():
                    self.scores.append(message)
                case End():
                    self.ended = True
                case _:
                    self.events.append(message)

    def greeted(self, path: Path) -> Greeting | None:
        """Return the greeting, once it is there. Raises DaemonError for another first message."""
        if self.greeting is None and (refusal := self._replies.get(None)):
            assert isinstance(refusal, RequestError)
            raise refusal
        if self.greeting is None and (self.events or self.levels or self.scores):
            raise DaemonError("protocol", f"{path}: something other than kwsd answers there")
        return self.greeting

    def forget(self, id: int) -> None:
        """Drop the reply to the request `id` when it comes: nobody waits for it any more."""
        if self._replies.pop(id, None) is None:
            self._forgotten.add(id)

    def reply(self, id: int) -> Reply | None:
        """Return the reply to the request `id`, once it is there. Raises DaemonError."""
        found = self._replies.pop(id, None) or self._replies.pop(None, None)
        if isinstance(found, RequestError):
            raise found
        return found

    def next_of(self, stream: int) -> StreamAudio | StreamEnd | None:
        """Return the next message of a stream, once it is there."""
        waiting = self._streams.get(stream)
        return waiting.popleft() if waiting else None

    def forget_stream(self, stream: int) -> None:
        """Forget a stream that has ended."""
        self._streams.pop(stream, None)


class Gap(Struct, frozen=True, tag="gap"):
    """A time in which events were missed, between the loss of the daemon and its return."""

    seconds: float
    """How long nobody listened."""
    last_seq: int | None
    """The `seq` of the last event before it; None where there was none."""
    next_seq: int = 1
    """The `seq` of the first event after it: numbers begin again."""


class Reconnection:
    """The way back to a daemon that was lost: how long to wait, and what was missed."""

    def __init__(self, error: DaemonError, last_seq: int | None) -> None:
        log.warning("%s; trying to reach it again", error)
        self._lost_at = time.monotonic()
        self._last_seq = last_seq
        self._pause_s = RETRY_MIN_S

    def pause_s(self) -> float:
        """Return how long to wait before the next try."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, RETRY_MAX_S)
        return pause_s

    def gap(self) -> Gap:
        """Return what was missed, now that events come again."""
        return Gap(round(time.monotonic() - self._lost_at, 3), self._last_seq)


def is_lost(error: DaemonError) -> bool:
    """Return whether the daemon may be back soon."""
    return error.code in ("closed", "unreachable", "timeout", "busy")


def closed_error(error: OSError) -> DaemonError:
    return DaemonError("closed", f"the daemon has closed the connection ({error.strerror})")


def subscription_to(
    types: Sequence[EventType] | None, words: Sequence[str] | None, details: bool
) -> Subscribe:
    return Subscribe(
        types=None if types is None else list(types),
        words=None if words is None else list(words),
        details=details,
    )
