"""Enrollment: takes of a voice in, checked one by one, a voiceprint out. Pure: no microphone, no
disk.

Whose voice it is, the majority of the takes says, not the first one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE, SILENCE_DBFS
from kwsd.audio.pcm import level_dbfs
from kwsd.detect.embedder import Embedder, Voice
from kwsd.detect.setup import SpeakerSetup
from kwsd.detect.speaker_id import person_scores
from kwsd.learn.takes import REPEATED, KnownRecordings, TakeRejected, check_take
from kwsd.metrics import Scorer
from kwsd.names import folded, look_up
from kwsd.state.clips import ClipStore
from kwsd.state.voiceprints import Voiceprint, check_reference, check_speaker_name

MIN_TAKES = 2
"""Takes that a voiceprint is made from at least; three are asked for, since one may be unusable."""
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


STRETCHES = {"free": Stretch(2.0, 1.0, 6.0), "utterance": Stretch(0.2, 1.0, 4.0)}
"""An utterance may be a word, which has pauses of up to 0.7 s."""


@dataclass(frozen=True)
class EnrollmentTake:
    """An accepted take."""

    voice: Voice
    """Its embeddings."""
    speech_dbfs: float
    speech_s: float


class Enrollment:
    """Collects the takes of one speaker."""

    def __init__(self, name: str, embedder: Embedder, reference: str = "") -> None:
        """`reference` tells it from others of the speaker. Raises VoiceprintError where a name is
        not allowed."""
        self.name = check_speaker_name(name)
        self.reference = check_reference(reference)
        self.takes: list[EnrollmentTake] = []
        """Those that were accepted."""
        self._others: list[EnrollmentTake] = []
        """Those that sounded like somebody else; they count for the majority."""
        self._recordings = KnownRecordings()
        self._embedder = embedder

    def add(self, samples: np.ndarray, *, judged_now: bool = True) -> EnrollmentTake:
        """Check and keep one take, int16 `[sample]`.

        `judged_now`: a take that sounds like somebody else is refused at once, because it can be
        said again, and not by `finish`. Raises TakeRejected.
        """
        speech_dbfs, speech_s = check_take(samples, MIN_SPEECH_S)
        if self._recordings.find(samples) is not None:
            raise TakeRejected("repeated", REPEATED)
        voice = self._embedder.voice([samples])
        if voice is None:
            raise TakeRejected("too_short", "the take contains too little speech")
        self._recordings.add(samples)
        take = EnrollmentTake(voice, speech_dbfs, speech_s)
        heard = [*self.takes, *self._others, take]
        one_voice = majority(np.stack([each.voice.head for each in heard]))
        if judged_now and not one_voice[-1] and one_voice.sum() > len(heard) / 2:
            self._others.append(take)
            text = "the take sounds like somebody else than most of them"
            raise TakeRejected("inconsistent", f"{text}; say it again alone, without noise")
        self.takes.append(take)
        return take

    def finish(self) -> tuple[Voiceprint, list[int]]:
        """Return the voiceprint, and the numbers of accepted takes that are left out, from 1.

        These sound like somebody else than the majority of the takes. Raises TakeRejected where
        there is no such majority, or where its takes are too few.
        """
        heard = [*self.takes, *self._others]
        if len(heard) < MIN_TAKES:
            raise self._too_few(len(heard))
        one_voice = majority(np.stack([take.voice.head for take in heard]))
        if one_voice.sum() <= len(heard) / 2:
            text = f"the takes of {self.name!r} sound like several people, and none is in most"
            raise TakeRejected("several_people", f"{text}; enroll each person under their own name")
        if one_voice.sum() < MIN_TAKES:
            raise self._too_few(int(one_voice.sum()))
        left_out = np.flatnonzero(~one_voice[: len(self.takes)]) + 1
        voices = [take.voice for take, own in zip(heard, one_voice, strict=True) if own]
        by_checker = [voice.checker for voice in voices if voice.checker is not None]
        voiceprint = Voiceprint(
            name=self.name,
            encoder_id=self._embedder.bundle.encoder_id,
            takes=np.stack([voice.head for voice in voices]),
            created=time.time(),
            checker_takes=np.stack(by_checker) if by_checker else None,
            checker_id=self._embedder.checker_id if by_checker else "",
            reference=self.reference,
        )
        return voiceprint, left_out.tolist()

    def _too_few(self, takes: int) -> TakeRejected:
        text = f"{takes} take(s) of {self.name!r}; at least {MIN_TAKES} are needed, 3 are better"
        return TakeRejected("too_few", text)


def majority(embeddings: np.ndarray) -> np.ndarray:
    """Return which of the takes `[take, dim]` are of the voice that most of them have, `[take]`.

    It begins with the takes that resemble one of them, the one that most resemble, and goes on with
    those that resemble the mean of the others, until that changes nothing.
    """
    cosines = embeddings @ embeddings.T
    resembling = cosines >= CONSISTENT
    center = np.lexsort((cosines.sum(axis=1), resembling.sum(axis=1)))[-1]
    members = resembling[center]
    for _ in range(len(embeddings)):
        others = members @ embeddings - members[:, None] * embeddings
        lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-9)
        found = (embeddings * others).sum(axis=1) / lengths >= CONSISTENT
        if found.sum() < members.sum() or (found == members).all():
            break
        members = found
    return np.asarray(members)


def known_as(
    voiceprint: Voiceprint,
    enrolled: Mapping[str, Voiceprint],
    scorer: Scorer,
    threshold: float,
) -> list[str]:
    """Return the other names under which the voice would be verified: it is enrolled already."""
    own = folded(voiceprint.name)
    others = [other for name, other in enrolled.items() if folded(name) != own]
    voice = voiceprint.mean[None]
    return [o.name for o in others if person_scores(voice, o, scorer)[0] >= threshold]


def compared(new: Voiceprint, speakers: SpeakerSetup) -> tuple[list[str], bool]:
    """Return the other names under which a new voiceprint is enrolled already, and whether the
    speaker's other references would not verify it."""
    if speakers.scorer is None:
        return [], False
    seen = speakers.as_compared(new)
    known = known_as(seen, speakers.voiceprints, speakers.scorer, speakers.threshold)
    person = speakers.voiceprints.get(look_up(new.name, speakers.voiceprints) or "")
    own = folded(new.reference)
    others = [o for o in person.references if folded(o.reference) != own] if person else []
    scores = [speakers.scorer(seen.mean[None], other.mean[None])[0, 0] for other in others]
    return known, bool(scores) and bool(max(scores) < speakers.threshold)


def around(start: int, end: int) -> tuple[int, int]:
    """Return the samples of a take of a voice in which a word was heard at `start` to `end`."""
    return start - SAMPLE_RATE // 5, end + SAMPLE_RATE // 20


def voice_in(clips: ClipStore, id: str) -> np.ndarray:
    """Return the word in a clip as a take of a voice, int16 `[sample]`. Raises ClipError."""
    (clip,) = clips.find([id])
    start, end = around(clip.start, clip.end)
    return clips.samples(clip)[max(start, 0) : end]


class TakeCutter:
    """Cuts one take out of a running stream.

    A take of a wake word is cut when the detector fires; free speech and utterances by their
    pauses.
    """

    def __init__(self, kind: TakeKind, word: str | None, begin: int = 0) -> None:
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
        first, last = around(start, end)
        return max(first, self.begin), last

    def step(self, block: np.ndarray, end: int) -> tuple[int, int] | None:
        """Return the take's samples once the speaker has paused, or has said enough.

        `block` is int16 `[sample]`, its last one before sample `end`.
        """
        stretch = STRETCHES.get(self.kind)
        if stretch is None:
            return None
        level = level_dbfs(block) - SILENCE_DBFS
        self._floor = min(self._floor + 0.02, max(level, 15.0))
        if level > self._floor + 12:
            self._onset = self._onset if self._onset is not None else end - len(block)
            self._last_voice = end
        if self._onset is None:
            return None
        spoken_s = (self._last_voice - self._onset) / SAMPLE_RATE
        pause_s = (end - self._last_voice) / SAMPLE_RATE
        paused = pause_s > stretch.pause_s and spoken_s >= stretch.min_speech_s
        if spoken_s >= stretch.max_speech_s or paused:
            return max(self._onset - SAMPLE_RATE // 10, self.begin), end
        if pause_s > 2:
            self._onset = None
        return None
