"""The peaks of each word's score in a running stream, whatever its threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.detect.trace import Trace
from kwsd.metrics import MERGE_CHUNKS

FLOOR = 0.02
"""Peaks below it are not reported."""


class FoundPeak(NamedTuple):
    """The highest score of an excursion."""

    at: int
    """Sample index after its chunk."""
    peak: float
    decided: float | None
    """The first score of the excursion that reached the threshold; None where none did."""


@dataclass
class PeakMeter:
    """Finds peaks in traces, none within about a second of a higher one."""

    end: int = 0
    """Sample index after the last chunk."""
    _open: dict[str, FoundPeak] = field(default_factory=dict)
    _found: dict[str, list[FoundPeak]] = field(default_factory=dict)

    def add(self, trace: Trace, thresholds: Mapping[str, float] | None = None) -> None:
        """Process consecutive chunks; a stream may jump ahead.

        `thresholds` are those in force by word; none decides where they are missing.
        """
        if not len(trace.end):
            return
        self.end = int(trace.end[-1])
        if not self._open and trace.scores.max(initial=0.0) < FLOOR:
            return
        known = thresholds or {}
        for at, row in zip(trace.end.tolist(), trace.scores.tolist(), strict=True):
            for word, score in zip(trace.words, row, strict=True):
                best = self._open.get(word)
                if best and at - best.at > MERGE_CHUNKS * CHUNK_SAMPLES:
                    self._close(word)
                    best = None
                if score >= FLOOR and (best is None or score > best.peak):
                    decided = best.decided if best else None
                    if decided is None and score >= known.get(word, math.inf):
                        decided = score
                    self._open[word] = FoundPeak(at, score, decided)

    def take(self) -> dict[str, list[FoundPeak]]:
        """Return the peaks since the last call, by word."""
        for word in list(self._open):
            self._close(word)
        found = self._found
        self._found = {}
        return found

    def _close(self, word: str) -> None:
        self._found.setdefault(word, []).append(self._open.pop(word))
