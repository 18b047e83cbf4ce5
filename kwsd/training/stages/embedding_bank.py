"""The input of `kwsd train heads --only wake`: all training audio as embeddings, made once.

Neither the audio nor the embeddings are ever in memory as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training import features
from kwsd.training.data.arrays import GrowingArray
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.scenes import Scenes
from kwsd.training.features import WAKE_CONTEXT, mel_of
from kwsd.training.models.encoder import Encoder

log = logging.getLogger(__name__)
SCENE_SAMPLES = 8 * SAMPLE_RATE // CHUNK_SAMPLES * CHUNK_SAMPLES
"""Length of a scene: 8 s."""
HARSH = {"clean": 0.0, "speech": 1.0, "near": 1.0, "homophones": 1.0, "noise": 0.3}
"""How often each kind of negative is degraded, as `Scenes.degradation` takes it."""
BATCH = 16
"""Scenes that are embedded at once."""
Embed = Callable[[np.ndarray], np.ndarray]
"""Returns float32 embeddings `[batch, chunk, dim]` of what is heard, `[batch, sample]`, each from
the start of a stream."""
PARTS = ("embedding", "label", "timing", "near")
"""The arrays of a bank, a file of this name each."""


@dataclass
class EmbeddingBank:
    """Embedded audio: one long row of embeddings, and what each frame is for each word."""

    embedding: np.ndarray
    """float16 `[frame, dim]`."""
    label: np.ndarray
    """int8 `[frame, word]`: 1 fire, 0 do not fire, -1 ignored."""
    timing: np.ndarray
    """float16 `[frame, 2]`: seconds since the word's beginning and end, where a label is 1."""
    near: np.ndarray
    """bool `[frame]`: synthetic words near a wake word. They are learned from, but not mined: real
    accents come as close as they do."""

    def windows(self, at: np.ndarray) -> Tensor:
        """Return the 16 embeddings that end at the frames `at [n]`: float32 `[n, 16, 96]`."""
        context = np.arange(1 - WAKE_CONTEXT, 1)
        return torch.from_numpy(self.embedding[at[:, None] + context].astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> EmbeddingBank:
        """Return the bank in `folder`; its arrays stay on disk."""
        embedding, label, timing, near = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in PARTS
        )
        return cls(embedding, label, timing, near)


class _Stretch:
    """Utterances in some order, one after the other, read where they are needed."""

    def __init__(self, scenes: Scenes, utterances: Sequence[Utterance]) -> None:
        self._scenes = scenes
        self._utterances = utterances
        self._ends = np.cumsum([utterance.samples for utterance in utterances])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, samples: int) -> np.ndarray:
        """Return the samples from `start` on, float32 `[samples]`."""
        end = start + samples
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, end))
        parts = []
        for n in range(first, last + 1):
            utterance = self._utterances[n]
            begins = int(self._ends[n]) - utterance.samples
            parts.append(self._scenes.corpora.read(utterance, max(start - begins, 0), end - begins))
        return np.concatenate(parts)


class _Job(NamedTuple):
    """A scene to embed: `words` is drawn when its turn comes, the others are cut from a stretch."""

    kind: str
    stretch: _Stretch | None = None
    start: int = 0


def gather(
    embed: Embed, dim: int, scenes: Scenes, word_takes: int, passes: int, folder: Path
) -> EmbeddingBank:
    """Embed the split into `folder`: every wake word among other words `word_takes` times, all else
    `passes` times, the first time clean. `dim`: numbers of an embedding."""
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    words = len(scenes.words)
    kinds = ("<f2", "<i1", "<f2", "|b1")
    columns = ((dim,), (words,), (2,), ())
    with ExitStack() as files:
        arrays = [
            files.enter_context(GrowingArray(partial / f"{name}.npy", kind, shape))
            for name, kind, shape in zip(PARTS, kinds, columns, strict=True)
        ]
        for parts in _embedded(embed, scenes, word_takes, passes):
            for array, part in zip(arrays, parts, strict=True):
                array.append(part)
    partial.rename(folder)
    return EmbeddingBank.load(folder)


def _embedded(
    embed: Embed, scenes: Scenes, word_takes: int, passes: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the `PARTS` of each scene."""
    rng = scenes.rng
    jobs = list(_jobs(scenes, word_takes, passes))
    hours = len(jobs) * SCENE_SAMPLES / SAMPLE_RATE / 3600
    log.info("embedding %.1f h in %d scenes", hours, len(jobs))
    order = rng.permutation(len(jobs))
    for at in range(0, len(order), BATCH):
        batch = [jobs[i] for i in order[at : at + BATCH]]
        heard = [_hear(scenes, job) for job in batch]
        out = embed(np.stack([samples for samples, _ in heard]))
        for job, embedding, (_, words) in zip(batch, out, heard, strict=True):
            chunks = len(embedding)
            label = scenes.labels(words, chunks)
            yield embedding, label, _timing(words, label), np.full(chunks, job.kind == "near")
        if at // BATCH % 200 == 199:
            log.info("embedded %d of %d scenes", at + BATCH, len(jobs))


def _jobs(scenes: Scenes, word_takes: int, passes: int) -> Iterator[_Job]:
    """Yield the scenes to embed."""
    rng = scenes.rng
    recorded = sum(len(pool[False]) for pool in scenes.words)
    for _ in range(recorded * word_takes * 2 // 5):
        yield _Job("words")
    pools = {
        "speech": [utterance for pool in scenes.speech.values() for utterance in pool],
        "near": scenes.near,
        "homophones": scenes.homophones,
        "noise": scenes.noise,
    }
    for n in range(passes):
        for kind, utterances in pools.items():
            if not utterances:
                continue
            order = rng.permutation(len(utterances))
            stretch = _Stretch(scenes, [utterances[i] for i in order])
            first = int(rng.integers(SCENE_SAMPLES))
            for start in range(first, len(stretch) - SCENE_SAMPLES, SCENE_SAMPLES):
                name = "clean" if kind == "speech" and n == 0 else kind
                yield _Job(name, stretch, start)


def _hear(scenes: Scenes, job: _Job) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return what a microphone hears of `job`, `[sample]`, and the wake words in it."""
    if job.stretch is None:
        scene = scenes.draw(SCENE_SAMPLES, word_share=0.65)
        return scenes.hear(scene.clean[None], [scene.degradation])[0], scene.words
    gain = np.float32(10 ** (scenes.rng.uniform(-12, 6) / 20))
    audio = job.stretch.read(job.start, SCENE_SAMPLES)
    return scenes.degrade(audio * gain, harsh=HARSH[job.kind]), []


def _timing(words: list[tuple[int, int, int]], label: np.ndarray) -> np.ndarray:
    """Return float16 `[chunk, 2]`: seconds since each word's beginning and end, where it fires."""
    chunks = len(label)
    timing = np.zeros((chunks, 2), np.float16)
    ends = (np.arange(chunks) + 1) * CHUNK_SAMPLES
    for word, start, end in words:
        inside = (label[:, word] == 1) & (np.abs(ends - end) < SAMPLE_RATE // 2)
        timing[inside, 0] = (ends[inside] - start) / SAMPLE_RATE
        timing[inside, 1] = (ends[inside] - end) / SAMPLE_RATE
    return timing


def embedding(encoder: Encoder) -> Embed:
    """Return what embeds by `encoder`."""

    @torch.no_grad()
    def embed(heard: np.ndarray) -> np.ndarray:
        mel = torch.from_numpy(mel_of(features.front_end(), heard))
        with torch.autocast("cpu", torch.bfloat16):
            return encoder(mel, encoder.zero_state(len(heard)))[0].float().numpy()

    return embed
