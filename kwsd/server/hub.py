"""The hub: every event to every subscriber, none waiting for another.

An event is encoded once. Writing never blocks: what a socket does not take at once waits in that client's backlog, and a
client whose backlog passes its bound is dropped. Runs on the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from kwsd.protocol import messages as protocol

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter:
    """Which events a subscriber wants; None is all."""

    types: frozenset[str] | None = None
    words: frozenset[str] | None = None

    def passes(self, body: protocol.Body) -> bool:
        return (self.types is None or body["type"] in self.types) and (self.words is None or body.get("word") in (None, *self.words))


class Outlet:
    """The writing side of one client's socket."""

    def __init__(self, sock: socket.socket, name: str, backlog_bytes: int, on_close: Callable[[], None]) -> None:
        self._sock, self.name, self._bound, self._on_close = sock, name, backlog_bytes, on_close
        self._loop = asyncio.get_running_loop()
        self._backlog = bytearray()
        self._closed = self._close_when_empty = False
        self.filter: Filter | None = None
        """None until the client has subscribed."""
        self._seq = 0

    def send_event(self, line: bytes) -> None:
        self._seq += 1
        self.send(protocol.with_seq(line, self._seq))

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
        if len(self._backlog) > self._bound:
            log.warning("dropping %s: it has left %d bytes unread", self.name, len(self._backlog))
            self.close()

    @property
    def backlog(self) -> int:
        return len(self._backlog)

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

    def finish(self) -> None:
        """Close once the backlog is written."""
        self._close_when_empty = True
        if not self._backlog:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_writer(self._sock)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_close()


class Hub:
    def __init__(self) -> None:
        self.outlets: set[Outlet] = set()
        self.subscribed = asyncio.Event()
        """Set once somebody has subscribed."""

    def publish(self, body: protocol.Body) -> None:
        line = protocol.encode(body)
        for outlet in list(self.outlets):
            if outlet.filter is not None and outlet.filter.passes(body):
                outlet.send_event(line)

    async def drain(self, timeout_s: float) -> None:
        """Until every backlog is written, or the time is up."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while any(o.backlog for o in self.outlets) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)
