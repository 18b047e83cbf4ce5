"""`kwsd train distill`: trains the encoder to predict several teachers' answers to the clean scene
from what a microphone hears of it.

Each teacher has its own projections and weights. Frames: paper A's L1 and cosine, layer by layer.
Utterances: paper B's dual-view cross-correlation of pooled vectors, the teacher's a learned mixture
of its layers; for a voice teacher, the cosine to the speaker's vector. Masked chunks: the teacher's
code, found among the others (paper B). `kwsd.training.losses` names the papers. A causal student
may answer a few chunks late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from msgspec import field
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training import losses
from kwsd.training.data.loading import load
from kwsd.training.data.targets import Targets, TeacherError, Voices, open_targets
from kwsd.training.data.teacher_scenes import (
    Batch,
    Segment,
    TeacherScenes,
    TeacherSceneSettings,
)
from kwsd.training.data.training_data import TrainingData
from kwsd.training.features import INTERMEDIATE_FRAMES
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.models.backbone import Start, channels_last, new_student
from kwsd.training.models.encoder import Encoder
from kwsd.training.settings import Settings


class LossWeights(Settings, frozen=True):
    """What is learned from one teacher, and how much each loss weighs."""

    l1_cosine: float = 0.0
    dual_view: float = 0.0
    codebook: float = 0.0
    voice: float = 0.0
    """Weight of 1 - cosine to the speaker's vector."""
    layers: list[int] | None = None
    """Which of the cached layers; null: all."""
    source: Literal["embedding", "intermediate"] = "embedding"
    """The student's frames that are trained: the embeddings that the wake head reads, or the
    intermediate features that the speaker head reads."""
    delay: int = 0
    """Chunks that the student may hear on before it answers."""
    pooled_dims: int = 32
    """Features of the dual view, the first of the teacher's principal axes: no more than utterances
    in a batch, or the view of features cannot be met."""


class DistillSettings(Settings, frozen=True):
    """The settings of `distill.yaml`."""

    steps: int
    batch: int = 32
    scene_s: float = 4.0
    start: Start = "warm"
    width: float = 1.0
    """Of the encoder's channels; at most 1 for a warm start."""
    separable: bool = False
    rate: float = 4e-4
    """Of the encoder."""
    projection_rate: float = 2e-3
    ramp: float = 0.15
    """Share of the steps in which the learning rates rise."""
    projection_warmup: float = 0.0
    """Share of the steps, the first ones, in which the projections alone learn: a pretrained
    encoder should not be bent toward projections that know nothing yet (Kumar et al. 2022, arXiv
    2202.10054)."""
    centered: bool = True
    """Remove the batch's mean before the dual view; the paper's formula does not."""
    mask_share: float = 0.0
    """Share of the chunks that are masked in the student's input; the code is predicted only
    there."""
    mask_chunks: int = 3
    teachers: dict[str, LossWeights] = field(default_factory=dict)
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50

    def __post_init__(self) -> None:
        for name, weights in self.teachers.items():
            if weights.dual_view and weights.pooled_dims > self.batch:
                raise ValueError(
                    f"teachers.{name}.pooled_dims: {weights.pooled_dims} features of the dual view "
                    f"need as many scenes in a batch; batch is {self.batch}"
                )

    @property
    def scenes(self) -> TeacherSceneSettings:
        """The settings of a batch."""
        return TeacherSceneSettings(self.batch, self.scene_s, self.mask_share, self.mask_chunks)


class ProjectionHead(nn.Module):
    """The projections through which a student answers one teacher; discarded after training."""

    def __init__(
        self,
        weights: LossWeights,
        layers: int,
        dims: int,
        codebook: np.ndarray | None,
        encoder: Encoder,
    ) -> None:
        """The teacher has `layers` of `dims` numbers, and a `codebook [code, dims]` or none."""
        super().__init__()
        self.weights = weights
        self.layers = list(range(layers)) if weights.layers is None else weights.layers
        self.dims = dims
        inputs = encoder.embedding_dim
        if weights.source == "intermediate":
            inputs = encoder.intermediate_dim
        self.frames = nn.Linear(inputs, len(self.layers) * dims) if weights.l1_cosine else None
        self.pooled: nn.Linear | None = None
        if weights.dual_view:
            self.pooled = nn.Linear(inputs, min(weights.pooled_dims, dims))
        elif weights.voice:
            self.pooled = nn.Linear(inputs, dims)
        self.mixture = nn.Parameter(torch.zeros(len(self.layers))) if weights.dual_view else None
        book = torch.zeros(0, dims) if codebook is None else torch.from_numpy(codebook)
        if weights.codebook and not len(book):
            raise TeacherError(
                "a teacher without codes cannot teach them: set its `codes` in `kwsd train cache`, "
                "or its codebook to 0"
            )
        self.code = nn.Linear(inputs, book.shape[1]) if weights.codebook else None
        self.codebook: Tensor
        self.register_buffer("codebook", book, persistent=False)

    def forward(
        self, embedding: Tensor, intermediate: Tensor, batch: Batch, name: str, centered: bool
    ) -> dict[str, Tensor]:
        """Return the losses of the teacher `name`, unweighted, and the raw parts of the dual view
        (`raw_…`), which weigh nothing.

        `embedding [batch, chunk, dim]`; `intermediate [batch, chunk, dim]`, averaged over
        chunks."""
        x = embedding if self.weights.source == "embedding" else intermediate
        if name in batch.voices:
            return {"voice": self._voice_loss(x, batch, name)}
        delay = self.weights.delay
        frames = batch.frames[name][:, :, self.layers]
        codes = batch.codes[name]
        if delay:
            frames = F.pad(frames, (0, 0, 0, 0, delay, 0))[:, :-delay]
            codes = F.pad(codes, (delay, 0), value=-1)[:, :-delay]
        found: dict[str, Tensor] = {}
        if self.frames is not None:
            found["l1_cosine"] = self._frame_loss(x, frames)
        if self.weights.dual_view:
            views = self._dual_view(x, batch, name, centered)
            found["dual_view"] = views.loss
            found["raw_feature_view"] = views.feature.detach()
            found["raw_batch_view"] = views.batch.detach()
        if self.code is not None:
            masked = batch.masked
            if delay:
                masked = F.pad(masked, (delay, 0))[:, : masked.shape[1]]
            asked = (codes >= 0) & (masked if batch.masked.any() else torch.ones_like(masked))
            if asked.any():
                predicted = self.code(x[asked])
                found["codebook"] = losses.codebook_contrast(predicted, codes[asked], self.codebook)
        return found

    def _voice_loss(self, x: Tensor, batch: Batch, name: str) -> Tensor:
        """Return the mean of 1 - cosine over the segments whose speaker is known."""
        assert self.pooled is not None
        vectors = batch.voices[name]
        known = vectors.abs().sum(1) > 0
        cosine = F.cosine_similarity(self.pooled(_pool(x, batch.segments)), vectors)
        return ((1 - cosine) * known).sum() / known.sum().clamp(min=1)

    def _frame_loss(self, x: Tensor, frames: Tensor) -> Tensor:
        """Return L1 and cosine to `frames [batch, chunk, layer, dims]`, summed over layers."""
        assert self.frames is not None
        inside = (frames.abs().sum((2, 3)) > 0).float()
        answers = self.frames(x).unflatten(2, (len(self.layers), self.dims))
        by_layer = [
            losses.l1_cosine(answers[:, :, n], frames[:, :, n], inside)
            for n in range(len(self.layers))
        ]
        return torch.stack(by_layer).sum()

    def _dual_view(self, x: Tensor, batch: Batch, name: str, centered: bool) -> losses.DualView:
        """Return the dual view of the pooled segments."""
        assert self.pooled is not None
        assert self.mixture is not None
        layers = _pool(batch.frames[name][:, :, self.layers], batch.segments)
        mixed = (torch.softmax(self.mixture, 0)[:, None] * layers).sum(1)
        answers = self.pooled(_pool(x, batch.segments))
        mixed = mixed[:, : answers.shape[1]]
        return losses.dual_view(answers, mixed, centered=centered)


def _pool(x: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Return the mean over each segment of `x [batch, chunk, …]`: `[segment, …]`."""
    return torch.stack([x[s.row, s.begin : s.end].mean(0) for s in segments])


class Distiller(nn.Module):
    """The encoder, and a projection head for each of its teachers."""

    def __init__(
        self,
        settings: DistillSettings,
        targets: Mapping[str, Targets],
        voices: Mapping[str, Voices],
        encoder: Encoder,
    ) -> None:
        """`targets` and `voices` are the teachers' cached answers, by name."""
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projections = nn.ModuleDict()
        for name, weights in settings.teachers.items():
            if name in voices:
                head = ProjectionHead(weights, 1, voices[name].dims, None, encoder)
            else:
                cached = targets[name]
                head = ProjectionHead(weights, cached.layers, cached.dims, cached.codebook, encoder)
            self.projections[name] = head

    def forward(self, batch: Batch, train_encoder: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its parts by `teacher.part`.

        Without `train_encoder` only the projections get gradients."""
        mel = batch.mel
        with (
            torch.autocast(mel.device.type, torch.bfloat16),
            torch.set_grad_enabled(train_encoder),
        ):
            embedding, intermediate, _ = self.encoder(mel, self.encoder.zero_state(len(mel)))
        embedding = embedding.float()
        intermediate = intermediate.float().unflatten(1, (-1, INTERMEDIATE_FRAMES)).mean(2)
        total = embedding.new_zeros(())
        parts: dict[str, Tensor] = {}
        for name, head in self.projections.items():
            found = head(embedding, intermediate, batch, name, self.settings.centered)
            for part, loss in found.items():
                parts[f"{name}.{part}"] = loss.detach()
                if not part.startswith("raw_"):
                    total = total + getattr(self.settings.teachers[name], part) * loss
        return total, parts


def train(data: TrainingData, targets: Path, out: Path, settings: DistillSettings) -> None:
    """Train through the checkpoint `out`, which holds the encoder and the projections.

    `targets` is the folder of the teachers' cached answers. Raises TeacherError."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        cached, voices = open_targets(targets, settings.teachers)
        encoder = new_student(settings.start, settings.width, settings.separable, data.corpora())
        distiller = Distiller(settings, cached, voices, encoder).to(here.device).train()
        channels_last(distiller.encoder)
        parts = {"encoder": distiller.encoder, "projections": distiller.projections}
        groups = [
            Group(distiller.encoder.parameters(), settings.rate),
            Group(distiller.projections.parameters(), settings.projection_rate),
        ]
        loop_settings = LoopSettings(
            settings.steps,
            settings.ramp,
            weight_decay=1e-3,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        )
        loop = Loop(out, parts, groups, loop_settings, here, run=settings)
        model = here.share(distiller)
        seed = here.seed(settings.seed, loop.first)
        scenes = TeacherScenes(data, targets, settings.teachers, settings.scenes, seed)
        batches = load(scenes, scenes.prepare, here.device)
        warmup = settings.projection_warmup * settings.steps

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            yield model(next(batches), n >= warmup)

        loop.run(step)
