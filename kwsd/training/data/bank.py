"""Which audio of the training split the bank of negatives is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.transcripts import Transcripts

SEGMENT_SAMPLES = 10 * SAMPLE_RATE
"""Length of a segment: 10 s, to the end of the utterance that fills it."""
MOST_SAMPLES = 2 * SEGMENT_SAMPLES
"""Used of an utterance."""
DEGRADED = 0.5
"""Share of the segments that are heard through a room, noise and a microphone."""


@dataclass(frozen=True)
class Segment:
    """Utterances of one corpus, one after the other."""

    corpus: str
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        """The length of what is used."""
        return sum(min(one.samples, MOST_SAMPLES) for one in self.utterances) / SAMPLE_RATE

    def hear(self, scenes: Scenes) -> np.ndarray:
        """Return the segment's audio, int16 scale `[sample]`: `DEGRADED` of the time in a room."""
        parts = []
        for utterance in self.utterances:
            samples = scenes.corpora.read(utterance)[:MOST_SAMPLES]
            parts.append(augment.gain_to(samples, float(scenes.rng.normal(-26, 4))))
        x = np.concatenate(parts)
        degraded = scenes.rng.random() < DEGRADED
        return scenes.degrade(x) if degraded else augment.quantize_int16(x)


def segments(
    corpora: Corpora, transcripts: Transcripts, seconds: Mapping[str, float], seed: int
) -> list[Segment]:
    """Return so many `seconds` of each corpus, or all that there is, in an order by chance.

    Wake words are left out, and where `kwsd train align` has found words, so is a sentence of which
    none is known: a word that is added may be said in it."""
    rng = np.random.default_rng(seed)
    aligned = transcripts.stores
    found: list[Segment] = []
    for corpus, wanted in seconds.items():
        utterances = [
            utterance
            for utterance in corpora.utterances
            if utterance.corpus == corpus
            and not utterance.development
            and utterance.word < 0
            and (
                not utterance.is_sentence
                or utterance.store not in aligned
                or transcripts.words(utterance)
            )
        ]
        order = [utterances[n] for n in rng.permutation(len(utterances))]
        left = wanted
        while left > 0 and order:
            found.append(Segment(corpus, tuple(take(order))))
            left -= found[-1].seconds
    return found


def take(order: list[Utterance]) -> list[Utterance]:
    """Remove utterances from `order` until they fill a segment, and return them."""
    segment: list[Utterance] = []
    length = 0
    while order and length < SEGMENT_SAMPLES:
        segment.append(order.pop(0))
        length += min(segment[-1].samples, MOST_SAMPLES)
    return segment
