"""Error rates and how sure one can be of them: misses v false accepts an hour, equal error rate, intervals.

Pure functions of scores; nothing here knows where they came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

MERGE_CHUNKS = 12
"""Two passes over the threshold within about a second are one false accept."""
TAIL = 30
"""Peaks that a tail is fitted to."""


def false_accept_peaks(scores: np.ndarray, merge_chunks: int = MERGE_CHUNKS) -> list[float]:
    """The peaks of one word's `scores [chunk]`, highest first, none within `merge_chunks` of a higher one."""
    peaks = []
    left = scores.copy()
    while len(left) and (top := float(left.max())) > 0.01:
        at = int(left.argmax())
        peaks.append(top)
        left[max(at - merge_chunks, 0) : at + merge_chunks] = 0
    return peaks


def threshold_at(peaks: np.ndarray, hours: float, rate: float) -> float:
    """The lowest threshold at which `peaks` (highest first) give at most `rate` false accepts an hour."""
    allowed = int(rate * hours)
    return float(np.nextafter(np.float32(peaks[allowed]), np.float32(2))) if len(peaks) > allowed else 0.01


def tail_threshold(peaks: np.ndarray, hours: float, rate: float) -> float:
    """The score that `rate` of `peaks` (highest first) an hour reach, by an exponential tail of their logits (peaks over threshold, Pickands 1975)."""
    base, scale, count = _tail(peaks)
    logit = base + scale * math.log(max(count / hours / rate, 1e-6))
    return float(np.clip(1 / (1 + math.exp(-logit)), 0.02, 0.98))


def tail_rate(peaks: np.ndarray, hours: float, threshold: float) -> float:
    """How many of `peaks` (highest first) an hour reach `threshold`: counted where there are many, else by the tail of `tail_threshold`."""
    seen = int((peaks >= threshold).sum())
    base, scale, count = _tail(peaks)
    return seen / hours if seen >= count else count / hours * math.exp(-(_logit(threshold) - base) / scale)


def _tail(peaks: np.ndarray) -> tuple[float, float, int]:
    """Logit at which the tail begins, mean excess over it, and peaks in it."""
    logits = [_logit(float(peak)) for peak in peaks[:TAIL]]
    return logits[-1], max(math.fsum(logits) / len(logits) - logits[-1], 0.05), len(logits)


def _logit(share: float) -> float:
    return math.log(share / (1 - min(share, 1 - 1e-9)))


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> tuple[float, float]:
    """The rate at which false rejects equal false accepts, and its threshold."""
    rejects, accepts, thresholds = error_curves(same, different)
    at = int(np.argmin(np.abs(rejects - accepts)))
    return float((rejects[at] + accepts[at]) / 2), float(thresholds[at])


def error_curves(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False reject rate, false accept rate and threshold `[trial]`, thresholds rising: what a DET curve draws (Martin et al. 1997)."""
    scores = np.concatenate([same, different])
    own = np.concatenate([np.ones(len(same)), np.zeros(len(different))])
    order = np.argsort(scores, kind="stable")
    own = own[order]
    return np.cumsum(own) / len(same), 1 - np.cumsum(1 - own) / len(different), scores[order]


def poisson_interval(count: int, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact bounds (Garwood 1936) of a rate of which `count` events were seen in `exposure`; without any, the upper one is one-sided."""
    tail = (1 - confidence) / (2 if count else 1)
    most = 10.0 + 3 * count + 10 * math.sqrt(count)
    low = _solve(lambda mean: 1 - _poisson_cdf(count - 1, mean) - tail, most) if count else 0.0
    high = _solve(lambda mean: tail - _poisson_cdf(count, mean), most)
    return low / exposure, high / exposure


def binomial_interval(count: int, tries: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact bounds (Clopper and Pearson 1934) of a share of which `count` in `tries` were seen."""
    tail = (1 - confidence) / 2
    low = _solve(lambda share: 1 - _binomial_cdf(count - 1, tries, share) - tail, 1.0) if count else 0.0
    high = _solve(lambda share: tail - _binomial_cdf(count, tries, share), 1.0) if count < tries else 1.0
    return low, high


def _binomial_cdf(count: int, tries: int, share: float) -> float:
    """P(X <= count) of a binomial variable."""
    return math.fsum(math.comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in range(count + 1))


def _poisson_cdf(count: int, mean: float) -> float:
    """P(X <= count) of a Poisson variable."""
    if mean <= 0:
        return 1.0
    terms = [k * math.log(mean) - math.lgamma(k + 1) for k in range(count + 1)]
    top = max(terms)
    return min(math.exp(top - mean) * math.fsum(math.exp(t - top) for t in terms), 1.0)


def _solve(rising: Callable[[float], float], most: float) -> float:
    """Where `rising` crosses zero between 0 and `most`, by bisection."""
    low, high = 0.0, most
    for _ in range(200):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bootstrap_interval(missed: Sequence[bool] | np.ndarray, groups: Sequence[str], confidence: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Percentile interval of the share of `missed`, drawing whole groups (speakers) with replacement (Efron 1979)."""
    names = sorted(set(groups))
    owner = np.array([names.index(g) for g in groups])
    misses = np.bincount(owner, np.asarray(missed, float), len(names))
    sizes = np.bincount(owner, minlength=len(names)).astype(float)
    drawn = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    shares = misses[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


Trials = tuple[np.ndarray, np.ndarray]
"""Scores of one speaker's pairs, and of different speakers'."""


Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""How alike takes `[take, dim]` and references `[reference, dim]` are, all of unit length: `[take, reference]`."""


def cosine(takes: np.ndarray, references: np.ndarray) -> np.ndarray:
    return np.asarray(takes @ references.T)


def symmetric_norm(takes: np.ndarray, references: np.ndarray, cohort: np.ndarray, nearest: int = 100) -> np.ndarray:
    """Cosines in standard deviations above those to the cohort's nearest, the mean of both sides' (AS-norm, Matějka et al. 2017).

    A voice like many others', or a noisy take that is like everybody's, scores no higher for it. `cohort [person, dim]` knows neither side."""
    nearest = min(nearest, len(cohort))

    def level(voices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        near = np.partition(voices @ cohort.T, len(cohort) - nearest, axis=1)[:, len(cohort) - nearest :]
        return near.mean(axis=1), near.std(axis=1) + 1e-6

    (take_mean, take_spread), (mean, spread) = level(takes), level(references)
    plain = takes @ references.T
    return np.asarray(((plain - take_mean[:, None]) / take_spread[:, None] + (plain - mean) / spread) / 2)


def logistic_calibration(same: np.ndarray, different: np.ndarray, rounds: int = 100) -> tuple[float, float]:
    """(slope, offset) by which `1 / (1 + exp(-(slope score + offset)))` is the probability of `same` were both as likely (Brümmer and du Preez 2006).

    Logistic regression by Newton's steps, either kind of trial weighing one half."""
    score = np.concatenate([same, different])
    own = np.concatenate([np.ones(len(same)), np.zeros(len(different))])
    weight = np.where(own == 1, 0.5 / len(same), 0.5 / len(different))
    design = np.stack([score, np.ones(len(score))], axis=1)
    found = np.zeros(2)
    for _ in range(rounds):
        probability = 1 / (1 + np.exp(-(design @ found)))
        bend = design.T @ (design * (weight * probability * (1 - probability))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(bend, design.T @ (weight * (own - probability)))
        found += step * min(1.0, 5 / max(np.abs(step).max(), 1e-9))
        if np.abs(step).max() < 1e-8:
            break
    return float(found[0]), float(found[1])


def verification_trials(people: list[np.ndarray], alike: Alike = cosine) -> tuple[Trials, Trials]:
    """One take against one, and the mean of five against one, over `people`: embeddings `[take, dim]` of unit length, six takes at least."""
    means = np.stack([p[:5].mean(axis=0) / np.linalg.norm(p[:5].mean(axis=0)) for p in people])
    firsts, lasts = np.stack([p[-1] for p in people]), np.stack([p[0] for p in people])
    same_one = np.concatenate([alike(p, p)[np.triu_indices(len(p), 1)] for p in people])
    different_one = alike(firsts, lasts)[~np.eye(len(people), dtype=bool)]
    fives = [alike(p[5:], means) for p in people]
    same_five = np.concatenate([five[:, i] for i, five in enumerate(fives)])
    different_five = np.concatenate([np.delete(five, i, axis=1).ravel() for i, five in enumerate(fives)])
    return (same_one, different_one), (same_five, different_five)
