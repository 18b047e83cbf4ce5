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
from typing import Literal

from kwsd.events import Event, Lag, MicrophoneChange
from kwsd.protocol.messages import Connection, FromClient, encode_end, encode_event
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
_dropping = Seldom(log)
WRITE_BYTES = 1 << 16
"""Bytes that are written to one client in one turn of the loop."""
MAX_BACKLOG_BYTES = 32 << 20
"""What all clients together may leave unread."""
Kind = Literal["event", "live", "reply"]
"""What a line is: an event, audio or scores that follow a request, or anything else."""


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
    that is, and has its next request answered when it has read the reply. Neither do live lines,
    which whoever sends them bounds (`kwsd.server.channel`).
    """

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        backlog_bytes: int,
        on_close: Callable[[], None],
        uid: int | None = None,
    ) -> None:
        self.name = name
        self.uid = uid
        """The user who has connected, where that is known."""
        self.connection: Connection[FromClient] = Connection.server()
        self.filter: Filter | None = None
        """None until the client has subscribed."""
        self.live_bytes = 0
        """Bytes of live lines that were meant for it; the listener's thread alone counts them."""
        self.live_sent = 0
        """Bytes of live lines that the socket has taken."""
        self._sock = sock
        self._max_events_bytes = backlog_bytes
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Lines] = deque()
        self._unread: dict[Kind, int] = {"event": 0, "live": 0, "reply": 0}
        self._replied = asyncio.Event()
        self._replied.set()
        self._closed = False
        self._close_when_empty = False

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet."""
        return sum(self._unread.values())

    def send_event(self, event: bytes) -> None:
        """Send an encoded event with this subscriber's next `seq`."""
        self._send(self.connection.number(event), "event")
        if (unread := self._unread["event"]) > self._max_events_bytes:
            self.drop(f"it has left {unread} bytes of events unread")

    def send(self, line: bytes) -> None:
        """Send a line that is no event, now or when the client reads on."""
        self._send(line, "reply")

    def send_live(self, line: bytes) -> None:
        """Send a line of audio or scores, after everything that was sent before."""
        self._send(line, "live")

    async def replied(self) -> None:
        """Wait until everything but events and live lines is written."""
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
        self._unread = dict.fromkeys(self._unread, 0)
        self._loop.remove_writer(self._sock)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_close()

    def _send(self, line: bytes, kind: Kind) -> None:
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
        if kind == "live":
            self.live_sent += sent
        if sent == len(line):
            return
        if not self._waiting:
            self._loop.add_writer(self._sock, self._flush)
        last = self._waiting[-1] if self._waiting else None
        if last and last.kind == kind != "reply" and len(last.data) < WRITE_BYTES:
            last.data += line
        else:
            self._waiting.append(_Lines(bytearray(line[sent:]), kind))
        self._count(len(line) - sent, kind)

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
        if first.kind == "live":
            self.live_sent += sent
        self._count(-sent, first.kind)
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            if self._close_when_empty:
                self.close()

    def _count(self, more: int, kind: Kind) -> None:
        self._unread[kind] += more
        if self._unread["reply"]:
            self._replied.clear()
        else:
            self._replied.set()


@dataclass
class _Lines:
    """Lines, or what is left of one, that the client has not read."""

    data: bytearray
    kind: Kind


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
