"""The log of what came near: peaks of each word's score in the state directory, a JSON line a stretch of time. Numbers alone, no audio."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.state.store import write_atomically

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
