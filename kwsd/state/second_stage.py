"""How a checker hears an added word: the part of a word's file that is bound to that checker.

The streaming score asks for candidates. The checker embeds what was said at the end of the window
that ends with one; a linear function of that vector is the second logit, and both together are the
score.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from kwsd.bounded.file import Damaged
from kwsd.bounded.npz import Kinds, Numbers
from kwsd.model.manifest import CHECKED_FLOOR, Fusion
from kwsd.protocol.data import OperatingPoint

MAX_STORED = 32
"""Takes, and wrong clips, whose vectors are stored."""
MAX_WEIGHT = 1e6
"""Greatest weight of a vector's number, or of a logit."""
MAX_DIM = 1024
MIN_CANDIDATE = 0.001
"""Lowest candidate threshold: a file must not have the checker run all the time."""
ARRAYS: Kinds = {
    "checked_weights": Numbers("<f4", (MAX_DIM,)),
    "checked_scores": Numbers("<f4", (MAX_STORED, 2)),
    "take_vectors": Numbers("|i1", (MAX_STORED, 64, 16, MAX_DIM)),
    "wrong_vectors": Numbers("|i1", (MAX_STORED, 64, MAX_DIM)),
}
"""What it adds to the arrays of a word's file."""


@dataclass(frozen=True)
class SecondStage:
    """The second stage of an added word."""

    word_id: str
    """The checker's, whose vectors these are."""
    weights: np.ndarray = field(repr=False)
    """float32 `[dim]`."""
    bias: float
    candidate: float
    """Streaming score from which the checker is asked."""
    fusion: Fusion
    """Joins both logits to the score of a candidate."""
    threshold: float
    operating_points: tuple[OperatingPoint, ...]
    takes: np.ndarray = field(repr=False)
    """int8 `[take, version, window, dim]`: 127 times the vectors of windows that end where the word
    should fire."""
    wrong: np.ndarray = field(repr=False)
    """int8 `[clip, window, dim]`: those of clips that are not the word."""
    scores: np.ndarray = field(repr=False)
    """float32 `[take, 2]`: the score of each take, clean and in noise, by a detector that was made
    from the other takes."""

    @property
    def id(self) -> str:
        """Identifies what turns both logits into a score."""
        parts = [self.word_id, str(self.candidate), msgspec.json.encode(self.fusion).decode()]
        weights = np.append(self.weights, self.bias).astype(np.float32)
        return hashlib.sha256(" ".join(parts).encode() + weights.tobytes()).hexdigest()[:16]

    def without_takes(self) -> SecondStage:
        """Return what gives its scores, and nothing of its takes and clips."""
        return replace(self, takes=self.takes[:0], wrong=self.wrong[:0], scores=self.scores[:0])

    def logit(self, vector: np.ndarray) -> float:
        """Return the checker's logit for a vector `[dim]` of unit length.

        NaN, which never wakes, where the vector has another length: it is another checker's.
        """
        if vector.shape != self.weights.shape:
            return math.nan
        return float(vector @ self.weights) + self.bias


def quantized(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of unit length as they are stored, int8."""
    return np.clip(np.round(127 * vectors), -127, 127).astype(np.int8)


def restored(stored: np.ndarray) -> np.ndarray:
    """Return vectors of unit length from what is stored of them, float32."""
    return stored.astype(np.float32) / 127


class Head(Struct, frozen=True):
    """What a word's file says of its second stage, beside the arrays."""

    word_id: Annotated[str, Meta(min_length=1, max_length=64)]
    bias: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
    candidate: Annotated[float, Meta(ge=MIN_CANDIDATE, lt=1)]
    fusion: Fusion
    threshold: Annotated[float, Meta(gt=CHECKED_FLOOR, le=1)]
    operating_points: Annotated[tuple[OperatingPoint, ...], Meta(max_length=16)]


def to_parts(second: SecondStage) -> tuple[Head, dict[str, np.ndarray]]:
    """Return what a word's file says of a second stage, and its arrays."""
    head = Head(
        word_id=second.word_id,
        bias=second.bias,
        candidate=second.candidate,
        fusion=second.fusion,
        threshold=second.threshold,
        operating_points=second.operating_points,
    )
    return head, {
        "checked_weights": second.weights.astype(np.float32),
        "checked_scores": second.scores.astype(np.float32),
        "take_vectors": second.takes[:MAX_STORED],
        "wrong_vectors": second.wrong[:MAX_STORED],
    }


def from_parts(head: Head, arrays: dict[str, Any], takes: int, wrong: int) -> SecondStage:
    """Return the second stage of a word with so many takes and wrong clips.

    Raises Damaged where its parts do not fit together.
    """
    weights, scores, of_takes, of_wrong = (arrays[name] for name in ARRAYS)
    if (len(of_takes), len(of_wrong)) != (takes, wrong):
        raise Damaged("it has vectors of other takes than frames")
    if len({len(weights), of_takes.shape[-1], of_wrong.shape[-1]}) > 1 or not len(weights):
        raise Damaged("its vectors do not have as many numbers as their weights")
    fusion = head.fusion
    numbers = (fusion.checker, fusion.stream, fusion.offset, np.abs(weights).max())
    if any(abs(number) > MAX_WEIGHT for number in numbers):
        raise Damaged("its weights are too large for a finite score")
    if scores.shape[1] != 2 or (np.abs(scores - 0.5) > 0.501).any():
        raise Damaged("its scores are no pairs of numbers from 0 to 1")
    if any(point.threshold <= CHECKED_FLOOR for point in head.operating_points):
        raise Damaged("it has an operating point among the scores of what no checker has heard")
    return SecondStage(
        word_id=head.word_id,
        weights=weights,
        bias=head.bias,
        candidate=head.candidate,
        fusion=fusion,
        threshold=head.threshold,
        operating_points=head.operating_points,
        takes=of_takes,
        wrong=of_wrong,
        scores=scores,
    )
