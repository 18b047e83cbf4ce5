"""The client: what an application uses to hear of wakes.

    with kwsd.connect() as daemon:
        for event in daemon.events(types=["wake"]):
            print(event.word)

`connect()` blocks; `connect_async()` is the same for asyncio. Neither loads numpy or a model. A
daemon that goes is a DaemonError; `events(reconnect=True)` waits until it is back.
"""

from __future__ import annotations

import array
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from kwsd.client.exchange import (
    GREETING_TIMEOUT_S,
    READ_BYTES,
    Exchange,
    Gap,
    Reconnection,
    closed_error,
    find_socket,
    is_lost,
    subscription_to,
    unreachable,
)
from kwsd.client.streams import Stream
from kwsd.events import Event, Wake
from kwsd.protocol import commands
from kwsd.protocol.commands import Subscribe
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.live import RunningScores
from kwsd.protocol.paging import following, joined
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import EventType, Request, type_of

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)


class Client:
    """A connection to the daemon, blocking. Use it as a context manager."""

    def __init__(self, path: Path | str | None = None, timeout_s: float | None = 90.0) -> None:
        """`timeout_s` is how long a reply may take. Raises DaemonError where no daemon answers."""
        self.path = Path(path) if path is not None else find_socket()
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._connect()

    def _connect(self) -> None:
        self._exchange = Exchange()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(GREETING_TIMEOUT_S)
            self._socket.connect(str(self.path))
            while (greeting := self._exchange.greeted(self.path)) is None:
                self._receive()
        except OSError as error:
            self._socket.close()
            raise unreachable(self.path, error) from error
        except DaemonError:
            self._socket.close()
            raise
        self.greeting = greeting
        """The daemon's versions, words and sample rate."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a thread that waits for an event sees the end of them."""
        self._closed.set()
        with contextlib.suppress(OSError):  # the daemon may have hung up first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def request(
        self,
        command: Request[R],
        *,
        fd: int | None = None,
        on_level: Callable[[float], None] | None = None,
    ) -> R:
        """Send a request and return its reply, with all its pages; events that arrive meanwhile
        are kept.

        `fd` is passed along; `on_level` is called with each level, in dBFS, while a take is
        recorded. Raises DaemonError.
        """
        pages = [self._request(command, fd, on_level)]
        while after := following(command, pages[-1]):
            pages.append(self._request(after))
        return joined(pages)

    def _request(
        self,
        command: Request[R],
        fd: int | None = None,
        on_level: Callable[[float], None] | None = None,
    ) -> R:
        id, line = self._exchange.send(command)
        self._socket.settimeout(self._timeout_s)
        rights = []
        if fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            sent = self._socket.sendmsg([line], rights)
            if sent < len(line):  # else the daemon may have answered, and gone
                self._socket.sendall(line[sent:])
            while (reply := self._exchange.reply(id)) is None:
                self._receive()
                while self._exchange.levels:
                    level = self._exchange.levels.popleft()
                    if on_level:
                        on_level(level)
        except TimeoutError as error:
            text = f"the daemon has not answered {type_of(command)} within {self._timeout_s:g} s"
            raise DaemonError("timeout", text) from error
        except OSError as error:
            raise closed_error(error) from error
        return cast(R, reply)

    def stream(
        self,
        start: int | None = None,
        *,
        pre_roll_s: float | None = None,
        silence_s: float = 0.8,
        max_s: float = 15.0,
    ) -> Stream:
        """Return a stream of the audio from sample `start` on, such as the `end` of a wake.

        Without `start` it begins `pre_roll_s` before now. It ends `silence_s` after speech (0 for
        never), after `max_s`, or when it is stopped. Raises DaemonError.
        """
        command = commands.Stream(
            start=start, pre_roll_s=pre_roll_s, silence_s=silence_s, max_s=max_s
        )
        reply = self.request(command)
        return Stream(self._exchange, reply, self._receive_live, self._stop_stream)

    def scores(self, interval_s: float = 0.08) -> Iterator[RunningScores]:
        """Ask for the running scores now, and return them as they come; close the iterator to end
        them. Raises DaemonError, also during the iteration."""
        self.request(commands.Scores(interval_s=interval_s))
        return self._running_scores(self._exchange)

    def _running_scores(self, exchange: Exchange) -> Iterator[RunningScores]:
        try:
            while True:
                while exchange.scores:
                    yield exchange.scores.popleft()
                self._receive_live()
        except GeneratorExit:
            with contextlib.suppress(DaemonError, OSError):  # it may be closed
                self.request(commands.ScoresStop())
            raise

    def _stop_stream(self, number: int) -> None:
        self.request(commands.StreamStop(stream=number))

    def _receive_live(self) -> None:
        """Wait for more from the daemon. Raises DaemonError."""
        self._socket.settimeout(self._timeout_s)
        try:
            self._receive()
        except TimeoutError as error:
            text = f"the daemon has sent nothing for {self._timeout_s:g} s"
            raise DaemonError("timeout", text) from error
        except OSError as error:
            raise closed_error(error) from error

    @overload
    def events(
        self,
        types: Sequence[Literal["wake"]],
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Wake]: ...
    @overload
    def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Event]: ...
    def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Event]:
        """Subscribe now, and return the events as they come.

        Only events of these types, and of these words; with `details`, which is for privileged
        users, they name the nearest speaker and the runner-up too. They end with the recording that
        the daemon listens to, or when the client is closed. Raises DaemonError, also during the
        iteration, where the daemon goes, or sends what cannot be read. With `reconnect`, the client
        waits for a daemon that goes to come back, subscribes again, and calls `on_gap` with what
        was missed.
        """
        subscription = subscription_to(types, words, details)
        self.request(subscription)
        return self._events(subscription, reconnect, on_gap)

    def _events(
        self, subscription: Subscribe, reconnect: bool, on_gap: Callable[[Gap], None] | None
    ) -> Iterator[Event]:
        seq = None
        while True:
            try:
                for event in self._events_of_connection():
                    seq = event.seq
                    yield event
                return
            except DaemonError as error:
                if self._closed.is_set():
                    return
                if not (reconnect and is_lost(error)):
                    raise
                back = Reconnection(error, seq)
            while not self._returned(subscription):
                if self._closed.wait(back.pause_s()):
                    return
            if self._closed.is_set():  # while it connected
                self._socket.close()
                return
            seq = None
            if on_gap:
                on_gap(back.gap())

    def _events_of_connection(self) -> Iterator[Event]:
        """Yield events until the recording has ended. Raises DaemonError where the daemon goes."""
        while True:
            while self._exchange.events:
                yield self._exchange.events.popleft()
            if self._exchange.ended:
                return
            try:
                self._socket.settimeout(None)  # a request meanwhile has a time
                self._receive()
            except OSError as error:
                raise closed_error(error) from error

    def _returned(self, subscription: Subscribe) -> bool:
        """Connect and subscribe again; return whether the daemon is back. Raises DaemonError."""
        self._socket.close()
        try:
            self._connect()
            self._request(subscription)
        except DaemonError as error:
            if not is_lost(error):
                raise
            return False
        return True

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def _receive(self) -> None:
        self._exchange.check()
        self._exchange.receive(self._socket.recv(READ_BYTES))


def connect(path: Path | str | None = None) -> Client:
    """Connect to the daemon, at `path` or its usual socket. Raises DaemonError."""
    return Client(path)
