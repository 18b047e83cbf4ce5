"""The trigger: posteriors of one word in, firings out. Pure: no audio, no clock but the sample
index.

Rules:
- The score is the mean of the last `smoothing` posteriors.
- An excursion begins when the score passes `near_miss * threshold`, and ends when it falls below.
- An excursion fires at most once, at the first score of at least `threshold`.
- Within `refractory` samples after a wake that was let through (`accepted`) nothing fires; an
  excursion that would have fired is reported once, as refractory.
- An excursion that ends without having reached the threshold is reported as a near miss, with its
  peak.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Firing:
    """A decision of the trigger."""

    kind: Literal["wake", "near_miss", "refractory"]
    score: float
    """The score that decided: the first that reached the threshold; for a near miss, its peak."""
    at: int
    """Sample index after the chunk of that score."""


class Trigger:
    """The decision logic of one word."""

    def __init__(
        self, threshold: float, refractory_samples: int, near_miss: float, smoothing: int
    ) -> None:
        self.threshold = threshold
        self.score = 0.0
        """The present score."""
        self._refractory_samples = refractory_samples
        self._near_threshold = near_miss * threshold
        self._recent: deque[float] = deque(maxlen=smoothing)
        self._last_wake: int | None = None
        self._peak: tuple[float, int] | None = None
        self._reported = False

    def accepted(self, at: int) -> None:
        """Start the refractory time: the wake that was decided at sample `at` was let through."""
        self._last_wake = at

    def or_like(self, other: Trigger) -> Trigger:
        """Return `other`, with its past, if it decides as this one does; else this one."""
        own, others = (
            (one.threshold, one._refractory_samples, one._near_threshold, one._recent.maxlen)
            for one in (self, other)
        )
        return other if own == others else self

    def prime(self, posterior: float) -> None:
        """Add a posterior from before the gate opened, which smooths and decides nothing."""
        self._recent.append(posterior)

    def clear(self) -> None:
        """Forget the smoothing and the excursion, for a stream that broke off.

        The refractory time goes on.
        """
        self._recent.clear()
        self._peak = None
        self._reported = False
        self.score = 0.0

    def idle(self, at: int) -> Firing | None:
        """Record that the gate is closed at sample `at`, which ends an excursion."""
        self._recent.clear()
        return self._decide(0.0, at)

    def step(self, posterior: float, at: int) -> Firing | None:
        """Process the posterior of the chunk that ends before sample `at`."""
        self._recent.append(posterior)
        return self._decide(sum(self._recent) / len(self._recent), at)

    def _decide(self, score: float, at: int) -> Firing | None:
        self.score = score
        if score < self._near_threshold:
            peak = self._peak
            reported = self._reported
            self._peak = None
            self._reported = False
            return Firing("near_miss", *peak) if peak and not reported else None
        if self._peak is None or score > self._peak[0]:
            self._peak = (score, at)
        if self._reported or score < self.threshold:
            return None
        self._reported = True
        if self._last_wake is not None and at - self._last_wake < self._refractory_samples:
            return Firing("refractory", score, at)
        return Firing("wake", score, at)
