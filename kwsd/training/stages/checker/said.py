"""Words that synthesizers say: those of the sentences, those of a list, and syllables.

The sentences hold few words that part from a short one by one sound, and these are said in passing.
So nearly every syllable of English is said alone, in several voices: each sound of an added word
has then been told from each other sound in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from kwsd.audio.synthesis import espeak, espeak_variants
from kwsd.training.data import revoicing, spoken
from kwsd.training.data.spoken import ENGLISH, HeldOut, Vocabulary
from kwsd.training.data.synthesizers import FLITE, Piper, flite, has_flite, has_piper

SYNTHETIC = "synthetic"
"""Who says what is synthetic, before the name of the voice."""
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")
REVOICED = 0.8
"""How often the pitch of a voice of flite or Piper is changed, and how often its formants are."""
PITCHES = (0.75, 1.35)
FORMANTS = (0.82, 1.22)
ONSETS = ("", *"bdfghjklmnprstvwyz", "sh", "ch", "th")
NUCLEI = (*"aeiou", "ee", "oo", "ay", "ow", "oy")
CODAS = ("", *"bdfglmnptvz", "ck", "ss", "sh", "ch", "th", "ng")
MOST_PHONES = 5
"""More are the names of letters."""


class Said(NamedTuple):
    """A take that a synthesizer says when its turn comes."""

    kind: str
    text: str
    language: str
    engine: str
    """espeak-ng, flite or piper."""
    seed: int
    """Of the draws of its voice."""

    @property
    def who(self) -> str:
        """Return who says it: nobody says two takes alike."""
        return f"{SYNTHETIC}/{self.engine}-{self.seed}"


def syllables() -> list[str]:
    """Return the spellings of syllables: a consonant or none, a vowel, and a consonant or none."""
    spelled = {"".join(parts) for parts in itertools.product(ONSETS, NUCLEI, CODAS)}
    return sorted(text for text in spelled if len(text) > 1)


def plan(
    words: Iterable[Vocabulary], with_syllables: bool, held_out: HeldOut, takes: int
) -> Iterator[Said]:
    """Yield `takes` of each of `words` and, with them, of each syllable; those that are held out
    are left out. English is said by the synthesizers that are installed, in turn.

    Raises SynthesisError where espeak-ng is not installed."""
    asked = list(dict.fromkeys(words))
    english = {word.text for word in asked if word.language == ENGLISH}
    kinds = spoken.kinds_of(english, held_out)
    if with_syllables:
        known = spoken.kinds_of(set(syllables()) - english, held_out)
        short = {text: kind for text, kind in known.items() if len(kind.split()) <= MOST_PHONES}
        kinds |= short
        asked += [Vocabulary(ENGLISH, text) for text in short]
    engines = ["espeak-ng", *["flite"] * has_flite(), *["piper"] * has_piper()]
    seeds = itertools.count()
    for language, text in asked:
        if language == ENGLISH:
            kind, voices = kinds.get(text), engines
        else:
            kind = None if held_out.holds(text) else f"{language}/{text}"
            voices = engines[:1]
        if kind is not None:
            for n in range(takes):
                yield Said(kind, text, language, voices[n % len(voices)], next(seeds))


class Synthesizers:
    """What says the takes of a plan."""

    def __init__(self) -> None:
        """Raises SynthesisError where espeak-ng is not installed."""
        self._variants = espeak_variants()

    @cached_property
    def _piper(self) -> Piper:
        """Loaded where it has something to say. Raises SynthesisError where it is not installed."""
        return Piper()

    def __call__(self, take: Said) -> np.ndarray:
        """Return what was said, float32 `[sample]`. Raises SynthesisError."""
        rng = np.random.default_rng(take.seed)
        if take.engine == "espeak-ng":
            accent = str(rng.choice(ACCENTS)) if take.language == ENGLISH else take.language
            speed, pitch = int(rng.integers(110, 210)), int(rng.integers(20, 85))
            voice = f"{accent}+{rng.choice(self._variants)}"
            return espeak(take.text, voice, speed, pitch).astype(np.float32)
        stretch = float(rng.uniform(0.8, 1.35))
        if take.engine == "flite":
            said = flite(take.text, str(rng.choice(FLITE)), stretch)
        else:
            noise, rhythm = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.6, 1.1))
            said = self._piper(take.text, stretch, noise, rhythm)
        samples = said.astype(np.float32)
        if rng.random() < REVOICED:
            samples = revoicing.change_pitch(samples, float(rng.uniform(*PITCHES)))
        if rng.random() < REVOICED:
            samples = revoicing.change_formants(samples, float(rng.uniform(*FORMANTS)))
        return samples
