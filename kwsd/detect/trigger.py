"""The trigger: scores of one word in, firings out. Pure: no audio, no clock but the sample index.

Rules:
- An excursion begins when the score passes `near_miss * threshold`, and ends when it falls below.
- An excursion fires at most once, at the first score of at least `threshold`.
- Within `refractory` samples after a wake that was let through (`accepted`) nothing fires; an
  excursion that would have fired is reported once, as refractory.
- An excursion that ends without having reached the threshold is reported as a near miss, with its
  peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kwsd.events import Stages


@dataclass(frozen=True)
class Firing:
    """A decision of the trigger."""

    kind: Literal["wake", "near_miss", "refractory"]
    score: float
    """The score that decided: the first that reached the threshold; for a near miss, its peak."""
    at: int
    """Sample index after the chunk of that score."""
    stages: Stages | None = None
    """What the score was made of, where two stages made it."""


class Trigger:
    """The decision logic of one word."""

    def __init__(self, threshold: float, refractory_samples: int, near_miss: float) -> None:
        self.threshold = threshold
        self.score = 0.0
        """The present score."""
        self._refractory_samples = refractory_samples
        self._near_threshold = near_miss * threshold
        self._last_wake: int | None = None
        self._peak: Firing | None = None
        self._reported = False

    def accepted(self, at: int) -> None:
        """Start the refractory time: the wake that was decided at sample `at` was let through."""
        self._last_wake = at

    def forgive(self) -> None:
        """End the refractory time: the last wake was not let through after all."""
        self._last_wake = None

    def or_like(self, other: Trigger) -> Trigger:
        """Return `other`, with its past, if it decides as this one does; else this one."""
        own, others = (
            (one.threshold, one._refractory_samples, one._near_threshold) for one in (self, other)
        )
        return other if own == others else self

    def clear(self) -> None:
        """Forget the excursion, for a stream that broke off. The refractory time goes on."""
        self._peak = None
        self._reported = False
        self.score = 0.0

    def step(self, score: float, at: int, stages: Stages | None = None) -> Firing | None:
        """Process the score of the chunk that ends before sample `at`, and what made it."""
        self.score = score
        if score < self._near_threshold:
            peak = self._peak
            reported = self._reported
            self._peak = None
            self._reported = False
            return None if reported else peak
        if self._peak is None or score > self._peak.score:
            self._peak = Firing("near_miss", score, at, stages)
        if self._reported or score < self.threshold:
            return None
        self._reported = True
        if self._last_wake is not None and at - self._last_wake < self._refractory_samples:
            return Firing("refractory", score, at, stages)
        return Firing("wake", score, at, stages)
