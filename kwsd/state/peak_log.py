"""The log of what came near a word: times and scores, no audio, a JSON line a stretch of time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.protocol.data import Peak, WordPeaks
from kwsd.state.store import LATEST, StateError, write_atomically

MAX_BYTES = 4 << 20
"""The log drops its older half above this size: months."""
MAX_READ = 2 * MAX_BYTES
"""Bytes above which it is no log of kwsd."""
MAX_LINE = 1 << 20
"""Bytes of a line."""
MIN_STRETCH_S = 0.1
MAX_STRETCH_S = 86400.0
"""A stretch lasts ten minutes, or less where the words change; it is rounded to 0.1 s."""
MAX_PEAKS = 250_000
"""Peaks that are read: more than fit a log of MAX_BYTES; the latest count."""


Stretches = list[tuple[float, WordPeaks]]
"""Stretches of one word, each with when it ended, seconds since the epoch."""


class PeakLogError(StateError):
    """The log of peaks cannot be read; the message says why."""


class _Line(Struct, frozen=True):
    """A stretch of time."""

    written: float
    """When it had just ended, seconds since the epoch."""
    words: dict[str, WordPeaks]


class PeakLog:
    """The file `peaks.jsonl` of a state directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "peaks.jsonl"

    def append(self, words: Mapping[str, WordPeaks]) -> None:
        """Store a stretch of time that has just ended. Raises OSError or PeakLogError."""
        rounded = {name: _rounded(stretch) for name, stretch in words.items()}
        line = msgspec.json.encode(_Line(round(time.time(), 1), rounded)) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shrink()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
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

        Lines that are damaged or were cut off are skipped. Raises PeakLogError.
        """
        return {name: [one for _, one in at] for name, at in self.read_all(since)[0].items()}

    def read_all(self, since: float = 0.0) -> tuple[dict[str, Stretches], list[StateError]]:
        """Return what `read` does, each stretch with when it ended, and what is wrong with the
        lines that it skips.

        Raises PeakLogError where the file as a whole cannot be read.
        """
        latest_first: list[_Line] = []
        skipped = 0
        peaks = 0
        for data in reversed(self._data().splitlines()):
            try:
                line = _parsed(data)
            except Damaged:
                skipped += 1
                continue
            peaks += sum(len(stretch.peaks) for stretch in line.words.values())
            if peaks > MAX_PEAKS:
                break
            if line.written > since:
                latest_first.append(line)
        found: dict[str, Stretches] = {}
        for line in reversed(latest_first):
            for name, stretch in line.words.items():
                found.setdefault(name, []).append((line.written, stretch))
        text = f"{self.path}: {skipped} of its lines are damaged, and are left out"
        faults: list[StateError] = [PeakLogError(f"{text}; the others count")] if skipped else []
        return found, faults

    def _data(self) -> bytes:
        try:
            return bounded.read(self.path, MAX_READ, links=False)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise PeakLogError(f"{self.path}: cannot be read ({error.strerror})") from error
        except Damaged as error:
            text = f"{self.path}: damaged ({error}); remove it, and another is begun"
            raise PeakLogError(text) from error

    def _shrink(self) -> None:
        try:
            bounded.check_regular(self.path, links=False)
        except FileNotFoundError:
            return
        except Damaged as error:
            raise PeakLogError(f"{self.path}: {error}; remove it") from error
        if self.path.stat().st_size < MAX_BYTES:
            return
        lines = self._data().splitlines(keepends=True)
        write_atomically(self.path, b"".join(lines[len(lines) // 2 :]))


def _parsed(data: bytes) -> _Line:
    """Return a line of the log. Raises Damaged."""
    if len(data) > MAX_LINE:
        raise Damaged("it is too long")
    # 0.1.0 wrote 0 and 1 for false and true.
    line = bounded_json.decode(data, _Line, strict=False)
    numbers = [line.written]
    for stretch in line.words.values():
        if not MIN_STRETCH_S <= stretch.seconds <= MAX_STRETCH_S:
            raise Damaged("no stretch lasts so long")
        for peak in stretch.peaks:
            numbers.append(peak.time)
            if not (0 <= peak.peak <= 1 and 0 <= (peak.score or 0) <= 1):
                raise Damaged("a score lies between 0 and 1")
    if not all(0 <= number <= LATEST for number in numbers):
        raise Damaged("there is no such time")
    return line


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
