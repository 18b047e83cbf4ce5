"""What the listener listens to, and the clock of its stream."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import stat
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from kwsd.audio import capture, devices, files
from kwsd.audio.capture import Block
from kwsd.audio.channels import ChannelMeter
from kwsd.audio.devices import MicrophoneError
from kwsd.audio.files import AudioFileError
from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.audio.raw_pcm import RawConverter, RawFormat, raw_blocks
from kwsd.config import MicrophoneConfig
from kwsd.detect.offline import with_tail

POLL_S = 0.1
"""Seconds between two looks at a pipe."""
REST_S = 0.05
"""Seconds between two looks at whether a pause has ended."""
MAX_READ_BYTES = 1 << 20


class Source(Protocol):
    """Something to listen to."""

    name: str

    @property
    def meter(self) -> ChannelMeter | None:
        """What its channels carry; None for a recording."""

    @property
    def channel(self) -> int | str:
        """The channel that is heard, or `mix`."""

    def read(self, blocks: int = 1) -> Block | None:
        """Return the next `blocks` of 80 ms in one (fewer at the end), or None at the end.

        Raises MicrophoneError where the source was lost.
        """


class LiveInput(Protocol):
    """An input that goes on for ever, is lost and comes back."""

    def open(
        self, config: MicrophoneConfig, stop: Callable[[], bool]
    ) -> AbstractContextManager[Source]:
        """Open it; `stop` is asked all the time while a read waits. Raises MicrophoneError."""

    def rescan(self) -> None:
        """Look for it again after it was lost, or released for a while."""

    def rest(self) -> bool:
        """Wait for a moment while nobody listens and it is not open; return whether it goes on.

        What comes meanwhile is dropped.
        """


class MicrophoneInput:
    """The configured microphone."""

    def __init__(self) -> None:
        self._again = False

    def open(
        self, config: MicrophoneConfig, stop: Callable[[], bool]
    ) -> AbstractContextManager[Source]:
        """Open the configured device."""
        return capture.open_microphone(config, BLOCK_S, stop, again=self._again)

    def rescan(self) -> None:
        """Make PortAudio look for devices again."""
        self._again = True
        devices.rescan()

    def rest(self) -> bool:
        """Wait for a moment: it is released, and others may have it."""
        time.sleep(REST_S)
        return True


class PipeInput:
    """Raw PCM that another program writes into a pipe as it comes."""

    name = "standard input"

    def __init__(
        self, fd: int, format: RawFormat, channel: int | str, realtime: bool = False
    ) -> None:
        """With `realtime`, it is read no faster than it was spoken.

        Raises AudioFileError where the format has no such channel.
        """
        self.channel = channel
        self._realtime = realtime
        self._empty_at: float | None = None
        self._heard_s = 0.0
        self._came_at = 0.0
        self._fd = fd
        self._converter = RawConverter(format, channel, self.name)
        self._block_bytes = int(format.rate * BLOCK_S) * format.frame_bytes
        self._bytes_per_s = format.rate * format.frame_bytes
        self._stop: Callable[[], bool] = lambda: False
        self._stall_s = 0.0
        self._ended = False
        self._last = np.zeros(0, np.int16)  # the sample that was read last

    @property
    def meter(self) -> ChannelMeter:
        """What its channels carry."""
        return self._converter.meter

    @contextlib.contextmanager
    def open(self, config: MicrophoneConfig, stop: Callable[[], bool]) -> Iterator[Source]:
        """Go on reading: a pipe is open already."""
        self._stall_s = config.stall_s
        self._stop = stop
        self._came_at = time.monotonic()
        yield self

    def rescan(self) -> None:
        """Do nothing: a pipe stays what it is."""

    def rest(self) -> bool:
        """Read and drop what comes, so that whoever writes it is not held up.

        Raises AudioFileError where it cannot be read.
        """
        asked = time.monotonic()
        if self._is_ready() and (data := self._take(self._block_bytes, asked)):
            self._arrival(len(self._converter.step(data)))
        return not self._ended

    def read(self, blocks: int = 1) -> Block | None:
        """Return the next `blocks` of 80 ms in one, fewer where the pipe is empty; None at the end.

        Raises MicrophoneError where nothing has come for `stall_s`.
        """
        wanted = self._block_bytes * blocks
        parts: list[np.ndarray] = []
        while wanted > 0 and not self._ended:
            if self._stop():
                return None
            asked = time.monotonic()
            if not self._is_ready():
                if parts or asked - self._came_at > self._stall_s:
                    break
                continue
            data = self._take(wanted, asked)
            parts.append(self._converter.step(data) if data else self._end(parts))
            wanted -= len(data)
            self._came_at = time.monotonic()
        samples = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        if len(samples):
            self._last = samples[-1:]
        if len(samples) or (parts and not self._ended):
            return Block(samples, self._arrival(len(samples)))
        if self._ended:
            return None
        raise MicrophoneError(f"{self.name} has delivered nothing for {self._stall_s:g} s")

    def _is_ready(self) -> bool:
        """Wait for a moment; return whether there is something to read, be it the end."""
        ready, _, _ = select.select([self._fd], [], [], POLL_S)
        if not ready:
            self._empty_at = None
        return bool(ready)

    def _take(self, wanted: int, asked: float) -> bytes:
        """Return what is there, at most `wanted` bytes, and none at the end.

        The pipe may have been empty at `asked`. Raises AudioFileError.
        """
        if self._empty_at is None:
            self._empty_at = asked
            self._heard_s = 0.0
        try:
            data = os.read(self._fd, min(wanted, MAX_READ_BYTES))
        except OSError as error:
            text = f"{self.name} cannot be read ({error.strerror})"
            raise AudioFileError(text) from error
        self._ended = not data
        return data

    def _end(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return the end of the stream, which goes on from `parts`, with a tail."""
        before = [self._last, *parts]
        ended = list(with_tail([*before, self._converter.finish()]))
        return np.concatenate(ended[len(before) :])

    def _arrival(self, samples: int) -> float:
        """Return when the last of `samples` was there.

        What is in the pipe has waited, but no longer than since the pipe was seen empty, and a
        writer that is faster than speech has not been kept waiting.
        """
        now = time.monotonic()
        self._heard_s += samples / SAMPLE_RATE
        late_s = 0.0 if self._empty_at is None else now - self._empty_at - self._heard_s
        if self._realtime and late_s < 0:
            time.sleep(-late_s)
            return time.monotonic()
        return now - max(min(self._waiting_s(), late_s), 0.0)

    def _waiting_s(self) -> float:
        """Return the seconds of audio that are in the pipe already."""
        waiting = array.array("i", [0])
        with contextlib.suppress(OSError):  # not every kind of file can say
            fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        return waiting[0] / self._bytes_per_s


class RecordingSource:
    """A recording; in real time, no faster than it was spoken."""

    meter = None
    channel = 0

    def __init__(self, name: str, blocks: Iterator[np.ndarray], realtime: bool) -> None:
        self.name = name
        self._blocks = blocks
        self.realtime = realtime
        self._due = 0.0

    def read(self, blocks: int = 1) -> Block | None:
        """Return the next `blocks` in one, or None at the end. Raises AudioFileError."""
        parts = list(islice(self._blocks, blocks))
        if not parts:
            return None
        samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        now = time.monotonic()
        if not self.realtime:
            return Block(samples, now)
        self._due = (self._due or now) + len(samples) / SAMPLE_RATE
        if self._due > now:
            time.sleep(self._due - now)
        return Block(samples, self._due)

    def rest(self) -> bool:
        """Wait for a moment; it is held, and goes on where it stood."""
        time.sleep(REST_S)
        self._due = 0.0
        return True


def open_recording(path: str, channel: int | str, *, realtime: bool) -> RecordingSource:
    """Return the recording `path`. Raises AudioFileError."""
    files.open_file(path).close()  # what is no recording is refused before anything starts
    blocks = files.read_blocks(Path(path), BLOCK_S, channel)
    return RecordingSource(path, with_tail(blocks), realtime)


def open_standard_input(
    format: RawFormat, channel: int | str, *, realtime: bool
) -> RecordingSource | PipeInput:
    """Return raw PCM on standard input: a live pipe, or a file that was redirected into it.

    Raises AudioFileError where there is nothing to read.
    """
    remedy = (
        "write raw PCM into it, as in `arecord -f S16_LE -r 16000 -t raw | kwsd run --source -`"
    )
    try:
        fd = sys.stdin.fileno()
        kind = os.fstat(fd)
    except (AttributeError, ValueError, OSError):
        raise AudioFileError(f"standard input is closed; {remedy}") from None
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise AudioFileError(f"standard input can only be written to; {remedy}")
    if os.isatty(fd):
        raise AudioFileError(f"standard input is a terminal; {remedy}")
    if stat.S_ISCHR(kind.st_mode) and kind.st_rdev == Path(os.devnull).stat().st_rdev:
        raise AudioFileError(f"standard input is {os.devnull}; {remedy}")
    if stat.S_ISREG(kind.st_mode):
        blocks = raw_blocks(sys.stdin.buffer, format, channel)
        return RecordingSource("standard input", with_tail(blocks), realtime)
    return PipeInput(fd, format, channel, realtime)


@dataclass
class StreamClock:
    """The wall-clock time of samples."""

    began: float | None = None
    """Time of sample 0 of a recording that is read as fast as it can be, seconds since the epoch;
    None for what comes in real time."""
    end: int = 0
    """Sample index after the last block."""
    arrived: float = 0.0
    """`time.monotonic()` when its last sample was there."""

    def advance(self, end: int, arrived: float) -> None:
        """Set the time at which the samples up to `end` were there."""
        self.end = end
        self.arrived = arrived

    def wall(self, sample: int) -> float:
        """Return when `sample` was, in seconds since the epoch.

        A recording that is read faster counts as if it had been played since it was opened.
        """
        if self.began is not None:
            return self.began + sample / SAMPLE_RATE
        since_arrival = time.monotonic() - self.arrived
        return time.time() - since_arrival - (self.end - sample) / SAMPLE_RATE
