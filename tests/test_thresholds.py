"""Thresholds from evidence, against worked numbers: no more is claimed than was heard."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from kwsd.learn.thresholds import (
    Evidence,
    choose,
    choose_speaker,
    evidence,
    grid,
    speaker_trials,
    trade_off,
)
from kwsd.metrics import cosine
from kwsd.model.bundle import WordModel
from kwsd.protocol.data import LabeledTime, OperatingPoint, Peak, WordPeaks
from kwsd.state.calibration import CalibrationError
from kwsd.state.voiceprints import Voiceprint


def logistic(logits: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector at unit length."""
    return np.asarray(vector / np.linalg.norm(vector))


def test_with_enough_heard_the_peaks_are_counted() -> None:
    peaks = np.linspace(0.9, 0.1, 81)
    choice = choose(Evidence(peaks, 100.0), 0.1, present=0.5)
    assert choice.seen == 10  # in 100 h at 0.1 an hour
    assert peaks[10] < choice.threshold <= peaks[9]
    low, high = choice.bounds
    assert low == pytest.approx(0.04795, abs=1e-4)
    assert high == pytest.approx(0.1839, abs=1e-4)


def test_beyond_what_was_heard_an_exponential_tail_goes_on() -> None:
    """Of 20 excesses of the logits over -2, with mean 0.5, e^4 times fewer lie over 0."""
    logits = -2 - 0.5 * np.log((np.arange(20) + 0.5) / 20)
    found = Evidence(np.sort(logistic(logits))[::-1], 1.0)
    choice = choose(found, 20 / math.e**4, present=0.1)
    logit = math.log(choice.threshold / (1 - choice.threshold))
    assert logit == pytest.approx(0.0, abs=0.35)
    assert choice.tail == pytest.approx(choice.rate, rel=0.05)
    assert choice.seen == 0
    low, high = choice.bounds
    assert low == 0.0
    assert high == pytest.approx(3.0, abs=0.01)
    assert choice.hours_needed == pytest.approx(-math.log(0.05) / choice.rate)
    assert [row.seen for row in trade_off(found, (0.01, 0.98), MODEL)] == [20, 0]


MODEL = WordModel(
    threshold=0.9,
    operating_points=(
        OperatingPoint(0.9, 0.1, 0.2, 0.3, 0.01, 1.0),
        OperatingPoint(0.5, 1.0, 0.0, 0.0, 0.5, 2.0),
    ),
    id="m",
    scores=((0.4, 0.95, 0.97, 0.99), (0.2, 0.4, 0.95, 0.97)),
)


def test_what_thresholds_would_do() -> None:
    """False wakes by the log with their bounds, misses and the rate as the model was measured."""
    rows = trade_off(Evidence(np.linspace(0.9, 0.1, 81), 100.0), (0.3, 0.5, 0.9), MODEL)
    assert [row.seen for row in rows] == [61, 41, 1]
    assert [row.missed for row in rows] == [(0.0, 0.25), (0.25, 0.5), (0.25, 0.5)]
    assert [row.rate and row.rate.held for row in rows] == [
        pytest.approx(10 ** (math.log(7 / 3) / math.log(9))),
        1.0,
        0.1,
    ]
    low, high = rows[0].bounds
    assert low == pytest.approx(chi_square(0.025, 2 * 61) / 200, abs=1e-3)
    assert high == pytest.approx(chi_square(0.975, 2 * 62) / 200, abs=1e-3)
    (silence,) = trade_off(Evidence(np.zeros(0), 0.0), (0.5,), MODEL)
    assert (silence.bounds, silence.tail) == ((0.0, 3600.0), None), "nothing was heard"
    spaced = grid([0.123456, 1.0])
    assert {0.05, 0.123456, 0.999, 1.0} <= set(spaced)
    assert spaced == sorted(spaced)
    assert len(spaced) == 122


def chi_square(share: float, degrees: int) -> float:
    """Return about the quantile of a chi-square distribution (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + NormalDist().inv_cdf(share) * math.sqrt(part)) ** 3


def test_nothing_heard_is_not_evidence() -> None:
    assert choose(Evidence(np.zeros(0), 2.0), 1 / 24, present=0.6).threshold == 0.6
    two = Evidence(np.array([0.7, 0.1]), 2.0)
    assert choose(two, 1 / 24, present=0.6).threshold > 0.7
    with pytest.raises(CalibrationError, match="nothing was heard"):
        choose(Evidence(np.zeros(0), 0.0), 1.0, present=0.6)


def test_what_counts_as_false() -> None:
    peaks = [
        Peak(100.0, 0.9, True),
        Peak(200.0, 0.8, True),
        Peak(300.0, 0.3, False),
        Peak(400.0, 0.2, False),
    ]
    night = [WordPeaks("m", 3600.0, peaks)]
    labels = [
        LabeledTime("w", 100.4, True),
        LabeledTime("w", 300.9, False),
        LabeledTime("w", 401.0, True),
    ]
    found = evidence(night, labels, nobody_spoke=False)
    assert (found.peaks.tolist(), found.hours, found.assumed_right) == ([0.3], 1.0, 1)
    found = evidence(night, labels, nobody_spoke=True)
    assert (found.peaks.tolist(), found.assumed_right) == ([0.8, 0.3], 0)


def test_speakers_by_hand() -> None:
    ann = np.array([[1.0, 0], [1, 0], [0.6, 0.8]])
    bob = np.array([[0.0, 1]])
    people = {name: Voiceprint(name, "e", one, 0.0) for name, one in (("ann", ann), ("bob", bob))}
    target, impostor = speaker_trials(people, np.array([[-1.0, 0]]), cosine)
    mean = unit(ann.mean(axis=0))
    other = unit(ann[1] + ann[2])
    assert target == pytest.approx([ann[0] @ other, ann[0] @ other, 0.6])
    expected = sorted([-mean[0], mean[1], 0.0, 0.0, 0.0, 0.8])
    assert sorted(impostor) == pytest.approx(expected, abs=1e-6)
    choice = choose_speaker(np.array([0.9, 0.2, 0.8]), np.linspace(0, 1, 101), 1, 0.3)
    assert (choice.threshold, choice.missed, choice.takes) == (0.7, 1, 3)
    low, high = choice.bounds  # of 1 in 3 (Clopper and Pearson 1934)
    assert low == pytest.approx(0.0084, abs=1e-4)
    assert high == pytest.approx(0.9057, abs=1e-4)
    with pytest.raises(CalibrationError, match="nobody is enrolled"):
        choose_speaker(np.zeros(0), np.zeros(5), 0, 0.01)
