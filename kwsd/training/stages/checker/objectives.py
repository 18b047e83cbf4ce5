"""What the second stage's student learns of its teacher: the layers themselves, as paper A has it,
and paper B's dual view and codebook. `kwsd.training.losses` names the papers.

Layers are compared on coordinates that are standardized over the teacher's frames: a few of them
are a hundred times as large as the others, and would be all that counts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training import losses
from kwsd.training.data import augment
from kwsd.training.data.targets import codes_that_occur
from kwsd.training.data.windows import WindowPair
from kwsd.training.models.pretrained import Pretrained
from kwsd.training.models.teachers import Codebook, k_means
from kwsd.training.models.transformer import MelStem, Transformer

HOP_SAMPLES = 160
"""From one frame of mel bels to the next; two of them are a frame of the transformers."""
BANDS = 80
"""Of masks where the student hears the waveform."""


class Standardized(nn.Module):
    """Paper A's loss between layers of two transformers, on the teacher's standardized
    coordinates."""

    def __init__(
        self,
        layers: list[int],
        dim: int,
        own_layers: list[int] | None = None,
        own_dim: int | None = None,
    ) -> None:
        """`layers` of the teacher, of width `dim`, are compared with `own_layers` of the student
        (default: the same), which is projected where its width `own_dim` is another; statistics
        come by `fit` or with a checkpoint."""
        super().__init__()
        self.layers = layers
        self.own_layers = own_layers or layers
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(len(layers), dim))
        self.register_buffer("scale", torch.ones(len(layers), dim))
        self.projections: nn.ModuleList | None = None
        if own_dim not in (None, dim):
            self.projections = nn.ModuleList(nn.Linear(own_dim, dim) for _ in layers)

    @classmethod
    def between(cls, layers: list[int], teacher: Transformer, student: Transformer) -> Standardized:
        """Return the loss between `layers` of `teacher` and the layers of `student` at the same
        share of its depth."""
        share = len(student.blocks) / len(teacher.blocks)
        own_layers = [max(round(layer * share), min(layer, 1)) for layer in layers]
        return cls(layers, teacher.dim, own_layers, student.dim)

    @torch.no_grad()
    def fit(self, hidden: list[Tensor]) -> None:
        """Take the mean and deviation of each coordinate of the teacher's layers."""
        for n, layer in enumerate(self.layers):
            frames = hidden[layer].flatten(0, 1)
            self.mean[n] = frames.mean(0)
            self.scale[n] = 1 / frames.std(0).clamp(min=1e-6)

    @torch.no_grad()
    def targets(self, hidden: list[Tensor]) -> Tensor:
        """Return the teacher's standardized layers `[batch, layer, frame, dim]`."""
        layers = [self._scaled(hidden[layer], n) for n, layer in enumerate(self.layers)]
        return torch.stack(layers, 1)

    def own(self, hidden: list[Tensor]) -> list[Tensor]:
        """Return the student's layers, `[batch, frame, own_dim]` each; standardized where they are
        as wide as the teacher's, whose coordinates they then have."""
        own = [hidden[layer] for layer in self.own_layers]
        if self.projections is None:
            return [self._scaled(layer, n) for n, layer in enumerate(own)]
        return [layer.float() for layer in own]

    def answers(self, hidden: list[Tensor]) -> list[Tensor]:
        """Return the student's layers on the teacher's coordinates, `[batch, frame, dim]` each."""
        own = self.own(hidden)
        if self.projections is None:
            return own
        return [project(layer) for project, layer in zip(self.projections, own, strict=True)]

    def _scaled(self, layer: Tensor, n: int) -> Tensor:
        return (layer.float() - self.mean[n]) * self.scale[n]

    def forward(self, student: list[Tensor], targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, the mean over layers, and the cosine of each layer."""
        parts = []
        cosines = []
        for own, target in zip(self.answers(student), targets.unbind(1), strict=True):
            parts.append(losses.l1_cosine(own, target))
            cosines.append(F.cosine_similarity(own, target, dim=-1).mean().detach())
        return torch.stack(parts).mean(), cosines


class PooledView(nn.Module):
    """Paper B's dual view of windows: the mean over a student's frames against a learned mixture of
    the means of the teacher's layers.

    All layers go onto the same axes, so that a mixture of projected layers is the projection of
    their mixture."""

    def __init__(self, layers: int, dim: int, own_dim: int, dims: int) -> None:
        """`dims` features are compared; axes come by `fit` or with a checkpoint."""
        super().__init__()
        self.mixture = nn.Parameter(torch.zeros(layers))
        self.project = nn.Linear(own_dim, dims)
        self.axes: Tensor
        self.register_buffer("axes", torch.zeros(dim, dims))

    @torch.no_grad()
    def fit(self, layers: Tensor) -> None:
        """Take the directions in which the means of windows differ most, of the teacher's `layers
        [window, layer, frame, dim]`. Raises ValueError where they differ in fewer."""
        pooled = layers.mean(2)
        directions = torch.linalg.svd((pooled - pooled.mean(0)).flatten(0, 1), full_matrices=False)
        dims = self.axes.shape[1]
        if len(directions.Vh) < dims:
            raise ValueError(
                f"pooled_dims: {len(pooled)} windows of a teacher of width {len(self.axes)} have "
                f"no {dims} features; lower it, or raise thin_windows"
            )
        self.axes.copy_(directions.Vh[:dims].T)

    def forward(self, own: Tensor, layers: Tensor) -> losses.DualView:
        """Return the dual view of the student's frames `own [batch, frame, dim]` and the teacher's
        `layers [batch, layer, frame, dim]`."""
        pooled = layers.mean(2) @ self.axes
        mixed = (torch.softmax(self.mixture, 0)[:, None] * pooled).sum(1)
        return losses.dual_view(self.project(own.mean(1)), mixed)


class MaskedCodes(nn.Module):
    """Paper B's codebook: of masked frames the student tells the teacher's code, among those that
    occur in the batch.

    Codes are those of the teacher's own quantizer (wav2vec 2.0), else of k-means over one of its
    standardized layers."""

    def __init__(
        self, teacher: Pretrained, layers: list[int], layer: int, codes: int, own_dim: int
    ) -> None:
        """`layers` of the teacher are compared; `layer` of them is divided into `codes`, which come
        by `fit` or with a checkpoint, unless it has a quantizer."""
        super().__init__()
        self.row = layers.index(layer)
        self.layer = layer
        groups = torch.zeros(1, codes, teacher.network.dim)
        self.has_quantizer = teacher.quantizer is not None
        if self.has_quantizer:
            groups = torch.from_numpy(teacher.code_groups())
        self.groups: Tensor
        self.register_buffer("groups", groups)
        self.predict = nn.Linear(own_dim, len(groups) * groups.shape[2])

    def fit(self, layers: Tensor) -> None:
        """Divide the frames of the teacher's `layers [window, layer, frame, dim]`. Raises
        TeacherError where there are fewer frames than codes."""
        if not self.has_quantizer:
            frames = layers[:, self.row].flatten(0, 1).cpu().numpy()
            book = k_means(frames, self.groups.shape[1], self.layer)
            self.groups.copy_(torch.from_numpy(book.vectors)[None])

    @torch.no_grad()
    def codes(self, teacher: Pretrained, inputs: Tensor, layers: Tensor) -> Tensor:
        """Return the codes of clean windows, int64 `[batch, frame]`: of the teacher's `inputs`, or
        of its `layers`."""
        if self.has_quantizer:
            return teacher.codes(inputs)
        frames = layers[:, self.row]
        book = Codebook(self.groups[0].cpu().numpy(), self.layer)
        nearest = book.nearest(frames.flatten(0, 1).cpu().numpy())
        return torch.from_numpy(nearest).view(frames.shape[:2]).to(inputs.device)

    def forward(self, own: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
        """Return the contrastive loss of the frames `own [batch, frame, dim]` that are `masked
        [batch, frame]`."""
        numbered, vectors = codes_that_occur(codes.cpu().numpy(), self.groups.cpu().numpy())
        asked = torch.from_numpy(numbered.reshape(codes.shape)).to(own.device)[masked]
        book = torch.from_numpy(vectors).to(own.device)
        return losses.codebook_contrast(self.predict(own[masked]), asked, book)


def masked_inputs(student: Transformer, pair: WindowPair, waveform: bool) -> tuple[Tensor, Tensor]:
    """Return the input of `student` for what is heard of a batch, with SpecAugment's masks, and
    which frames they touch, bool `[batch, frame]`.

    Of a waveform only the masks over time are cut out, and only where `waveform` says so."""
    stem = student.stem
    bands = stem.filters.shape[1] if isinstance(stem, MelStem) else BANDS
    heard = pair.heard
    frames = (heard.shape[1] - MelStem.shortest) // HOP_SAMPLES + 1
    drawn = [
        augment.draw_masks(frames, bands, np.random.default_rng([*seed, 0])) for seed in pair.seeds
    ]
    spans = torch.zeros(len(heard), frames, dtype=torch.bool, device=heard.device)
    for row, masks in zip(spans, drawn, strict=True):
        for axis, begin, end in masks:
            if axis == 0:
                row[begin:end] = True
    if student.kind == "waveform" and waveform:
        cut = spans.repeat_interleave(HOP_SAMPLES, 1)
        heard = heard.masked_fill(F.pad(cut, (0, heard.shape[1] - cut.shape[1])), 0)
    inputs = student.inputs(heard)
    if student.kind == "mel":
        for one, masks in zip(inputs, drawn, strict=True):
            augment.mask(one, masks)
    return inputs, torch.unflatten(spans, 1, (-1, 2)).any(2)
