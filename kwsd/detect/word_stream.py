"""One word in a stream: its posteriors in, its firings out. What each step does is in `Smoother`,
`detect.checker` and `detect.trigger`.
"""

from __future__ import annotations

from collections import deque

from kwsd.audio.format import SAMPLE_RATE
from kwsd.detect.checker import Candidate, Checker, Due, Score, unchecked
from kwsd.detect.setup import ActiveWord
from kwsd.detect.trigger import Firing, Trigger
from kwsd.state.second_stage import SecondStage


class Smoother:
    """The streaming score: the mean of the last posteriors."""

    def __init__(self, chunks: int) -> None:
        self._recent: deque[float] = deque(maxlen=chunks)

    def step(self, posterior: float) -> float:
        """Process a posterior and return the score."""
        self._recent.append(posterior)
        return sum(self._recent) / len(self._recent)

    def clear(self) -> None:
        """Forget the posteriors."""
        self._recent.clear()


class WordStream:
    """One word in a stream: smoothed, checked where it is a candidate, and decided."""

    def __init__(
        self, word: ActiveWord, column: int, near_miss: float, smoothing_chunks: int
    ) -> None:
        """`column` is the word's index among the bundle's words, and the added ones after them."""
        self.column = column
        self.trigger = Trigger(word.threshold, int(word.refractory_s * SAMPLE_RATE), near_miss)
        """Compares scores with the threshold; it has the last one."""
        self.streaming = 0.0
        """The streaming score."""
        self._model_id = word.model.id
        self._smoother = Smoother(smoothing_chunks)
        self._asked: int | SecondStage = word.second or column
        self._candidate = None if word.candidate is None else Candidate(word.candidate)
        self._checked: tuple[Due, Score] | None = None

    def goes_on(self, before: WordStream) -> None:
        """Take over the past of the same word, as far as it is decided alike."""
        if before._model_id != self._model_id:
            return
        self._smoother = before._smoother
        self._candidate = before._candidate
        self._checked = before._checked
        self.trigger = self.trigger.or_like(before.trigger)

    @property
    def is_candidate(self) -> bool:
        """Whether a candidate lasts."""
        return self._candidate is not None and self._candidate.length > 0

    def hear(self, posterior: float, chunk: int) -> None:
        """Process the posterior of a chunk; nothing is checked or decided yet."""
        self.streaming = self._smoother.step(posterior)
        if self._candidate is not None:
            self._candidate.step(chunk, self.streaming)

    def decide(self, at: int, checker: Checker | None) -> Firing | None:
        """Decide about the chunk that was heard last, and that ends before sample `at`."""
        candidate = self._candidate
        if candidate is None or checker is None:
            return self.trigger.step(self.streaming, at)
        if not candidate.length:
            return self.trigger.step(unchecked(self.streaming, candidate.begins_at), at)
        if self._checked is None or self._checked[0] != candidate.due:
            self._checked = candidate.due, checker.score(self._asked, candidate.due)
        score = self._checked[1]
        return self.trigger.step(score.value, at, score.stages)

    def idle(self, at: int) -> Firing | None:
        """Record that the gate is closed at sample `at`, which ends an excursion.

        What was heard counts where the gate opens again soon; later, what comes before the opening
        is heard first.
        """
        return self.trigger.step(0.0, at)

    def clear(self) -> None:
        """Forget all but the refractory time, for a stream that broke off."""
        self._smoother.clear()
        self._checked = None
        if self._candidate is not None:
            self._candidate.clear()
        self.trigger.clear()
