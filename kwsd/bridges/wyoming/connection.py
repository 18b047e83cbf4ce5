"""One client of the wake service: its events in, detections out.

`audio-start` and `detect` each begin a new stream. A stream may have any number of detections, and
`audio-stop` is answered with `not-detected` where it had none. Events of other types are ignored.
What is wrong with one of these is answered with an `error`, and the connection ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.ping import Pong
from wyoming.wake import Detection, NotDetected

from kwsd.bridges.wyoming.frames import (
    FRAME_S,
    AudioFormat,
    Frame,
    FrameError,
    Ping,
    Timestamp,
    fields,
    read_frame,
)
from kwsd.bridges.wyoming.hearing import Heard, Hearing, Piece
from kwsd.bridges.wyoming.words import Words
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime

log = logging.getLogger(__name__)
AHEAD_S = 10.0
"""Seconds of audio that a client may send at once; from then on it is heard in real time."""
MAX_NAMES = 256
"""Words that a client may ask for."""


class _Detect(Struct, frozen=True):
    names: Annotated[list[str], Meta(max_length=MAX_NAMES)] | None = None
    context: dict[str, Any] | None = None


class _Start(Struct, frozen=True):
    timestamp: Timestamp | None = None


class _Chunk(AudioFormat, frozen=True):
    timestamp: Timestamp | None = None


class Shared(NamedTuple):
    """What all connections share."""

    bundle: Bundle
    runtime: Runtime
    words: Words
    worker: Executor
    """Where detectors compute; one thread, so that everybody has a turn."""
    info: Callable[[], Event]
    """Returns the reply to `describe`."""
    knows_voices: Callable[[], bool]
    """Whether somebody is enrolled with a daemon that is there."""
    admitted: Callable[[Heard], Awaitable[tuple[bool, str | None]]]
    """Returns whether a voice may wake it, and its speaker's name where it is verified."""


class Connection:
    """A client, for as long as it is connected."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shared: Shared
    ) -> None:
        """The `reader` has the limit of `frames.MAX_LINE`."""
        self.heard_at = time.monotonic()
        """When a frame came last, by the monotonic clock."""
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._names: list[str] | None = None
        self._context: dict[str, Any] | None = None
        self._hearing: Hearing | None = None
        self._generation = shared.words.generation
        self._detected = False
        self._credit_s = AHEAD_S
        self._credited_at = self.heard_at

    async def run(self) -> None:
        """Serve the client until it leaves, or is wrong. Raises ConnectionError or TimeoutError
        where it does not read."""
        try:
            frame = await read_frame(self._reader, first=True)
            while frame is not None:
                self.heard_at = time.monotonic()
                await self._answer(frame)
                await asyncio.sleep(0)  # the others' turn, where frames are there already
                frame = await read_frame(self._reader)
        except (FrameError, ValueError) as error:
            await self.refuse(str(error), "bad-frame")

    async def refuse(self, text: str, code: str) -> None:
        """Tell the client what is wrong."""
        await self._write(Error(text=text, code=code).event())

    async def _answer(self, frame: Frame) -> None:
        match frame.type:
            case "describe":
                await self._write(self._shared.info())
            case "ping":
                await self._write(Pong(text=fields(frame, Ping).text).event())
            case "detect":
                await self._detect(fields(frame, _Detect))
            case "audio-start":
                self._hearing = self._new_hearing(fields(frame, _Start).timestamp)
            case "audio-chunk":
                await self._hear(frame)
            case "audio-stop":
                await self._stop()

    async def _detect(self, asked: _Detect) -> None:
        self._names = asked.names or None
        self._context = asked.context
        self._hearing = None
        self._detected = False
        if unknown := self._shared.words.unknown(self._names or ()):
            known = ", ".join(self._shared.words.names)
            named = ", ".join(f"{name[:64]!r}" for name in unknown[:8])
            await self.refuse(f"detect: no word is called {named}; there are {known}", "no-word")

    def _new_hearing(self, start_ms: float | None = None) -> Hearing:
        shared = self._shared
        self._detected = False
        self._generation = shared.words.generation
        setup = shared.words.setup(self._names)
        return Hearing(shared.bundle, shared.runtime, setup, start_ms)

    async def _hear(self, frame: Frame) -> None:
        chunk = fields(frame, _Chunk)
        format = AudioFormat(chunk.rate, chunk.width, chunk.channels)
        hearing = self._hearing = self._hearing or self._new_hearing()
        if self._generation != self._shared.words.generation:
            self._generation = self._shared.words.generation
            hearing.configure(self._shared.words.setup(self._names))
        await self._pieces(hearing, hearing.add(frame.payload, format, chunk.timestamp))
        while piece := hearing.due():
            await self._pieces(hearing, [piece])

    async def _stop(self) -> None:
        hearing = self._hearing
        if hearing is not None:
            await self._pieces(hearing, hearing.rest(last=True))
        self._hearing = None
        if not self._detected:
            await self._write(NotDetected(context=self._context).event())
        self._detected = False

    async def _pieces(self, hearing: Hearing, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            await self._in_real_time(len(piece.data) / piece.format.frame_bytes, piece.format)
            hear = partial(hearing.hear, piece, voices=self._shared.knows_voices())
            loop = asyncio.get_running_loop()
            for one in await loop.run_in_executor(self._shared.worker, hear):
                await self._report(one)

    async def _report(self, heard: Heard) -> None:
        admitted, speaker = await self._shared.admitted(heard)
        if not admitted:
            if self._hearing is not None:  # somebody else may say the word at once
                self._hearing.forgive(heard.wake.word)
            return
        self._detected = True
        name = heard.wake.word
        log.info("detected %s for %s", name, self._writer.get_extra_info("peername"))
        await self._write(
            Detection(
                name=name, timestamp=heard.timestamp, speaker=speaker, context=self._context
            ).event()
        )

    async def _in_real_time(self, samples: float, format: AudioFormat) -> None:
        """Wait where a client is more than `AHEAD_S` ahead of the clock."""
        now = time.monotonic()
        self._credit_s = min(self._credit_s + now - self._credited_at, AHEAD_S)
        self._credited_at = now
        self._credit_s -= samples / format.rate
        if self._credit_s < 0:
            await asyncio.sleep(-self._credit_s)

    async def _write(self, event: Event) -> None:
        """Send an event. Raises TimeoutError where the client does not read."""
        async with asyncio.timeout(FRAME_S):
            await async_write_event(event, self._writer)
