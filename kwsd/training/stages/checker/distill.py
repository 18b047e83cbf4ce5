"""A thin student of a pretrained transformer: thinned, then distilled on all audio at hand.

The teacher hears the clean window, the student what a microphone in a room hears of it (as in
RobustDistiller, Guimarães et al. 2023, arXiv 2302.09437). The loss is paper A's, L1 and
log-sigmoid of the cosine on the output of several blocks (Kerpicci et al. 2022, arXiv 2210.16611),
on coordinates that are standardized over the teacher's frames: a few of them are a hundred times as
large as the others, and would be all that counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kwsd.training import losses
from kwsd.training.data import augment
from kwsd.training.data.loading import load
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import REMEMBERED, Draw, WindowPair, Windows
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.models import checkpoint
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.thinning import thin
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)


class DistillCheckerSettings(Settings, frozen=True):
    """The settings `distill` of `checker.yaml`."""

    steps: int
    heads: int
    """Heads that each block keeps."""
    hidden: int
    """Hidden units that each block keeps."""
    layers: list[int]
    """The blocks whose output is learned."""
    batch: int = 32
    """Windows of two seconds."""
    harsh: float = 0.6
    """How often the student hears a room (0.5 times), noise (0.8) and a microphone (0.4)."""
    accumulate: int = 1
    """Batches whose gradients one update averages."""
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


class Standardized(nn.Module):
    """Paper A's loss between layers of two transformers of one width, on the teacher's standardized
    coordinates."""

    def __init__(self, layers: list[int], dim: int) -> None:
        """`layers` are compared; statistics come by `fit` or with a checkpoint."""
        super().__init__()
        self.layers = layers
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(len(layers), dim))
        self.register_buffer("scale", torch.ones(len(layers), dim))

    @torch.no_grad()
    def fit(self, hidden: list[Tensor]) -> None:
        """Take the mean and deviation of each coordinate of the teacher's layers."""
        for n, layer in enumerate(self.layers):
            frames = hidden[layer].flatten(0, 1)
            self.mean[n] = frames.mean(0)
            self.scale[n] = 1 / frames.std(0).clamp(min=1e-6)

    def of(self, hidden: list[Tensor], n: int) -> Tensor:
        """Return the standardized layer number `n` of those that are compared."""
        return (hidden[self.layers[n]].float() - self.mean[n]) * self.scale[n]

    @torch.no_grad()
    def targets(self, hidden: list[Tensor]) -> Tensor:
        """Return the teacher's standardized layers `[batch, layer, frame, dim]`."""
        return torch.stack([self.of(hidden, n) for n in range(len(self.layers))], 1)

    def forward(self, student: list[Tensor], targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, the mean over layers, and the cosine of each layer."""
        parts = []
        cosines = []
        for n in range(len(self.layers)):
            own, target = self.of(student, n), targets[:, n]
            parts.append(losses.l1_cosine(own, target))
            cosines.append(nn.functional.cosine_similarity(own, target, dim=-1).mean().detach())
        return torch.stack(parts).mean(), cosines


def train(data: TrainingData, teacher: str, out: Path, settings: DistillCheckerSettings) -> None:
    """Thin the transformer `teacher` into `out` beside `.thin.pt`, and distill it through the
    checkpoint `out`, which holds the student `encoder`. Raises TeacherError."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        whole = load_pretrained(teacher).network
        thinned = out.with_suffix(".thin.pt")
        if not thinned.exists():
            _thin(whole, data, thinned, settings)
        whole.to(here.device)
        student = checkpoint.load(thinned, "encoder", Transformer).to(here.device)
        student.train().requires_grad_(True)
        compare = Standardized(settings.layers, whole.dim).to(here.device)
        compare.load_state_dict(torch.load(thinned, weights_only=True)["compare"])
        loop_settings = LoopSettings(
            settings.steps,
            settings.ramp,
            weight_decay=1e-2,
            accumulate=settings.accumulate,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        )
        parts = {"encoder": student, "compare": compare}
        groups = [Group(student.parameters(), settings.rate)]
        loop = Loop(out, parts, groups, loop_settings, here, run=settings)
        model = here.share(student)
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
        answered: dict[Draw, Tensor] = {}

        def step(at: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            for _ in range(settings.accumulate):
                yield part(at)

        def part(at: int) -> tuple[Tensor, Mapping[str, Tensor]]:
            pair: WindowPair = next(batches)
            inputs = student.inputs(pair.heard)
            if student.kind == "mel":
                for one, seed in zip(inputs, pair.seeds, strict=True):
                    rng = np.random.default_rng([*seed, 0])
                    augment.mask(one, augment.draw_masks(len(one), one.shape[1], rng))
            with here.autocast(settings.mixed_precision):
                new = [k for k, draw in enumerate(pair.draws) if draw not in answered]
                with torch.no_grad():
                    fresh = compare.targets(whole(whole.inputs(pair.clean[new])))
                answers = model(inputs)
            for k, target in zip(new, fresh, strict=True):
                answered[pair.draws[k]] = target.clone()  # or it would keep its whole batch
            target = torch.stack([answered[draw] for draw in pair.draws])
            for draw in [draw for draw in answered if draw[0] < at - REMEMBERED]:
                del answered[draw]
            loss, cosines = compare(answers, target)
            figures = {f"cosine {n}": one for n, one in zip(settings.layers, cosines, strict=True)}
            return loss, {"loss": loss.detach(), **figures}

        held_back = data.validation()
        validate = None
        if held_back is not None:
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


def _thin(
    whole: Transformer, data: TrainingData, out: Path, settings: DistillCheckerSettings
) -> None:
    """Write the thinned transformer and the statistics of the layers that are compared."""
    windows = Windows(data, settings.thin_windows, settings.seed)
    clean = windows.prepare(next(iter(windows))).clean
    inputs = whole.inputs(clean)
    student = thin(whole, inputs, settings.heads, settings.hidden)
    compare = Standardized(settings.layers, whole.dim)
    with torch.inference_mode():
        compare.fit(whole(inputs[:128]))
    frames = whole.stem(inputs[:1]).shape[1]
    share = student.parameters_used(frames) / whole.parameters_used(frames)
    log.info("the student has %.1f %% of its teacher's parameters", 100 * share)
    checkpoint.save(out, encoder=student, compare=compare)
