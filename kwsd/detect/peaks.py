"""The peaks of each word's score in a running stream, whatever its threshold."""

from __future__ import annotations

from dataclasses import dataclass, field

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.detect.detector import Trace
from kwsd.metrics import MERGE_CHUNKS

FLOOR = 0.02
"""Peaks below it are not reported."""


@dataclass
class PeakMeter:
    """Finds peaks in traces, none within about a second of a higher one."""

    end: int = 0
    """Sample index after the last chunk."""
    _open: dict[str, tuple[float, int]] = field(default_factory=dict)
    _found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, trace: Trace) -> None:
        """Process consecutive chunks; a stream may jump ahead."""
        if not len(trace.end):
            return
        self.end = int(trace.end[-1])
        if not self._open and trace.scores.max(initial=0.0) < FLOOR:
            return
        for at, row in zip(trace.end.tolist(), trace.scores.tolist(), strict=True):
            for word, score in zip(trace.words, row, strict=True):
                best = self._open.get(word)
                if best and at - best[1] > MERGE_CHUNKS * CHUNK_SAMPLES:
                    self._close(word)
                    best = None
                if score >= FLOOR and (best is None or score > best[0]):
                    self._open[word] = score, at

    def take(self) -> dict[str, list[tuple[int, float]]]:
        """Return the peaks since the last call, by word: sample and score."""
        for word in list(self._open):
            self._close(word)
        found = self._found
        self._found = {}
        return found

    def _close(self, word: str) -> None:
        score, at = self._open.pop(word)
        self._found.setdefault(word, []).append((at, score))
