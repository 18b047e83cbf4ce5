"""The interface of whatever consumes the listener's steps, on its thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kwsd.audio.capture import Block
from kwsd.audio.ring import Ring
from kwsd.detect.setup import ActiveWord
from kwsd.detect.trace import Trace
from kwsd.events import Detection


@dataclass(frozen=True)
class Heard:
    """A block of audio, and what the detector found in it."""

    block: Block
    audio: Ring
    """The look-back, int16 `[sample]`, which ends with the block."""
    wakes: tuple[Detection, ...]
    """The events, with their wall-clock time and latency."""
    trace: Trace
    words: Mapping[str, ActiveWord]
    """The words that the detector listens for."""


class Consumer:
    """Consumes what was heard. The listener calls all methods, on its thread."""

    every_block = False
    """Whether it must be given single blocks, as soon as they arrive."""

    def consume(self, heard: Heard) -> None:
        """Process a block."""

    def reset(self) -> None:
        """Prepare for another setup of the detector."""

    def close(self) -> None:
        """Finish: the stream has ended."""
