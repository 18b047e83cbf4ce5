"""Of words that fire on one utterance, the best. Pure: no audio, no clock but the sample index.

Rules:
- A word that fires waits for at most `WAIT_SAMPLES`, and not at all while no other word contends:
  none has a score near its threshold.
- Words that fire meanwhile, and whose spans overlap by half of the shorter, heard one utterance.
  The one whose score rose furthest above its threshold wins. So does a word within its refractory
  time: the utterance was its own, and nobody wakes.
- Whatever fires on that utterance later has lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from kwsd.audio.format import SAMPLE_RATE
from kwsd.detect.trigger import Firing

WAIT_SAMPLES = SAMPLE_RATE * 160 // 1000
"""Longest time from a word's firing to its decision: two chunks."""
CONTENDS_FROM = 0.25
"""Share of its threshold from which the score of a word may still win."""
SAME_UTTERANCE = 0.5
"""Share of the shorter of two spans that they have in common where they are one utterance."""
LEAST = 1e-6
"""Least distance of a score from 0 and 1 in a comparison."""


class Level(NamedTuple):
    """Where a word stands."""

    score: float
    threshold: float

    @property
    def excess(self) -> float:
        """How far the score is above the threshold, in log odds, which any two words share."""
        return _log_odds(self.score) - _log_odds(self.threshold)

    @property
    def contends(self) -> bool:
        """Whether the word may fire soon."""
        return self.score >= CONTENDS_FROM * self.threshold


@dataclass(frozen=True)
class Entry:
    """A word that has fired."""

    word: str
    firing: Firing
    start: int
    """First sample of what it heard."""
    end: int
    """Sample after that."""
    excess: float
    """The highest so far."""

    def heard_with(self, other: Entry) -> bool:
        """Return whether both heard one utterance."""
        common = min(self.end, other.end) - max(self.start, other.start)
        shorter = min(self.end - self.start, other.end - other.start)
        return common >= SAME_UTTERANCE * shorter


class Outcome(NamedTuple):
    """What becomes of a word that has fired."""

    entry: Entry
    won: bool


class Contest:
    """Decides between the words of one stream."""

    def __init__(self) -> None:
        self._waiting: list[Entry] = []
        self._winner: Entry | None = None  # of the last utterance

    @property
    def is_open(self) -> bool:
        """Whether a word waits for its decision."""
        return bool(self._waiting)

    def enter(self, entry: Entry) -> None:
        """Let a word take part that has just fired."""
        self._waiting.append(entry)

    def step(self, levels: Mapping[str, Level], at: int) -> list[Outcome]:
        """Process where all words stand after the chunk that ends before sample `at`.

        Return what is decided.
        """
        self._waiting = [
            replace(one, excess=max(one.excess, levels[one.word].excess))
            if one.word in levels
            else one
            for one in self._waiting
        ]
        waiting = {one.word for one in self._waiting}
        if any(level.contends for word, level in levels.items() if word not in waiting):
            return self._decided(at - WAIT_SAMPLES)
        return self._decided(at)

    def settle(self) -> list[Outcome]:
        """Decide what waits, now: the stream breaks off, or sleeps."""
        return self._decided(math.inf)

    def _decided(self, until: float) -> list[Outcome]:
        """Decide about the utterances whose first word fired at sample `until` or before."""
        outcomes: list[Outcome] = []
        while self._waiting:
            if late := [one for one in self._waiting if self._is_late(one)]:
                self._waiting = [one for one in self._waiting if one not in late]
                outcomes += [Outcome(one, won=False) for one in late]
                continue
            first = self._waiting[0]
            if first.firing.at > until:
                break
            heard = [one for one in self._waiting if one.heard_with(first)]
            self._waiting = [one for one in self._waiting if one not in heard]
            self._winner = max(heard, key=lambda one: one.excess)
            outcomes += [Outcome(one, won=one is self._winner) for one in heard]
        return outcomes

    def _is_late(self, entry: Entry) -> bool:
        """Return whether another word was the best on this utterance already."""
        winner = self._winner
        return winner is not None and winner.word != entry.word and entry.heard_with(winner)


def _log_odds(score: float) -> float:
    p = min(max(score, LEAST), 1 - LEAST)
    return math.log(p / (1 - p))
