"""The input of `kwsd train heads --only wake`: all training audio as embeddings, made once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training import features
from kwsd.training.data.scenes import Scenes
from kwsd.training.features import WAKE_CONTEXT, mel_of
from kwsd.training.models.encoder import Encoder

log = logging.getLogger(__name__)
SCENE_SAMPLES = 8 * SAMPLE_RATE // CHUNK_SAMPLES * CHUNK_SAMPLES
"""Length of a scene: 8 s."""
HARSH = {"clean": 0.0, "speech": 1.0, "near": 1.0, "noise": 0.3}
"""How often each kind of negative is degraded, as `Scenes.degradation` takes it."""
BATCH = 16
"""Scenes that are embedded at once."""


@dataclass
class EmbeddingBank:
    """Embedded audio: one long row of embeddings, and what each frame is for each word."""

    embedding: np.ndarray
    """float16 `[frame, 96]`."""
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

    def save(self, path: Path) -> None:
        """Write the bank to `path`."""
        np.savez(
            path, embedding=self.embedding, label=self.label, timing=self.timing, near=self.near
        )

    @classmethod
    def load(cls, path: Path) -> EmbeddingBank:
        """Return the bank in `path`."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(saved["embedding"], saved["label"], saved["timing"], saved["near"])


class _Job(NamedTuple):
    """A scene to embed: `words` is drawn when its turn comes, the others are cut already."""

    kind: str
    audio: np.ndarray | None = None


def gather(encoder: Encoder, scenes: Scenes, word_takes: int, passes: int) -> EmbeddingBank:
    """Embed the split: every wake word among other words `word_takes` times, all else `passes`
    times, the first time clean."""
    rng = scenes.rng
    jobs = list(_jobs(scenes, word_takes, passes))
    hours = len(jobs) * SCENE_SAMPLES / SAMPLE_RATE / 3600
    log.info("embedding %.1f h in %d scenes", hours, len(jobs))
    order = rng.permutation(len(jobs))
    embeddings = []
    labels = []
    timings = []
    nears = []
    for at in range(0, len(order), BATCH):
        batch = [jobs[i] for i in order[at : at + BATCH]]
        heard = [_hear(scenes, job) for job in batch]
        out = embed(encoder, np.stack([samples for samples, _ in heard]))
        for job, embedding, (_, words) in zip(batch, out, heard, strict=True):
            chunks = len(embedding)
            label = scenes.labels(words, chunks)
            embeddings.append(embedding.astype(np.float16))
            labels.append(label)
            timings.append(_timing(words, label))
            nears.append(np.full(chunks, job.kind == "near"))
        if at // BATCH % 200 == 199:
            log.info("embedded %d of %d scenes", at + BATCH, len(jobs))
    return EmbeddingBank(*map(np.concatenate, (embeddings, labels, timings, nears)))


def _jobs(scenes: Scenes, word_takes: int, passes: int) -> Iterator[_Job]:
    """Yield the scenes to embed."""
    rng = scenes.rng
    recorded = sum(len(pool[False]) for pool in scenes.words)
    for _ in range(recorded * word_takes * 2 // 5):
        yield _Job("words")
    pools = {
        "speech": [utterance for pool in scenes.speech.values() for utterance in pool],
        "near": scenes.near,
        "noise": scenes.noise,
    }
    for n in range(passes):
        for kind, utterances in pools.items():
            if not utterances:
                continue
            order = rng.permutation(len(utterances))
            total = np.concatenate([scenes.corpora.read(utterances[i]) for i in order])
            first = int(rng.integers(SCENE_SAMPLES))
            for start in range(first, len(total) - SCENE_SAMPLES, SCENE_SAMPLES):
                name = "clean" if kind == "speech" and n == 0 else kind
                yield _Job(name, total[start : start + SCENE_SAMPLES])


def _hear(scenes: Scenes, job: _Job) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return what a microphone hears of `job`, `[sample]`, and the wake words in it."""
    if job.audio is None:
        scene = scenes.draw(SCENE_SAMPLES, word_share=0.65)
        return scenes.hear(scene.clean[None], [scene.degradation])[0], scene.words
    gain = np.float32(10 ** (scenes.rng.uniform(-12, 6) / 20))
    return scenes.degrade(job.audio * gain, harsh=HARSH[job.kind]), []


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


@torch.no_grad()
def embed(encoder: Encoder, heard: np.ndarray) -> np.ndarray:
    """Return float32 embeddings `[batch, chunk, 96]` of `heard [batch, sample]`, each from the zero
    state."""
    mel = torch.from_numpy(mel_of(features.front_end(), heard))
    with torch.autocast("cpu", torch.bfloat16):
        return encoder(mel, encoder.zero_state(len(heard)))[0].float().numpy()
