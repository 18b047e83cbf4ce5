"""`kwsd train finetune`: words and voices together, over all parameters (paper A, Kerpicci et al. 2022, arXiv 2210.16611).

Every step takes a batch of scenes with wake words (max-pool loss on a provisional wake head), then one of voices (angular margin
softmax on the speaker head, and the speaker's pooled teacher vector), and updates the whole encoder after each. A small term keeps it
near what it said of the clean take when it came. `frozen: true` leaves the encoder as it came, for comparison.

`torchrun` runs it on several devices, as it does `kwsd train distill`.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from kwsd.training import encoder as words
from kwsd.training import speaker as voices
from kwsd.training.corpora import Corpora
from kwsd.training.distill import devices
from kwsd.training.encoder import save, wake_loss
from kwsd.training.network import TAP_FRAMES, Encoder, SpeakerHead, WakeHead
from kwsd.training.speaker import LEAD_CHUNKS, MarginSoftmax, by_speaker, teacher_embeddings
from kwsd.training.speech_embedding import pretrained_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    steps: int = 3000
    word_batch: int = 24
    voice_batch: int = 64
    rate: float = 1e-4
    """Of the encoder."""
    head_rate: float = 1e-3
    ramp: float = 0.1
    distillation: float = 0.2
    """Weight of the standardised squared error to what the encoder said of the clean take when it came."""
    voice: float = 0.2
    """Weight of the voices' loss, beside 1 of the words'."""
    margin: float = 0.2
    scale: float = 24.0
    teacher: float = 8.0
    """Weight, within the voices' loss, of 1 - cosine to the speaker's pooled teacher vector."""
    frozen: bool = False
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50


class Joint(nn.Module):
    """The encoder between its two heads. `forward` serves either task, so that one wrapper serves several devices."""

    def __init__(self, encoder: Encoder, people: int, teacher: Tensor, settings: Settings) -> None:
        super().__init__()
        self.settings, self.people = settings, len(teacher)
        self.encoder, self.wake, self.speaker = encoder, WakeHead(), SpeakerHead()
        self.project, self.softmax = nn.Linear(SpeakerHead.dim, teacher.shape[1]), MarginSoftmax(SpeakerHead.dim, people, settings.scale)
        self.came = copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("teacher", teacher, persistent=False)

    def _encode(self, encoder: Encoder, mel: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(mel.device.type, torch.bfloat16):
            embedding, tap, _ = encoder(mel, encoder.zero_state(len(mel)))
        return embedding.float(), tap.float()

    def forward(self, task: str, *batch: Tensor) -> tuple[Tensor, ...]:
        """`words`: heard and clean mel, labels, to the loss of the words and the distance to what it said when it came.
        `voices`: mel, people, the margin, to the loss of the identities, the distance to their teacher, and the share named right."""
        if task == "words":
            heard, clean, labels = batch
            embedding, _ = self._encode(self.encoder, heard)
            logits, _, _ = self.wake(embedding, self.wake.zero_state(len(heard)))
            with torch.no_grad():
                target, _ = self._encode(self.came, clean)
            spread = target.flatten(0, 1).std(0).clamp(min=1e-3)
            return wake_loss(logits, labels), (((embedding - target) / spread) ** 2).mean()
        mel, person, margin = batch
        embedding, tap = self._encode(self.encoder, mel)
        voice = self.speaker(tap[:, LEAD_CHUNKS * TAP_FRAMES :], embedding[:, LEAD_CHUNKS:])
        identity = self.softmax(voice, person, float(margin))
        known = person < self.people
        likeness = F.cosine_similarity(self.project(voice[known]), self.teacher[person[known]])  # type: ignore[index]
        nearest = (voice.detach() @ F.normalize(self.softmax.weight.detach(), dim=1).T).argmax(1)
        return identity, (1 - likeness).sum() / known.sum().clamp(min=1), (nearest == person).float().mean()

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "head": self.wake, "speaker": self.speaker, "project": self.project, "softmax": self.softmax, "came": self.came}


def train(stores: list[Path], rooms: Path, start: Path | None, out: Path, settings: Settings) -> None:
    """Train from the encoder of the checkpoint `start` (None: the speech embedding's), resuming from `out` where it exists."""
    with devices() as (device, rank, world):
        torch.manual_seed(settings.seed)
        scenes = words.Settings(batch=settings.word_batch)
        crops = voices.Settings(batch=settings.voice_batch)
        people = by_speaker(Corpora(*stores), development=False)
        teacher = torch.from_numpy(teacher_embeddings(Corpora(*stores), people, out.with_suffix(".teacher.npy")))
        encoder = Encoder() if start else pretrained_encoder()
        if start:
            encoder.load_state_dict(torch.load(start, weights_only=True)["encoder"])
        joint = Joint(encoder, len(people) * len(crops.speeds), teacher, settings).to(device).train()
        joint.encoder.requires_grad_(not settings.frozen)
        heads = [p for part in (joint.wake, joint.speaker, joint.project, joint.softmax) for p in part.parameters()]
        groups = [{"params": joint.encoder.parameters(), "lr": settings.rate}, {"params": heads, "lr": settings.head_rate}]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-3)
        rates = [settings.rate, settings.head_rate]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=2 * settings.steps + 1, pct_start=settings.ramp)
        first = 0
        if out.exists():
            saved = torch.load(out, weights_only=True, map_location=device)
            restored: dict[str, Any] = {**joint.parts(), "optimiser": optimiser, "schedule": schedule}
            for name, part in restored.items():
                part.load_state_dict(saved[name])
            first = saved["step"]
            log.info("resuming %s at step %d", out, first)
        model: nn.Module = joint if world == 1 else nn.parallel.DistributedDataParallel(joint, find_unused_parameters=True)
        seed = settings.seed + first * world + rank
        word_batches = iter(DataLoader(words.Batches(stores, rooms, scenes, seed), batch_size=None, num_workers=1, prefetch_factor=4))
        voice_batches = iter(DataLoader(voices.Crops(stores, rooms, crops, seed), batch_size=None, num_workers=1, prefetch_factor=4))

        def update(loss: Tensor) -> None:
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(joint.parameters(), 5.0)
            optimiser.step()
            schedule.step()

        began, sums = time.monotonic(), np.zeros(5)
        for step in range(first, settings.steps):
            word, distance = model("words", *(x.to(device) for x in next(word_batches)))
            update(word + settings.distillation * distance)
            margin = torch.tensor(settings.margin * min(max(2 * step / settings.steps - 0.5, 0.0), 1.0))
            identity, away, right = model("voices", *(x.to(device) for x in next(voice_batches)), margin)
            update(settings.voice * (identity + settings.teacher * away))
            sums += [x.item() for x in (word, distance, identity, away, right)]
            if rank == 0 and (step + 1) % settings.log_every == 0:
                pace = (time.monotonic() - began) / (step + 1 - first)
                log.info("step %d/%d  words %.4f  distillation %.4f  identity %.3f  teacher %.3f  named right %.3f  %.2f s/step  %.0f min left",
                         step + 1, settings.steps, *(sums / settings.log_every), pace, pace * (settings.steps - step - 1) / 60)  # fmt: skip
                sums[:] = 0
            if rank == 0 and ((step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps):
                save(out, **joint.parts(), optimiser=optimiser, schedule=schedule, step=step + 1, settings=asdict(settings))
