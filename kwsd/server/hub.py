"""The hub: every event to every subscriber, none waiting for another.

An event is encoded once, and once more where somebody wants its details. Writing never blocks: what
a socket does not take at once waits in that client's backlog. A client whose events exceed its
bound is dropped, and the one that has left the most unread where all of them together exceed
theirs. Runs on the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kwsd.events import Event, Lag, MicrophoneChange
from kwsd.protocol.messages import Connection, FromClient, encode_end, encode_event
from kwsd.server.seldom import Seldom

log = logging.getLogger(__name__)
_dropping = Seldom(log)
WRITE_BYTES = 1 << 16
"""Bytes that are written to one client in one turn of the loop."""
MAX_BACKLOG_BYTES = 32 << 20
"""What all clients together may leave unread."""


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
    """The writing side of one client's socket, and its side of the protocol.

    Replies do not count against the bound on events: a client that asks is answered, however much
    that is, and has its next request answered when it has read the reply.
    """

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
        self._max_events_bytes = backlog_bytes
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Lines] = deque()
        self._events_bytes = 0
        self._replies_bytes = 0
        self._replied = asyncio.Event()
        self._replied.set()
        self._closed = False
        self._close_when_empty = False

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet."""
        return self._events_bytes + self._replies_bytes

    def send_event(self, event: bytes) -> None:
        """Send an encoded event with this subscriber's next `seq`."""
        self._send(self.connection.number(event), is_event=True)
        if self._events_bytes > self._max_events_bytes:
            self.drop(f"it has left {self._events_bytes} bytes of events unread")

    def send(self, line: bytes) -> None:
        """Send a line that is no event, now or when the client reads on."""
        self._send(line, is_event=False)

    async def replied(self) -> None:
        """Wait until everything but events is written."""
        await self._replied.wait()

    def finish(self) -> None:
        """Close once the backlog is written."""
        self._close_when_empty = True
        if not self._waiting:
            self.close()

    def drop(self, why: str) -> None:
        """Close the socket of a client that does not keep to the bounds."""
        if not self._closed:
            _dropping("dropping %s: %s", self.name, why)
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        self._events_bytes = self._replies_bytes = 0
        self._loop.remove_writer(self._sock)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_close()

    def _send(self, line: bytes, *, is_event: bool) -> None:
        if self._closed:
            return
        sent = 0
        if not self._waiting:
            try:
                sent = self._sock.send(line)
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if sent == len(line):
            return
        if not self._waiting:
            self._loop.add_writer(self._sock, self._flush)
        last = self._waiting[-1] if self._waiting else None
        if last and last.are_events and is_event and len(last.data) < WRITE_BYTES:
            last.data += line
        else:
            self._waiting.append(_Lines(bytearray(line[sent:]), is_event))
        self._count(len(line) - sent, is_event)

    def _flush(self) -> None:
        """Write once, as much as the socket takes of what has waited longest."""
        first = self._waiting[0]
        try:
            with memoryview(first.data)[:WRITE_BYTES] as data:
                sent = self._sock.send(data)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del first.data[:sent]
        if not first.data:
            self._waiting.popleft()
        self._count(-sent, first.are_events)
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            if self._close_when_empty:
                self.close()

    def _count(self, more: int, is_event: bool) -> None:
        if is_event:
            self._events_bytes += more
            return
        self._replies_bytes += more
        if self._replies_bytes:
            self._replied.clear()
        else:
            self._replied.set()


@dataclass
class _Lines:
    """Lines, or what is left of one, that the client has not read."""

    data: bytearray
    are_events: bool


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
        self.trim()

    def trim(self) -> None:
        """Drop whoever has left the most unread, while all have left too much."""
        while sum(one.backlog for one in self.subscribers) > MAX_BACKLOG_BYTES:
            largest = max(self.subscribers, key=lambda one: one.backlog)
            self.subscribers.discard(largest)
            largest.drop(f"it has left {largest.backlog} bytes unread, and memory is short")

    def end(self) -> None:
        """Tell every subscriber that no event follows."""
        for subscriber in list(self.subscribers):
            if subscriber.filter is not None:
                subscriber.send(encode_end())

    async def drain(self, timeout_s: float) -> None:
        """Wait until every backlog is written, or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while any(one.backlog for one in self.subscribers) and loop.time() < deadline:
            await asyncio.sleep(0.005)
