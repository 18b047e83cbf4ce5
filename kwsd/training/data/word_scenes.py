"""Batches of scenes with wake words, labeled, and with the ends of all known words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import Scene
from kwsd.training.data.training_data import TrainingData
from kwsd.training.features import BANDS, STRIDE_FRAMES, Features

SILENCE = ""
"""The first word type: nothing was said for `QUIET_CHUNKS`."""
QUIET_CHUNKS = 10


class RawScenes(NamedTuple):
    """Scenes as they were recorded, what happens to them, and what is in them."""

    clean: Tensor
    """`[batch, sample]`"""
    degradation: Degradation
    labels: Tensor
    """Of the wake words, int8 `[batch, chunk, word]`."""
    ends: Tensor
    """Where which word has just ended, int64 `[end, (row, chunk, type)]`."""
    masks: list[list[tuple[int, int, int]]]
    """For each row's features, see `augment.draw_masks`."""

    def to(self, device: torch.device) -> RawScenes:
        """Return the scenes on `device`."""
        return RawScenes(
            self.clean.to(device),
            self.degradation.to(device),
            self.labels.to(device),
            self.ends.to(device),
            self.masks,
        )


class WordScenes(IterableDataset[RawScenes]):
    """Endless batches of scenes with wake words."""

    def __init__(
        self,
        data: TrainingData,
        types: Sequence[str],
        features: Features,
        batch: int,
        scene_s: float,
        seed: int,
    ) -> None:
        """`types` are the words and phrases to classify; `batch` scenes of `scene_s`."""
        self.data = data
        self.types = {text: n for n, text in enumerate(types)}
        self.features = features
        self.batch = batch
        self.scene_s = scene_s
        self.seed = seed
        self.responses = data.responses()

    def prepare(self, raw: RawScenes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the degraded and of the clean scenes `[batch, frame, band]`, the
        labels and the ends."""
        heard = self.features(augment.degrade(raw.clean, raw.degradation, self.responses))
        for mel, masks in zip(heard, raw.masks, strict=True):
            augment.mask(mel, masks)
        clean = self.features(raw.clean.round().clamp(-32768, 32767))
        return heard, clean, raw.labels, raw.ends

    def __iter__(self) -> Iterator[RawScenes]:
        scenes = self.data.scenes(seed=worker_seed(self.seed), transcripts=self.data.transcripts())
        rng = scenes.rng
        chunks = int(self.scene_s * SAMPLE_RATE) // CHUNK_SAMPLES
        frames = chunks * STRIDE_FRAMES
        while True:
            drawn = [scenes.draw(chunks * CHUNK_SAMPLES) for _ in range(self.batch)]
            masks = [
                augment.draw_masks(frames, BANDS, rng) if rng.random() < 0.3 else [] for _ in drawn
            ]
            labels = np.stack([scenes.labels(scene.words, chunks) for scene in drawn])
            ends = [
                (row, chunk, kind)
                for row, scene in enumerate(drawn)
                for chunk, kind in self._ends(scene, chunks, rng)
            ]
            yield RawScenes(
                torch.from_numpy(np.stack([scene.clean for scene in drawn])),
                augment.stack([scene.degradation for scene in drawn]),
                torch.from_numpy(labels),
                torch.tensor(ends, dtype=torch.int64).reshape(-1, 3),
                masks,
            )

    def _ends(
        self, scene: Scene, chunks: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, int]]:
        """Yield (chunk, type) of each known word, 0 to 0.24 s after its end; and of one quiet
        moment."""
        for text, _, end in scene.transcript:
            chunk = -(-end // CHUNK_SAMPLES) - 1 + int(rng.integers(0, 3))
            if text in self.types and chunk < chunks:
                yield chunk, self.types[text]
        still = ~scene.clean.reshape(chunks, CHUNK_SAMPLES).any(axis=1)
        still_chunks = np.convolve(still, np.ones(QUIET_CHUNKS), "valid")
        quiet = np.flatnonzero(still_chunks > QUIET_CHUNKS - 0.5) + QUIET_CHUNKS - 1
        if len(quiet) and SILENCE in self.types:
            yield int(rng.choice(quiet)), self.types[SILENCE]
