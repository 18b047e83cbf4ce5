"""The second stage: a candidate of the streaming scores is heard again, as one window of audio.

Rules:
- A candidate of a word lasts for as long as its streaming score is at or over `begins_at`.
- It is checked at once, and again two chunks later; from the fifth chunk on, at the even chunks of
  the stream. So checks lie at least two chunks apart, and when they fall depends on nothing but the
  last few streaming scores: a gate that opens late does not move them.
- Between two checks the last one counts.
- A window ends with the chunk that is checked. Zeros come before the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kwsd.events import Stages
from kwsd.metrics import SCORE_DIGITS
from kwsd.model.manifest import CHECKED_FLOOR, sigmoid
from kwsd.model.runtime import CheckerGraph
from kwsd.state.second_stage import SecondStage

SETTLED_CHUNKS = 5
"""Length from which a candidate is checked at the even chunks of the stream."""
REMEMBERED_CHUNKS = 7
"""Streaming scores before the present one that decide which check counts: the last check lies at
most three chunks back, and whether it was due depends on four more."""


class Due(NamedTuple):
    """The check that counts at present."""

    chunk: int
    streaming: float
    """The streaming score there."""


NEVER = Due(-1, 0.0)


@dataclass
class Candidate:
    """When the candidates of one word are checked. Pure: no audio."""

    begins_at: float
    length: int = 0
    """Chunks that it has lasted for, up to `SETTLED_CHUNKS`; 0 where there is none."""
    due: Due = NEVER

    def step(self, chunk: int, streaming: float) -> None:
        """Process the streaming score of a chunk."""
        if streaming < self.begins_at:
            self.length = 0
            return
        settled = self.length >= SETTLED_CHUNKS - 1
        self.length = min(self.length + 1, SETTLED_CHUNKS)
        if chunk % 2 == 0 if settled else self.length in (1, 3):
            self.due = Due(chunk, streaming)

    def clear(self) -> None:
        """Forget the candidate."""
        self.length = 0


class Score(NamedTuple):
    """The score of a candidate, and what it was made of."""

    value: float
    stages: Stages


class Checker:
    """Checks the candidates of one stream."""

    def __init__(self, graph: CheckerGraph, samples: Callable[[int, int, int], np.ndarray]) -> None:
        """`samples(begin, end, history)` returns chunks and so many samples before, int16 scale."""
        self.graph = graph
        self.checks = 0
        """Windows that the graph has heard."""
        self._samples = samples
        self._hears_added = False
        self._heard = -1  # the chunk of the last window
        self._logits: list[float] = []
        self._vector = np.zeros(0, np.float32)

    def ask(self, *, added: bool) -> None:
        """Say whether added words are checked too: their vector comes from the same run."""
        if added and not self._hears_added:
            self._heard = -1
        self._hears_added = added

    def hear(self, chunk: int) -> None:
        """Run the graph on the window that ends with a chunk: all words have their logits then."""
        window = self._samples(chunk + 1, chunk + 1, self.graph.model.samples)
        if self._hears_added:
            logits, self._vector = self.graph.with_words(window)
        else:
            logits = self.graph(window)
        self._logits = logits.tolist()
        self._heard = chunk
        self.checks += 1

    def score(self, word: int | SecondStage, due: Due) -> Score:
        """Return the score of a check of a word: the one with this index in the bundle, or an added
        one."""
        if due.chunk != self._heard:
            self.hear(due.chunk)
        if isinstance(word, int):
            logit, fusion = self._logits[word], self.graph.model.fusion
        else:
            logit, fusion = word.logit(self._vector), word.fusion
        value = fusion(logit, due.streaming)
        alone = sigmoid(logit) if math.isfinite(logit) else 0.0
        stages = Stages(round(due.streaming, SCORE_DIGITS), round(alone, SCORE_DIGITS))
        return Score(value, stages)


def unchecked(streaming: float, begins_at: float) -> float:
    """Return the score where there is no candidate: below that of every candidate."""
    return CHECKED_FLOOR * streaming / begins_at
