"""The log of what came near a word: times and scores, no audio, a JSON line a stretch of time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from kwsd.protocol.data import Peak, WordPeaks
from kwsd.state.store import write_atomically

MAX_BYTES = 4 << 20
"""The log drops its older half above this size: months."""


class _Line(Struct, frozen=True):
    written: float
    """Seconds since the epoch."""
    words: dict[str, WordPeaks]


class PeakLog:
    """The file `peaks.jsonl` of a state directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "peaks.jsonl"

    def append(self, words: Mapping[str, WordPeaks]) -> None:
        """Store a stretch of time that has just ended. Raises OSError."""
        rounded = {name: _rounded(stretch) for name, stretch in words.items()}
        line = msgspec.json.encode(_Line(round(time.time(), 1), rounded)) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shrink()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with open(os.open(self.path, flags, 0o600), "r+b") as out:
            size = out.seek(0, os.SEEK_END)
            if size:  # a line that was cut off is ended, and is skipped by `read`
                out.seek(size - 1)
                line = line if out.read(1) == b"\n" else b"\n" + line
            out.write(line)
            out.flush()
            os.fsync(out.fileno())

    def read(self, since: float = 0.0) -> dict[str, list[WordPeaks]]:
        """Return each word's stretches that were written after `since`, seconds since the epoch.

        Lines that were cut off are skipped. Raises OSError.
        """
        found: dict[str, list[WordPeaks]] = {}
        if not self.path.exists():
            return found
        for data in self.path.read_bytes().splitlines():
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                line = msgspec.json.decode(data, type=_Line, strict=False)
                if line.written > since:
                    for name, stretch in line.words.items():
                        found.setdefault(name, []).append(stretch)
        return found

    def _shrink(self) -> None:
        if not self.path.exists() or self.path.stat().st_size < MAX_BYTES:
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        write_atomically(self.path, b"".join(lines[len(lines) // 2 :]))


def _rounded(stretch: WordPeaks) -> WordPeaks:
    peaks = [
        Peak(
            round(p.time, 1),
            round(p.peak, 4),
            p.woke,
            None if p.score is None else round(p.score, 4),
        )
        for p in stretch.peaks
    ]
    return WordPeaks(stretch.model, round(stretch.seconds, 1), peaks)


def highest(stretches: list[WordPeaks], most: int) -> list[WordPeaks]:
    """Return stretches with only the `most` highest of all their peaks."""
    scores = np.sort([peak.peak for stretch in stretches for peak in stretch.peaks])[::-1]
    floor = float(scores[most]) if len(scores) > most else 0.0
    return [
        WordPeaks(s.model, s.seconds, [peak for peak in s.peaks if peak.peak > floor])
        for s in stretches
    ]
