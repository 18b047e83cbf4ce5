"""`kwsd train synthesize`: synthetic speech of the wake words and of words near them, in many
voices.

espeak-ng (every variant, several accents, speeds and pitches), flite, and, where its packages are
installed, Kokoro 82M with mixed voices, in accents too. Phrases are also spoken with a pause
between their words. The speaker of an utterance is its voice, so that the split by speaker keeps
voices apart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.synthesis import ACCENTS, LEARNERS, Kokoro, espeak, espeak_variants
from kwsd.training.data.corpora import Recording, write_store
from kwsd.training.data.synthesizers import FLITE, flite
from kwsd.training.settings import Settings
from kwsd.training.settings.catalog import WordList

log = logging.getLogger(__name__)
Synthetic = tuple[str, str, np.ndarray]
"""(voice, label, int16 `[sample]`)"""
Plan = tuple[str, str, Callable[[], np.ndarray]]
"""(voice, label, what speaks it)"""


class SynthesizeSettings(Settings, frozen=True):
    """The settings of `synthesize.yaml`."""

    seed: int = 1
    kokoro_voices: int = 80
    """Mixtures of Kokoro's voices; 0 where its packages are not installed."""


def synthesize(
    dest: Path,
    words: WordList,
    corpus: str,
    settings: SynthesizeSettings,
    homophones: Sequence[str] = (),
) -> None:
    """Write the store `dest`; its utterances belong to `corpus`. `homophones` are spoken beside the
    words' own near ones.

    Raises SynthesisError where espeak-ng, flite, or Kokoro if wanted, is not installed."""
    seconds = 0.0
    near = tuple(dict.fromkeys((*words.near, *homophones)))

    def recordings() -> Iterator[Recording]:
        nonlocal seconds
        for n, (voice, label, pcm) in enumerate(_speak(words, near, settings)):
            if len(pcm) < 1600 or np.abs(pcm).max() < 200:
                log.warning("%s gave no sound for %r", voice, label)
                continue
            yield Recording(pcm, corpus, voice, label)
            seconds += len(pcm) / SAMPLE_RATE
            if n % 500 == 499:
                log.info("synthesized %d utterances, %.0f min; now %s", n + 1, seconds / 60, voice)

    write_store(dest, recordings())


def paused(text: str) -> str:
    """Return `text` as a synthesizer says it with a pause between its words."""
    return text.replace(" ", ", ")


def _speak(
    words: WordList, near: tuple[str, ...], settings: SynthesizeSettings
) -> Iterator[Synthetic]:
    """Yield all utterances; the draws depend on their order."""
    rng = np.random.default_rng(settings.seed)
    plans = _plan(words, near, rng)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda plan: plan[2](), plans)
        for (voice, label, _), pcm in zip(plans, results, strict=True):
            yield voice, label, pcm
    if settings.kokoro_voices:
        yield from _speak_mixtures(words, near, rng, settings.kokoro_voices)
    for variant in espeak_variants():
        for label, text in words.texts.items():
            if " " in text:
                accent = rng.choice(ACCENTS)
                speed = int(rng.integers(150, 220))
                pitch = int(rng.integers(25, 80))
                pcm = espeak(paused(text), f"{accent}+{variant}", speed, pitch)
                yield f"espeak-{variant}", label, pcm


def _plan(words: WordList, near: tuple[str, ...], rng: np.random.Generator) -> list[Plan]:
    """Return the utterances of espeak-ng and flite."""
    plans: list[Plan] = []

    def add(voice: str, label: str, text: str, variant: str) -> None:
        accent = str(rng.choice(ACCENTS))
        speed = int(rng.integers(110, 220))
        pitch = int(rng.integers(25, 80))
        plans.append((voice, label, lambda: espeak(text, f"{accent}+{variant}", speed, pitch)))

    texts = words.texts
    for variant in espeak_variants():
        for label, text in texts.items():
            for _ in range(6):
                add(f"espeak-{variant}", label, text, variant)
        for text in rng.choice(near, min(24, len(near)), replace=False) if near else ():
            add(f"espeak-{variant}", f"near {text}", str(text), variant)
    for voice in FLITE:
        for text in (*texts.values(), *near):
            label = next((name for name, t in texts.items() if t == text), f"near {text}")
            for stretch in rng.uniform(0.75, 1.35, 5 if label in texts else 2):
                speak = _flite_plan(text, voice, float(stretch))
                plans.append((f"flite-{voice}", label, speak))
    return plans


def _flite_plan(text: str, voice: str, stretch: float) -> Callable[[], np.ndarray]:
    return lambda: flite(text, voice, stretch)


def _speak_mixtures(
    words: WordList, near: tuple[str, ...], rng: np.random.Generator, voices: int
) -> Iterator[Synthetic]:
    """Yield Kokoro's utterances in `voices` mixtures of its voices: each word once as an American
    says it, then in two other accents; and near-words."""
    kokoro = Kokoro()
    texts = words.texts
    mixtures = []
    for n in range(voices):
        mixtures.append(rng.dirichlet(np.full(len(kokoro.styles), 0.5)))
        for label, text in texts.items():
            yield f"kokoro-{n}", label, kokoro(text, mixtures[n], float(rng.uniform(0.75, 1.25)))
        for text in rng.choice(near, min(8, len(near)), replace=False) if near else ():
            pcm = kokoro(str(text), mixtures[n], float(rng.uniform(0.8, 1.2)))
            yield f"kokoro-{n}", f"near {text}", pcm
    for n, mixture in enumerate(mixtures):
        for label, text in texts.items():
            for accent in rng.choice([*ACCENTS, *LEARNERS], 2, replace=False):
                phrase = paused(text) if " " in text and rng.random() < 0.3 else text
                speed = float(rng.uniform(0.75, 1.25))
                yield f"kokoro-{n}", label, kokoro(phrase, mixture, speed, str(accent))
