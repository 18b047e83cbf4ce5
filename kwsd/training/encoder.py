"""Stage 1: make the speech embedding's network robust, streaming, and keen on the wake words.

From the pretrained weights; its own output on the clean, dry take is the target for the noisy, reverberant one (clean
teacher, noisy student), beside a loss for the wake words on a provisional wake head. One loop, from top to bottom.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from kwsd.training import augment
from kwsd.training.corpora import Corpora
from kwsd.training.network import Encoder, WakeHead
from kwsd.training.scenes import CHUNK, Scenes, mel_of
from kwsd.training.speech_embedding import front_end, pretrained_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    steps: int = 4000
    batch: int = 24
    scene_s: float = 4.0
    encoder_rate: float = 4e-4
    head_rate: float = 2e-3
    distillation: float = 0.5
    """Weight of the standardised squared error to the clean teacher."""
    ramp: float = 0.15
    """Share of the steps in which the learning rate rises."""
    seed: int = 1
    checkpoint_every: int = 200


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches: mel as heard and mel of the clean take `[batch, frame, 32]`, labels `[batch, chunk, word]`."""

    def __init__(self, stores: list[Path], rooms: Path, settings: Settings, seed: int) -> None:
        self.stores, self.rooms, self.settings, self.seed = stores, rooms, settings, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        torch.set_num_threads(1)
        scenes = Scenes(Corpora(*self.stores), self.rooms, seed=self.seed)
        features, samples = front_end(), int(self.settings.scene_s * 16000) // CHUNK * CHUNK
        floor = features.floor_db * features.scale + features.offset
        while True:
            drawn = [scenes.draw(samples) for _ in range(self.settings.batch)]
            heard = mel_of(features, np.stack([s.heard for s in drawn]))
            clean = mel_of(features, np.stack([augment.to_int16(s.clean) for s in drawn]))
            for i in np.flatnonzero(scenes.rng.random(len(drawn)) < 0.3):
                heard[i] = augment.spec_augment(heard[i], scenes.rng, floor)
            labels = np.stack([scenes.labels(s.words, samples // CHUNK) for s in drawn])
            yield torch.from_numpy(heard), torch.from_numpy(clean), torch.from_numpy(labels)


def wake_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Max-pool loss: each word's best frame where it has just ended must fire, its four best frames elsewhere must not.

    `logits`, `labels` `[batch, frame, word]`; labels 1 just after the word, 0 elsewhere, -1 ignored."""
    hit = logits.masked_fill(labels != 1, -torch.inf).amax(dim=1)
    there = (labels == 1).any(dim=1)
    positive = F.softplus(-hit[there]).sum()
    worst = logits.masked_fill(labels != 0, -30.0).topk(4, dim=1).values
    return (positive + F.softplus(worst).sum() * 0.25) / len(logits)


def train(stores: list[Path], rooms: Path, out: Path, settings: Settings) -> None:
    """Train, resuming from `out` where it exists; `out` holds encoder, provisional head, optimiser and step."""
    torch.manual_seed(settings.seed)
    teacher, encoder = (pretrained_encoder().to(memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    teacher.requires_grad_(False)
    encoder, head = encoder.train(), WakeHead().train()
    optimiser = torch.optim.AdamW([
        {"params": encoder.parameters(), "lr": settings.encoder_rate},
        {"params": head.parameters(), "lr": settings.head_rate},
    ], weight_decay=1e-3)  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [settings.encoder_rate, settings.head_rate], total_steps=settings.steps + 1, pct_start=settings.ramp)  # fmt: skip
    first = 0
    if out.exists():
        saved = torch.load(out, weights_only=True)
        encoder.load_state_dict(saved["encoder"])
        head.load_state_dict(saved["head"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
        log.info("resuming %s at step %d", out, first)
    batches = iter(DataLoader(Batches(stores, rooms, settings, settings.seed + first), batch_size=None, num_workers=1, prefetch_factor=4))
    spread: Tensor | None = None
    began, sums = time.monotonic(), np.zeros(2)
    for step in range(first, settings.steps):
        heard, clean, labels = next(batches)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            target = teacher(clean, teacher.zero_state(len(clean)))[0].float()
            batch_spread = target.flatten(0, 1).std(0)
            spread = batch_spread if spread is None else 0.98 * spread + 0.02 * batch_spread
        with torch.autocast("cpu", torch.bfloat16):
            embedding = encoder(heard, encoder.zero_state(len(heard)))[0].float()
        logits, _, _ = head(embedding, head.zero_state(len(heard)))
        distillation = (((embedding - target) / spread) ** 2).mean()
        words = wake_loss(logits, labels)
        loss = words + settings.distillation * distillation
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], 5.0)
        optimiser.step()
        schedule.step()
        sums += words.item(), distillation.item()
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - first)
            log.info("step %d/%d  words %.4f  distillation %.4f  %.2f s/step  %.0f min left", step + 1, settings.steps, *(sums / 50), pace,
                     pace * (settings.steps - step - 1) / 60)  # fmt: skip
            sums[:] = 0
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            save(out, encoder=encoder, head=head, optimiser=optimiser, schedule=schedule, step=step + 1, settings=asdict(settings))


def save(out: Path, **parts: object) -> None:
    """Write a checkpoint atomically: state dicts of what has one, other values as they are."""
    partial = out.with_suffix(".partial")
    torch.save({k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}, partial)
    partial.rename(out)


def load_encoder(path: Path) -> Encoder:
    """The trained encoder of a checkpoint, in evaluation mode."""
    encoder = Encoder()
    encoder.load_state_dict(torch.load(path, weights_only=True)["encoder"])
    return encoder.eval().requires_grad_(False)
