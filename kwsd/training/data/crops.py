"""Batches of voices: crops of many people's speech, as microphones hear them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import SHORT_SAMPLES, Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.features import LEAD_CHUNKS, Features

MARGIN_SAMPLES = 800
"""Kept on either side of the speech of a short utterance: 50 ms."""


@dataclass(frozen=True)
class CropSettings:
    """The size of a batch of crops, and the lengths and speeds of the crops."""

    batch: int
    crop_chunks: list[int] = field(default_factory=lambda: [10, 24])
    """Least and greatest length of a crop in chunks of 80 ms, drawn once per batch."""
    speeds: list[float] = field(default_factory=lambda: [1.0, 0.89, 1.12])
    """Each speed at which a person's speech is played makes another person (Yamamoto et al. 2019);
    the teacher knows those of speed 1."""


class RawCrops(NamedTuple):
    """Crops as they were recorded, and what happens to them."""

    clean: Tensor
    """`[batch, sample]`, beginning with `LEAD_CHUNKS` of silence."""
    degradation: Degradation
    person: Tensor
    """int64 `[batch]`: person + speed * people."""

    def to(self, device: torch.device) -> RawCrops:
        """Return the crops on `device`."""
        return RawCrops(self.clean.to(device), self.degradation.to(device), self.person.to(device))


class Crops(IterableDataset[RawCrops]):
    """Endless batches of crops, each batch of different people."""

    def __init__(
        self, data: TrainingData, features: Sequence[Features], settings: CropSettings, seed: int
    ) -> None:
        """`features` are what `prepare` makes of each crop."""
        self.data = data
        self.features = features
        self.settings = settings
        self.seed = seed
        self.responses = data.responses()

    def prepare(self, raw: RawCrops) -> tuple[Tensor, ...]:
        """Return each of the features `[batch, frame, band]` of the degraded crops, and the person
        `[batch]`."""
        heard = augment.degrade(raw.clean, raw.degradation, self.responses)
        return *(features(heard) for features in self.features), raw.person

    def __iter__(self) -> Iterator[RawCrops]:
        scenes = self.data.scenes(seed=worker_seed(self.seed))
        rng = scenes.rng
        people = list(scenes.corpora.people(development=False).values())
        speeds = self.settings.speeds
        least, most = self.settings.crop_chunks
        while True:
            drawn = rng.choice(len(people) * len(speeds), self.settings.batch, replace=False)
            samples = int(rng.integers(least, most + 1)) * CHUNK_SAMPLES
            crops = [
                _crop(scenes, people[n % len(people)], speeds[n // len(people)], samples)
                for n in drawn
            ]
            clean = np.stack(crops)
            degradations = [scenes.degradation(clean.shape[1], harsh=0.8) for _ in drawn]
            yield RawCrops(
                torch.from_numpy(clean), augment.stack(degradations), torch.from_numpy(drawn)
            )


def _crop(scenes: Scenes, utterances: list[Utterance], speed: float, samples: int) -> np.ndarray:
    """Return `samples` of one person's speech at `speed` after the lead-in, float32 `[sample]`."""
    rng = scenes.rng
    parts = []
    length = 0
    while length < samples:
        x = scenes.corpora.read(utterances[rng.integers(len(utterances))])
        if len(x) < SHORT_SAMPLES:
            start, end = speech_span(x)
            x = x[max(start - MARGIN_SAMPLES, 0) : end + MARGIN_SAMPLES]
        elif len(x) > (most := round(samples * speed) + 1):
            begin = rng.integers(len(x) - most)
            x = x[begin : begin + most]
        x = augment.change_speed(x, speed) if speed != 1 else x
        parts.append(augment.gain_to(x, -26))
        length += len(x)
    speech = np.concatenate(parts)[:samples]
    return np.concatenate([np.zeros(LEAD_CHUNKS * CHUNK_SAMPLES, np.float32), speech])
