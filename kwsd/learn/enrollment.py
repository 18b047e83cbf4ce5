"""Enrollment: takes of a voice in, checked one by one, a voiceprint out. Pure: no microphone, no
disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.pcm import SILENCE_DBFS, level_dbfs
from kwsd.audio.ring import Ring
from kwsd.detect.embedder import Embedder
from kwsd.learn.takes import TakeRejected, check_take
from kwsd.state.voiceprints import Voiceprint, check_speaker_name

MIN_TAKES = 3
WORD_TAKES = 5
"""Utterances of the wake word that a guided enrollment asks for."""
FREE_TAKES = 2
"""Stretches of free speech that a guided enrollment asks for."""
MIN_SPEECH_S = 0.4
CONSISTENT = 0.3
"""Cosine to the mean of the other takes below which a take counts as somebody else's. Of people's
second takes 3 % are below it, of their fifth 0.5 %, and of other people's takes 89 %."""

TakeKind = Literal["word", "free", "utterance"]


class Stretch(NamedTuple):
    """When a take that is cut by its pauses ends, in seconds."""

    min_speech_s: float
    """Speech that it contains at least."""
    pause_s: float
    """The pause that ends it."""
    max_speech_s: float
    """Speech that ends it without a pause."""


STRETCHES = {"free": Stretch(2.0, 1.0, 6.0), "utterance": Stretch(0.2, 0.6, 4.0)}


@dataclass(frozen=True)
class EnrollmentTake:
    """An accepted take."""

    embedding: np.ndarray
    """float32 `[dim]`, of unit length."""
    speech_dbfs: float
    speech_s: float


class Enrollment:
    """Collects the takes of one speaker."""

    def __init__(self, name: str, embedder: Embedder) -> None:
        """Raises VoiceprintError where the name is not allowed."""
        self.name = check_speaker_name(name)
        self.takes: list[EnrollmentTake] = []
        self._embedder = embedder

    def add(self, samples: np.ndarray) -> EnrollmentTake:
        """Check and keep one take, int16 `[sample]`.

        Raises TakeRejected, and then nothing is kept."""
        speech_dbfs, speech_s = check_take(samples, MIN_SPEECH_S)
        embedding = self._embedder.embed([samples])
        if embedding is None:
            raise TakeRejected("too_short", "the take contains too little speech")
        if self.takes:
            others = np.mean([take.embedding for take in self.takes], axis=0)
            cosine = float(embedding @ others / np.linalg.norm(others))
            if cosine < CONSISTENT:
                found = f"cosine {cosine:.2f}, at least {CONSISTENT} is expected"
                text = f"the take sounds like somebody else ({found}); say it again alone"
                raise TakeRejected("inconsistent", f"{text}, without noise")
        take = EnrollmentTake(embedding, speech_dbfs, speech_s)
        self.takes.append(take)
        return take

    def finish(self) -> Voiceprint:
        """Return the voiceprint of the takes. Raises TakeRejected where there are too few."""
        if len(self.takes) < MIN_TAKES:
            text = f"{len(self.takes)} take(s) of {self.name!r}; at least {MIN_TAKES} are needed"
            raise TakeRejected("too_few", text)
        takes = np.stack([take.embedding for take in self.takes])
        return Voiceprint(self.name, self._embedder.bundle.encoder_id, takes, time.time())


class TakeCutter:
    """Cuts one take out of a running stream.

    A take of a wake word is cut when the detector fires; free speech and utterances by their
    pauses.
    """

    def __init__(self, kind: TakeKind, word: str | None, begin: int) -> None:
        """`begin`: the first sample that may belong to the take."""
        self.kind = kind
        self.word = word
        self.begin = begin
        self._onset: int | None = None
        self._last_voice = begin
        self._floor = 60.0  # dB above digital silence

    def detected(self, word: str, start: int, end: int) -> tuple[int, int] | None:
        """Return the take's samples if a detection, or nearly one, is what it waits for."""
        wanted = self.word is None or word == self.word
        if self.kind != "word" or start < self.begin or not wanted:
            return None
        return max(start - SAMPLE_RATE // 5, self.begin), end + SAMPLE_RATE // 20

    def step(self, audio: Ring, block: np.ndarray) -> tuple[int, int] | None:
        """Return the take's samples once the speaker has paused, or has said enough.

        `audio` is the look-back, which ends with `block`.
        """
        stretch = STRETCHES.get(self.kind)
        if stretch is None:
            return None
        level = level_dbfs(block) - SILENCE_DBFS
        self._floor = min(self._floor + 0.02, max(level, 15.0))
        if level > self._floor + 12:
            self._onset = self._onset if self._onset is not None else audio.end - len(block)
            self._last_voice = audio.end
        if self._onset is None:
            return None
        spoken_s = (self._last_voice - self._onset) / SAMPLE_RATE
        pause_s = (audio.end - self._last_voice) / SAMPLE_RATE
        paused = pause_s > stretch.pause_s and spoken_s >= stretch.min_speech_s
        if spoken_s >= stretch.max_speech_s or paused:
            return max(self._onset - SAMPLE_RATE // 10, self.begin, audio.begin), audio.end
        if pause_s > 2:
            self._onset = None
        return None
