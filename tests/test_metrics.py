"""Error rates and intervals against worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kwsd import metrics


def test_equal_error_rate_by_hand() -> None:
    assert metrics.equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]))[0] == 0.0
    rate, _ = metrics.equal_error_rate(
        np.array([0.9, 0.8, 0.7, 0.2]), np.array([0.1, 0.3, 0.15, 0.75])
    )
    assert rate == pytest.approx(0.25)
    swapped, _ = metrics.equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9]))
    assert swapped == 1.0


def test_false_accepts_and_thresholds_by_hand() -> None:
    scores = np.zeros(100, np.float32)
    scores[[10, 12, 50, 90]] = 0.9, 0.95, 0.4, 0.6
    peaks = metrics.false_accept_peaks(scores)
    assert peaks == pytest.approx([0.95, 0.6, 0.4])
    assert metrics.threshold_at(np.array(peaks), hours=2.0, rate=0.1) > 0.95
    assert 0.6 < metrics.threshold_at(np.array(peaks), hours=2.0, rate=0.5) <= 0.61
    assert metrics.threshold_at(np.array(peaks), hours=2.0, rate=5) == 0.01


def test_little_time_is_no_evidence_for_a_low_threshold() -> None:
    """Without a peak in a minute, 0.1 an hour asks for a high threshold; in ten hours, not."""
    nothing = np.zeros(0)
    found = [metrics.threshold_at(nothing, hours, 0.1) for hours in (1 / 60, 0.3, 1, 5, 30)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.7
    assert found[-1] == 0.01
    assert metrics.threshold_at(np.array([0.3]), 0.5, 0.1) > 0.5
    with pytest.raises(ValueError, match="no audio was heard"):
        metrics.threshold_at(nothing, 0, 0.1)


def test_intervals_of_the_tail_hold_what_they_promise() -> None:
    """Peaks with exponential logits, 40 an hour over -3: of 200 draws, 95 % hold the true rate."""
    rng = np.random.default_rng(0)
    hours = 6.0
    threshold = 0.9
    logit = np.log(threshold / (1 - threshold))
    true = 40 * np.exp(-(logit + 3) / 0.9)
    assert true < 0.15
    held = []
    for _ in range(200):
        logits = -3 + 0.9 * rng.exponential(size=rng.poisson(40 * hours))
        peaks = np.sort(1 / (1 + np.exp(-logits)))[::-1]
        low, high = metrics.rate_interval(peaks, hours, threshold)
        assert low < metrics.tail_rate(peaks, hours, threshold) < high
        held.append(low <= true <= high)
    assert 0.9 <= np.mean(held) <= 0.995


def test_thresholds_of_alike_words_err_less_with_the_scale_of_all() -> None:
    """Six words with alike tails: their rates at thresholds for 0.1 an hour are nearer to it."""
    rng = np.random.default_rng(1)
    hours = 20.0
    errors = []
    for _ in range(60):
        scales = rng.uniform(1.0, 1.4, 6)
        tails = [-3 + scale * rng.exponential(size=200) for scale in scales]
        words = [np.sort(1 / (1 + np.exp(-logits)))[::-1] for logits in tails]
        usual = float(np.mean([metrics.mean_excess(peaks) for peaks in words]))
        for peaks, scale in zip(words, scales, strict=True):
            for given in (None, usual):
                at = metrics.operating_threshold(peaks, hours, 0.1, given)
                logit = np.log(at / (1 - at))
                true = 200 / hours * np.exp(-(logit + 3) / scale)
                errors.append(abs(np.log(true / 0.1)))
                assert metrics.tail_rate(peaks, hours, at, given) == pytest.approx(0.1, rel=0.01)
    alone, pooled = np.array(errors).reshape(-1, 2).mean(axis=0)
    assert pooled < 0.85 * alone


def test_an_operating_point_is_counted_where_it_can_be() -> None:
    peaks = np.linspace(0.9, 0.1, 81)
    assert metrics.operating_threshold(peaks, 100.0, 0.1) == metrics.threshold_at(peaks, 100.0, 0.1)
    low, high = metrics.rate_interval(peaks, 100.0, 0.81)
    assert (low, high) == metrics.poisson_interval(10, 100.0)
    beyond = metrics.operating_threshold(peaks, 10.0, 0.1)
    assert (
        beyond == metrics.tail_threshold(peaks, 10.0, 0.1) != metrics.threshold_at(peaks, 10, 0.1)
    )


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [  # Exact 95 % bounds (Garwood 1936), as printed in tables; 0 is one-sided: -ln 0.05
        (0, 0.0, 2.9957),
        (1, 0.0253, 5.5716),
        (5, 1.6235, 11.6683),
        (10, 4.7954, 18.3904),
        (100, 81.364, 121.6268),
    ],
)
def test_poisson_bounds(count: int, low: float, high: float) -> None:
    assert metrics.poisson_interval(count, 1.0) == pytest.approx((low, high), abs=2e-4)
    assert metrics.poisson_interval(count, 4.0) == pytest.approx((low / 4, high / 4), abs=1e-4)


def test_bootstrap_draws_whole_groups() -> None:
    # Twenty clips each of ten speakers of whom one is always missed: the interval of the clips by
    # themselves would be far too narrow.
    missed = [speaker == 0 for speaker in range(10) for _ in range(20)]
    groups = [str(speaker) for speaker in range(10) for _ in range(20)]
    low, high = metrics.bootstrap_interval(missed, groups)
    assert low == 0.0
    assert 0.2 <= high <= 0.4
    assert metrics.bootstrap_interval([True] * 8, list("abcdefgh")) == (1.0, 1.0)


def test_as_norm_by_hand() -> None:
    cohort = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    take = np.array([[0.6, 0.8]])
    reference = np.array([[0.0, 1.0]])
    near_take = [0.96, 0.8]  # the two nearest of the cohort
    near_reference = [1.0, 0.6]
    by_take = (0.8 - np.mean(near_take)) / np.std(near_take)
    by_reference = (0.8 - np.mean(near_reference)) / np.std(near_reference)
    want = (by_take + by_reference) / 2
    assert metrics.as_norm(take, reference, cohort, nearest=2)[0, 0] == pytest.approx(
        want, abs=1e-4
    )
    takes = np.repeat(take, 3, axis=0)
    references = np.repeat(reference, 2, axis=0)
    assert metrics.as_norm(takes, references, cohort).shape == (3, 2)


def test_calibrated_scores_are_probabilities() -> None:
    """The likelihood ratio of normal scores of one spread is known.

    Its slope is (a - b) / s^2, its offset -(a^2 - b^2) / (2 s^2).
    """
    rng = np.random.default_rng(0)
    target = rng.normal(3, 0.8, 20_000)
    impostor = rng.normal(1, 0.8, 200_000)
    slope, offset = metrics.logistic_calibration(target, impostor)
    assert slope == pytest.approx(2 / 0.64, rel=0.03)
    assert offset == pytest.approx(-8 / (2 * 0.64), rel=0.03)
    apart, _ = metrics.logistic_calibration(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    assert np.isfinite(apart)
    assert apart > 0


def test_the_evidence_of_a_length_is_bounded() -> None:
    assert metrics.length_evidence(metrics.WORD_SPEECH_S) == 0
    found = metrics.length_evidence(np.array([0.0, 0.24, 1.2, 2.0, 60.0]))
    assert found == pytest.approx(np.log([0.4, 0.4, 2.0, 10 / 3, 10 / 3]))


def test_verification_by_another_scorer() -> None:
    people = [np.eye(4)[[n] * 6] for n in range(3)]

    def scorer(takes: np.ndarray, references: np.ndarray) -> np.ndarray:
        return 2 * metrics.cosine(takes, references) - 1

    one, five = metrics.verification_trials(people, scorer)
    target_one, impostor_one = one
    target_five, impostor_five = five
    assert set(target_one) == set(target_five) == {1.0}
    assert set(impostor_one) == set(impostor_five) == {-1.0}
    assert (len(target_one), len(impostor_one)) == (45, 6)
    assert (len(target_five), len(impostor_five)) == (3, 6)
