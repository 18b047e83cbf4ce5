"""What came near: the peaks of each word's score, whatever its threshold, and how long was listened. Numbers alone, no audio.

The meter finds them in a running stream; the log keeps them in the state directory, a JSON line a stretch of time, so that a
calibration can read what a night of listening heard.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kwsd.config import SAMPLE_RATE
from kwsd.detect.metrics import MERGE_CHUNKS
from kwsd.detect.state import write_atomically

if TYPE_CHECKING:
    from kwsd.detect.detector import Trace

FLOOR = 0.02
"""Peaks under it are not told."""
MOST_BYTES = 4 << 20
"""The log forgets its older half beyond this: months."""


@dataclass(frozen=True)
class WordPeaks:
    """What was heard of one word in a stretch of time."""

    model: str
    """Id of the model that gave the scores."""
    seconds: float
    peaks: tuple[tuple[float, float, bool], ...]
    """Time (seconds, of the stream or since the epoch), score, and whether it reached the threshold of that time."""


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


class PeakLog:
    """The file of a state directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "peaks.jsonl"

    def append(self, words: Mapping[str, WordPeaks]) -> None:
        """Keep a stretch that has just ended. Raises OSError."""
        body = {name: [w.model, round(w.seconds, 1), [[round(t, 1), round(s, 4), int(woke)] for t, s, woke in w.peaks]] for name, w in words.items()}
        line = json.dumps({"written": round(time.time(), 1), "words": body}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._forget()
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as out:
            size = out.seek(0, os.SEEK_END)
            if size:  # a line that was cut off stands alone, and is passed over
                out.seek(size - 1)
                line = line if out.read(1) == b"\n" else b"\n" + line
            out.write(line)
            out.flush()
            os.fsync(out.fileno())

    def read(self, since: float = 0.0) -> dict[str, list[WordPeaks]]:
        """Stretches of each word that were written after `since`, seconds since the epoch. Lines that were cut off are passed over. Raises OSError."""
        found: dict[str, list[WordPeaks]] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                body = json.loads(line)
                if body["written"] <= since:
                    continue
                for name, (model, seconds, peaks) in body["words"].items():
                    told = tuple((float(t), float(s), bool(woke)) for t, s, woke in peaks)
                    found.setdefault(name, []).append(WordPeaks(str(model), float(seconds), told))
        return found

    def _forget(self) -> None:
        if not self.path.exists() or self.path.stat().st_size < MOST_BYTES:
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        write_atomically(self.path, b"".join(lines[len(lines) // 2 :]))


def pack(stretches: list[WordPeaks], most: int) -> list[Any]:
    """Stretches as a message carries them: of all their peaks the `most` highest."""
    scores = np.sort([s for stretch in stretches for _, s, _ in stretch.peaks])[::-1]
    floor = scores[most] if len(scores) > most else 0.0
    return [[one.model, one.seconds, [peak for peak in one.peaks if peak[1] > floor]] for one in stretches]


def unpack(stretches: list[Any]) -> list[WordPeaks]:
    return [WordPeaks(str(model), float(seconds), tuple((float(t), float(s), bool(w)) for t, s, w in peaks)) for model, seconds, peaks in stretches]
