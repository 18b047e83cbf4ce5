"""Thresholds that fit a room and its people, and how much evidence they rest on.

A threshold for a wanted rate of false accepts is read from the peaks of the scores where there are
enough of them to count, and extrapolated beyond by an exponential tail. Hearing nothing is no
evidence: a threshold is never lowered without peaks that support it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kwsd.detect.speaker_id import person_scores
from kwsd.metrics import (
    COUNTED,
    HIGHEST_THRESHOLD,
    SCORE_DIGITS,
    Scorer,
    binomial_interval,
    poisson_interval,
    tail_rate,
    tail_threshold,
    threshold_at,
)
from kwsd.protocol.data import LabeledTime, WordPeaks
from kwsd.state.calibration import CalibrationError
from kwsd.state.voiceprints import Voiceprint

MIN_PEAKS = 10
"""Peaks that a tail needs."""
MIN_THRESHOLD = 0.05
LABEL_WITHIN_S = 1.5
"""A label belongs to the peaks at most this far from its clip's word."""


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
    by_time = sorted(labels, key=lambda label: label.time)
    times = [label.time for label in by_time]
    for stretch in stretches:
        for peak in stretch.peaks:
            first = bisect.bisect_left(times, peak.time - LABEL_WITHIN_S)
            last = bisect.bisect_right(times, peak.time + LABEL_WITHIN_S)
            near = [label.right for label in by_time[first:last]]
            if near:
                counted += [] if any(near) else [peak.peak]
            elif peak.woke and not nobody_spoke:
                unlabeled += 1
            else:
                counted.append(peak.peak)
    hours = sum(stretch.seconds for stretch in stretches) / 3600
    return Evidence(np.sort(np.array(counted, np.float64))[::-1], hours, unlabeled)


@dataclass(frozen=True)
class Choice:
    """A threshold for a wanted rate, and what it rests on."""

    threshold: float
    rate: float
    """Wanted false accepts per hour."""
    hours: float
    seen: int
    """False accepts among the peaks at that threshold."""
    bounds: tuple[float, float]
    """95 % bounds of their rate per hour (Garwood 1936)."""
    tail: float | None
    """The rate per hour that the tail predicts; None where there were too few peaks for one."""
    capped: bool
    """Whether the wanted rate asks for a threshold that hardly anything would reach."""

    @property
    def hours_needed(self) -> float:
        """Hours without a false accept that would show the wanted rate at 95 %."""
        return -math.log(0.05) / self.rate


def choose(evidence: Evidence, rate: float, present: float) -> Choice:
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
    return Choice(
        threshold=threshold,
        rate=rate,
        hours=evidence.hours,
        seen=seen,
        bounds=poisson_interval(seen, evidence.hours),
        tail=_tail(evidence, threshold),
        capped=capped,
    )


def _rounded_up(threshold: float) -> float:
    """Return a threshold with the decimals of scores, no peak below it let in."""
    steps = 10**SCORE_DIGITS
    return math.ceil(round(threshold * steps, 3)) / steps


@dataclass(frozen=True)
class TradeOff:
    """What a threshold would do with the evidence."""

    threshold: float
    seen: int
    """False accepts among the peaks."""
    bounds: tuple[float, float]
    """95 % bounds of their rate per hour."""
    tail: float | None
    """The rate per hour that the tail predicts."""


def trade_off(evidence: Evidence, thresholds: Iterable[float]) -> list[TradeOff]:
    """Return what each of `thresholds` would do."""
    rows = []
    for threshold in thresholds:
        seen = int((evidence.peaks >= threshold).sum())
        bounds = poisson_interval(seen, evidence.hours)
        rows.append(TradeOff(threshold, seen, bounds, _tail(evidence, threshold)))
    return rows


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
        own = [_unit(rest - take)] if len(one.takes) > 1 else []
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


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))
