"""Thresholds that fit a room and its people, and how much evidence they rest on.

A threshold for a wanted rate of false accepts is read from the peaks of the scores where there are
enough of them to count, and extrapolated beyond by an exponential tail. Hearing nothing is no
evidence: a threshold is never lowered without peaks that support it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kwsd.detect.rates import rate_at
from kwsd.detect.speaker_id import person_scores
from kwsd.metrics import (
    COUNTED,
    HIGHEST_THRESHOLD,
    MOST_AN_HOUR,
    SCORE_DIGITS,
    Scorer,
    binomial_interval,
    poisson_interval,
    tail_rate,
    tail_threshold,
    threshold_at,
    unit,
)
from kwsd.protocol.data import (
    LabeledTime,
    OperatingPoint,
    Peak,
    ThresholdChoice,
    TradeOff,
    WordPeaks,
)
from kwsd.state.calibration import CalibrationError
from kwsd.state.voiceprints import Voiceprint

MIN_PEAKS = 10
"""Peaks that a tail needs."""
MIN_THRESHOLD = 0.05
LABEL_WITHIN_S = 1.5
"""A label belongs to the peaks at most this far from its clip's word."""
GRID = 120
"""Thresholds of a grid."""


class Measured(Protocol):
    """The model of a word, with what was measured of it."""

    @property
    def operating_points(self) -> Sequence[OperatingPoint]:
        """Thresholds with their error rates."""

    def missed(self, threshold: float) -> tuple[float, float] | None:
        """Return the share that is missed, clean and in noise; None where it was not measured."""


@dataclass(frozen=True)
class Evidence:
    """The audio that was heard while a word was not said."""

    peaks: np.ndarray
    """Scores of the peaks, highest first."""
    hours: float
    assumed_right: int = 0
    """Wakes without a label, which are left out."""


def evidence(
    stretches: Sequence[WordPeaks], labels: Sequence[LabeledTime] = (), *, nobody_spoke: bool
) -> Evidence:
    """Return the peaks of one word that count as false: all but those that are labeled right.

    A peak that woke and has no label counts as right, unless `nobody_spoke` the word.
    """
    counted = []
    unlabeled = 0
    for peak, right in judged(stretches, labels):
        if right is None and peak.woke and not nobody_spoke:
            unlabeled += 1
        elif not right:
            counted.append(peak.peak)
    hours = sum(stretch.seconds for stretch in stretches) / 3600
    return Evidence(np.sort(np.array(counted, np.float64))[::-1], hours, unlabeled)


def judged(
    stretches: Iterable[WordPeaks], labels: Iterable[LabeledTime]
) -> Iterator[tuple[Peak, bool | None]]:
    """Yield each peak of one word, and whether a label says that it was right; None without one.

    Of several labels, one that says so counts.
    """
    by_time = sorted(labels, key=lambda label: label.time)
    times = [label.time for label in by_time]
    for stretch in stretches:
        for peak in stretch.peaks:
            first = bisect.bisect_left(times, peak.time - LABEL_WITHIN_S)
            last = bisect.bisect_right(times, peak.time + LABEL_WITHIN_S)
            near = [label.right for label in by_time[first:last]]
            yield peak, any(near) if near else None


def choose(evidence: Evidence, rate: float, present: float) -> ThresholdChoice:
    """Return the threshold for `rate` false accepts per hour of a word whose threshold is
    `present`.

    Raises CalibrationError where nothing was heard.
    """
    if evidence.hours <= 0:
        raise CalibrationError(
            "nothing was heard: is the microphone there, and does the daemon listen for the word?"
        )
    peaks = evidence.peaks
    threshold = threshold_at(peaks, evidence.hours, rate)
    if rate * evidence.hours < COUNTED:
        enough = len(peaks) >= MIN_PEAKS
        tail = tail_threshold(peaks, evidence.hours, rate) if enough else present
        threshold = max(threshold, tail)
    capped = threshold >= HIGHEST_THRESHOLD
    threshold = _rounded_up(float(np.clip(threshold, MIN_THRESHOLD, HIGHEST_THRESHOLD)))
    seen = int((peaks >= threshold).sum())
    return ThresholdChoice(
        threshold=threshold,
        rate=rate,
        hours=evidence.hours,
        seen=seen,
        bounds=_bounds(seen, evidence.hours),
        tail=_tail(evidence, threshold),
        capped=capped,
        hours_needed=-math.log(0.05) / rate,
    )


def _rounded_up(threshold: float) -> float:
    """Return a threshold with the decimals of scores, no peak below it let in."""
    steps = 10**SCORE_DIGITS
    return math.ceil(round(threshold * steps, 3)) / steps


def grid(more: Collection[float]) -> list[float]:
    """Return thresholds of use, evenly spaced in their logits, and `more`, rising."""
    first, last = (math.log(end / (1 - end)) for end in (MIN_THRESHOLD, HIGHEST_THRESHOLD))
    spaced = 1 / (1 + np.exp(-np.linspace(first, last, GRID)))
    return sorted({*np.round(spaced, 4).tolist(), *more})


def trade_off(evidence: Evidence, thresholds: Iterable[float], model: Measured) -> list[TradeOff]:
    """Return what each of `thresholds` would do to a word of this model.

    Without any time, the bounds of the rate are those of what is possible.
    """
    bounds: dict[int, tuple[float, float]] = {}
    rows = []
    for threshold in thresholds:
        seen = int((evidence.peaks >= threshold).sum())
        if seen not in bounds:
            bounds[seen] = _bounds(seen, evidence.hours)
        rows.append(
            TradeOff(
                threshold=threshold,
                seen=seen,
                bounds=bounds[seen],
                tail=_tail(evidence, threshold),
                missed=model.missed(threshold),
                rate=rate_at(model.operating_points, threshold),
            )
        )
    return rows


def _bounds(seen: int, hours: float) -> tuple[float, float]:
    low, high = poisson_interval(seen, hours) if hours else (0.0, MOST_AN_HOUR)
    return min(low, MOST_AN_HOUR), min(high, MOST_AN_HOUR)


def _tail(evidence: Evidence, threshold: float) -> float | None:
    if len(evidence.peaks) < MIN_PEAKS:
        return None
    return tail_rate(evidence.peaks, evidence.hours, threshold)


@dataclass(frozen=True)
class SpeakerChoice:
    """A verification threshold, and what it rests on."""

    threshold: float
    false_accept_rate: float
    """Wanted share of impostor scores that reach it."""
    strangers: int
    """Number of impostor scores."""
    people: int
    missed: int
    """Enrolled takes that it would reject, each scored against the voiceprint of the others."""
    takes: int
    bounds: tuple[float, float]
    """95 % bounds of the share that is missed (Clopper and Pearson 1934)."""


def speaker_trials(
    people: Mapping[str, Voiceprint], strangers: np.ndarray, scorer: Scorer
) -> tuple[np.ndarray, np.ndarray]:
    """Return target and impostor scores of the enrolled people.

    Targets are people's takes, each against their voice without it; impostors are strangers and the
    other people, against each voiceprint. Of several references of a voice, the one that resembles
    a take most counts. `strangers [stranger, dim]`. Some may have a part that others lack.
    """
    target: list[float] = []
    impostor = []
    for name, person in people.items():
        for one in person.references:
            target += _own_scores(person, one, scorer)
        others = [
            one.takes for who, other in people.items() if who != name for one in other.references
        ]
        impostor += [person_scores(voices, person, scorer) for voices in (strangers, *others)]
    return np.array(target), np.concatenate(impostor) if impostor else np.zeros(0)


def _own_scores(person: Voiceprint, one: Voiceprint, scorer: Scorer) -> list[float]:
    """Return the score of each take of a speaker's reference `one`, as if it were not in it."""
    means = [other.mean for other in person.references if other is not one]
    rest = one.takes.sum(axis=0)
    scores = []
    for take in one.takes:
        own = [unit(rest - take)] if len(one.takes) > 1 else []
        seen = [float(scorer(take[None], mean[None])[0, 0]) for mean in (*own, *means)]
        if seen:
            scores.append(max(seen))
    return scores


def choose_speaker(
    target: np.ndarray, impostor: np.ndarray, people: int, false_accept_rate: float
) -> SpeakerChoice:
    """Return the threshold that `false_accept_rate` of the impostor scores reach.

    Raises CalibrationError where nobody is enrolled.
    """
    if not people or not len(impostor):
        raise CalibrationError("nobody is enrolled; `kwsd enroll NAME` comes first")
    threshold = round(float(np.quantile(impostor, 1 - false_accept_rate)), 4)
    missed = int((target < threshold).sum())
    return SpeakerChoice(
        threshold=threshold,
        false_accept_rate=false_accept_rate,
        strangers=len(impostor),
        people=people,
        missed=missed,
        takes=len(target),
        bounds=binomial_interval(missed, len(target)),
    )
