"""What a word scores on what its detectors were made without, and the thresholds that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kwsd.metrics import HIGHEST_THRESHOLD, rate_interval, tail_rate, tail_threshold
from kwsd.protocol.data import OperatingPoint
from kwsd.state.words import DEFAULT_RATE

RATES = (DEFAULT_RATE, 0.5, 1.0)
"""False accepts per hour of continuous speech of the operating points: strict, balanced and
lenient."""
MOST_MISSED = 1 / 3
"""Share of the takes that a word may miss, before it may wake more often by mistake."""
ABOVE_PARTS = 1.1
"""The threshold, as a multiple of the scores of parts and rivals."""


@dataclass(frozen=True)
class Judged:
    """The scores of one stage, or of both together."""

    takes: np.ndarray
    """float64 `[take, 2]`: clean and in noise."""
    parts: np.ndarray
    """float64 `[part]`: of the parts of the takes."""
    wrong: np.ndarray
    """float64 `[clip]`: of clips that are not the word."""
    peaks: np.ndarray
    """float64 `[peak]` over the continuous speech of the bank, highest first."""
    hours: float
    """How much of that there is."""
    rivals: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float64 `[take]`: of the takes of other words."""

    def threshold(self, rate: float) -> tuple[float, float]:
        """Return the threshold at a rate of false accepts per hour, and the rate at it: lower where
        the parts of the phrase, or rivals, ask for a higher threshold; higher where no threshold
        gives so low a rate."""
        threshold, held = self._at(rate)
        lower = np.concatenate([self.parts, self.rivals])
        above = above_parts(lower, self.takes[:, 0], threshold)
        if above <= threshold:
            return threshold, held
        return above, tail_rate(self.peaks, self.hours, above)

    def _at(self, rate: float) -> tuple[float, float]:
        threshold = tail_threshold(self.peaks, self.hours, rate)
        held = tail_rate(self.peaks, self.hours, threshold)
        return threshold, rate if threshold < HIGHEST_THRESHOLD else max(rate, held)

    def choose(self, rate: float | None) -> tuple[float, float]:
        """Return the threshold at a rate, and the rate at it, as `threshold` does.

        Without a rate, it is the strictest of `RATES` at which at most `MOST_MISSED` of the takes
        are missed, the most lenient where there is none: short words are traded for more false
        accepts."""
        for wanted in RATES if rate is None else (rate,):
            threshold, expected = self.threshold(wanted)
            if (self.takes[:, 0] < threshold).mean() <= MOST_MISSED:
                break
        return threshold, expected

    def interval(self, threshold: float) -> tuple[float, float]:
        """Return 95 % bounds of the false accepts per hour at `threshold`."""
        return rate_interval(self.peaks, self.hours, threshold)

    def points(self) -> tuple[OperatingPoint, ...]:
        """Return the operating points at `RATES`."""
        points = []
        for rate in RATES:
            at, held = self._at(rate)
            missed, missed_in_noise = (self.takes < at).mean(axis=0).tolist()
            low, high = self.interval(at)
            points.append(OperatingPoint(at, held, missed, missed_in_noise, low, high))
        return tuple(points)


def above_parts(parts: np.ndarray, takes: np.ndarray, threshold: float) -> float:
    """Return a threshold that scores `[part]` of parts and rivals do not reach, losing no take.

    Of the scores `[take]` of takes, those above `threshold` must stay above it.
    """
    found = takes[takes >= threshold]
    lower = parts[parts < found.min(initial=1.0)]
    return min(ABOVE_PARTS * float(lower.max(initial=0.0)), float(found.min(initial=1.0)))
