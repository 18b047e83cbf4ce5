"""The interface of whatever consumes the listener's steps, on its thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kwsd.audio.capture import Block
from kwsd.audio.ring import Ring
from kwsd.detect.loudness import Loudness
from kwsd.detect.setup import ActiveWord
from kwsd.detect.trace import Trace
from kwsd.events import Detection

Break = Literal["gap", "lost", "paused"]
"""Why the samples break off: some were lost, no more come for now, or nobody listens."""


@dataclass(frozen=True)
class Heard:
    """A block of audio, and what the detector found in it."""

    block: Block
    audio: Ring
    """The look-back, int16 `[sample]`, which ends with the block."""
    wakes: tuple[Detection, ...]
    """The events, with their wall-clock time and latency."""
    trace: Trace
    loudness: Loudness
    """What the detector knows of the noise."""
    words: Mapping[str, ActiveWord]
    """The words that the detector listens for."""


class Consumer:
    """Consumes what was heard. The listener calls all methods, on its thread."""

    every_block = False
    """Whether it must be given single blocks, as soon as they arrive."""

    def consume(self, heard: Heard) -> None:
        """Process a block."""

    def broken_off(self, why: Break) -> None:
        """Finish with what was heard: the samples break off, and the look-back may be forgotten."""

    def reset(self) -> None:
        """Prepare for another setup of the detector."""

    def close(self) -> None:
        """Finish: the stream has ended."""


def remove(consumers: list[Consumer], one: Consumer) -> None:
    """Remove a consumer that may never have been added."""
    consumers[:] = [consumer for consumer in consumers if consumer is not one]


def not_yet(start: int, audio: Ring) -> str:
    """Return that a sample has not come yet."""
    text = f"sample {start} has not come yet; the next one is {audio.end}"
    return f"{text} (samples are counted from 0 again when the daemon starts)"
