"""What the detector returns for the samples that it was fed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kwsd.events import Detection


@dataclass(frozen=True)
class Trace:
    """The scores of consecutive chunks: what the triggers compare."""

    words: tuple[str, ...]
    end: np.ndarray
    """int64 `[chunk]`, the sample index after each chunk."""
    scores: np.ndarray
    """float32 `[chunk, word]`; 0 while the gate is closed or scores are withheld."""
    streaming: np.ndarray
    """The same of the first stage alone; for words that are not checked, the scores."""
    checker: np.ndarray
    """float32 `[chunk, word]`, the probability that the second stage gave; NaN where it was not
    asked."""
    gate: np.ndarray
    """bool `[chunk]`, whether the voice gate was open; always without one."""

    @classmethod
    def of(cls, words: tuple[str, ...], end: np.ndarray, *, checked: bool) -> Trace:
        """Return the trace of chunks of which nothing is known yet but their `end`."""
        scores = np.zeros((len(end), len(words)), np.float32)
        streaming = scores.copy() if checked else scores
        unasked = np.full_like(scores, np.nan)
        return cls(words, end, scores, streaming, unasked, np.zeros(len(end), np.bool_))


@dataclass(frozen=True)
class Step:
    """What one call of `feed` found."""

    wakes: tuple[Detection, ...]
    """Wakes, and what was not let through, in order; without wall-clock time and latency."""
    trace: Trace
    """The scores of the chunks that were completed."""
