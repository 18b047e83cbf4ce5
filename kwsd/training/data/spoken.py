"""Takes of single words, from all that is labeled or aligned: what is told apart by its sound.

Words that sound alike are one class. Words that are held out, and what sounds like them, are in
none.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.config import ConfigError
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.phones import phones_of
from kwsd.training.data.scenes import SPEEDS, Scenes
from kwsd.training.data.transcripts import SpokenWord, Transcripts
from kwsd.training.data.windows import WINDOW_SAMPLES

MOST_SAMPLES = 2 * SAMPLE_RATE
"""Longer takes are no single words; nor are longer stretches of a clip."""
LEAST_SAMPLES = 3 * SAMPLE_RATE // 25
"""Shorter takes are swallowed: short words in passing."""
AFTER_S = (0.1, 0.3)
"""From the end of a word to the end of its window."""
SILENCED = 0.5
"""How often what comes before a word is silenced; what comes after it alike."""
KEPT_SAMPLES = SAMPLE_RATE // 25
"""Kept of what is silenced, beside the word: alignments are not exact."""
FADE_SAMPLES = 160
HARSH = 0.625
"""Of the degradation: half of the windows are noisy."""
SNR_DB = (5.0, 25.0)
ENGLISH = "en"
FIELDS = ("language", "text")
"""The columns of WORK/vocabulary.tsv."""


class SpokenTake(NamedTuple):
    """One word as somebody said it."""

    kind: str
    """What it is: words of one kind sound alike."""
    utterance: Utterance
    start: int
    """In samples of the utterance; `end` too. Both are 0 where the part that stands out is it."""
    end: int

    @property
    def who(self) -> str:
        """Return who says it, where that is known: corpus and speaker."""
        return f"{self.utterance.corpus}/{self.utterance.speaker}"


@dataclass(frozen=True)
class HeldOut:
    """Words that are in no class, by how they are said."""

    words: frozenset[str]
    phones: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, words: Iterable[str]) -> HeldOut:
        """Return these words. Raises SynthesisError where espeak-ng is not installed."""
        texts = sorted(word.lower() for word in words)
        return cls(frozenset(texts), frozenset(phones_of(texts).values()))

    def holds(self, text: str, phones: Sequence[str] = ()) -> bool:
        """Return whether a word of `text`, an English name perhaps behind its corpus, is held out,
        or all of it sounds like one."""
        named = set(text.rpartition("/")[2].split())
        return bool(named & self.words) or tuple(phones) in self.phones


class Vocabulary(NamedTuple):
    """A word that a synthesizer says."""

    language: str
    """The voice of espeak-ng."""
    text: str


def read_vocabulary(path: Path) -> list[Vocabulary]:
    """Return the words of a file of `FIELDS`. Raises ConfigError where it has other columns."""
    with path.open(encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tuple(table.fieldnames or ()) != FIELDS:
            columns = ", ".join(FIELDS)
            raise ConfigError(f"{path}: its first line must name the columns {columns}")
        return [Vocabulary(row["language"], row["text"].lower()) for row in table]


def takes(
    corpora: Corpora, transcripts: Transcripts, held_out: HeldOut, most: int
) -> dict[str, list[SpokenTake]]:
    """Return the takes of the training split by kind, `most` of each at most: those of as many
    people as there are first.

    Raises SynthesisError where espeak-ng is not installed."""
    found = [
        (text, utterance, start, end)
        for utterance in corpora.utterances
        if not utterance.development and not utterance.noise and not utterance.homophone
        for text, start, end in _words_of(utterance, transcripts)
        if not end or LEAST_SAMPLES <= end - start <= MOST_SAMPLES
    ]
    kinds = kinds_of({text for text, *_ in found}, held_out)
    by_kind: dict[str, list[SpokenTake]] = {}
    for text, utterance, start, end in found:
        if kind := kinds.get(text):
            by_kind.setdefault(kind, []).append(SpokenTake(kind, utterance, start, end))
    return {kind: _spread(by_kind[kind])[:most] for kind in sorted(by_kind)}


def kinds_of(texts: Iterable[str], held_out: HeldOut) -> dict[str, str]:
    """Return the kind of each of `texts` that is not held out: English by its phones, a name behind
    its corpus as it is."""
    known = sorted(texts)
    english = [text for text in known if "/" not in text]
    phones = phones_of(english) if english else {}
    return {
        text: " ".join(phones[text]) if text in phones else text
        for text in known
        if not held_out.holds(text, phones.get(text, ()))
    }


def _words_of(utterance: Utterance, transcripts: Transcripts) -> list[SpokenWord]:
    """Return the known words of `utterance`, and where they are."""
    aligned = transcripts.within(utterance, 0, utterance.samples, short=True)
    if not utterance.label:
        return aligned
    if not utterance.text or utterance.samples > 2 * MOST_SAMPLES:
        return []
    start, end = (aligned[0].start, aligned[-1].end) if aligned else (0, 0)
    return [SpokenWord(utterance.text, start, end)]


def _spread(found: list[SpokenTake]) -> list[SpokenTake]:
    """Return all of `found`, first one take of each speaker, then their second ones."""
    heard = Counter[str]()
    order = []
    for n, take in enumerate(found):
        who = take.who
        order.append((heard[who], n))
        heard[who] += 1
    return [found[n] for _, n in sorted(order)]


def window(
    scenes: Scenes, samples: np.ndarray, start: int, end: int
) -> tuple[np.ndarray, augment.Degradation]:
    """Return a window that ends shortly after the word `start … end` of `samples`, float32
    `[sample]`, and what happens to it.

    With `end` 0, the part that stands out is the word."""
    rng = scenes.rng
    if not end:
        start, end = speech_span(samples)
    if rng.random() < 0.3:
        speed = float(rng.uniform(*SPEEDS))
        samples = augment.change_speed(samples, speed)
        start, end = round(start / speed), round(end / speed)
    last = end + int(rng.uniform(*AFTER_S) * SAMPLE_RATE)
    first = last - WINDOW_SAMPLES
    out = np.zeros(WINDOW_SAMPLES, np.float32)
    part = samples[max(first, 0) : last]
    at = max(-first, 0)
    out[at : at + len(part)] = part
    gain = np.ones(WINDOW_SAMPLES, np.float32)
    if rng.random() < SILENCED:
        gain *= _rising(start - first - KEPT_SAMPLES)
    if rng.random() < SILENCED:
        gain *= _rising(last - end - KEPT_SAMPLES)[::-1]
    return augment.gain_to(out * gain, -26), _degradation(scenes)


def _rising(at: int) -> np.ndarray:
    """Return 0 before sample `at` of a window, 1 after it, and a fade in between."""
    return np.clip((np.arange(WINDOW_SAMPLES) - at) / FADE_SAMPLES, 0, 1).astype(np.float32)


def _degradation(scenes: Scenes) -> augment.Degradation:
    """Draw a room, noise at 5 to 25 dB (half of the time) and a microphone; no gain, for the
    checker knows no levels."""
    drawn = scenes.degradation(WINDOW_SAMPLES, HARSH)
    snr_db = torch.tensor(float(scenes.rng.uniform(*SNR_DB)))
    return drawn._replace(snr_db=snr_db, gain_db=torch.tensor(0.0))
