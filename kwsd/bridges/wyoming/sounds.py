"""What a satellite plays: the server's answers and its own sounds, one after the other.

Each is a WAV file on the standard input of a command. An answer may come faster than it is spoken,
and slower: it is played as it comes.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from kwsd.bounded import file as bounded
from kwsd.bridges.programs import Program, how
from kwsd.bridges.wyoming.frames import AudioFormat
from kwsd.config import ConfigError
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
MAX_QUEUED = 32 << 20
"""Bytes that wait to be played; what comes beyond them is dropped. Twelve minutes of an answer."""
MAX_SOUNDS = 16
"""Sounds that wait to be played."""
MAX_FILE = 4 << 20
"""Longest file of a sound, in bytes."""
STALL_S = 10.0
"""How much longer than its sound a command may take."""
IDLE_S = 30.0
"""An answer of which nothing has come for so long has ended."""
ENDLESS = 0x7FFFF000
"""What the head of a WAV file says of its length where nobody knows it yet, in bytes."""


class _Sound:
    """What is played by one run of the command."""

    def __init__(self, head: bytes, bytes_per_s: float, *, is_answer: bool) -> None:
        self.head = head
        self.chunks: deque[bytes] = deque()
        self.seconds = 0.0
        """Length of what has come of it."""
        self.ended = False
        """Whether nothing more comes."""
        self.stopped = False
        self.is_answer = is_answer
        self._bytes_per_s = bytes_per_s

    def add(self, data: bytes) -> None:
        """Play this after what has come already."""
        self.chunks.append(data)
        self.seconds += len(data) / self._bytes_per_s


class Speaker:
    """Plays sounds by a command; without one, they are dropped."""

    def __init__(self, command: str | None, played: Callable[[], Awaitable[None]]) -> None:
        """`played` is called when an answer has been played, or could not be."""
        self._command = command
        self._played = played
        self._sounds: deque[_Sound] = deque()
        self._open: _Sound | None = None  # the answer that still comes
        self._queued = 0
        self._more = asyncio.Event()
        self._program: Program | None = None
        self._failing = Seldom(log)

    @property
    def speaks(self) -> bool:
        """Whether an answer is being played, or will be."""
        return any(sound.is_answer for sound in self._sounds)

    def begin(self, format: AudioFormat) -> None:
        """Begin an answer, which ends the one before."""
        self.end()
        head = wav_head(format)
        self._open = self._enter(_Sound(head, format.rate * format.frame_bytes, is_answer=True))

    def add(self, data: bytes) -> None:
        """Add to the answer that comes; nothing where none does."""
        if self._open is None or not data:
            return
        if self._queued + len(data) > MAX_QUEUED:
            self._failing("an answer is too long; %d bytes of it are not played", len(data))
            return
        self._queued += len(data)
        self._open.add(data)
        self._more.set()

    def end(self) -> None:
        """End the answer that comes."""
        if self._open is not None:
            self._open.ended = True
            self._open = None
            self._more.set()

    def chime(self, wav: bytes | None) -> None:
        """Play a sound of the satellite's own."""
        if wav is None:
            return
        sound = _Sound(b"", len(wav), is_answer=False)  # a second of it, for want of more
        if self._enter(sound):
            self._queued += len(wav)
            sound.add(wav)
            sound.ended = True

    def stop(self) -> None:
        """End what is played, and drop what waits."""
        self.end()
        for sound in self._sounds:
            self._queued -= sum(map(len, sound.chunks))
            sound.chunks.clear()
            sound.stopped = sound.ended = True
        self._more.set()
        if self._program is not None:
            self._program.kill()

    async def run(self) -> NoReturn:
        """Play for as long as the task lives."""
        while True:
            while not self._sounds:
                self._more.clear()
                await self._more.wait()
            sound = self._sounds[0]
            await self._play(sound)
            self._sounds.popleft()
            if sound.is_answer:
                await self._played()

    def _enter(self, sound: _Sound) -> _Sound | None:
        """Let a sound wait for its turn; return None where too many do."""
        if len(self._sounds) >= MAX_SOUNDS:
            self._failing("%d sounds wait to be played; this one is not", MAX_SOUNDS)
            return None
        self._sounds.append(sound)
        self._more.set()
        return sound

    async def _play(self, sound: _Sound) -> None:
        """Play a sound to its end; where it cannot be played, wait for its end."""
        try:
            if self._command is not None:
                await self._play_by(self._command, sound)
        except TimeoutError:
            self._failing("play: it plays nothing; %g s after its sound it was ended", STALL_S)
        except OSError as error:
            self._failing("play: %s", error.strerror or error)
        finally:
            self._program = None
        while await self._next(sound) is not None:
            pass

    async def _play_by(self, command: str, sound: _Sound) -> None:
        """Play a sound. Raises TimeoutError, or OSError where the command cannot be started."""
        program: Program | None = None
        try:
            while (chunk := await self._next(sound)) is not None:
                if program is None:
                    program = self._program = await Program.start(command)
                    chunk = sound.head + chunk
                try:
                    await program.write(chunk, STALL_S + sound.seconds)
                except ConnectionError:  # it has heard enough, or has failed
                    break
            if program is not None:
                status = await program.end(STALL_S + sound.seconds)
                if status and not sound.stopped:
                    self._failing("play: %s", how(status))
        finally:
            if program is not None:
                await program.close()

    async def _next(self, sound: _Sound) -> bytes | None:
        """Return the next bytes of a sound, None at its end."""
        while not sound.chunks:
            if sound.ended:
                return None
            self._more.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._more.wait()
            except TimeoutError:
                self.end()
        chunk = sound.chunks.popleft()
        self._queued -= len(chunk)
        return chunk


def wav_head(format: AudioFormat) -> bytes:
    """Return the head of a WAV file whose length is not known yet."""
    frame, bits = format.frame_bytes, 8 * format.width
    shape = struct.pack(
        "<2H2I2H", 1, format.channels, format.rate, format.rate * frame, frame, bits
    )
    whole = struct.pack("<I", ENDLESS + 36)
    body = struct.pack("<I", ENDLESS)
    return b"RIFF" + whole + b"WAVEfmt \x10\0\0\0" + shape + b"data" + body


def read_wav(key: str, path: str | None) -> bytes | None:
    """Return a file that the configuration names under `key`. Raises ConfigError."""
    if path is None:
        return None
    try:
        data = bounded.read(Path(path), MAX_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error})") from None
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ConfigError(f"{key}: {path} is no WAV file; convert it: sox {path} sound.wav")
    return data
