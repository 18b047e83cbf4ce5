"""The training loop under `distill`, `finetune` and `heads`: step, clip, log, checkpoint, resume.

A stage gives the loop its modules and parameter groups, and a function that makes the losses of one
step:

    loop = Loop(out, {"encoder": encoder}, [Group(encoder.parameters(), 1e-4)], settings, devices)
    batches = ...          # may depend on loop.first, where an interrupted run resumes
    loop.run(step)         # step(n) yields each loss of step n, with the figures to log

`torchrun --nproc-per-node N -m kwsd train STAGE …` runs a stage on N devices; each draws batches of
its own.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch import distributed as dist

from kwsd.config import ConfigError
from kwsd.training.figures import Figures
from kwsd.training.models.checkpoint import resume, save
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)
FREE = ("log_every", "checkpoint_every")
"""Settings that may change from one part of a run to the next."""


class Devices(NamedTuple):
    """The devices of a run, as this process sees them."""

    device: torch.device
    """Of this process."""
    rank: int = 0
    world: int = 1
    """How many processes share the run."""

    def autocast(self, mixed: bool) -> torch.autocast:
        """Return what has matrices multiplied in bfloat16, where that is wanted (`mixed`) and this
        device computes in it."""
        native = self.device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed and bool(native))

    def share(self, model: nn.Module) -> nn.Module:
        """Return `model`, wrapped where several processes share the run."""
        if self.world == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the means of the processes' `figures`, whose names are the same in all."""
        if self.world == 1:
            return dict(figures)
        total = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(figures, (total / self.world).tolist(), strict=True))

    def seed(self, seed: int, first: int) -> int:
        """Return the seed of this process's batches from step `first` on."""
        return seed + first * self.world + self.rank


@contextmanager
def devices() -> Iterator[Devices]:
    """Yield the devices as torchrun gives them; a single process without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Devices(device, rank, world)
    finally:
        if world > 1:
            dist.destroy_process_group()


class Group(NamedTuple):
    """Parameters with a learning rate of their own."""

    parameters: Iterable[nn.Parameter]
    rate: float
    """The highest learning rate; the schedule rises to it and falls to nearly 0."""


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs."""

    steps: int
    ramp: float
    """Share of the steps in which the learning rates rise (one cycle, Smith and Topin 2017)."""
    weight_decay: float
    updates_per_step: float = 1
    """Updates in a step, on average."""
    accumulate: int = 1
    """Losses whose gradients an update averages; each step yields so many for each update."""
    clip: float | None = 5.0
    """Greatest norm of the gradients of one update; None: not clipped."""
    log_every: int = 50
    checkpoint_every: int = 200
    patience: int = 10
    """Checkpoints without a lower loss in validation after which a run stops."""


def _saved(out: Path, run: Settings) -> dict[str, Any]:
    """Return the checkpoint `out`, empty where there is none.

    Raises ConfigError where it was trained with other settings than `run`: a schedule cannot be
    changed on its way, and figures would be of neither. Settings that it does not know yet had
    their defaults."""
    if not out.exists():
        return {}
    saved: dict[str, Any] = torch.load(out, weights_only=True, map_location="cpu")
    now = msgspec.to_builtins(run)
    before = saved.get("settings", now)
    with suppress(msgspec.ValidationError):
        before = msgspec.to_builtins(msgspec.convert(before, type(run)))
    changed = [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if name not in FREE and before.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"{out} was trained with other settings: {'; '.join(changed)}. "
            "Give those that it had, or remove it to train anew"
        )
    return saved


@dataclass
class Best:
    """The parts of a run where its loss in validation was lowest."""

    loss: float = math.inf
    step: int = 0
    last: int = 0
    """The step that was validated last."""
    stale: int = 0
    """Validations since."""
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return vars(self).copy()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        vars(self).update(saved)


class Loop:
    """Trains for a number of steps, through the checkpoint `out`, with AdamW and a one-cycle
    schedule."""

    def __init__(
        self,
        out: Path,
        parts: Mapping[str, nn.Module],
        groups: Sequence[Group],
        settings: LoopSettings,
        devices: Devices,
        *,
        run: Settings,
        notes: Mapping[str, object] | None = None,
    ) -> None:
        """Resume from `out` where it exists.

        `parts` are the modules that the checkpoint holds; `run`, the stage's settings, and `notes`
        are saved beside them. Raises ConfigError where `out` was trained with other settings,
        KeyError or RuntimeError where it holds other parts."""
        self.out = out
        saved = _saved(out, run)
        self.parts = dict(parts)
        self.settings = settings
        self.devices = devices
        self.notes = {"settings": msgspec.to_builtins(run), **(notes or {})}
        parameters = [list(group.parameters) for group in groups]
        rates = [group.rate for group in groups]
        self._parameters = [parameter for group in parameters for parameter in group]
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(parameters, rates, strict=True)],
            weight_decay=settings.weight_decay,
        )
        updates = round(max(settings.steps, 1) * settings.updates_per_step) + 1
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            rates,
            total_steps=updates,
            pct_start=max(settings.ramp, min(2 / updates, 1.0)),  # of one update: divides by zero
        )
        self._best = Best()
        self._best.load_state_dict(saved.get("best", {}))
        self.first = resume(out, devices.device, **self._saved_modules())
        """The step that comes first: 0, or where the checkpoint was written."""
        log.info("%s: step %d of %d", out.name, self.first, settings.steps)

    def _saved_modules(self) -> dict[str, Any]:
        return {**self.parts, "optimizer": self.optimizer, "schedule": self.schedule}

    def _save(self, step: int) -> None:
        best = self._best.state_dict()
        save(self.out, **self._saved_modules(), **self.notes, best=best, step=step)

    def run(
        self,
        step: Callable[[int], Iterable[tuple[Tensor, Mapping[str, Tensor]]]],
        validate: Callable[[], float] | None = None,
    ) -> None:
        """Run `step(n)` for every step that is left.

        It yields, in turn, each loss to back-propagate and the figures to log beside it; after
        every `accumulate` of them the parameters are updated. `validate` returns a loss on what is
        not trained on: where it has not fallen for `patience` checkpoints, the run ends, and the
        parts of the checkpoint at which it was lowest are the result. Without any steps the parts
        are saved as they are."""
        steps = self.settings.steps
        log_every = self.settings.log_every
        is_first_process = self.devices.rank == 0
        written = Figures(self.out, self.first) if is_first_process else None
        began = time.monotonic()
        seen: dict[str, list[float]] = {}
        if steps == 0 and is_first_process and not self.out.exists():
            self._save(0)
        for n in range(self.first, steps):
            for number, (loss, figures) in enumerate(step(n)):
                self._learn(loss, number)
                for name, value in figures.items():
                    seen.setdefault(name, []).append(value.item())
            done = n + 1
            if done % log_every == 0:
                means = self.devices.mean({name: fmean(values) for name, values in seen.items()})
                seen.clear()
            if written is not None and done % log_every == 0:
                pace = (time.monotonic() - began) / (done - self.first)
                written.add(done, means)
                text = "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
                left = pace * (steps - done) / 60
                log.info(
                    "step %d/%d  %s  %.2f s/step  %.0f min left", done, steps, text, pace, left
                )
            if done % self.settings.checkpoint_every and done != steps:
                continue
            stops = False
            if validate is not None:
                stops = self._validated(validate(), done, written)
            if is_first_process:
                self._save(done)
            if stops:
                break
        if self._best.parts and self._best.step != self._best.last:
            log.info("step %d was the best in validation, and is the result", self._best.step)
            for name, part in self.parts.items():
                part.load_state_dict(self._best.parts[name])
            self._best.parts = {}
            if is_first_process:
                self._save(steps)

    def _validated(self, loss: float, done: int, written: Figures | None) -> bool:
        """Note the loss in validation after `done` steps; return whether to stop."""
        log.info("step %d: %.4f in validation", done, loss)
        if written is not None:
            written.add(done, {"validation": loss})
        self._best.last = done
        if loss < self._best.loss:
            self._best.loss, self._best.step, self._best.stale = loss, done, 0
            self._best.parts = {
                name: {key: value.clone() for key, value in part.state_dict().items()}
                for name, part in self.parts.items()
            }
        else:
            self._best.stale += 1
        return self._best.stale >= self.settings.patience

    def _learn(self, loss: Tensor, number: int) -> None:
        """Back-propagate a loss of a step; update where its batch is whole."""
        accumulate = self.settings.accumulate
        if number % accumulate == 0:
            self.optimizer.zero_grad(set_to_none=True)
        (loss / accumulate).backward()  # type: ignore[no-untyped-call]
        if (number + 1) % accumulate:
            return
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
