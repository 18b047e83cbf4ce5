"""Enrolment: takes of a voice in, checked one by one, a voiceprint out. Pure: where the samples come from is not its matter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kwsd.audio.ring import Ring
from kwsd.config import SAMPLE_RATE
from kwsd.detect.embedder import Embedder
from kwsd.learn.takes import TakeRejected, check_take, level_dbfs
from kwsd.state.voiceprints import Voiceprint, check_name

MIN_TAKES = 3
WORD_TAKES, FREE_TAKES = 5, 2
"""What a guided enrolment asks for: utterances of the wake word, stretches of free speech."""
MIN_SPEECH_S = 0.4
CONSISTENT = 0.3
"""Cosine to the mean of the other takes under which a take counts as somebody else's: under it lie 3 % of people's second takes, 0.5 % of their
fifth, and 89 % of other people's."""

Kind = Literal["word", "free", "utterance"]
STRETCHES = {"free": (2.0, 1.0, 6.0), "utterance": (0.2, 0.6, 4.0)}
"""Speech that a take holds at least, the pause that ends it, and the speech that ends it without one, in seconds."""


@dataclass(frozen=True)
class Take:
    embedding: np.ndarray
    level_dbfs: float
    speech_s: float


class Enrolment:
    """Collects the takes of one speaker."""

    def __init__(self, name: str, embedder: Embedder) -> None:
        self.name, self._embedder = check_name(name), embedder
        self.takes: list[Take] = []

    def add(self, samples: np.ndarray) -> Take:
        """Check and keep one take, int16 `[sample]`. Raises TakeRejected, and then nothing is kept."""
        level, speech_s = check_take(samples, MIN_SPEECH_S)
        embedding = self._embedder.embed([samples])
        if embedding is None:
            raise TakeRejected("too_short", "the take holds too little speech")
        if self.takes:
            others = np.mean([t.embedding for t in self.takes], axis=0)
            likeness = float(embedding @ others / np.linalg.norm(others))
            if likeness < CONSISTENT:
                raise TakeRejected("inconsistent", f"the take sounds like somebody else (likeness {likeness:.2f}, at least {CONSISTENT} is expected); "
                                   "say it again alone, without noise")  # fmt: skip
        take = Take(embedding, level, speech_s)
        self.takes.append(take)
        return take

    def finish(self) -> Voiceprint:
        """The voiceprint of the takes. Raises TakeRejected where there are too few."""
        if len(self.takes) < MIN_TAKES:
            raise TakeRejected("too_few", f"{len(self.takes)} take(s) of {self.name!r}; at least {MIN_TAKES} are needed")
        return Voiceprint(self.name, self._embedder.bundle.encoder_id, np.stack([t.embedding for t in self.takes]), time.time())


class TakeListener:
    """Cuts one take out of a running stream: a wake word when the detector has heard it, free speech or one utterance by its pauses."""

    def __init__(self, kind: Kind, word: str | None, begin: int) -> None:
        self.kind, self.word, self.begin = kind, word, begin
        self._onset: int | None = None
        self._last_voice = begin
        self._floor = 60.0

    def heard_word(self, word: str, start: int, end: int) -> tuple[int, int] | None:
        """The detector fired (or nearly): the take's samples, if that is what is waited for."""
        if self.kind != "word" or start < self.begin or (self.word and word != self.word):
            return None
        return max(start - SAMPLE_RATE // 5, self.begin), end + SAMPLE_RATE // 20

    def step(self, audio: Ring, block: np.ndarray) -> tuple[int, int] | None:
        """After a block of speech: the take's samples once the speaker has paused or said enough."""
        if self.kind not in STRETCHES:
            return None
        level = level_dbfs(block) + 100
        self._floor = min(self._floor + 0.02, max(level, 15.0))
        if level > self._floor + 12:
            self._onset = self._onset if self._onset is not None else audio.end - len(block)
            self._last_voice = audio.end
        if self._onset is None:
            return None
        spoken, pause = self._last_voice - self._onset, audio.end - self._last_voice
        least_s, pause_s, most_s = STRETCHES[self.kind]
        if spoken >= most_s * SAMPLE_RATE or (pause > pause_s * SAMPLE_RATE and spoken >= least_s * SAMPLE_RATE):
            return max(self._onset - SAMPLE_RATE // 10, self.begin, audio.begin), audio.end
        if pause > 2 * SAMPLE_RATE:
            self._onset = None
        return None
