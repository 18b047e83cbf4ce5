"""`kwsd train cache`: asks the teachers about every utterance once, so that all runs share it.

A teacher's frames are averaged over chunks of 80 ms, projected by PCA layer by layer, and kept in
one byte per number; the code of a chunk is the one in its middle, or the nearest of a k-means
codebook. A voice teacher leaves one vector per speaker, over all their utterances. Targets lie in
`WORK/targets/NAME`: `basis.npz` and parts of several hundred utterances, each written whole, so
that an interrupted run resumes where it stopped. `kwsd.training.data.targets` reads them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from msgspec import field

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.scenes import SHORT_SAMPLES
from kwsd.training.data.targets import SCALE, TeacherError
from kwsd.training.models.teachers import (
    Codebook,
    SpeechEmbedding,
    Teacher,
    Transformer,
    Voice,
    k_means,
)
from kwsd.training.settings import Settings
from kwsd.training.stages.basis import Basis, per_chunk

log = logging.getLogger(__name__)
PART_UTTERANCES = 400
"""Utterances per part."""
BASIS_UTTERANCES = 300
"""Utterances that the basis is fitted to."""
KINDS = ("transformer", "speech_embedding", "encoder", "voice")
"""Kinds of teachers."""


class TeacherSettings(Settings, frozen=True):
    """One teacher of `settings/cache.yaml`."""

    kind: str
    """`transformer`, `speech_embedding`, `encoder` (the speech embedding made robust) or
    `voice`."""
    where: str | None = None
    """A transformer's folder or hub name; an encoder's checkpoint of `finetune`."""
    layers: list[int] = field(default_factory=lambda: [0])
    clusters: int = 0
    """How many means of similar layers replace the layers (SKILL, Zampierin et al. 2024, arXiv
    2402.16830); 0: each layer by itself."""
    window_s: float = 3.0
    """What Whisper gets at least. On words of 1 s its top layer then has a cosine of 0.81 with what
    30 s give (0.61 with the true length), at twice the cost of the latter (30 s: 26 times)."""
    dims: int = 128
    """Numbers per layer after PCA."""
    codes: int = 0
    """Size of the k-means codebook over the projected frames of `codes_layer`; 0: the teacher's own
    quantizer, if it has one."""
    codes_layer: int = 0
    max_s: float = 15.0
    """Longer utterances are cut; a voice teacher gets this much of each speaker."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not among {', '.join(KINDS)}")
        if self.codes and self.codes_layer not in self.layers:
            raise ValueError(
                f"codes_layer: {self.codes_layer} is not among the layers {self.layers}"
            )
        if not 0 <= self.clusters <= len(self.layers):
            raise ValueError(
                f"clusters: {self.clusters} cannot be made of the layers {self.layers}"
            )


def teacher_of(name: str, settings: TeacherSettings) -> Teacher:
    """Return the teacher `name`. Raises TeacherError."""
    match settings.kind:
        case "speech_embedding":
            return SpeechEmbedding(name)
        case "voice":
            return Voice(name)
    if settings.where is None:
        wanted = "a transformer needs the folder or the hub name of its checkpoint"
        if settings.kind == "encoder":
            wanted = "an encoder needs its checkpoint"
        raise TeacherError(f"{name}.where: {wanted}: --set {name}.where=PATH")
    if settings.kind == "encoder":
        return SpeechEmbedding(name, Path(settings.where))
    return Transformer(settings.where, settings.layers, name=name, window_s=settings.window_s)


def cache(
    corpora: Corpora,
    name: str,
    settings: TeacherSettings,
    folder: Path,
    development: bool = False,
) -> None:
    """Ask the teacher `name` about every utterance of the split that holds speech.

    What is in `folder` already is not asked again. Raises TeacherError."""
    teacher = teacher_of(name, settings)
    utterances = [
        utterance
        for utterance in corpora.utterances
        if utterance.development == development
        and not utterance.noise
        and utterance.samples >= CHUNK_SAMPLES
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if settings.kind == "voice":
        _cache_voices(corpora, teacher, utterances, settings, folder)
        return
    basis = _basis(corpora, teacher, utterances, settings, folder / "basis.npz")
    parts = _parts(utterances, folder)
    began = time.monotonic()
    seconds = 0.0
    for n, (path, chosen) in enumerate(parts):
        if path.exists():
            continue
        seconds += _cache_part(corpora, teacher, basis, chosen, settings, path)
        pace = (time.monotonic() - began) / seconds
        log.info("%s: part %d of %d, %.3f s per second of audio", name, n + 1, len(parts), pace)


def _parts(utterances: Sequence[Utterance], folder: Path) -> list[tuple[Path, list[Utterance]]]:
    """Return the files of `folder` and the utterances that each holds: of one store, in order."""
    by_store: dict[str, list[Utterance]] = {}
    for utterance in sorted(utterances, key=lambda u: (u.store, u.start)):
        by_store.setdefault(utterance.store, []).append(utterance)
    return [
        (
            folder / f"part-{store}-{at // PART_UTTERANCES:04d}.npz",
            stored[at : at + PART_UTTERANCES],
        )
        for store, stored in by_store.items()
        for at in range(0, len(stored), PART_UTTERANCES)
    ]


def _cache_part(
    corpora: Corpora,
    teacher: Teacher,
    basis: Basis,
    utterances: Sequence[Utterance],
    settings: TeacherSettings,
    path: Path,
) -> float:
    """Write one part atomically; return the seconds of audio in it."""
    rows = []
    codes = []
    seconds = 0.0
    for utterance in utterances:
        samples, chunks = _cut(corpora, utterance, settings)
        projected = basis.project(_frames(teacher, samples, chunks))
        quantized = np.clip(np.round(SCALE * projected), -127, 127).astype(np.int8)
        rows.append(quantized.transpose(1, 0, 2))
        codes.append(_codes(teacher, basis, settings, samples, projected))
        seconds += len(samples) / SAMPLE_RATE
    keys = np.array([(u.start, len(row)) for u, row in zip(utterances, rows)], np.int64)
    partial = path.with_name(".partial.npz")
    np.savez(
        partial,
        store=utterances[0].store,
        keys=keys,
        frames=np.concatenate(rows),
        codes=np.concatenate(codes),
    )
    partial.rename(path)
    return seconds


def _frames(teacher: Teacher, samples: np.ndarray, chunks: int) -> np.ndarray:
    """Return the teacher's frames per chunk `[layer, chunk, dim]`.

    Products are in bfloat16: 1.6 times as fast on a CPU that has it, and within 0.9995."""
    with torch.autocast("cpu", torch.bfloat16):
        return per_chunk(teacher.frames(samples), teacher.rate_hz, chunks)


def _cut(
    corpora: Corpora, utterance: Utterance, settings: TeacherSettings
) -> tuple[np.ndarray, int]:
    """Return the utterance's samples in whole chunks, and how many chunks."""
    longest = int(settings.max_s * SAMPLE_RATE / CHUNK_SAMPLES)
    chunks = min(utterance.samples // CHUNK_SAMPLES, longest)
    return corpora.read(utterance)[: chunks * CHUNK_SAMPLES], chunks


def _basis(
    corpora: Corpora,
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TeacherSettings,
    path: Path,
) -> Basis:
    """Return the basis in `path`; fit it to some of `utterances` first where there is none."""
    if path.exists():
        return Basis.load(path)
    rng = np.random.default_rng(0)
    frames = []
    for n in rng.permutation(len(utterances))[:BASIS_UTTERANCES]:
        samples, chunks = _cut(corpora, utterances[n], settings)
        frames.append(_frames(teacher, samples, chunks))
    joined = np.concatenate(frames, axis=1)
    basis = Basis.fit(joined, settings.dims, settings.clusters)
    if settings.codes:
        projected = basis.project(joined)[_codes_row(basis, settings)]
        codes = min(settings.codes, len(projected))
        book = k_means(projected, codes, settings.codes_layer)
        basis = replace(basis, codebook=book.vectors)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **vars(basis), groups=teacher.code_groups())
    partial.rename(path)
    log.info(
        "%s: the basis is of %d chunks of %d utterances, %d codes",
        teacher.name,
        joined.shape[1],
        len(frames),
        len(basis.codebook),
    )
    return basis


def _codes_row(basis: Basis, settings: TeacherSettings) -> int:
    """Return the row of the projected frames that the codebook is made of."""
    return int(basis.cluster[settings.layers.index(settings.codes_layer)])


def _codes(
    teacher: Teacher,
    basis: Basis,
    settings: TeacherSettings,
    samples: np.ndarray,
    projected: np.ndarray,
) -> np.ndarray:
    """Return int32 `[chunk]`: of the codebook, else of the teacher's own quantizer; -1 for a
    teacher without either."""
    if len(basis.codebook):
        book = Codebook(basis.codebook, settings.codes_layer)
        return book.nearest(projected[_codes_row(basis, settings)]).astype(np.int32)
    chunks = projected.shape[1]
    try:
        codes = teacher.codes(samples)
    except TeacherError:
        return np.full(chunks, -1, np.int32)
    middle = (np.arange(chunks) + 0.5) * (CHUNK_SAMPLES * teacher.rate_hz / SAMPLE_RATE)
    return codes[np.minimum(middle.astype(int), len(codes) - 1)].astype(np.int32)


def _cache_voices(
    corpora: Corpora,
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TeacherSettings,
    folder: Path,
) -> None:
    """Write `voices.npz`: one vector per speaker, over `max_s` of their utterances."""
    path = folder / "voices.npz"
    if path.exists():
        return
    people: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.person:
            people.setdefault(utterance.person, []).append(utterance)
    rng = np.random.default_rng(0)
    vectors = []
    for n, utterances_of in enumerate(people.values()):
        samples = _speech_of(corpora, utterances_of, int(settings.max_s * SAMPLE_RATE), rng)
        vectors.append(teacher.pooled(samples)[0])
        if n % 200 == 199:
            log.info("%s: %d of %d people", teacher.name, n + 1, len(people))
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, people=np.array(list(people), np.str_), vectors=np.stack(vectors))
    partial.rename(path)


def _speech_of(
    corpora: Corpora, utterances: Sequence[Utterance], most: int, rng: np.random.Generator
) -> np.ndarray:
    """Return up to `most` samples of the speech in `utterances`, joined in random order."""
    parts = []
    length = 0
    for i in rng.permutation(len(utterances)):
        samples = corpora.read(utterances[i])
        begin = 0
        end = len(samples)
        if len(samples) < SHORT_SAMPLES:
            begin, end = speech_span(samples)
        parts.append(samples[begin:end][: most - length])
        length += len(parts[-1])
        if length >= most:
            break
    return np.concatenate(parts)
