"""What a student of a pretrained transformer learns of it, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kwsd.training.loop import Devices
from kwsd.training.losses import MarginSoftmax, pair_contrast
from kwsd.training.models.checker import SpokenHead
from kwsd.training.models.pretrained import Pretrained
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.objectives import MaskedCodes, PooledView, Standardized


class DistillCheckerSettings(Settings, frozen=True):
    """The settings `distill` of `checker.yaml`."""

    steps: int
    """0: the start is the result."""
    heads: int
    """Heads that each block keeps, or has."""
    hidden: int
    """Hidden units that each block keeps, or has."""
    layers: list[int]
    """The teacher's blocks whose output is learned."""
    batch: int = 32
    """Windows of two seconds."""
    harsh: float = 0.6
    """How often the student hears a room (0.5 times), noise (0.8) and a microphone (0.4)."""
    accumulate: int = 1
    """Batches whose gradients one update averages."""
    l1_cosine: float = 1.0
    """Weight of paper A's distance of layers."""
    dual_view: float = 0.0
    """Weight of paper B's dual view of windows."""
    codebook: float = 0.0
    """Weight of the teacher's codes of masked frames (paper B)."""
    pooled_dims: int = 32
    """Features of the dual view: no more than windows in a batch, or the view of features cannot be
    met."""
    codes: int = 320
    """Codes of a teacher without a quantizer of its own, by k-means."""
    codes_layer: int = 4
    """Of `layers`, the one that is divided into them."""
    projection_rate: float = 2e-3
    """Of what is trained beside the student, and discarded after."""
    spoken: float = 0.0
    """Weight of any words, told apart by a head that is discarded after; 0: none are heard."""
    spoken_words: int = 48
    """Words of a batch, two windows of each."""
    spoken_margin: float = 0.15
    spoken_scale: float = 22.0
    frozen_blocks: int = 0
    """Blocks that stay as the student begins, the first ones, with all before them."""
    start: Literal["thin", "fresh", "bundle"] = "thin"
    """`thin`: the teacher's blocks with fewer heads and hidden units; `fresh`: a random transformer
    over log-mel of `blocks` and `dim`; `bundle`: the encoder of the bundle's checker."""
    dim: int = 192
    blocks: int = 3
    views: int = 3
    """How often the student hears a window, in other rooms and noise, for one answer of the
    teacher's: on a CPU the answer takes as long as the student's whole step."""
    thin_windows: int = 384
    """Windows on which the thin blocks are chosen and fitted."""
    rate: float = 6e-4
    ramp: float = 0.1
    mixed_precision: bool = True
    """Multiply in bfloat16 where the device computes in it."""
    validation_windows: int = 96
    """Windows of the store for validation, where there is one."""
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.dual_view and self.pooled_dims > self.batch:
            raise ValueError(
                f"pooled_dims: {self.pooled_dims} features of the dual view need as many windows "
                f"in a batch; batch is {self.batch}"
            )
        if self.codebook and self.codes_layer not in self.layers:
            raise ValueError(
                f"codes_layer: {self.codes_layer} is not among the layers {self.layers}"
            )
        if self.start == "fresh" and self.dim % self.heads:
            raise ValueError(f"dim: {self.dim} cannot be shared by {self.heads} heads")
        if self.steps and not (self.l1_cosine or self.dual_view or self.codebook or self.spoken):
            raise ValueError(
                "l1_cosine, dual_view, codebook and spoken are all 0, so that nothing is learned; "
                "set steps to 0 as well"
            )

    @property
    def beginning(self) -> tuple[object, ...]:
        """What decides the student as it begins, with the teacher and the data."""
        shape = (self.start, self.heads, self.hidden, self.dim, self.blocks)
        return (*shape, tuple(self.layers), self.thin_windows, self.seed)


class Answer(NamedTuple):
    """What a teacher says of a window."""

    layers: Tensor
    """float32 `[layer, frame, dim]`: those that are compared, standardized."""
    codes: Tensor
    """int64 `[frame]`: the code of each frame; none where they are not learned."""


class Distiller(nn.Module):
    """A student, and what it learns of its teacher."""

    def __init__(
        self,
        teacher: Pretrained,
        encoder: Transformer,
        compare: Standardized,
        words: tuple[SpokenHead, MarginSoftmax] | None,
        settings: DistillCheckerSettings,
        here: Devices,
    ) -> None:
        """`compare` compares `encoder` with `teacher`; `words`, a head and its classes, are told
        apart."""
        super().__init__()
        self.encoder = encoder
        self.compare = compare
        self.settings = settings
        self.here = here
        layers = settings.layers
        self.pooled: PooledView | None = None
        if settings.dual_view:
            dim = teacher.network.dim
            self.pooled = PooledView(len(layers), dim, encoder.dim, settings.pooled_dims)
        self.masked: MaskedCodes | None = None
        if settings.codebook:
            self.masked = MaskedCodes(
                teacher, layers, settings.codes_layer, settings.codes, encoder.dim
            )
        spoken, kinds = words or (None, None)
        self.spoken: SpokenHead | None = spoken
        self.kinds: MarginSoftmax | None = kinds

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        return dict(self.named_children())

    @property
    def projections(self) -> list[nn.Parameter]:
        """What is trained beside the student, and discarded after."""
        beside = (part for part in self.parts.values() if part is not self.encoder)
        return [parameter for part in beside for parameter in part.parameters()]

    @torch.no_grad()
    def fit(self, teacher: Pretrained, clean: Tensor) -> None:
        """Fit axes and codes to the answers of `teacher` to the windows `clean`."""
        layers = self.compare.targets(teacher.network(teacher.network.inputs(clean)))
        for part in (self.pooled, self.masked):
            if part is not None:
                part.fit(layers)

    @torch.no_grad()
    def asked(self, teacher: Pretrained, clean: Tensor) -> Iterator[Answer]:
        """Yield what `teacher` says of each of the windows `clean`."""
        inputs = teacher.network.inputs(clean)
        layers = self.compare.targets(teacher.network(inputs))
        codes = torch.zeros(len(clean), 0, dtype=torch.int64, device=clean.device)
        if self.masked is not None:
            codes = self.masked.codes(teacher, inputs, layers)
        for one in zip(layers, codes, strict=True):
            yield Answer(*(part.clone() for part in one))  # or it would keep its whole batch

    def forward(
        self,
        inputs: Tensor,
        layers: Tensor,
        codes: Tensor,
        masked: Tensor,
        kind: Tensor | None = None,
        margin: float = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of what the student says of `inputs`, whose frames are `masked`, against
        the teacher's `layers` and `codes`, and the figures to log. The last of `inputs` are words,
        two windows of each `kind`.

        The dual view itself is always 2 in value, so its raw parts are logged."""
        with self.here.autocast(self.settings.mixed_precision):
            hidden = self.encoder(inputs)
        total = layers.new_zeros(())
        figures: dict[str, Tensor] = {}
        if self.spoken is not None and self.kinds is not None and kind is not None:
            said = [layer[len(layers) :].float() for layer in hidden]
            vectors = self.spoken(self.spoken.last_steps(said))
            contrast, right = pair_contrast(vectors, self.settings.spoken_scale)
            words = self.kinds(vectors, kind, margin) + 0.5 * contrast
            total = total + self.settings.spoken * words
            figures |= {"spoken": words.detach(), "pairs": right}
        hidden = [layer[: len(layers)] for layer in hidden]
        if self.settings.l1_cosine:
            distance, cosines = self.compare(hidden, layers)
            total = total + self.settings.l1_cosine * distance
            names = [f"cosine {layer}" for layer in self.settings.layers]
            figures |= dict(zip(names, cosines, strict=True))
        last = self.compare.own(hidden)[-1]
        if self.pooled is not None:
            views = self.pooled(last, layers)
            total = total + self.settings.dual_view * views.loss
            figures |= {"feature view": views.feature.detach(), "batch view": views.batch.detach()}
        if self.masked is not None:
            contrast = self.masked(last, codes, masked)
            total = total + self.settings.codebook * contrast
            figures["codebook"] = contrast.detach()
        return total, {"loss": total.detach(), **figures}
