"""A student of a pretrained transformer: thinned from it, fresh, or the one that ships, then
distilled on all audio at hand.

The teacher hears the clean window, the student what a microphone in a room hears of it (as in
RobustDistiller, Guimarães et al. 2023, arXiv 2302.09437). What is learned is in
`kwsd.training.stages.checker.objectives`: by default paper A's loss, L1 and log-sigmoid of the
cosine on the output of several blocks (Kerpicci et al. 2022, arXiv 2210.16611); paper B's dual view
and codebook (Yang, Gu et al. 2023, arXiv 2307.02720) may be added, or replace it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.training.data.loading import load
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import REMEMBERED, WINDOW_SAMPLES, Draw, WindowPair, Windows
from kwsd.training.loop import Devices, Group, Loop, LoopSettings, devices
from kwsd.training.models import checkpoint
from kwsd.training.models.pretrained import Pretrained, load_pretrained
from kwsd.training.models.restored import restored
from kwsd.training.models.thinning import thin
from kwsd.training.models.transformer import MelStem, Transformer
from kwsd.training.models.voice_network import mel_filters
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.objectives import (
    BANDS,
    HOP_SAMPLES,
    MaskedCodes,
    PooledView,
    Standardized,
    masked_inputs,
)

log = logging.getLogger(__name__)
FITTED = 128
"""Windows to which statistics, axes and codes are fitted."""


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
        if self.steps and not (self.l1_cosine or self.dual_view or self.codebook):
            raise ValueError(
                "l1_cosine, dual_view and codebook are all 0, so that nothing is learned; "
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
        settings: DistillCheckerSettings,
        here: Devices,
    ) -> None:
        """`compare` compares `encoder` with `teacher`."""
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
        self, inputs: Tensor, layers: Tensor, codes: Tensor, masked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of what the student says of `inputs`, whose frames are `masked`, against
        the teacher's `layers` and `codes`, and the figures to log.

        The dual view itself is always 2 in value, so its raw parts are logged."""
        with self.here.autocast(self.settings.mixed_precision):
            hidden = self.encoder(inputs)
        total = layers.new_zeros(())
        figures: dict[str, Tensor] = {}
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


def train(
    data: TrainingData,
    teacher: str,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path | None = None,
) -> None:
    """Make a student of the transformer `teacher` into `out` beside `.thin.pt` (`.fresh.pt`, or
    that of the `bundle` into `.bundle.pt`), and distill it through the checkpoint `out`, which
    holds the student `encoder`. Raises TeacherError, BundleError, and ConfigError where there is no
    such student in the bundle."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        known = load_pretrained(teacher)
        whole = known.network
        start = out.with_suffix(f".{settings.start}.pt")
        if not start.exists():
            _begin(whole, data, start, settings, bundle)
        for part in (whole, known.quantizer):
            if part is not None:
                part.to(here.device)
        student = checkpoint.load(start, "encoder", Transformer).to(here.device)
        student.train().requires_grad_(True)
        compare = Standardized.between(settings.layers, whole, student).to(here.device)
        compare.load_state_dict(torch.load(start, weights_only=True)["compare"])
        distiller = Distiller(known, student, compare, settings, here).to(here.device)
        loop_settings = LoopSettings(
            settings.steps,
            settings.ramp,
            weight_decay=1e-2,
            accumulate=settings.accumulate,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        )
        groups = [Group(student.parameters(), settings.rate)]
        if distiller.projections:
            groups.append(Group(distiller.projections, settings.projection_rate))
        loop = Loop(out, distiller.parts, groups, loop_settings, here, run=settings)
        if loop.first == 0 and settings.steps and (settings.dual_view or settings.codebook):
            distiller.fit(known, _clean(data, settings)[:FITTED].to(here.device))
        model = here.share(distiller)
        windows = Windows(
            data,
            settings.batch,
            settings.seed,
            settings.views,
            first=loop.first,
            rank=here.rank,
            parts=settings.accumulate,
            harsh=settings.harsh,
        )
        batches = load(windows, windows.prepare, here.device)
        answered: dict[Draw, Answer] = {}

        def step(at: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            for _ in range(settings.accumulate):
                yield part(at)

        def part(at: int) -> tuple[Tensor, Mapping[str, Tensor]]:
            pair: WindowPair = next(batches)
            inputs, masked = masked_inputs(student, pair, bool(settings.codebook))
            new = [k for k, draw in enumerate(pair.draws) if draw not in answered]
            with here.autocast(settings.mixed_precision):
                for k, answer in zip(new, distiller.asked(known, pair.clean[new]), strict=True):
                    answered[pair.draws[k]] = answer
            answers = zip(*(answered[draw] for draw in pair.draws), strict=True)
            layers, codes = (torch.stack(known_part) for known_part in answers)
            for draw in [draw for draw in answered if draw[0] < at - REMEMBERED]:
                del answered[draw]
            return model(inputs, layers, codes, masked)

        held_back = data.validation()
        validate = None
        if held_back is not None and settings.l1_cosine:
            validate = _validation(held_back, whole, student, compare, settings)
        loop.run(step, validate)


def _validation(
    data: TrainingData,
    whole: Transformer,
    student: Transformer,
    compare: Standardized,
    settings: DistillCheckerSettings,
) -> Callable[[], float]:
    """Return what measures the loss on windows for validation, always the same."""
    windows = Windows(
        data, settings.validation_windows, settings.seed, harsh=settings.harsh, development=True
    )
    pair = windows.prepare(next(iter(windows)))
    device = compare.mean.device
    with torch.no_grad():
        targets = compare.targets(whole(whole.inputs(pair.clean.to(device))))
        heard = student.inputs(pair.heard.to(device))

    @torch.no_grad()
    def validate() -> float:
        return float(compare(student(heard), targets)[0])

    return validate


def _clean(data: TrainingData, settings: DistillCheckerSettings) -> Tensor:
    """Return the windows that a student and its statistics are fitted to, `[window, sample]`."""
    windows = Windows(data, settings.thin_windows, settings.seed)
    return windows.prepare(next(iter(windows))).clean


def _begin(
    whole: Transformer,
    data: TrainingData,
    out: Path,
    settings: DistillCheckerSettings,
    bundle: Path | None,
) -> None:
    """Write the student as it begins, and the statistics of the layers that are compared."""
    inputs = whole.inputs(_clean(data, settings))
    if settings.start == "thin":
        student = thin(whole, inputs, settings.heads, settings.hidden)
    elif settings.start == "bundle":
        student = _shipped(bundle, whole)
    else:
        student = _fresh(whole, settings)
    compare = Standardized.between(settings.layers, whole, student)
    with torch.inference_mode():
        compare.fit(whole(inputs[:FITTED]))
    frames = whole.frames(WINDOW_SAMPLES)
    own = student.parameters_used(frames)
    share = own / whole.parameters_used(frames)
    log.info("the student has %.2f M parameters, %.1f %% of its teacher's", own / 1e6, 100 * share)
    checkpoint.save(out, encoder=student, compare=compare)


def _shipped(bundle: Path | None, whole: Transformer) -> Transformer:
    """Return the encoder of the small checker in the folder `bundle`, a student of `whole`."""
    shipped = bundles.load(bundle) if bundle else None
    checker = shipped.checkers.get("small") if shipped else None
    if shipped is None or checker is None:
        raise ConfigError(
            f"distill.start=bundle: {bundle or 'this stage'} has no checker to begin with"
        )
    return restored(shipped.file(checker.file), whole)


def _fresh(whole: Transformer, settings: DistillCheckerSettings) -> Transformer:
    """Return a random transformer over log-mel: of the bands of `whole`, or, where that takes the
    waveform, of `BANDS`."""
    stem = whole.stem
    filters = stem.filters if isinstance(stem, MelStem) else torch.from_numpy(mel_filters(BANDS))
    student = Transformer(
        settings.dim,
        settings.dim // settings.heads,
        [list(range(settings.heads))] * settings.blocks,
        [settings.hidden] * settings.blocks,
        norm_first=True,
        mel={"bands": filters.shape[1], "positions": WINDOW_SAMPLES // (2 * HOP_SAMPLES)},
    )
    assert isinstance(student.stem, MelStem)
    student.stem.filters.copy_(filters)
    nn.init.normal_(student.stem.positions, std=0.02)
    return student
