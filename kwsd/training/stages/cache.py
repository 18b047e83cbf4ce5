"""`kwsd train cache`: what the teachers say of every clip, once, so that all runs share it.

A teacher's frames are averaged over chunks of 80 ms, projected by PCA layer by layer, and kept a byte a number; its codes are those of
most frames of a chunk. A voice is one vector a speaker, over all their clips. Targets lie in `WORK/targets/NAME`: `basis.npz` and a part
for every so many clips, each written whole, so that a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from kwsd.audio.speech_span import speech_span
from kwsd.training.data.corpora import RATE, Clip, Corpora
from kwsd.training.data.scenes import CHUNK
from kwsd.training.models.teachers import Codebook, SpeechEmbedding, Teacher, TeacherError, Transformer, Voice, k_means

log = logging.getLogger(__name__)
PART_CLIPS = 400
KINDS = ("transformer", "speech_embedding", "encoder", "voice")


@dataclass(frozen=True)
class TeacherSettings:
    """One teacher of `settings/cache.yaml`."""

    kind: str
    """transformer, speech_embedding, encoder (the speech embedding made robust) or voice."""
    where: str | None = None
    """Of a transformer: a folder, or a hub name; of an encoder: a checkpoint of `finetune`."""
    layers: list[int] = field(default_factory=lambda: [0])
    clusters: int = 0
    """Of the layers, as many means of layers alike take their place (SKILL, Zampierin et al. 2024, arXiv 2402.16830); 0: each by itself."""
    window_s: float = 3.0
    """Whisper sees at least so much. On words of 1 s its top layer then has a cosine of 0.81 with what 30 s give (0.61 on the true
    length), at twice the cost of the latter (30 s: 26 times)."""
    dims: int = 128
    """Of each layer, after PCA."""
    codes: int = 0
    """Size of the k-means codebook over the projected frames of `codes_layer`; 0 for the teacher's own quantiser, if it has one."""
    codes_layer: int = 0
    most_s: float = 15.0
    """Longer clips are cut."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TeacherError(f"kind: {self.kind!r} is not among {', '.join(KINDS)}")
        if self.codes and self.codes_layer not in self.layers:
            raise TeacherError(f"codes_layer: {self.codes_layer} is not among the layers {self.layers}")
        if not 0 <= self.clusters <= len(self.layers):
            raise TeacherError(f"clusters: {self.clusters} cannot be made of the layers {self.layers}")


def teacher_of(name: str, settings: TeacherSettings) -> Teacher:
    """Raises TeacherError."""
    match settings.kind:
        case "speech_embedding":
            return SpeechEmbedding(name)
        case "voice":
            return Voice(name)
    if settings.where is None:
        wanted = "an encoder needs its checkpoint" if settings.kind == "encoder" else "a transformer needs the folder or the hub name of its checkpoint"
        raise TeacherError(f"{name}.where: {wanted}: --set {name}.where=PATH")
    if settings.kind == "encoder":
        return SpeechEmbedding(name, Path(settings.where))
    return Transformer(settings.where, settings.layers, name=name, window_s=settings.window_s)


@dataclass(frozen=True)
class Basis:
    """How frames are projected: per layer, the mean and the directions of most variance of the teacher's chunks."""

    mean: np.ndarray
    """float32 `[layer, dim]`"""
    axes: np.ndarray
    """float32 `[layer, dim, dims]`: scaled, so that the chunks it was fitted to have unit variance on average over `dims`."""
    codebook: np.ndarray
    """float32 `[code, dims]`; `[0, dims]` where there is none."""
    cluster: np.ndarray
    """int64 `[layer]`: to which mean each of the teacher's layers belongs; layers and means are as many where there are no clusters."""

    @classmethod
    def fit(cls, chunks: np.ndarray, dims: int, clusters: int = 0) -> Basis:
        """Of chunks `[layer, chunk, dim]`."""
        cluster = cluster_layers(chunks, clusters) if clusters else np.arange(len(chunks))
        chunks = cluster_means(chunks, cluster)
        means, axes = chunks.mean(axis=1), []
        for layer, mean in zip(chunks, means):
            variances, directions = np.linalg.eigh(np.cov((layer - mean).T.astype(np.float64)).reshape(layer.shape[1], -1))
            kept = directions[:, ::-1][:, :dims]
            axes.append(kept / np.sqrt(variances[::-1][:dims].mean()))
        return cls(means.astype(np.float32), np.stack(axes).astype(np.float32), np.zeros((0, min(dims, chunks.shape[2])), np.float32), cluster)

    def project(self, chunks: np.ndarray) -> np.ndarray:
        """`[layer, chunk, dim]` to float32 `[layer or cluster, chunk, dims]`."""
        return np.einsum("lcd,ldk->lck", cluster_means(chunks, self.cluster) - self.mean[:, None], self.axes)


def cluster_layers(chunks: np.ndarray, clusters: int) -> np.ndarray:
    """int64 `[layer]`: neighbouring layers `[layer, chunk, dim]` joined, the most alike first, until so many clusters are left.

    Likeness is linear CKA (Kornblith et al. 2019, arXiv 1905.00414), of clusters the mean over their layers."""
    centred = chunks - chunks.mean(axis=1, keepdims=True)
    grams = [[np.linalg.norm(a.T @ b) ** 2 for b in centred] for a in centred]
    alike = np.array([[grams[i][j] / np.sqrt(grams[i][i] * grams[j][j]) for j in range(len(chunks))] for i in range(len(chunks))])
    groups = [[n] for n in range(len(chunks))]
    while len(groups) > clusters:
        at = int(np.argmax([alike[np.ix_(a, b)].mean() for a, b in pairwise(groups)]))
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return np.concatenate([np.full(len(group), n) for n, group in enumerate(groups)])


def cluster_means(chunks: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """`[layer, chunk, dim]` to `[cluster, chunk, dim]`."""
    return np.stack([chunks[cluster == n].mean(axis=0) for n in range(cluster.max() + 1)])


SCALE = 24.0
"""Of a projected number to a byte: five standard deviations fit."""


def per_chunk(frames: np.ndarray, rate_hz: float, chunks: int) -> np.ndarray:
    """Frames `[layer, frame, dim]` averaged over chunks of 80 ms: `[layer, chunk, dim]`; the last frame stands for what is missing."""
    edges = np.arange(chunks + 1) * CHUNK / RATE * rate_hz
    sums = np.cumsum(np.pad(frames, ((0, 0), (1, max(int(np.ceil(edges[-1])) - frames.shape[1], 0)), (0, 0)), mode="edge"), axis=1, dtype=np.float64)
    sums -= sums[:, :1]
    first = np.floor(edges[:-1]).astype(int)
    last = np.maximum(np.floor(edges[1:]).astype(int), first + 1)
    return np.asarray((sums[:, last] - sums[:, first]) / (last - first)[:, None], np.float32)


def cache(corpora: Corpora, name: str, settings: TeacherSettings, folder: Path, development: bool = False) -> None:
    """Ask the teacher `name` about every clip of the split that holds speech, resuming where a run was cut off."""
    teacher = teacher_of(name, settings)
    clips = [c for c in corpora.clips if c.development == development and not c.noise and c.samples >= CHUNK]
    folder.mkdir(parents=True, exist_ok=True)
    if settings.kind == "voice":
        _cache_voices(corpora, teacher, clips, settings, folder)
        return
    basis = _basis(corpora, teacher, clips, settings, folder / "basis.npz")
    by_store: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda c: (c.store, c.start)):
        by_store.setdefault(clip.store, []).append(clip)
    parts = [(folder / f"part-{store}-{at // PART_CLIPS:04d}.npz", own[at : at + PART_CLIPS])
             for store, own in by_store.items() for at in range(0, len(own), PART_CLIPS)]  # fmt: skip
    began, seconds = time.monotonic(), 0.0
    for n, (path, chosen) in enumerate(parts):
        if path.exists():
            continue
        rows, codes = [], []
        for clip in chosen:
            samples, chunks = _cut(corpora, clip, settings)
            projected = basis.project(_heard(teacher, samples, chunks))
            rows.append(np.clip(np.round(SCALE * projected), -127, 127).astype(np.int8).transpose(1, 0, 2))
            codes.append(_codes(teacher, basis, settings, samples, projected))
            seconds += len(samples) / RATE
        keys = np.array([(c.start, len(r)) for c, r in zip(chosen, rows)], np.int64)
        partial = folder / ".partial.npz"
        np.savez(partial, store=chosen[0].store, keys=keys, frames=np.concatenate(rows), codes=np.concatenate(codes))
        partial.rename(path)
        pace = (time.monotonic() - began) / seconds
        log.info("%s: part %d of %d, %.3f s a second of audio", name, n + 1, len(parts), pace)


def _heard(teacher: Teacher, samples: np.ndarray, chunks: int) -> np.ndarray:
    """The teacher's frames per chunk `[layer, chunk, dim]`, its products in bfloat16: 1.6 times as fast on a CPU that knows them, and within 0.9995."""
    with torch.autocast("cpu", torch.bfloat16):
        return per_chunk(teacher.frames(samples), teacher.rate_hz, chunks)


def _cut(corpora: Corpora, clip: Clip, settings: TeacherSettings) -> tuple[np.ndarray, int]:
    """The clip's samples in whole chunks, and how many."""
    chunks = min(clip.samples // CHUNK, int(settings.most_s * RATE / CHUNK))
    return corpora.read(clip)[: chunks * CHUNK], chunks


def _basis(corpora: Corpora, teacher: Teacher, clips: Sequence[Clip], settings: TeacherSettings, path: Path, sample: int = 300) -> Basis:
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return Basis(kept["mean"], kept["axes"], kept["codebook"], kept["cluster"])
    rng = np.random.default_rng(0)
    heard = []
    for n in rng.permutation(len(clips))[:sample]:
        samples, chunks = _cut(corpora, clips[n], settings)
        heard.append(_heard(teacher, samples, chunks))
    chunks_of_all = np.concatenate(heard, axis=1)
    basis = Basis.fit(chunks_of_all, settings.dims, settings.clusters)
    if settings.codes:
        projected = basis.project(chunks_of_all)[basis.cluster[settings.layers.index(settings.codes_layer)]]
        basis = replace(basis, codebook=k_means(projected, min(settings.codes, len(projected)), settings.codes_layer).vectors)
    np.savez(path.with_suffix(".partial.npz"), mean=basis.mean, axes=basis.axes, codebook=basis.codebook, cluster=basis.cluster)
    path.with_suffix(".partial.npz").rename(path)
    log.info("%s: %d chunks of %d clips give the basis, %d codes", teacher.name, chunks_of_all.shape[1], len(heard), len(basis.codebook))
    return basis


def _codes(teacher: Teacher, basis: Basis, settings: TeacherSettings, samples: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """int32 `[chunk]`; -1 of a teacher without a codebook."""
    if len(basis.codebook):
        return Codebook(basis.codebook, settings.codes_layer).nearest(projected[basis.cluster[settings.layers.index(settings.codes_layer)]]).astype(np.int32)
    chunks = projected.shape[1]
    try:
        own = teacher.codes(samples)
    except TeacherError:
        return np.full(chunks, -1, np.int32)
    at = np.minimum(((np.arange(chunks) + 0.5) * (CHUNK * teacher.rate_hz / RATE)).astype(int), len(own) - 1)
    return own[at].astype(np.int32)


def _cache_voices(corpora: Corpora, teacher: Teacher, clips: Sequence[Clip], settings: TeacherSettings, folder: Path) -> None:
    """One vector a speaker over `most_s` of their clips: `voices.npz`."""
    path = folder / "voices.npz"
    if path.exists():
        return
    people: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.person:
            people.setdefault(clip.person, []).append(clip)
    rng, vectors = np.random.default_rng(0), []
    for n, own in enumerate(people.values()):
        parts, have = [], 0
        for i in rng.permutation(len(own)):
            samples = corpora.read(own[i])
            begin, end = speech_span(samples) if len(samples) < 48000 else (0, len(samples))
            parts.append(samples[begin:end][: int(settings.most_s * RATE) - have])
            have += len(parts[-1])
            if have >= settings.most_s * RATE:
                break
        vectors.append(teacher.pooled(np.concatenate(parts))[0])
        if n % 200 == 199:
            log.info("%s: %d of %d people", teacher.name, n + 1, len(people))
    np.savez(path.with_suffix(".partial.npz"), people=np.array(list(people), np.str_), vectors=np.stack(vectors))
    path.with_suffix(".partial.npz").rename(path)


class Voices:
    """What `cache` has written of a voice teacher: one vector a speaker, centred over the speakers."""

    def __init__(self, folder: Path) -> None:
        """Raises TeacherError where there is nothing."""
        self._folder = folder
        if not (folder / "voices.npz").exists():
            raise TeacherError(f"{folder}: holds no voices; run `kwsd train cache --only {folder.name}` first")
        with np.load(folder / "voices.npz", allow_pickle=False) as kept:
            vectors = kept["vectors"] - kept["vectors"].mean(axis=0)
            self.of = dict(zip(kept["people"].tolist(), vectors.astype(np.float32)))
        self.dims = vectors.shape[1]

    def matrix(self, people: Iterable[str]) -> np.ndarray:
        """float32 `[person, dim]` of unit length. Raises TeacherError where one was not cached."""
        missing = [who for who in people if who not in self.of]
        if missing:
            raise TeacherError(
                f"{self._folder / 'voices.npz'} does not know {missing[0]} and {len(missing) - 1} others; remove it and run `kwsd train cache` again"
            )
        vectors = np.stack([self.of[who] for who in people])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Targets:
    """What `cache` has written of a teacher with frames: `of(clip)`."""

    def __init__(self, folder: Path) -> None:
        """Raises TeacherError where there is nothing, or not all of it."""
        parts = sorted(folder.glob("part-*.npz"))
        if not parts or not (folder / "basis.npz").exists():
            raise TeacherError(f"{folder}: holds no targets; run `kwsd train cache` first")
        with np.load(folder / "basis.npz", allow_pickle=False) as kept:
            self.codebook = kept["codebook"]
        frames, codes, self._at, position = [], [], dict[tuple[str, int], tuple[int, int]](), 0
        for part in parts:
            with np.load(part, allow_pickle=False) as kept:
                store = str(kept["store"])
                for start, chunks in kept["keys"].tolist():
                    self._at[store, start] = position, position + chunks
                    position += chunks
                frames.append(kept["frames"])
                codes.append(kept["codes"])
        self._frames, self._codes = np.concatenate(frames), np.concatenate(codes)
        self.layers, self.dims = self._frames.shape[1:]

    def __contains__(self, clip: Clip) -> bool:
        return (clip.store, clip.start) in self._at

    def of(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """float32 `[layer, chunk, dims]` of the clip's chunks, and its codes int64 `[chunk]`. Raises KeyError."""
        begin, end = self._at[clip.store, clip.start]
        return self._frames[begin:end].transpose(1, 0, 2).astype(np.float32) / SCALE, self._codes[begin:end].astype(np.int64)

    @cached_property
    def clips(self) -> int:
        return len(self._at)
