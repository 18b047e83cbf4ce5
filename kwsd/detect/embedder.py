"""Speaker embeddings of recordings: the very encoder and head of the detector, over the voiced part of any length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student

SEGMENT_CHUNKS = 50
"""Voiced chunks that the speaker head gets at once: 4 s."""
UNDER_PEAK_DB = 30.0
"""A chunk this far under the loudest of its second counts as unvoiced."""


class Embedder:
    """`embed(blocks) -> [dim]` of unit length. Holds no stream state between calls."""

    def __init__(self, bundle: Bundle, student: Student | None = None, speaker: SpeakerEncoder | None = None) -> None:
        self.bundle = bundle
        self._student, self._speaker = student or Student(bundle), speaker or SpeakerEncoder(bundle)
        self.dim = self._speaker.dim

    def embed(self, blocks: Iterable[np.ndarray]) -> np.ndarray | None:
        """The embedding of a recording given as blocks of int16 `[sample]`; None where there is nothing to embed.

        In constant memory: voiced chunks are gathered into segments of 4 s, whose embeddings are averaged by length."""
        chunk, front = self.bundle.chunk_samples, self.bundle.front_end
        before = max(front.history_samples, self._speaker.history_samples)
        state, history, rest = self._student.zero_state(), np.zeros(before, np.float32), np.zeros(0, np.int16)
        low: list[np.ndarray] = []
        high: list[np.ndarray] = []
        fine: list[np.ndarray] = []
        total, weight = np.zeros(self._speaker.dim), 0

        def close_segment() -> None:
            nonlocal total, weight
            total += len(high) * self._speaker(np.stack(low), np.stack(high), np.stack(fine)).astype(np.float64)
            weight += len(high)
            for part in (low, high, fine):
                part.clear()

        for block in _and_the_end(blocks):
            joined = np.concatenate([rest, block])
            if block.size == 0 and len(joined):  # the end: the last, incomplete chunk is filled with silence
                joined = np.pad(joined, (0, -len(joined) % chunk))
            whole = len(joined) // chunk * chunk
            rest = joined[whole:]
            if not whole:
                continue
            samples = np.concatenate([history, joined[:whole].astype(np.float32)])
            history = samples[len(samples) - before :]
            frames, state = self._student.step(front(samples[before - front.history_samples :]), state)
            bands = self._speaker.fine(samples[before - self._speaker.history_samples :])
            for k in np.flatnonzero(voiced(joined[:whole].reshape(-1, chunk))):
                low.append(frames.tap[k])
                high.append(frames.embedding[k])
                fine.append(bands[k])
                if len(high) == SEGMENT_CHUNKS:
                    close_segment()
        if len(high) >= self._speaker.min_chunks or (high and not weight):
            close_segment()
        norm = float(np.linalg.norm(total))
        return (total / norm).astype(np.float32) if weight and norm > 0 else None


def voiced(chunks: np.ndarray) -> np.ndarray:
    """Which of `chunks [k, sample]` (int16) hold more than background: not 30 dB under the loudest of them, and not silent."""
    level = 10 * np.log10(np.mean(chunks.astype(np.float64) ** 2, axis=1) + 1e-3)
    return np.asarray((level > level.max() - UNDER_PEAK_DB) & (level > 0.0))


def _and_the_end(blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield from (block for block in blocks if block.size)
    yield np.zeros(0, np.int16)
