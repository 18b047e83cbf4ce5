"""`kwsd train distill`: the encoder learns what several teachers say of the clean take, from what a microphone makes of it.

Each teacher has its own projections and weights. Frames: paper A's L1 and cosine, layer by layer. Utterances: paper B's dual-view
cross-correlation of pooled vectors, the teacher's a learned mixture of its layers; a voice teacher's one vector a speaker. Masked
chunks: the teacher's code, found among the others (paper B). A causal student may answer a few chunks late.

`torchrun --nproc-per-node N -m kwsd train distill …` runs it on N devices; each draws batches of its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.training import losses as objectives
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import Clip, Corpora
from kwsd.training.data.loading import load, worker_seed
from kwsd.training.data.scenes import CHUNK, Scenes
from kwsd.training.models.backbone import Start, channels_last, new_student, student_features
from kwsd.training.models.checkpoint import resume, save
from kwsd.training.models.network import STRIDE_FRAMES, TAP_FRAMES, Encoder
from kwsd.training.models.speech_embedding import front_end
from kwsd.training.models.teachers import TeacherError
from kwsd.training.stages.cache import Targets, Voices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """What is learnt from one teacher, and how much each part weighs."""

    l1_cosine: float = 0.0
    dual_view: float = 0.0
    codebook: float = 0.0
    voice: float = 0.0
    """1 - cosine to the speaker's own vector."""
    layers: list[int] | None = None
    """Which of the cached layers; null: all."""
    source: Literal["embedding", "tap"] = "embedding"
    """What answers: the frames that words are told from, or the first pooled layer, which knows voices."""
    delay: int = 0
    """Chunks that the student may hear on before it answers."""


@dataclass(frozen=True)
class Settings:
    steps: int
    batch: int = 32
    scene_s: float = 4.0
    start: Start = "warm"
    width: float = 1.0
    """Of the encoder's channels; at most 1 of a warm one."""
    separable: bool = False
    rate: float = 4e-4
    projection_rate: float = 2e-3
    ramp: float = 0.15
    settle: float = 0.0
    """Share of the steps, the first ones, in which the answers alone learn: a pretrained encoder is not to be bent towards answers that know
    nothing yet (Kumar et al. 2022, arXiv 2202.10054)."""
    centred: bool = True
    """Take the batch's mean off before the dual view; the paper's formula does not."""
    mask_share: float = 0.0
    """Of the chunks, that are masked in the student's input; the codebook is asked for there alone."""
    mask_chunks: int = 3
    teachers: dict[str, Lesson] = field(default_factory=dict)
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50


class Segment(NamedTuple):
    """One clip in a batch."""

    row: int
    begin: int
    """First chunk."""
    end: int


@dataclass
class Batch:
    mel: Tensor
    """`[batch, frame, 32]`, as heard; of a batch that is not prepared yet, the clean scenes `[batch, sample]`."""
    how: Degradation | None
    """What is to become of these."""
    masked: Tensor
    """bool `[batch, chunk]`"""
    segments: list[Segment]
    frames: dict[str, Tensor]
    """By teacher: `[batch, chunk, layer, dims]`, 0 outside of clips."""
    codes: dict[str, Tensor]
    """int64 `[batch, chunk]`, -1 outside of clips."""
    voices: dict[str, Tensor]
    """`[segment, dim]`, 0 where the speaker is not known."""

    def to(self, device: torch.device) -> Batch:
        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Batch(
            self.mel.to(device),
            self.how and self.how.to(device),
            self.masked.to(device),
            self.segments,
            moved(self.frames),
            moved(self.codes),
            moved(self.voices),
        )


class Batches(IterableDataset[Batch]):
    """Endless batches of scenes: clips one after the other on the grid of chunks, as heard, with what the teachers say of them."""

    def __init__(self, stores: list[Path], rooms: Path, targets: Path, settings: Settings, seed: int) -> None:
        self.stores, self.rooms, self.targets, self.settings, self.seed = stores, rooms, targets, settings, seed
        self.responses = Rooms(rooms)

    def prepare(self, batch: Batch) -> Batch:
        """What is heard of a drawn batch."""
        assert batch.how is not None
        mel = student_features(augment.degrade(batch.mel, batch.how, self.responses))
        front = front_end()
        mel[batch.masked.repeat_interleave(STRIDE_FRAMES, dim=1)] = front.floor_db * front.scale + front.offset
        return replace(batch, mel=mel, how=None)

    def __iter__(self) -> Iterator[Batch]:
        scenes = Scenes(Corpora(*self.stores), self.rooms, seed=worker_seed(self.seed))
        told, voices = open_targets(self.targets, self.settings)
        clips = [c for c in scenes.corpora.clips if all(c in one for one in told.values()) and not c.development and not c.noise]
        if not clips:
            raise TeacherError(f"{self.targets}: no clip of the training split has targets of all teachers; run `kwsd train cache`")
        by_corpus: dict[str, list[Clip]] = {}
        for clip in clips:
            by_corpus.setdefault(clip.corpus, []).append(clip)
        weights = np.sqrt([len(own) for own in by_corpus.values()])
        pools = list(by_corpus.values())
        while True:
            yield self._draw(scenes, told, voices, pools, weights / weights.sum())

    def _draw(self, scenes: Scenes, told: dict[str, Targets], voices: dict[str, Voices], pools: list[list[Clip]], weights: np.ndarray) -> Batch:
        settings, rng = self.settings, scenes.rng
        chunks, batch = int(settings.scene_s * 16000) // CHUNK, settings.batch
        clean = np.zeros((batch, chunks * CHUNK), np.float32)
        frames = {name: np.zeros((batch, chunks, one.layers, one.dims), np.float32) for name, one in told.items()}
        codes = {name: np.full((batch, chunks), -1, np.int64) for name in told}
        segments: list[Segment] = []
        speakers: list[str] = []
        for row in range(batch):
            at = int(rng.integers(0, 4))
            while at < chunks - 4:
                clip = scenes.pick(pools[rng.choice(len(pools), p=weights)])
                there = min((len(one.of(clip)[1]) for one in told.values()), default=clip.samples // CHUNK)
                length = min(there, chunks - at, int(rng.integers(12, 38)))
                begin = int(rng.integers(0, there - length + 1))
                x = scenes.corpora.read(clip)[begin * CHUNK : (begin + length) * CHUNK]
                clean[row, at * CHUNK : at * CHUNK + len(x)] = augment.gain_to(x, float(rng.normal(-26, 3)))
                for name, one in told.items():
                    said, code = one.of(clip)
                    frames[name][row, at : at + length] = said[:, begin : begin + length].transpose(1, 0, 2)
                    codes[name][row, at : at + length] = code[begin : begin + length]
                segments.append(Segment(row, at, at + length))
                speakers.append(clip.person)
                at += length + int(rng.integers(0, 5))
        how = augment.stack([scenes.degradation(clean.shape[1]) for _ in clean])
        masked = np.zeros((batch, chunks), bool)
        if settings.mask_share:
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            masked = objectives.span_mask(batch, chunks, settings.mask_share, settings.mask_chunks, generator).numpy()
        known = {name: np.stack([one.of.get(who, np.zeros(one.dims, np.float32)) for who in speakers]) for name, one in voices.items()}
        return Batch(
            torch.from_numpy(clean), how, torch.from_numpy(masked), segments, {k: torch.from_numpy(v) for k, v in frames.items()},
            {k: torch.from_numpy(v) for k, v in codes.items()}, {k: torch.from_numpy(v) for k, v in known.items()},
        )  # fmt: skip


def open_targets(folder: Path, settings: Settings) -> tuple[dict[str, Targets], dict[str, Voices]]:
    """What was cached of each teacher: of frames, and of voices. Raises TeacherError."""
    told, voices = dict[str, Targets](), dict[str, Voices]()
    for name in settings.teachers:
        if (folder / name / "voices.npz").exists():
            voices[name] = Voices(folder / name)
        else:
            told[name] = Targets(folder / name)
    return told, voices


class Answers(nn.Module):
    """The projections through which a student answers one teacher; they are thrown away afterwards."""

    def __init__(self, lesson: Lesson, layers: int, dims: int, codebook: np.ndarray | None, encoder: Encoder) -> None:
        super().__init__()
        self.lesson, self.layers, self.dims = lesson, lesson.layers if lesson.layers is not None else list(range(layers)), dims
        inputs = encoder.embedding_dim if lesson.source == "embedding" else encoder.tap_dim
        self.frames = nn.Linear(inputs, len(self.layers) * dims) if lesson.l1_cosine else None
        self.pooled = nn.Linear(inputs, dims) if lesson.dual_view or lesson.voice else None
        self.mixture = nn.Parameter(torch.zeros(len(self.layers))) if lesson.dual_view else None
        self.code = nn.Linear(inputs, dims) if lesson.codebook else None
        self.register_buffer("codebook", torch.from_numpy(codebook) if codebook is not None else torch.zeros(0, dims), persistent=False)

    def forward(self, embedding: Tensor, tap: Tensor, batch: Batch, name: str, centred: bool) -> dict[str, Tensor]:
        """Losses of one teacher, unweighted, and the raw parts of the dual view (`raw_…`), which weigh nothing."""
        x = embedding if self.lesson.source == "embedding" else tap
        losses: dict[str, Tensor] = {}
        if name in batch.voices:
            known = batch.voices[name].abs().sum(1) > 0
            assert self.pooled is not None
            likeness = F.cosine_similarity(self.pooled(self._pool(x, batch.segments)), batch.voices[name])
            losses["voice"] = ((1 - likeness) * known).sum() / known.sum().clamp(min=1)
            return losses
        delay = self.lesson.delay
        frames, codes = batch.frames[name][:, :, self.layers], batch.codes[name]
        if delay:
            frames, codes = F.pad(frames, (0, 0, 0, 0, delay, 0))[:, :-delay], F.pad(codes, (delay, 0), value=-1)[:, :-delay]
        inside = (frames.abs().sum((2, 3)) > 0).float()
        if self.frames is not None:
            said = self.frames(x).unflatten(2, (len(self.layers), self.dims))
            each = [objectives.l1_cosine(said[:, :, n], frames[:, :, n], inside) for n in range(len(self.layers))]
            losses["l1_cosine"] = torch.stack(each).sum()
        if self.lesson.dual_view and self.pooled is not None and self.mixture is not None:
            mixed = (torch.softmax(self.mixture, 0)[:, None] * self._pool(batch.frames[name][:, :, self.layers], batch.segments)).sum(1)
            views = objectives.dual_view(self.pooled(self._pool(x, batch.segments)), mixed, centred=centred)
            losses |= {"dual_view": views.loss, "raw_feature_view": views.feature.detach(), "raw_batch_view": views.batch.detach()}
        if self.code is not None:
            masked = F.pad(batch.masked, (delay, 0))[:, : batch.masked.shape[1]] if delay else batch.masked
            asked = (codes >= 0) & (masked if batch.masked.any() else torch.ones_like(masked))
            if asked.any():
                losses["codebook"] = objectives.codebook_contrast(self.code(x[asked]), codes[asked], self.codebook)  # type: ignore[arg-type]
        return losses

    @staticmethod
    def _pool(x: Tensor, segments: Sequence[Segment]) -> Tensor:
        """The mean over each segment of `[batch, chunk, …]`: `[segment, …]`."""
        return torch.stack([x[s.row, s.begin : s.end].mean(0) for s in segments])


class Distiller(nn.Module):
    """The encoder, and the answers to its teachers."""

    def __init__(self, settings: Settings, told: dict[str, Targets], voices: dict[str, Voices], encoder: Encoder) -> None:
        super().__init__()
        self.settings, self.encoder = settings, encoder
        self.answers = nn.ModuleDict()
        for name, lesson in settings.teachers.items():
            if name in voices:
                self.answers[name] = Answers(lesson, 1, voices[name].dims, None, encoder)
            else:
                self.answers[name] = Answers(lesson, told[name].layers, told[name].dims, told[name].codebook, encoder)

    def forward(self, batch: Batch, settled: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts by `teacher.part`; until it has `settled`, not for the encoder to learn from."""
        with torch.autocast(batch.mel.device.type, torch.bfloat16), torch.set_grad_enabled(settled):
            embedding, tap, _ = self.encoder(batch.mel, self.encoder.zero_state(len(batch.mel)))
        embedding, tap = embedding.float(), tap.float().unflatten(1, (-1, TAP_FRAMES)).mean(2)
        total, parts = embedding.new_zeros(()), dict[str, Tensor]()
        for name, answers in self.answers.items():
            for part, loss in answers(embedding, tap, batch, name, self.settings.centred).items():
                parts[f"{name}.{part}"] = loss.detach()
                if not part.startswith("raw_"):
                    total = total + getattr(self.settings.teachers[name], part) * loss
        return total, parts


@contextmanager
def devices() -> Iterator[tuple[torch.device, int, int]]:
    """This process's device, its rank and how many there are, as torchrun says; one alone without it."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield device, rank, world
    finally:
        if world > 1:
            dist.destroy_process_group()


def train(stores: list[Path], rooms: Path, targets: Path, out: Path, settings: Settings) -> None:
    """Train, resuming from `out` where it exists; `out` holds the encoder, the answers, the optimiser and the step. Raises TeacherError."""
    with devices() as (device, rank, world):
        torch.manual_seed(settings.seed)
        told, voices = open_targets(targets, settings)
        encoder = new_student(settings.start, settings.width, settings.separable, stores)
        distiller = Distiller(settings, told, voices, encoder).to(device).train()
        channels_last(distiller.encoder)
        groups = [{"params": distiller.encoder.parameters(), "lr": settings.rate}, {"params": distiller.answers.parameters(), "lr": settings.projection_rate}]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, [settings.rate, settings.projection_rate], total_steps=settings.steps + 1, pct_start=settings.ramp)  # fmt: skip
        first = resume(out, device, encoder=distiller.encoder, answers=distiller.answers, optimiser=optimiser, schedule=schedule)
        log.info("step %d of %d", first, settings.steps)
        model: nn.Module = distiller if world == 1 else nn.parallel.DistributedDataParallel(distiller, find_unused_parameters=True)
        seed = settings.seed + first * world + rank
        drawn = Batches(stores, rooms, targets, settings, seed)
        batches = load(drawn, drawn.prepare, device)
        began, sums = time.monotonic(), dict[str, float]()
        for step in range(first, settings.steps):
            loss, parts = model(next(batches), step >= settings.settle * settings.steps)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(distiller.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            if rank == 0 and (step + 1) % settings.log_every == 0:
                pace = (time.monotonic() - began) / (step + 1 - first)
                figures = "  ".join(f"{name} {value / settings.log_every:.4f}" for name, value in sums.items())
                log.info("step %d/%d  %s  %.2f s/step  %.0f min left", step + 1, settings.steps, figures, pace, pace * (settings.steps - step - 1) / 60)
                sums.clear()
            if rank == 0 and ((step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps):
                save(out, encoder=distiller.encoder, answers=distiller.answers, optimiser=optimiser, schedule=schedule, step=step + 1)
