"""What came near: the peaks of each word's score in a running stream, whatever its threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kwsd.config import SAMPLE_RATE
from kwsd.metrics import MERGE_CHUNKS

if TYPE_CHECKING:
    from kwsd.detect.detector import Trace

FLOOR = 0.02
"""Peaks under it are not told."""


@dataclass
class PeakMeter:
    """Takes traces in, gives peaks out: none within about a second of a higher one."""

    end: int = 0
    _open: dict[str, tuple[float, int]] = field(default_factory=dict)
    _found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, trace: Trace) -> None:
        """Consecutive chunks. A stream that jumps ahead is fine: the meter counts what it was given."""
        if not len(trace.end):
            return
        self.end = int(trace.end[-1])
        if not self._open and trace.scores.max(initial=0.0) < FLOOR:
            return
        merge = MERGE_CHUNKS * (SAMPLE_RATE * 8 // 100)
        for at, row in zip(trace.end.tolist(), trace.scores.tolist(), strict=True):
            for word, score in zip(trace.words, row, strict=True):
                best = self._open.get(word)
                if best and at - best[1] > merge:
                    self._close(word)
                    best = None
                if score >= FLOOR and (best is None or score > best[0]):
                    self._open[word] = score, at

    def take(self) -> dict[str, list[tuple[int, float]]]:
        """The peaks since the last call, by word: sample and score."""
        for word in list(self._open):
            self._close(word)
        found, self._found = self._found, {}
        return found

    def _close(self, word: str) -> None:
        score, at = self._open.pop(word)
        self._found.setdefault(word, []).append((at, score))
