"""The development split, on which models are measured: recorded words, audio without them, and
people; clean, in noise, and in a room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from kwsd.audio.format import SAMPLE_RATE
from kwsd.metrics import false_accept_peaks
from kwsd.training.data import augment
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.training_data import TrainingData

RATES = (0.1, 0.5, 1.0)
"""False accepts per hour at which misses are given."""
SWEEP = (0.125, 0.25, 0.5, 1.0, 2.0)
"""False accepts per hour over which misses are averaged: no single utterance decides that figure,
so it is the one to choose by."""
DRAWS = {"clean": 1, "10 dB": 4, "room": 4}
"""How often a recorded word is heard in each condition, in other noise or another room each
time."""
GAP_SAMPLES = 2400
"""Silence between joined utterances: 0.15 s."""

Report = dict[str, Any]
"""The figures of a measurement, as they are written to JSON."""
Scores = Callable[[np.ndarray], np.ndarray]
"""int16 `[sample]` to the scores `[chunk, word]`."""


class Development:
    """Draws from the development split; the draws depend on `seed` and on the order of calls."""

    def __init__(self, data: TrainingData, seed: int = 7) -> None:
        """Open the stores of `data`."""
        self.scenes = data.scenes(development=True, seed=seed)
        self.corpora = self.scenes.corpora
        self.roles = data.roles
        self.rng = np.random.default_rng(seed)

    def noisy(self, x: np.ndarray, snr_db: float = 10.0) -> np.ndarray:
        """Return `x [sample]` in noise of the split. Raises ValueError where the split has none."""
        if not self.scenes.noise:
            raise ValueError(
                "the development split holds no noise; add a corpus of noise recordings, "
                "whose name begins with noise"
            )
        noise = self.scenes.fill(lambda: self.scenes.pick(self.scenes.noise), len(x))
        speech = torch.from_numpy(x)[None]
        return augment.mix(speech, torch.from_numpy(noise)[None], torch.tensor([snr_db]))[0].numpy()

    def reverberant(self, x: np.ndarray) -> np.ndarray:
        """Return `x [sample]` in a room of the split."""
        rooms = self.scenes.rooms.responses
        room = rooms[self.rng.integers(len(rooms))][None]
        return augment.reverberate(torch.from_numpy(x)[None], room)[0].numpy()

    def conditions(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """Return what each condition of `DRAWS` does to `[sample]`."""
        return {"clean": lambda x: x, "10 dB": self.noisy, "room": self.reverberant}

    def negatives(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, int16 `[sample]`): minutes of audio without a wake word, clean and at
        10 dB, and noise by itself."""
        for name, snr_db in (("clean", None), ("10 dB", 10.0)):
            for corpus, utterances in self.scenes.speech.items():
                order = self.rng.permutation(len(utterances))
                for at in range(0, len(order), 200):
                    parts = [self.corpora.read(utterances[i]) for i in order[at : at + 200]]
                    x = np.concatenate([np.pad(part, (0, GAP_SAMPLES)) for part in parts])
                    x = x if snr_db is None else self.noisy(x, snr_db)
                    yield f"{corpus} {name}", augment.quantize_int16(x).astype(np.int16)
        for utterance in self.scenes.noise:
            yield "noise", self.corpora.read(utterance).astype(np.int16)

    def hits(
        self, scores_of: Scores, utterances: list[Utterance], condition: str = "clean"
    ) -> np.ndarray:
        """Return the highest score of each utterance's own word, `[draw, utterance]`.

        Each utterance lies between a second of near-silence on either side."""
        degrade = self.conditions()[condition]
        best = np.zeros((DRAWS[condition], len(utterances)))
        for draw in best:
            for n, utterance in enumerate(utterances):
                hiss = self.rng.normal(0, 3, 2 * SAMPLE_RATE).astype(np.float32)
                before = hiss[:SAMPLE_RATE]
                after = hiss[SAMPLE_RATE:]
                x = degrade(np.concatenate([before, self.corpora.read(utterance), after]))
                scores = scores_of(augment.quantize_int16(x).astype(np.int16))
                draw[n] = scores[:, utterance.word].max()
        return best

    def false_accepts(
        self, scores_of: Scores, words: int
    ) -> tuple[list[np.ndarray], dict[str, float]]:
        """Return each word's peaks in all negatives, highest first, and the hours by source."""
        peaks: list[list[float]] = [[] for _ in range(words)]
        hours: dict[str, float] = {}
        for name, samples in self.negatives():
            scores = scores_of(samples)
            hours[name] = hours.get(name, 0.0) + len(samples) / SAMPLE_RATE / 3600
            for word in range(words):
                peaks[word] += false_accept_peaks(scores[:, word])
        return [np.sort(np.array(found))[::-1] for found in peaks], hours

    def takes(self, corpora: Sequence[str], per_person: int = 12) -> Iterator[list[np.ndarray]]:
        """Yield, for each person of `corpora` (beginnings of their names), takes `[sample]` of at
        most 2 s."""
        longest = 2 * SAMPLE_RATE
        for person, utterances in self.corpora.people(development=True).items():
            if not person.startswith(tuple(corpora)):
                continue
            order = self.rng.permutation(len(utterances))[:per_person]
            chosen = [utterances[i] for i in order]
            if len(chosen) == 1 and chosen[0].samples > 8 * SAMPLE_RATE:
                whole = self.corpora.read(chosen[0])  # one long utterance: its pieces
                starts = range(0, len(whole) - longest, longest)
                yield [whole[start : start + longest] for start in starts]
            else:
                yield [self.corpora.read(utterance)[:longest] for utterance in chosen]
