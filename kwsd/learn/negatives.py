"""The bank of negatives: encoder frames that contain no added word, which come with the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kwsd.model.bundle import NEGATIVES, Bundle
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
    with np.load(bundle.file(NEGATIVES), allow_pickle=False) as arrays:
        frames = arrays["high"].astype(np.float32) * arrays["scale"]
        return Negatives(frames, arrays["starts"], tuple(arrays["texts"].tolist()))
