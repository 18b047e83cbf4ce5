"""What the daemon hears and does, for all open pages, by one subscription.

Events are heard all the time, so that a page that is opened after a failed wake shows it. Scores
and status come only while somebody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import msgspec

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.service import together
from kwsd.client.async_client import AsyncClient
from kwsd.events import Event, to_dict
from kwsd.protocol.commands import Status
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import StatusReply

log = logging.getLogger(__name__)
INTERVAL_S = 0.16
"""Seconds between two scores, each the highest since the one before."""
STATUS_S = 2.0
HISTORY = 200
"""Events that a page which is opened is told."""
MAX_UNREAD = 1 << 20
"""Bytes that a page may leave unread; scores are left out from a sixteenth of it on."""
ALIVE_S = 15.0
"""Seconds after which a stream on which nothing happens shows that it lives."""
CHUNK = 1 << 16
"""Bytes from which on what waits is sent in parts, each of which is copied a few times."""
REFUSED_S = 10.0
"""Seconds before scores that were refused are asked for again."""
LOST = ("closed", "unreachable", "timeout", "protocol")
"""Errors that end the connection to the daemon."""

_encoder = msgspec.json.Encoder()


def frame(kind: str, data: object) -> bytes:
    """Return a server-sent event: a line of its kind, and one of JSON."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encoder.encode(data))


class Watcher:
    """An open page: what is on its way to it."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._missed = 0
        self._filled = asyncio.Event()

    def push(self, one: bytes, *, droppable: bool = False) -> None:
        """Send a frame; count it as missed where too much waits. One that is `droppable` is left
        out early, and nobody misses it."""
        if self._bytes + len(one) > (MAX_UNREAD >> 4 if droppable else MAX_UNREAD):
            self._missed += not droppable
            return
        self._frames.append(one)
        self._bytes += len(one)
        self._filled.set()

    async def take(self) -> bytes:
        """Return what waits, or its first part, once something does; a comment where nothing
        happens for long."""
        try:
            async with asyncio.timeout(ALIVE_S):
                await self._filled.wait()
        except TimeoutError:
            return b": alive\n\n"
        part = bytearray()
        while self._frames and len(part) < CHUNK:
            part += self._frames.popleft()
        self._bytes -= len(part)
        data = bytes(part)
        if self._frames:
            return data
        self._filled.clear()
        if self._missed:
            data += frame("missed", {"events": self._missed})
            self._missed = 0
        return data


class Live:
    """One link to the daemon, and the pages that watch it."""

    def __init__(self, link: DaemonLink) -> None:
        self._link = link
        self._watchers: set[Watcher] = set()
        self._watched = asyncio.Event()
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._away: dict[str, Any] = {"there": False, "why": ""}
        self._refused: str | None = None
        self._status = b""
        """The frame of the status that was heard last, empty while the daemon is away."""
        self._closing = asyncio.Event()

    async def run(self) -> NoReturn:
        """Stay connected for as long as the task lives."""
        await self._link.run(self._came, self._heard, self._went, self._could_not)

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    async def stream(self, is_admitted: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield the server-sent events of a page, until it is closed or its session has ended."""
        watcher = Watcher()
        self._watchers.add(watcher)
        self._watched.set()
        closing = asyncio.ensure_future(self._closing.wait())
        taking: asyncio.Future[bytes] | None = None
        try:
            yield frame("daemon", self._away) + frame("past", list(self._history)) + self._status
            if self._refused:
                yield frame("refused", self._refused)
            while is_admitted():
                taking = asyncio.ensure_future(watcher.take())
                await asyncio.wait([taking, closing], return_when=asyncio.FIRST_COMPLETED)
                if closing.done():
                    return
                yield taking.result()
            yield frame("ended", {})
        finally:
            closing.cancel()
            if taking is not None:
                taking.cancel()
            self._watchers.discard(watcher)
            if not self._watchers:
                self._watched.clear()

    async def _came(self, client: AsyncClient) -> None:
        self._say_daemon(there=True, version=client.greeting.version)
        await together(self._send_scores(client), self._send_status(client))

    async def _send_scores(self, client: AsyncClient) -> None:
        while True:
            await self._watched.wait()
            try:
                async with contextlib.aclosing(client.scores(INTERVAL_S)) as scores:
                    async for one in scores:
                        self._say_refused(None)
                        self._publish(frame("scores", one), droppable=True)
                        if not self._watched.is_set():
                            break
            except RequestError as error:
                if error.code in LOST:
                    raise
                self._say_refused(str(error))
                await asyncio.sleep(REFUSED_S)

    async def _send_status(self, client: AsyncClient) -> None:
        while True:
            await self._watched.wait()
            self._status = frame("status", _shown(await client.request(Status())))
            self._publish(self._status, droppable=True)
            await asyncio.sleep(STATUS_S)

    def _heard(self, event: Event) -> None:
        body = {**to_dict(event), "at": round(time.time(), 3)}  # when the page has heard of it
        self._history.append(body)
        if self._watchers:
            self._publish(frame("event", body))

    def _went(self) -> None:
        self._say_daemon(there=False, why="the daemon was stopped, or has failed")

    def _could_not(self, why: str) -> None:
        self._say_daemon(there=False, why=why)

    def _say_daemon(self, **state: object) -> None:
        self._away = state
        self._status = b""
        self._publish(frame("daemon", state))

    def _say_refused(self, why: str | None) -> None:
        if why != self._refused:
            self._refused = why
            self._publish(frame("refused", why))

    def _publish(self, one: bytes, *, droppable: bool = False) -> None:
        for watcher in self._watchers:
            watcher.push(one, droppable=droppable)


def _shown(status: StatusReply) -> dict[str, Any]:
    """Return what the page shows of the daemon's status."""
    return {
        "microphone": status.microphone,
        "pauses": status.pauses,
        "lag_s": status.lag_s,
        "cpu": status.real_time_factor,
        "encoded_share": status.encoded_share,
        "uptime_s": status.uptime_s,
        "words": status.words,
        "disabled": status.disabled,
        "checker": status.checker,
        "speakers": status.speakers,
        "warnings": [*status.warnings, *status.unusable],
        "refused": status.refused,
    }
