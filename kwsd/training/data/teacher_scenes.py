"""Batches of scenes with the teachers' answers to them: the input of `kwsd train distill`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training import features
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.targets import Targets, TeacherError, Voices, open_targets
from kwsd.training.data.training_data import TrainingData

SETTLING_CHUNKS = -(-(features.RECEPTIVE_FRAMES - features.STRIDE_FRAMES) // features.STRIDE_FRAMES)
"""Chunks after a join in which a student still hears what came before, and a teacher, asked about
the utterance alone, did not: they have no targets."""


class Segment(NamedTuple):
    """The chunks of one utterance in a batch that teachers have answered."""

    row: int
    begin: int
    """First chunk: the utterance's own, or `SETTLING_CHUNKS` after it."""
    end: int
    """Chunk after the last."""


@dataclass
class Batch:
    """A batch of scenes and the teachers' answers."""

    mel: Tensor
    """`[batch, frame, 32]`, degraded; before `prepare`, the clean scenes `[batch, sample]`."""
    degradation: Degradation | None
    """What happens to the clean scenes; None after `prepare`."""
    masked: Tensor
    """bool `[batch, chunk]`"""
    segments: list[Segment]
    frames: dict[str, Tensor]
    """By teacher: `[batch, chunk, layer, dims]`, 0 outside of utterances."""
    codes: dict[str, Tensor]
    """By teacher: int64 `[batch, chunk]`, -1 outside of utterances."""
    voices: dict[str, Tensor]
    """By teacher: `[segment, dim]`, 0 where the speaker is not known."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Batch(
            self.mel.to(device),
            self.degradation and self.degradation.to(device),
            self.masked.to(device),
            self.segments,
            moved(self.frames),
            moved(self.codes),
            moved(self.voices),
        )


@dataclass(frozen=True)
class TeacherSceneSettings:
    """The size and the masks of a batch of scenes."""

    batch: int
    scene_s: float
    mask_share: float
    """Share of the chunks that are masked in the student's input."""
    mask_chunks: int
    """Length of a mask."""


class TeacherScenes(IterableDataset[Batch]):
    """Endless batches of scenes: utterances one after the other on the grid of chunks."""

    def __init__(
        self,
        data: TrainingData,
        targets: Path,
        teachers: Iterable[str],
        settings: TeacherSceneSettings,
        seed: int,
    ) -> None:
        """`targets` is the folder in which `kwsd train cache` left the answers of `teachers`."""
        self.data = data
        self.targets = targets
        self.teachers = list(teachers)
        self.settings = settings
        self.seed = seed
        self.responses = data.responses()

    def prepare(self, batch: Batch) -> Batch:
        """Return a drawn batch with the features of the degraded scenes, masked."""
        assert batch.degradation is not None
        heard = augment.degrade(batch.mel, batch.degradation, self.responses)
        mel = features.student_features(heard)
        frames = batch.masked.repeat_interleave(features.STRIDE_FRAMES, dim=1)
        mel[frames] = features.floor()
        return replace(batch, mel=mel, degradation=None)

    def __iter__(self) -> Iterator[Batch]:
        scenes = self.data.scenes(seed=worker_seed(self.seed))
        targets, voices = open_targets(self.targets, self.teachers)
        by_corpus: dict[str, list[Utterance]] = {}
        for utterance in scenes.corpora.utterances:
            cached = all(utterance in cached for cached in targets.values())
            if cached and not utterance.development and not utterance.noise:
                by_corpus.setdefault(utterance.corpus, []).append(utterance)
        if not by_corpus:
            raise TeacherError(
                f"{self.targets}: no utterance of the training split has targets of all teachers; "
                "run `kwsd train cache`"
            )
        pools = list(by_corpus.values())
        weights = np.sqrt([len(pool) for pool in pools])
        weights = weights / weights.sum()
        while True:
            yield self._draw(scenes, targets, voices, pools, weights)

    def _draw(
        self,
        scenes: Scenes,
        targets: dict[str, Targets],
        voices: dict[str, Voices],
        pools: list[list[Utterance]],
        weights: np.ndarray,
    ) -> Batch:
        """Draw a batch; an utterance comes from each of `pools` with the probability `weights`."""
        rng = scenes.rng
        batch = self.settings.batch
        chunks = int(self.settings.scene_s * SAMPLE_RATE) // CHUNK_SAMPLES
        clean = np.zeros((batch, chunks * CHUNK_SAMPLES), np.float32)
        frames = {
            name: np.zeros((batch, chunks, cached.layers, cached.dims), np.float32)
            for name, cached in targets.items()
        }
        codes = {name: np.full((batch, chunks), -1, np.int64) for name in targets}
        segments: list[Segment] = []
        people: list[str] = []
        for row in range(batch):
            at = int(rng.integers(0, 4)) if rng.random() < 0.5 else 0
            while at < chunks - 4:
                utterance = scenes.pick(pools[rng.choice(len(pools), p=weights)])
                available = min(
                    (len(cached.of(utterance)[1]) for cached in targets.values()),
                    default=utterance.samples // CHUNK_SAMPLES,
                )
                wanted = int(rng.integers(12, 38)) + SETTLING_CHUNKS
                length = min(available, chunks - at, wanted)
                begin = int(rng.integers(0, available - length + 1))
                # At the start of both, nothing was heard before, by the teacher or in the scene.
                settled = 0 if at == begin == 0 else SETTLING_CHUNKS
                x = scenes.corpora.read(utterance)
                x = x[begin * CHUNK_SAMPLES : (begin + length) * CHUNK_SAMPLES]
                x = augment.gain_to(x, float(rng.normal(-26, 3)))
                clean[row, at * CHUNK_SAMPLES : at * CHUNK_SAMPLES + len(x)] = x
                first = at + settled
                for name, cached in targets.items():
                    answer, code = cached.of(utterance)
                    part = answer[:, begin + settled : begin + length].transpose(1, 0, 2)
                    frames[name][row, first : at + length] = part
                    codes[name][row, first : at + length] = code[begin + settled : begin + length]
                if first < at + length:
                    segments.append(Segment(row, first, at + length))
                    people.append(utterance.person)
                at += length + int(rng.integers(0, 5))
        degradation = augment.stack([scenes.degradation(clean.shape[1]) for _ in clean])
        known = {
            name: np.stack(
                [cached.vectors.get(who, np.zeros(cached.dims, np.float32)) for who in people]
            )
            for name, cached in voices.items()
        }
        return Batch(
            torch.from_numpy(clean),
            degradation,
            self._mask(rng, batch, chunks),
            segments,
            {name: torch.from_numpy(values) for name, values in frames.items()},
            {name: torch.from_numpy(values) for name, values in codes.items()},
            {name: torch.from_numpy(values) for name, values in known.items()},
        )

    def _mask(self, rng: np.random.Generator, batch: int, chunks: int) -> Tensor:
        """Draw which chunks are masked, bool `[batch, chunk]`."""
        share = self.settings.mask_share
        if not share:
            return torch.zeros(batch, chunks, dtype=torch.bool)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return span_mask(batch, chunks, share, self.settings.mask_chunks, generator)


def span_mask(
    batch: int, frames: int, share: float, length: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return bool `[batch, frame]`: spans of `length` frames that cover about `share` of each row.

    As in wav2vec 2.0 (Baevski et al. 2020) and SpecAugment's time masks."""
    starts = torch.rand(batch, frames, generator=generator) < share / length
    kernel = torch.ones(1, 1, length)
    padded = F.pad(starts.float().unsqueeze(1), (length - 1, 0))
    return F.conv1d(padded, kernel).squeeze(1) > 0
