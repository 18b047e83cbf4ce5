"""The bank of negatives: encoder frames that contain no added word, which come with the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kwsd.model.bundle import (
    NEGATIVES,
    NEGATIVES_ARRAYS,
    NEGATIVES_TEXTS,
    RESTORE,
    Bundle,
    BundleError,
)
from kwsd.state.words import CONTEXT_FRAMES


@dataclass(frozen=True)
class Negatives:
    """Frames of segments of unbroken audio."""

    embedding: np.ndarray
    """float32 `[frame, dim]`."""
    starts: np.ndarray
    """int64 `[segment]`: the first frame of each segment."""
    texts: tuple[str, ...]
    """The words that are known to be said in each segment."""

    @cached_property
    def segment(self) -> np.ndarray:
        """int64 `[frame]`: the segment of each frame."""
        frames = np.arange(len(self.embedding))
        return np.searchsorted(self.starts, frames, side="right") - 1

    def usable(self, word: str) -> np.ndarray:
        """Return which frames are negatives of `word`, bool `[frame]`.

        They have `CONTEXT_FRAMES` before them, and no part of the word is said in their segment.
        """
        parts = set(word.replace("_", " ").lower().split())
        contains = np.array([bool(parts & set(text.split())) for text in self.texts])
        age = np.arange(len(self.embedding)) - self.starts[self.segment]
        return ~contains[self.segment] & (age >= CONTEXT_FRAMES)

    def joined(self, room: np.ndarray) -> Negatives:
        """Return the bank with the frames `[chunk, dim]` of a room as one more segment."""
        return Negatives(
            np.concatenate([self.embedding, room]),
            np.append(self.starts, len(self.embedding)),
            (*self.texts, ""),
        )


def read_negatives(bundle: Bundle) -> Negatives:
    """Return the bundle's bank. Raises BundleError."""
    arrays = bundle.arrays(NEGATIVES, {**NEGATIVES_ARRAYS, "texts": NEGATIVES_TEXTS})
    high = arrays["high"]
    starts = arrays["starts"]
    fits = high.size and high.shape[1] == len(arrays["scale"]) and len(starts)
    if not fits or starts[0] or (np.diff(starts, append=len(high)) <= 0).any():
        text = f"{bundle.path / NEGATIVES}: damaged (its frames and segments do not fit together)"
        raise BundleError(f"{text}; {RESTORE}")
    frames = high.astype(np.float32) * arrays["scale"]
    return Negatives(frames, starts, tuple(arrays["texts"]))
