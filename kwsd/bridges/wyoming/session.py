"""One connection of a server to the satellite: its events in, wakes and commands out.

Anybody who may connect is answered `describe` and `ping`. The one server that says `run-satellite`
is sent a `detection`, `run-pipeline` and the audio from the wake's end on, until it has heard
enough; what it says is played, and answered with `played`. Other events are ignored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.ping import Pong
from wyoming.pipeline import PipelineStage, RunPipeline
from wyoming.snd import Played
from wyoming.wake import Detection

from kwsd.audio.format import SAMPLE_RATE
from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.programs import Commands
from kwsd.bridges.wyoming.frames import (
    FRAME_S,
    AudioFormat,
    Frame,
    FrameError,
    Ping,
    fields,
    read_frame,
)
from kwsd.bridges.wyoming.sounds import Speaker
from kwsd.events import Wake
from kwsd.protocol.errors import DaemonError

log = logging.getLogger(__name__)
COMMAND_S = 30.0
"""Longest time that audio is sent after a wake, whatever the server says."""
STOP_S = 1.0
"""Longest time that the daemon has to end a stream before the server is heard on."""
WIDTH = 2
"""Bytes of a sample that is sent."""


class Shared(NamedTuple):
    """What all connections share."""

    link: DaemonLink
    speaker: Speaker
    timers: Commands
    info: Callable[[], Event]
    """Returns the reply to `describe`."""
    takes: Callable[[Session], Awaitable[bool]]
    """Makes a connection the server's, unless there is another; returns whether it is."""
    left: Callable[[Session], None]
    """Is called when a connection has ended."""
    last_stage: PipelineStage
    """Where the server's pipeline is to end."""
    awake: bytes | None
    """The sound of a wake, a WAV file."""
    done: bytes | None
    """The sound of a command that was understood."""


class Session:
    """A connection, for as long as it lasts."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
        shared: Shared,
    ) -> None:
        """The `reader` has the limit of `frames.MAX_LINE`."""
        self.heard_at = time.monotonic()
        self.peer = peer
        """The address at the other end."""
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._serves = False  # this is the server
        self._paused = False
        self._gone = asyncio.Event()
        self._command: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the other end leaves, or is wrong. Raises ConnectionError or TimeoutError
        where it does not read."""
        try:
            frame = await read_frame(self._reader, first=True)
            while frame is not None and await self._answer(frame):
                self.heard_at = time.monotonic()
                await asyncio.sleep(0)  # the others' turn, where frames are there already
                frame = await read_frame(self._reader)
        except FrameError as error:
            await self.refuse(str(error), "bad-frame")
        finally:
            self._shared.left(self)
            self._gone.set()
            await self._stop()

    async def leaves(self, within_s: float) -> bool:
        """Return whether the connection ends within a time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._gone.wait()
        except TimeoutError:
            return False

    async def refuse(self, text: str, code: str) -> None:
        """Tell the other end what is wrong."""
        await self._write(Error(text=text, code=code).event())

    async def played(self) -> None:
        """Tell the server that an answer has been played."""
        await self._write(Played().event())

    def wake(self, wake: Wake) -> None:
        """Tell the server of a wake and send it what follows, unless a command is being sent, or
        the server has paused the satellite."""
        if not self._paused and (self._command is None or self._command.done()):
            self._command = asyncio.create_task(self._send(wake))

    async def _answer(self, frame: Frame) -> bool:
        """Answer a frame; return whether the connection goes on. Raises FrameError."""
        match frame.type:
            case "describe":
                await self._write(self._shared.info())
            case "ping":
                await self._write(Pong(text=fields(frame, Ping).text).event())
            case "run-satellite":
                self._paused = False
                self._serves = await self._shared.takes(self)
                if not self._serves:
                    text = "this satellite has a server already, and takes no second one"
                    await self.refuse(text, "busy")
                    return False
            case _ if self._serves:
                await self._obey(frame)
        return True

    async def _obey(self, frame: Frame) -> None:
        """Do what the server says. Raises FrameError."""
        speaker = self._shared.speaker
        match frame.type:
            case "transcript":
                await self._stop()
                speaker.chime(self._shared.done)
            case "voice-stopped" | "error":
                await self._stop()
            case "audio-start":
                speaker.begin(fields(frame, AudioFormat))
            case "audio-chunk":
                speaker.add(frame.payload)
            case "audio-stop":
                speaker.end()
            case type if type.startswith("timer-"):
                line = msgspec.json.encode({**frame.data, "type": type}) + b"\n"
                self._shared.timers.start(line, rings=type == "timer-finished")
            case "pause-satellite":
                self._paused = True
                await self._stop()

    async def _stop(self) -> None:
        """Send no more of the command."""
        if self._command is not None:
            self._command.cancel()
            await asyncio.wait({self._command}, timeout=STOP_S)

    async def _send(self, wake: Wake) -> None:
        """Tell the server of a wake, and send what is said from its end on."""
        shared = self._shared
        speaker = wake.speaker.name if wake.speaker else None
        try:
            name, time_ms = wake.word, _milliseconds(wake.end)
            await self._write(Detection(name=name, timestamp=time_ms, speaker=speaker).event())
            await self._write(RunPipeline(PipelineStage.ASR, shared.last_stage).event())
            shared.speaker.chime(shared.awake)
            await self._write(AudioStart(SAMPLE_RATE, WIDTH, 1, time_ms).event())
            try:
                await self._send_audio(wake.end)
            except DaemonError as error:
                log.warning("what follows %s is not sent: %s", name, error)
            finally:
                await self._write(AudioStop().event())
        except (ConnectionError, TimeoutError) as error:
            log.info("%s is lost: %s", self.peer, str(error) or "it does not read")
            self._writer.transport.abort()

    async def _send_audio(self, start: int) -> None:
        """Send the audio from a sample on. Raises DaemonError, ConnectionError or TimeoutError."""
        async with await self._shared.link.stream(start, silence_s=0, max_s=COMMAND_S) as stream:
            async for message in stream:
                time_ms = _milliseconds(message.start)
                chunk = AudioChunk(SAMPLE_RATE, WIDTH, 1, message.pcm, time_ms)
                await self._write(chunk.event())

    async def _write(self, event: Event) -> None:
        """Send an event. Raises TimeoutError where the other end does not read."""
        async with asyncio.timeout(FRAME_S):
            await async_write_event(event, self._writer)


def _milliseconds(sample: int) -> int:
    return round(sample * 1000 / SAMPLE_RATE)
