"""The hub: every event to every subscriber, none waiting for another.

An event is encoded once, and once more where somebody wants its details. Writing never blocks: what
a socket does not take at once waits in that client's backlog, and a client whose backlog exceeds
its bound is dropped. Runs on the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from kwsd.events import Event, Lag, MicrophoneChange
from kwsd.protocol.messages import Connection, FromClient, encode_event

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter:
    """The events that a subscriber wants; None is all."""

    types: frozenset[str] | None = None
    words: frozenset[str] | None = None
    details: bool = False
    """Whether it may see, and wants, whom an unverified voice resembles."""

    def passes(self, event: Event) -> bool:
        """Return whether the subscriber wants `event`."""
        kind = event.__struct_config__.tag
        if self.types is not None and kind not in self.types:
            return False
        if self.words is None or isinstance(event, (MicrophoneChange, Lag)):
            return True
        return event.word in self.words


class Subscriber:
    """The writing side of one client's socket, and its side of the protocol."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        backlog_bytes: int,
        on_close: Callable[[], None],
    ) -> None:
        self.name = name
        self.connection: Connection[FromClient] = Connection.server()
        self.filter: Filter | None = None
        """None until the client has subscribed."""
        self._sock = sock
        self._max_backlog_bytes = backlog_bytes
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._backlog = bytearray()
        self._closed = False
        self._close_when_empty = False

    def send_event(self, event: bytes) -> None:
        """Send an encoded event with this subscriber's next `seq`."""
        self.send(self.connection.number(event))

    def send(self, line: bytes) -> None:
        """Write `line`, now or when the client reads on."""
        if self._closed:
            return
        if self._backlog:
            self._backlog += line
        else:
            try:
                sent = self._sock.send(line)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent < len(line):
                self._backlog += line[sent:]
                self._loop.add_writer(self._sock, self._flush)
        if len(self._backlog) > self._max_backlog_bytes:
            log.warning("dropping %s: it has left %d bytes unread", self.name, self.backlog)
            self.close()

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet."""
        return len(self._backlog)

    def finish(self) -> None:
        """Close once the backlog is written."""
        self._close_when_empty = True
        if not self._backlog:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_writer(self._sock)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_close()

    def _flush(self) -> None:
        try:
            del self._backlog[: self._sock.send(self._backlog)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._backlog:
            self._loop.remove_writer(self._sock)
            if self._close_when_empty:
                self.close()


class Hub:
    """All clients."""

    def __init__(self) -> None:
        self.subscribers: set[Subscriber] = set()
        self.subscribed = asyncio.Event()
        """Set once somebody has subscribed."""

    def publish(self, event: Event) -> None:
        """Send `event` to every subscriber that wants it."""
        lines: dict[bool, bytes] = {}
        for subscriber in list(self.subscribers):
            wanted = subscriber.filter
            if wanted is None or not wanted.passes(event):
                continue
            if wanted.details not in lines:
                lines[wanted.details] = encode_event(event, details=wanted.details)
            subscriber.send_event(lines[wanted.details])

    async def drain(self, timeout_s: float) -> None:
        """Wait until every backlog is written, or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while any(one.backlog for one in self.subscribers) and loop.time() < deadline:
            await asyncio.sleep(0.005)
