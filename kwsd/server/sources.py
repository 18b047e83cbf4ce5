"""What the listener listens to, and the clock of its stream."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from kwsd.audio import files
from kwsd.audio.capture import Block
from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.detect.offline import with_tail


class Source(Protocol):
    """Something to listen to."""

    name: str

    def read(self, blocks: int = 1) -> Block | None:
        """Return the next `blocks` of 80 ms in one (fewer at the end), or None at the end.

        Raises MicrophoneError where the source was lost.
        """


class RecordingSource:
    """A file or a pipe; in real time, no faster than it was spoken."""

    def __init__(self, name: str, blocks: Iterator[np.ndarray], realtime: bool) -> None:
        self.name = name
        self._blocks = blocks
        self._realtime = realtime
        self._due = 0.0

    def read(self, blocks: int = 1) -> Block | None:
        """Return the next `blocks` in one, or None at the end."""
        parts = list(islice(self._blocks, blocks))
        if not parts:
            return None
        samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        now = time.monotonic()
        base = max(self._due, now - 1.0) if self._due else now
        self._due = base + len(samples) / SAMPLE_RATE
        if self._realtime and self._due > now:
            time.sleep(self._due - now)
        return Block(samples, time.monotonic())


def open_recording(
    path: str, channel: int | str, *, realtime: bool, rate: int, channels: int
) -> RecordingSource:
    """Return the recording `path`, or raw PCM on standard input for `-`.

    `rate` and `channels` are those of raw PCM. Raises AudioFileError.
    """
    if path == "-":
        blocks = files.raw_blocks(sys.stdin.buffer, rate, channels, channel, BLOCK_S)
        return RecordingSource("standard input", with_tail(blocks), realtime)
    files.open_file(path).close()  # what is no recording is refused before anything starts
    blocks = files.read_blocks(Path(path), BLOCK_S, channel)
    return RecordingSource(path, with_tail(blocks), realtime)


@dataclass
class StreamClock:
    """The wall-clock time of samples."""

    began: float | None = None
    """Time of sample 0 of a recording, seconds since the epoch; None for a live stream."""
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

        A recording counts as if it had been played since it was opened.
        """
        if self.began is not None:
            return self.began + sample / SAMPLE_RATE
        since_arrival = time.monotonic() - self.arrived
        return time.time() - since_arrival - (self.end - sample) / SAMPLE_RATE
