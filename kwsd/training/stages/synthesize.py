"""Synthetic speech of the wake words and of words near them, in many voices, into a store for `Corpora`.

espeak-ng (every variant, several accents, speeds and pitches), flite, and, where its packages are installed, Kokoro 82M
with mixed voices, in accents too. Phrases are also said with a pause between their words. The speaker of a
take is its voice, so that the split by speaker keeps voices apart.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.files import RATE
from kwsd.audio.synthesis import ACCENTS, LEARNERS, Kokoro, espeak, espeak_variants, read_wav
from kwsd.training.data.corpora import Take, write_store
from kwsd.training.models.network import WORDS

log = logging.getLogger(__name__)
SPOKEN = {word: word.replace("_", " ") for word in WORDS}
NEAR = (
    "electra", "alexis", "alexander", "a lexus", "relaxer", "election", "elected", "I'll ask her", "select a", "Alex", "elixir",
    "accept such",
    "commuter", "compute", "computing", "competitor", "compare", "come here", "can put her", "pewter", "composer", "community", "come to her",
    "computed", "can you hear",
    "service", "harvest", "travis", "garbage", "nervous", "jealous", "jasper", "jar of this", "job is", "larvae", "carve this", "Charlie's",
    "in its gyre", "darkness", "charges",
    "smart", "mirror", "smart miller", "start mirror", "smart meter", "dark mirror", "smart phone", "smarter", "rear mirror", "small mirror",
    "the smart man", "smart man in", "smart manner",
    "snow", "boy", "snow ball", "cowboy", "no boy", "snowman", "snowboard", "oh boy", "snow day",
    "know both", "no voice",
    "view", "glass", "new glass", "blue glass", "few glasses", "you last", "viewfinder", "hourglass", "few classes", "you guess",
    "the glass", "you glance",
)  # fmt: skip
FLITE = ("kal", "kal16", "awb", "rms", "slt")


def paused(text: str) -> str:
    """`text` as a synthesiser says it with a pause between its words."""
    return text.replace(" ", ", ")


def flite(text: str, voice: str, stretch: float = 1.0) -> np.ndarray:
    """int16 `[sample]` at 16 kHz of `text` by flite."""
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", text, "-o", "/dev/stdout"]
    return read_wav(subprocess.run(command, capture_output=True, check=True).stdout)


def _rough_takes(rng: np.random.Generator) -> list[tuple[str, str, Any]]:
    """(voice, label, how) of the takes of espeak-ng and flite; `how()` speaks."""
    takes: list[tuple[str, str, Any]] = []

    def plan(voice: str, label: str, text: str, variant: str) -> None:
        accent, speed, pitch = str(rng.choice(ACCENTS)), int(rng.integers(110, 220)), int(rng.integers(25, 80))
        takes.append((voice, label, lambda: espeak(text, f"{accent}+{variant}", speed, pitch)))

    for variant in espeak_variants():
        for label, text in SPOKEN.items():
            for _ in range(6):
                plan(f"espeak-{variant}", label, text, variant)
        for text in rng.choice(NEAR, 24, replace=False):
            plan(f"espeak-{variant}", f"near {text}", str(text), variant)
    for voice in FLITE:
        for text in (*SPOKEN.values(), *NEAR):
            label = next((w for w, t in SPOKEN.items() if t == text), f"near {text}")
            stretches = rng.uniform(0.75, 1.35, 5 if label in SPOKEN else 2)
            takes += [(f"flite-{voice}", label, lambda t=text, v=voice, s=stretch: flite(t, v, float(s))) for stretch in stretches]
    return takes


def _takes(seed: int, kokoro_voices: int) -> Iterator[tuple[str, str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    rough = _rough_takes(rng)
    with ThreadPoolExecutor(4) as pool:
        for (voice, label, _), pcm in zip(rough, pool.map(lambda take: take[2](), rough), strict=True):
            yield voice, label, pcm
    if kokoro_voices:
        yield from _mixed_takes(rng, kokoro_voices)
    for variant in espeak_variants():
        for label, text in SPOKEN.items():
            if " " in text:
                accent, speed, pitch = rng.choice(ACCENTS), int(rng.integers(150, 220)), int(rng.integers(25, 80))
                yield f"espeak-{variant}", label, espeak(paused(text), f"{accent}+{variant}", speed, pitch)


def _mixed_takes(rng: np.random.Generator, voices: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Of Kokoro: each word once as an American says it, then in two other accents, in each mixture of its voices; and near-words."""
    kokoro = Kokoro()
    mixtures = []
    for n in range(voices):
        mixtures.append(rng.dirichlet(np.full(len(kokoro.styles), 0.5)))
        for label, text in SPOKEN.items():
            yield f"kokoro-{n}", label, kokoro(text, mixtures[n], float(rng.uniform(0.75, 1.25)))
        for text in rng.choice(NEAR, 8, replace=False):
            yield f"kokoro-{n}", f"near {text}", kokoro(str(text), mixtures[n], float(rng.uniform(0.8, 1.2)))
    for n, mixture in enumerate(mixtures):
        for label, text in SPOKEN.items():
            for accent in rng.choice([*ACCENTS, *LEARNERS], 2, replace=False):
                said = paused(text) if " " in text and rng.random() < 0.3 else text
                yield f"kokoro-{n}", label, kokoro(said, mixture, float(rng.uniform(0.75, 1.25)), str(accent))


@dataclass(frozen=True)
class Settings:
    seed: int = 1
    kokoro_voices: int = 80
    """Mixtures of Kokoro's voices; 0 where its packages are not installed."""


def synthesize(dest: Path, settings: Settings) -> None:
    """Write the store `dest`."""
    seconds = 0.0

    def takes() -> Iterator[Take]:
        nonlocal seconds
        for n, (voice, label, pcm) in enumerate(_takes(settings.seed, settings.kokoro_voices)):
            if len(pcm) < 1600 or np.abs(pcm).max() < 200:
                log.warning("%s said nothing for %r", voice, label)
                continue
            yield Take(pcm, "synthetic", voice, label)
            seconds += len(pcm) / RATE
            if n % 500 == 499:
                log.info("synthesised %d takes, %.0f min; now %s", n + 1, seconds / 60, voice)

    write_store(dest, takes())
