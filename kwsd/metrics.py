"""Error rates and their uncertainty: misses against false accepts per hour, equal error rate.

Pure functions of scores; nothing here knows where they came from.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

import numpy as np

MERGE_CHUNKS = 12
"""Two passes over the threshold within this many chunks, about a second, are one false accept."""
TAIL_PEAKS = 30
"""Peaks that a tail is fitted to."""
SURE_PEAKS = 10
"""Peaks from which on a tail is fitted to them alone; fewer are filled up with `USUAL_EXCESS`."""
USUAL_EXCESS = 1.0
"""Mean excess of the logits of peaks over any of them, where hardly any were seen."""
COUNTED = 5
"""Where at least this many false accepts are allowed, they are counted, and no tail is needed."""
SCORE_DIGITS = 6
"""Decimals of scores and thresholds."""
HIGHEST_THRESHOLD = 0.999
"""No threshold that is measured or calibrated is higher."""
MIN_PEAK = 0.01
"""Scores below it are no peaks."""
MOST_AN_HOUR = 3600.0
"""No more false accepts fit into an hour."""
SPEECH_S = (0.24, 2.0)
"""Bounds of the seconds of speech in a voice."""
WORD_SPEECH_S = 0.6
"""What a wake word has of them: scores of a voice of unknown length are those of such a one."""
NEAREST = 50
"""Voices of a cohort that are near enough to normalize a score by, where one is measured anew."""


def false_accept_peaks(scores: np.ndarray, merge_chunks: int = MERGE_CHUNKS) -> list[float]:
    """Return the peaks of one word's `scores [chunk]`, highest first.

    None lies within `merge_chunks` of a higher one.
    """
    peaks = []
    left = scores.copy()
    while len(left) and (highest := float(left.max())) > MIN_PEAK:
        at = int(left.argmax())
        peaks.append(highest)
        left[max(at - merge_chunks, 0) : at + merge_chunks] = 0
    return peaks


def threshold_at(peaks: np.ndarray, hours: float, rate: float) -> float:
    """Return the lowest threshold at which `peaks` give at most `rate` false accepts per hour.

    `peaks` are all over `MIN_PEAK`, sorted, highest first. They are counted; where not even one is
    allowed, the threshold lies over the highest and where the tail of `tail_threshold` puts it: few
    or no peaks in little time are no evidence for a low one. Raises ValueError without any time.
    """
    if hours <= 0:
        raise ValueError("no audio was heard, so that no false accepts can be counted")
    allowed = int(rate * hours)
    if len(peaks) <= allowed:
        return max(MIN_PEAK, 0.0 if allowed else tail_threshold(peaks, hours, rate))
    counted = float(np.nextafter(np.float32(peaks[allowed]), np.float32(2)))
    return counted if allowed else max(counted, tail_threshold(peaks, hours, rate))


def operating_threshold(
    peaks: np.ndarray, hours: float, rate: float, usual: float | None = None
) -> float:
    """Return the threshold that `rate` of `peaks` (highest first) per hour reach: counted where
    there are `COUNTED` of them or more, else by the tail, with `usual` as in `tail_rate`."""
    if rate * hours >= COUNTED:
        return threshold_at(peaks, hours, rate)
    return tail_threshold(peaks, hours, rate, usual)


def mean_excess(peaks: np.ndarray) -> float:
    """Return the mean excess of the logits of `peaks` (highest first) over where their tail begins.

    It is the tail's scale."""
    return _tail(peaks)[1]


def rate_interval(
    peaks: np.ndarray,
    hours: float,
    threshold: float,
    confidence: float = 0.95,
    usual: float | None = None,
) -> tuple[float, float]:
    """Return bounds of the rate per hour at which `peaks` (highest first) reach `threshold`.

    Exact ones of the count (Garwood 1936) where there are `COUNTED` or more; beyond, those of the
    tail: of its `n` peaks, whose mean excess has a standard error of 1 / sqrt(n) of itself, as the
    logarithm of their count has."""
    seen = int((peaks >= threshold).sum())
    if seen >= COUNTED:
        return poisson_interval(seen, hours, confidence)
    base, scale, count = _tail(peaks, usual)
    beyond = max(_logit(threshold) - base, 0.0) / scale
    spread = math.sqrt((1 + beyond**2) / count)
    error = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    rate = tail_rate(peaks, hours, threshold, usual)
    return rate * math.exp(-error), rate * math.exp(error)


def tail_threshold(
    peaks: np.ndarray, hours: float, rate: float, usual: float | None = None
) -> float:
    """Return the score that `rate` of `peaks` (highest first) per hour reach.

    Their logits are extrapolated by an exponential tail (peaks over threshold, Pickands 1975), with
    `usual` as in `tail_rate`.
    """
    base, scale, count = _tail(peaks, usual)
    logit = base + scale * math.log(max(count / hours / rate, 1e-6))
    threshold = np.clip(1 / (1 + math.exp(-logit)), 0.02, HIGHEST_THRESHOLD)
    return round(float(threshold), SCORE_DIGITS)


def tail_rate(
    peaks: np.ndarray, hours: float, threshold: float, usual: float | None = None
) -> float:
    """Return how many of `peaks` (highest first) per hour reach `threshold`.

    They are counted where there are many, else read from the tail of `tail_threshold`. Its scale is
    that of the peaks alone, or the mean of theirs and of `usual`, the mean of several words' (as in
    regional frequency analysis, Hosking and Wallis 1997): that of one is uncertain by a fifth, and
    the same phrase said several times doubles it.
    """
    seen = int((peaks >= threshold).sum())
    base, scale, count = _tail(peaks, usual)
    if seen >= count:
        return seen / hours
    return count / hours * math.exp(-(_logit(threshold) - base) / scale)


def rate_between(points: Iterable[tuple[float, float]], threshold: float) -> float | None:
    """Return the rate per hour at `threshold`, of (threshold, rate) points that were measured.

    Its logarithm is linear in the threshold's logit between two points, and beyond the outer ones,
    as that of an exponential tail is. None where fewer than two thresholds tell it.
    """
    logs = {_logit(at): math.log(rate) for at, rate in points}
    logit = _logit(threshold)
    if logit in logs:
        return math.exp(logs[logit])
    if len(logs) < 2:
        return None
    at = sorted(logs)
    n = min(max(bisect.bisect(at, logit), 1), len(at) - 1)
    low, high = at[n - 1], at[n]
    slope = (logs[high] - logs[low]) / (high - low)
    return math.exp(min(logs[low] + slope * (logit - low), math.log(MOST_AN_HOUR)))


def _tail(peaks: np.ndarray, usual: float | None = None) -> tuple[float, float, int]:
    """Return the logit at which the tail begins, the mean excess over it, and its peaks.

    Without any peak, one at `MIN_PEAK` is assumed. `usual` counts as much as a full tail."""
    logits = [_logit(float(peak)) for peak in peaks[:TAIL_PEAKS]] or [_logit(MIN_PEAK)]
    assumed = max(SURE_PEAKS - len(logits), 0) if usual is None else TAIL_PEAKS
    expected = USUAL_EXCESS if usual is None else usual
    excess = math.fsum(logit - logits[-1] for logit in logits) + assumed * expected
    return logits[-1], max(excess / (len(logits) + assumed), 0.05), len(logits)


def _logit(share: float) -> float:
    return math.log(share / (1 - min(share, 1 - 1e-9)))


def equal_error_rate(target: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Return the rate at which false rejects equal false accepts, and its threshold."""
    rejects, accepts, thresholds = error_curves(target, impostor)
    at = int(np.argmin(np.abs(rejects - accepts)))
    return float((rejects[at] + accepts[at]) / 2), float(thresholds[at])


def error_curves(
    target: np.ndarray, impostor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return false reject rate, false accept rate and threshold `[trial]`, thresholds rising.

    A DET curve draws them (Martin et al. 1997).
    """
    scores = np.concatenate([target, impostor])
    is_target = np.concatenate([np.ones(len(target)), np.zeros(len(impostor))])
    order = np.argsort(scores, kind="stable")
    is_target = is_target[order]
    rejects = np.cumsum(is_target) / len(target)
    accepts = 1 - np.cumsum(1 - is_target) / len(impostor)
    return rejects, accepts, scores[order]


def poisson_interval(count: int, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return exact bounds (Garwood 1936) of a rate, from `count` events in `exposure`.

    Without any event, the upper bound is one-sided.
    """
    tail = (1 - confidence) / (2 if count else 1)
    most = 10.0 + 3 * count + 10 * math.sqrt(count)
    low = 0.0
    if count:
        low = _solve(lambda mean: 1 - _poisson_cdf(count - 1, mean) - tail, most)
    high = _solve(lambda mean: tail - _poisson_cdf(count, mean), most)
    return low / exposure, high / exposure


def binomial_interval(count: int, tries: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return exact bounds (Clopper and Pearson 1934) of a share, from `count` in `tries`."""
    tail = (1 - confidence) / 2
    low = 0.0
    high = 1.0
    if count:
        low = _solve(lambda share: 1 - _binomial_cdf(count - 1, tries, share) - tail, 1.0)
    if count < tries:
        high = _solve(lambda share: tail - _binomial_cdf(count, tries, share), 1.0)
    return low, high


def _binomial_cdf(count: int, tries: int, share: float) -> float:
    """Return P(X <= count) of a binomial variable."""
    terms = (math.comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in range(count + 1))
    return math.fsum(terms)


def _poisson_cdf(count: int, mean: float) -> float:
    """Return P(X <= count) of a Poisson variable."""
    if mean <= 0:
        return 1.0
    terms = np.arange(count + 1) * math.log(mean) - _log_factorials(count)
    top = float(terms.max())
    return min(math.exp(top - mean) * float(np.exp(terms - top).sum()), 1.0)


@functools.lru_cache(maxsize=4)
def _log_factorials(count: int) -> np.ndarray:
    """Return log(k!) of k from 0 to `count`."""
    return np.concatenate([np.zeros(1), np.cumsum(np.log(np.arange(1, count + 1)))])


def _solve(rising: Callable[[float], float], most: float) -> float:
    """Return where `rising` crosses zero between 0 and `most`, by bisection."""
    low = 0.0
    high = most
    middle = (low + high) / 2
    while low < middle < high:
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    return middle


def bootstrap_interval(
    missed: Sequence[bool] | np.ndarray,
    groups: Sequence[str],
    confidence: float = 0.95,
    draws: int = 2000,
) -> tuple[float, float]:
    """Return the percentile interval of the share of `missed` (Efron 1979).

    Whole groups (speakers) are drawn with replacement.
    """
    names = sorted(set(groups))
    owner = np.array([names.index(group) for group in groups])
    misses = np.bincount(owner, np.asarray(missed, float), len(names))
    sizes = np.bincount(owner, minlength=len(names)).astype(float)
    drawn = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    shares = misses[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


COHORT_PART = 512
"""Voices of a cohort that are in floating point at once."""
Trials = tuple[np.ndarray, np.ndarray]
"""Target scores (one speaker's pairs) and impostor scores (different speakers')."""
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Scores `[take, reference]` of takes `[take, dim]` against references `[reference, dim]`, all of
unit length."""


def cosine(takes: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the cosines `[take, reference]` of vectors of unit length."""
    return np.asarray(takes @ references.T)


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector `[dim]` at unit length; one without any length stays so."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


def joined(one: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Return vectors `[…, dim + other dim]` whose cosine is the weighted mean of their parts'.

    `one [..., dim]` and `other [..., other dim]` are of unit length, and so is the result; `weight`
    is that of the other.
    """
    parts = np.sqrt(1 - weight) * one, np.sqrt(weight) * other
    return np.concatenate(parts, axis=-1).astype(np.float32)


def as_norm(
    takes: np.ndarray, references: np.ndarray, cohort: np.ndarray, nearest: int = 200
) -> np.ndarray:
    """Return cosines normalized by a cohort, `[take, reference]` (AS-norm, Matějka et al. 2017).

    A cosine is expressed in standard deviations above those to the nearest of the cohort, and the
    mean of both sides is returned: a voice like many others', or a noisy take that is like
    everybody's, scores no higher for it. `cohort [voice, dim]`, of any type and length, contains
    neither side's people.
    """
    nearest = min(nearest, len(cohort))

    def level(voices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cosines = np.partition(_cosines(voices, cohort), len(cohort) - nearest, axis=1)
        near = cosines[:, len(cohort) - nearest :]
        return near.mean(axis=1), near.std(axis=1) + 1e-6

    take_mean, take_spread = level(takes)
    mean, spread = level(references)
    plain = takes @ references.T
    by_take = (plain - take_mean[:, None]) / take_spread[:, None]
    return np.asarray((by_take + (plain - mean) / spread) / 2)


def length_evidence(seconds: np.ndarray | float) -> np.ndarray:
    """Return the natural logarithm of the `seconds` of speech in a voice, over those of a word.

    Whoever speaks for longer is nearer to everybody in a normalized score; a calibration that knows
    the length takes that away (quality measures, Mandasari et al. 2013). Beyond `SPEECH_S` nothing
    more is known."""
    return np.log(np.clip(seconds, *SPEECH_S) / WORD_SPEECH_S)


def _cosines(voices: np.ndarray, cohort: np.ndarray) -> np.ndarray:
    """Return the cosines `[voice, cohort]` of voices of unit length and a cohort, which may have
    one byte a number: it is never whole in floating point."""
    parts = []
    for begin in range(0, len(cohort), COHORT_PART):
        part = cohort[begin : begin + COHORT_PART].astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        parts.append(voices @ part.T)
    return np.concatenate(parts, axis=1)


def logistic_calibration(
    target: np.ndarray, impostor: np.ndarray, rounds: int = 100
) -> tuple[float, float]:
    """Return the (slope, offset) that turn a score into the probability of a target.

    The probability is `1 / (1 + exp(-(slope score + offset)))` at even prior odds (Brümmer and du
    Preez 2006): logistic regression by Newton's method, either kind of trial weighing one half.
    """
    score = np.concatenate([target, impostor])
    is_target = np.concatenate([np.ones(len(target)), np.zeros(len(impostor))])
    weight = np.where(is_target == 1, 0.5 / len(target), 0.5 / len(impostor))
    design = np.stack([score, np.ones(len(score))], axis=1)
    found = np.zeros(2)
    for _ in range(rounds):
        probability = 1 / (1 + np.exp(-(design @ found)))
        spread = (weight * probability * (1 - probability))[:, None]
        curvature = design.T @ (design * spread) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (weight * (is_target - probability)))
        found += step * min(1.0, 5 / max(np.abs(step).max(), 1e-9))
        if np.abs(step).max() < 1e-8:
            break
    return float(found[0]), float(found[1])


def verification_trials(people: list[np.ndarray], scorer: Scorer = cosine) -> tuple[Trials, Trials]:
    """Return the trials of one take against one, and of the mean of five against one.

    `people`: embeddings `[take, dim]` of unit length, at least six takes each. Those of five are in
    the order of the people, and of each person's takes from the sixth on.
    """
    fives = [person[:5].mean(axis=0) for person in people]
    means = np.stack([five / np.linalg.norm(five) for five in fives])
    first = np.stack([person[0] for person in people])
    last = np.stack([person[-1] for person in people])
    target_one = np.concatenate(
        [scorer(person, person)[np.triu_indices(len(person), 1)] for person in people]
    )
    impostor_one = scorer(last, first)[~np.eye(len(people), dtype=bool)]
    scores = [scorer(person[5:], means) for person in people]
    target_five = np.concatenate([score[:, i] for i, score in enumerate(scores)])
    impostor_five = np.concatenate(
        [np.delete(score, i, axis=1).ravel() for i, score in enumerate(scores)]
    )
    return (target_one, impostor_one), (target_five, impostor_five)
