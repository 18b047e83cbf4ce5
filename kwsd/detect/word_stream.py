"""One word in a stream: its posteriors in, its firings out. What each step does is in `Smoother`,
`detect.checker` and `detect.trigger`.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.detect.checker import Candidate, Checker, Due, Score, unchecked
from kwsd.detect.setup import ActiveWord
from kwsd.detect.trigger import Firing, Trigger
from kwsd.state.second_stage import SecondStage
from kwsd.state.words import AddedWord

ADDED_DELAY_SAMPLES = SAMPLE_RATE // 10
"""Samples from the end of an added word to its decision, on average."""
TYPICAL_WORD_S = 0.7
"""Length that is assumed for a word whose frames are gone."""


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
        self._length_s = word.model.length_s if isinstance(word.model, AddedWord) else None
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

    @property
    def checked(self) -> float:
        """The probability that the second stage gave to the candidate; NaN where there is none."""
        if not self.is_candidate or self._checked is None or self._checked[1].stages is None:
            return math.nan
        return self._checked[1].stages.checker

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

    def span(self, at: int, timing: np.ndarray | None) -> tuple[int, int]:
        """Return the samples `[start, end)` of the word, decided about at sample `at`.

        `timing` is `[2]`, what the wake head estimates: how many seconds ago a word began and
        ended. None where it is gone. An added word has no such estimate: it is as long as its takes
        were, and decided soon after its end.
        """
        if self._length_s is not None:
            end = max(at - ADDED_DELAY_SAMPLES, 0)
            return max(end - int(self._length_s * SAMPLE_RATE), 0), end
        began_s, ended_s = (TYPICAL_WORD_S, 0.0) if timing is None else timing.tolist()
        end = max(min(at - round(ended_s * SAMPLE_RATE), at), 0)
        start = max(at - round(began_s * SAMPLE_RATE), end - 2 * SAMPLE_RATE, 0)
        return min(start, max(end - SAMPLE_RATE // 10, 0)), end

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
