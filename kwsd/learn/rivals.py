"""Takes of the other added words as negatives of a word: what sounds like it and is not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kwsd.learn.word_takes import FIRING_CHUNKS, VERSIONS
from kwsd.names import folded
from kwsd.state.second_stage import restored
from kwsd.state.words import CONTEXT_FRAMES, AddedWord

WEIGHT = 8
"""How often each chunk of a rival's take counts as a negative."""
TOLD_APART = 0.85
"""Share of pairs, of a word's take and a rival's, in which the word's has the higher score. Below
it both are one phrase, and neither may be held against the other."""


@dataclass(frozen=True)
class Rivals:
    """The takes of other words, by word."""

    takes: tuple[np.ndarray, ...] = ()
    """float32 `[take, version, CONTEXT_FRAMES + FIRING_CHUNKS, dim]` of each."""
    vectors: tuple[np.ndarray | None, ...] = ()
    """float32 `[take, version, FIRING_CHUNKS, dim]` of each: what the checker hears; None where
    another one, or none, has heard its takes."""

    def __bool__(self) -> bool:
        return bool(self.takes)

    @classmethod
    def of(cls, name: str, others: Sequence[AddedWord], word_id: str | None = None) -> Rivals:
        """Return the rivals of the word `name` among `others`; `word_id` is the checker's."""
        chosen = [
            other
            for other in others
            if folded(other.name) != folded(name)
            and len(other.takes)
            and other.takes.shape[2] == CONTEXT_FRAMES + FIRING_CHUNKS
        ]
        return cls(
            tuple(other.takes.astype(np.float32) for other in chosen),
            tuple(_vectors(other, word_id) for other in chosen),
        )

    def those(self, chosen: Sequence[bool]) -> Rivals:
        """Return the chosen words."""
        return Rivals(
            tuple(itertools.compress(self.takes, chosen)),
            tuple(itertools.compress(self.vectors, chosen)),
        )

    def outside(self, fold: int, folds: int) -> Rivals:
        """Return the frames without the takes of a fold: every `folds`th of each word."""
        return Rivals(tuple(each[np.arange(len(each)) % folds != fold] for each in self.takes))

    def by_word(self, scores: np.ndarray) -> list[np.ndarray]:
        """Return scores of all takes, `[take, …]`, as those of each word."""
        if not self.takes:
            return []
        return np.split(scores, np.cumsum([len(each) for each in self.takes])[:-1])

    def heard(self, dim: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors `[take, version, FIRING_CHUNKS, dim]` of those takes that have some of
        `dim` numbers, and of the scores of all takes, `[take, …]`, those of these."""
        none = np.zeros((0, len(VERSIONS), FIRING_CHUNKS, dim), np.float32)
        found = [
            (vectors, of_word)
            for vectors, of_word in zip(self.vectors, self.by_word(scores), strict=True)
            if vectors is not None and vectors.shape[-1] == dim
        ]
        return (
            np.concatenate([none, *(vectors for vectors, _ in found)]),
            np.concatenate([scores[:0], *(of_word for _, of_word in found)]),
        )

    def windows(self, offsets: np.ndarray) -> list[np.ndarray]:
        """Return the frames `[chunk, offset, dim]` at which each of their words ends."""
        at = (CONTEXT_FRAMES + np.arange(FIRING_CHUNKS))[:, None] - offsets
        return [each[:, :, at].reshape(-1, len(offsets), each.shape[-1]) for each in self.takes]

    def told_apart(self, own: np.ndarray, scores: Sequence[np.ndarray]) -> list[bool]:
        """Return of each word whether it is another one than that whose takes have scores `own`.

        `scores` are those of its takes. Both are by detectors that were made without the take.
        """
        return [bool(np.mean(own[:, None] > each) >= TOLD_APART) for each in scores]


def _vectors(word: AddedWord, word_id: str | None) -> np.ndarray | None:
    """Return the vectors of a word's takes; None without such as `TakeEncoder` makes."""
    second = word.second
    if second is None or second.word_id != word_id:
        return None
    if second.takes.shape[:3] != (len(word.takes), len(VERSIONS), FIRING_CHUNKS):
        return None
    return restored(second.takes)
