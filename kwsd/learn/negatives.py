"""The bank of negatives: encoder frames that contain no added word, which come with the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from kwsd.learn.word_vectors import EVERY_CHUNKS
from kwsd.model.bundle import (
    CHECKER_NEGATIVES_ARRAYS,
    NEGATIVES,
    NEGATIVES_ARRAYS,
    NEGATIVES_TEXTS,
    RESTORE,
    Bundle,
    BundleError,
    CheckerModel,
)
from kwsd.state.second_stage import restored
from kwsd.state.words import CONTEXT_FRAMES


@dataclass(frozen=True)
class Negatives:
    """Frames of segments of unbroken audio."""

    embedding: np.ndarray
    """float32 `[frame, dim]`."""
    starts: np.ndarray
    """int64 `[segment]`: the first frame of each segment."""
    texts: tuple[str, ...]
    """The words that are known to be said in each segment, and those that sound as one of them."""
    speech: np.ndarray
    """bool `[segment]`: whether it is continuous speech, of which rates are told."""
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32 `[vector, dim]`: what a checker heard at the end of the windows that end with some of
    the frames; none without a checker that knows words."""
    at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 `[vector]`: the frame that ends with each window, rising."""
    words: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32 `[window, dim]`: what a checker heard at the ends of single words, each another."""

    @cached_property
    def segment(self) -> np.ndarray:
        """int64 `[frame]`: the segment of each frame."""
        frames = np.arange(len(self.embedding))
        return np.searchsorted(self.starts, frames, side="right") - 1

    @cached_property
    def is_speech(self) -> np.ndarray:
        """bool `[frame]`: whether its segment is continuous speech; all, where none is."""
        return np.asarray(self.speech[self.segment] | (not self.speech.any()))

    def usable(self, word: str) -> np.ndarray:
        """Return which frames are negatives of `word`, bool `[frame]`.

        They have `CONTEXT_FRAMES` before them, and the word is not said in their segment: of a
        phrase, not all parts are.
        """
        parts = set(word.replace("_", " ").lower().split())
        contains = np.array([parts <= set(text.split()) for text in self.texts])
        age = np.arange(len(self.embedding)) - self.starts[self.segment]
        return ~contains[self.segment] & (age >= CONTEXT_FRAMES)

    def joined(self, room: np.ndarray, vectors: np.ndarray | None = None) -> Negatives:
        """Return the bank with the frames `[chunk, dim]` of a room as one more segment.

        It counts as speech: it is what this device hears. `vectors` are those of every
        `EVERY_CHUNKS`th chunk of it, where the bank has some.
        """
        bank = Negatives(
            np.concatenate([self.embedding, room]),
            np.append(self.starts, len(self.embedding)),
            (*self.texts, ""),
            np.append(self.speech, True),
            self.vectors,
            self.at,
            self.words,
        )
        if vectors is None or not len(self.at):
            return bank
        at = len(self.embedding) + EVERY_CHUNKS * np.arange(len(vectors))
        return replace(
            bank,
            vectors=np.concatenate([self.vectors, vectors]),
            at=np.concatenate([self.at, at]),
        )


def read_negatives(bundle: Bundle, checker: CheckerModel | None = None) -> Negatives:
    """Return the bundle's bank, with the vectors of a checker that has some. Raises BundleError."""
    arrays = bundle.arrays(NEGATIVES, {**NEGATIVES_ARRAYS, "texts": NEGATIVES_TEXTS})
    high = arrays["high"]
    starts, speech = arrays["starts"], arrays["speech"] != 0
    fits = high.size and high.shape[1] == len(arrays["scale"]) and len(starts) == len(speech) > 0
    if not fits or starts[0] or (np.diff(starts, append=len(high)) <= 0).any():
        text = f"{bundle.path / NEGATIVES}: damaged (its frames and segments do not fit together)"
        raise BundleError(f"{text}; {RESTORE}")
    frames = high.astype(np.float32) * arrays["scale"]
    bank = Negatives(frames, starts, tuple(arrays["texts"]), speech)
    if checker is None or checker.negatives is None:
        return bank
    heard = bundle.arrays(checker.negatives, CHECKER_NEGATIVES_ARRAYS)
    vectors, at, words = heard["vectors"], heard["at"].astype(np.int64), heard["words"]
    rising = len(at) > 0 and at[0] >= 0 and at[-1] < len(frames) and (np.diff(at) > 0).all()
    fits = len(vectors) == len(at) and vectors.shape[1] == words.shape[1] > 0
    if not fits or not rising:
        text = f"{bundle.path / checker.negatives}: damaged (its vectors do not fit the bank's"
        raise BundleError(f"{text} frames); {RESTORE}")
    return replace(bank, vectors=restored(vectors), at=at, words=restored(words))
