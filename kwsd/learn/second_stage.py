"""How a checker learns to hear an added word, from the vectors of its takes.

The vectors of the takes are parted from those of the bank, single words and continuous audio, by a
ridge regression in closed form and by their mean. That output and the streaming logit, each scaled
by the bank's mean and deviation, are summed, and calibrated to one probability on takes that were
left out, against the bank's hardest. Everything is judged by what was made without it, in the folds
and halves of the streaming stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kwsd.detect.checker import NEVER, SETTLED_CHUNKS, Candidate, unchecked
from kwsd.learn.judged import Judged
from kwsd.learn.regression import Moments, least_squares, logistic_regression
from kwsd.metrics import false_accept_peaks, unit
from kwsd.model.manifest import CHECKED_FLOOR, STREAM_CLIP, Fusion
from kwsd.state.second_stage import MIN_CANDIDATE, SecondStage, quantized

CHECKS_PER_HOUR = 200.0
"""Checks of a word in an hour of continuous speech, repeated ones counted."""
CANDIDATES = np.geomspace(MIN_CANDIDATE, 0.9, 100)
"""Candidate thresholds that are tried."""
WRONG_SHARE = 0.01
"""Weight of a wrong clip, or of a rival's take, as a share of the bank's."""
WORDS_SHARE = 2.0
"""Weight of the bank's single words, as a share of that of its continuous audio."""
HARDEST = 200
"""Vectors of the bank that the calibration is fitted to: those with the highest sums."""
LEAST_SLOPE = 0.05
STREAM_WEIGHT = 0.5
"""Weight of the streaming logit in the sum, where the checker's output has 1."""
NO_RIVALS = np.zeros((0, 1))


class StreamScores(NamedTuple):
    """Streaming scores by detectors that were made without what they score."""

    takes: np.ndarray
    """float64 `[take, 2, chunk]`: of the chunks at the end of the word, clean and in noise."""
    wrong: np.ndarray
    """float64 `[clip, window]`: of the chunks that a wrong clip has vectors of."""
    bank: np.ndarray
    """float64 `[half, frame]`: of each half of the bank; 0 in the other."""
    rivals: np.ndarray = NO_RIVALS
    """float64 `[take, chunk]`: of the chunks at the ends of other words, clean."""
    speech: np.ndarray = np.ones(1, bool)
    """bool `[frame]`: where the bank is continuous speech, of which rates are told."""


@dataclass(frozen=True)
class Vectors:
    """What the checker heard, float32."""

    takes: np.ndarray
    """`[take, version, chunk, dim]`."""
    wrong: np.ndarray
    """`[clip, window, dim]`: of the parts of the takes, and of wrong clips after them."""
    rivals: np.ndarray
    """`[take, version, chunk, dim]`: of the takes of other words."""
    words: np.ndarray
    """`[window, dim]`: of the bank's single words."""
    bank: np.ndarray
    """`[vector, dim]`."""
    at: np.ndarray
    """int64 `[vector]`: the frame of each."""
    half: np.ndarray
    """int64 `[vector]`: the half of the bank that it is in."""


@dataclass(frozen=True)
class Candidates:
    """What the streaming score lets through to the checker."""

    begins_at: float
    checks_per_hour: float
    """Of continuous speech, repeated ones counted."""
    lost: int
    """Left-out takes, clean, that are none."""


class _Outputs(NamedTuple):
    """One number for each vector that is judged: arrays as in `StreamScores`, but for the bank."""

    takes: np.ndarray
    wrong: np.ndarray
    rivals: np.ndarray
    bank: np.ndarray
    """float64 `[vector]`."""


def learn_second_stage(
    word_id: str, vectors: Vectors, stream: StreamScores, folds: int, hours: float, parts: int
) -> tuple[SecondStage, Judged, Candidates]:
    """Return the second stage of a word, all but its threshold, and what was measured of it.

    Take, or wrong clip, number n belongs to fold `n % folds`. `hours` of the bank are continuous
    speech. The first `parts` of the wrong clips are parts of the takes.
    """
    candidates = find_candidates(stream, hours)
    of_bank = stream.bank.max(axis=0)[vectors.at]
    heard = stream.takes, stream.wrong, stream.rivals, of_bank
    streaming = _Outputs(*(_logit(one) for one in heard))
    halves = [_negatives(vectors, half) for half in (0, 1)]
    outputs = _left_out(vectors, folds, halves)
    mean, spread = _scale(outputs.bank)
    stream_mean, stream_spread = _scale(streaming.bank)
    alone = _map(lambda out, _: (out - mean) / spread, outputs, streaming)
    scale = STREAM_WEIGHT / stream_spread
    both = _map(lambda out, heard: out + scale * (heard - stream_mean), alone, streaming)
    slope, offset = _calibration(alone)
    fused_slope, fused_offset = _calibration(both)
    bank = halves[0] + halves[1]
    weights, bias = parting(vectors.takes, vectors.wrong, vectors.rivals, bank)
    fusion = Fusion(
        checker=fused_slope / slope,
        stream=fused_slope * scale,
        offset=fused_offset - fused_slope * (offset / slope + stream_mean * scale),
    )
    totals = _map(lambda total, _: fused_slope * total + fused_offset, both, streaming)
    judged = _judged(totals, stream, vectors, candidates.begins_at, hours, parts)
    second = SecondStage(
        word_id=word_id,
        weights=(weights * (slope / spread)).astype(np.float32),
        bias=(bias - mean) * slope / spread + offset,
        candidate=candidates.begins_at,
        fusion=fusion,
        threshold=1.0,
        operating_points=judged.points(),
        takes=quantized(vectors.takes),
        wrong=quantized(vectors.wrong),
        scores=judged.takes.astype(np.float32),
    )
    return second, judged, candidates


def find_candidates(stream: StreamScores, hours: float) -> Candidates:
    """Return what the streaming score lets through: as much as `CHECKS_PER_HOUR` allow.

    Left-out takes are not followed further down. Their detectors were made from fewer takes than
    the word is: of a word of ten, which loses none of them at 480 checks an hour, 98.1 % of what
    other people say is a candidate there, and 97.7 % at 200.
    """
    bank = [_dense(scores) for scores in np.where(stream.speech, stream.bank, 0)]
    checks = np.array([_checks(bank, at) for at in CANDIDATES]) / hours
    allowed = CANDIDATES[checks <= CHECKS_PER_HOUR]
    begins_at = round(float(allowed.min(initial=CANDIDATES[-1])), 6)
    scores = stream.takes[:, 0].max(axis=-1)
    return Candidates(begins_at, _checks(bank, begins_at) / hours, int((scores < begins_at).sum()))


def take_score(second: SecondStage, streaming: np.ndarray, vectors: np.ndarray) -> float:
    """Return the highest score at consecutive chunks with the scores `streaming [chunk]` and the
    vectors `[chunk, dim]`, of which every second is checked, whichever that is."""
    return float(_every_second(_fused(second, streaming, vectors)))


def clip_score(second: SecondStage, streaming: np.ndarray, vectors: np.ndarray) -> float:
    """Return the highest score where all of these are checked."""
    return float(_fused(second, streaming, vectors).max())


def stream_scores(
    second: SecondStage, streaming: np.ndarray, vector: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return the scores of a stream from its start on, `[chunk]`, as the detector gives them.

    `streaming [chunk]` are those of the first stage; `vector` returns that of the window that ends
    with a chunk, and is called for those that are checked.
    """
    candidate = Candidate(second.candidate)
    checked = NEVER
    score = 0.0
    scores = np.zeros(len(streaming))
    for chunk, value in enumerate(streaming.tolist()):
        candidate.step(chunk, value)
        if not candidate.length:
            scores[chunk] = unchecked(value, second.candidate)
            continue
        if candidate.due != checked:
            checked = candidate.due
            score = second.fusion(second.logit(vector(checked.chunk)), checked.streaming)
        scores[chunk] = score
    return scores


def _fused(second: SecondStage, streaming: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    fusion = second.fusion
    logits = vectors @ second.weights + second.bias
    totals = fusion.checker * logits + fusion.stream * _logit(streaming) + fusion.offset
    return _scores(totals, streaming, second.candidate)


def _scores(totals: np.ndarray, streaming: np.ndarray, begins_at: float) -> np.ndarray:
    """Return the scores of candidates, and of what is none, as the detector gives them."""
    checked = CHECKED_FLOOR + (1 - CHECKED_FLOOR) / (1 + np.exp(-np.clip(totals, -500, 500)))
    below = CHECKED_FLOOR * streaming / begins_at
    return np.asarray(np.where(streaming >= begins_at, checked, below))


def _judged(
    totals: _Outputs,
    stream: StreamScores,
    vectors: Vectors,
    begins_at: float,
    hours: float,
    parts: int,
) -> Judged:
    takes = _every_second(_scores(totals.takes, stream.takes, begins_at))
    wrong = _scores(totals.wrong, stream.wrong, begins_at).max(axis=-1, initial=0.0)
    rivals = _scores(totals.rivals, stream.rivals, begins_at).max(axis=-1, initial=0.0)
    found: list[float] = []
    for half, scores in enumerate(stream.bank):
        chosen = vectors.half == half
        at = vectors.at[chosen]
        series = np.zeros(len(scores))
        series[at] = _scores(totals.bank[chosen], scores[at], begins_at)
        found += false_accept_peaks(np.where(stream.speech, series, 0))
    return Judged(takes, wrong[:parts], wrong[parts:], np.sort(found)[::-1], hours, rivals)


def _negatives(vectors: Vectors, half: int) -> Moments:
    """Return a half of the bank, and its single words."""
    bank = Moments.of(vectors.bank[vectors.half == half])
    if not len(vectors.words):
        return bank
    return bank + Moments.of(vectors.words, WORDS_SHARE * bank.weight / len(vectors.words))


def _left_out(vectors: Vectors, folds: int, halves: Sequence[Moments]) -> _Outputs:
    """Return the regression's outputs for what it was not fitted to; `halves` are the bank's."""
    bank = np.zeros(len(vectors.bank))
    for half in (0, 1):
        other = halves[1 - half]
        weights, bias = parting(vectors.takes, vectors.wrong, vectors.rivals, other)
        chosen = vectors.half == half
        bank[chosen] = vectors.bank[chosen] @ weights + bias
    takes = np.zeros((len(vectors.takes), 2, vectors.takes.shape[2]))
    wrong = np.zeros(vectors.wrong.shape[:2])
    rivals = np.zeros((len(vectors.rivals), vectors.rivals.shape[2]))
    whole = halves[0] + halves[1]
    of_take, of_wrong, of_rival = (np.arange(len(each)) % folds for each in (takes, wrong, rivals))
    for fold in range(folds):
        weights, bias = parting(
            vectors.takes[of_take != fold],
            vectors.wrong[of_wrong != fold],
            vectors.rivals[of_rival != fold],
            whole,
        )
        takes[of_take == fold] = vectors.takes[of_take == fold, :2] @ weights + bias
        wrong[of_wrong == fold] = vectors.wrong[of_wrong == fold] @ weights + bias
        rivals[of_rival == fold] = vectors.rivals[of_rival == fold, 0] @ weights + bias
    return _Outputs(takes, wrong, rivals, bank)


def parting(
    takes: np.ndarray, wrong: np.ndarray, rivals: np.ndarray, bank: Moments
) -> tuple[np.ndarray, float]:
    """Return the weights, float32 `[dim]`, and the bias that part `takes` from `wrong` clips,
    rivals and the bank; arrays as in `Vectors`.

    The weights are the sum of two directions: the regression's, which knows how numbers of the bank
    go together, and the one from the mean of all negatives to that of the takes, a prototype (Snell
    et al. 2017, arXiv 1703.05175), which needs fewer takes. The means lie at 1 and -1.
    """
    dim = takes.shape[-1]
    negatives = bank
    for each in (wrong, rivals):
        if len(each):
            vectors = each.reshape(-1, dim)
            weight = WRONG_SHARE * bank.weight * len(each) / len(vectors)
            negatives += Moments.of(vectors, weight)
    positives = Moments.of(takes.reshape(-1, dim))
    one, other = positives.means.first, negatives.means.first
    weights = unit(least_squares(positives, negatives)) + unit(one - other)
    weights *= 2 / max(float(weights @ (one - other)), 1e-9)
    return weights.astype(np.float32), float(-weights @ (one + other) / 2)


def _calibration(outputs: _Outputs) -> tuple[float, float]:
    """Return slope and offset of the logits: left-out takes against the bank's hardest."""
    hardest = np.sort(outputs.bank)[-HARDEST:]
    takes = _every_second(outputs.takes).reshape(-1)
    found = logistic_regression(takes[:, None], hardest[:, None])
    return max(float(found.weights[0]), LEAST_SLOPE), found.bias


def _every_second(values: np.ndarray) -> np.ndarray:
    """Return the highest of every second along the last axis, whichever of them these are."""
    return np.minimum(values[..., 0::2].max(axis=-1), values[..., 1::2].max(axis=-1))


def _dense(scores: np.ndarray) -> np.ndarray:
    """Return scores `[frame]` without those that can be no candidates, but for one between runs."""
    high = np.flatnonzero(scores >= MIN_CANDIDATE)
    kept = np.union1d(high, high + 1)
    return np.pad(scores, (0, 1))[kept]


def _checks(bank: Sequence[np.ndarray], begins_at: float) -> float:
    """Return how many checks the scores `[frame]` of each half of the bank ask for."""
    total = 0.0
    for scores in bank:
        is_candidate = np.pad(scores >= begins_at, 1).astype(np.int8)
        begins, ends = (np.flatnonzero(np.diff(is_candidate) == sign) for sign in (1, -1))
        lengths = ends - begins
        settled = np.maximum(lengths - (SETTLED_CHUNKS - 1), 0)
        total += float((1 + (lengths >= 3) + settled / 2).sum())
    return total


def _scale(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), max(float(values.std()), 1e-6)


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, STREAM_CLIP, 1 - STREAM_CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _map(
    change: Callable[[np.ndarray, np.ndarray], np.ndarray], one: _Outputs, other: _Outputs
) -> _Outputs:
    return _Outputs(*(change(a, b) for a, b in zip(one, other, strict=True)))
