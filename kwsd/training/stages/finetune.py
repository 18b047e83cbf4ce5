"""`kwsd train finetune`: words and voices together, over all parameters (paper A, Kerpicci et al. 2022, arXiv 2210.16611).

Every step takes a batch of scenes with wake words, then one of voices, and updates the whole encoder after each.

- Wake words: the max-pool loss on a provisional wake head.
- All words: every labelled or aligned word of a scene is to be told from all others by the last 1.28 s, so that the embedding parts
  words which it was never trained to wake on (cosine softmax over all of which there are a few takes).
- Voices: angular margin softmax on the speaker head, and the speaker's pooled teacher vector.
- A small term keeps the encoder near what it said of the clean take when it came.

`frozen: true` leaves the encoder as it came, for comparison. `torchrun` runs it on several devices, as it does `kwsd train distill`.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.training.data import augment, loading
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import Corpora
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import CHUNK, Scene, Scenes
from kwsd.training.data.transcripts import Spoken
from kwsd.training.models.backbone import Features, Start, TransformerTrunk, Trunk, channels_last, features_of, new_student
from kwsd.training.models.checkpoint import load, load_encoder, resume, save
from kwsd.training.models.network import STRIDE_FRAMES, TAP_FRAMES, Encoder, SpeakerHead, WakeHead
from kwsd.training.stages import speaker as voices
from kwsd.training.stages.cache import Voices
from kwsd.training.stages.distill import devices
from kwsd.training.stages.speaker import LEAD_CHUNKS, MarginSoftmax, by_speaker

log = logging.getLogger(__name__)
SILENCE = ""
"""The first of the words that are told apart: nothing said for `QUIET_CHUNKS`."""
QUIET_CHUNKS = 10
BANDS = 32
"""Masked are some of so many bands, which every trunk's features have at least."""


@dataclass(frozen=True)
class Settings:
    steps: int
    word_batch: int = 24
    scene_s: float = 4.0
    voice_batch: int = 64
    rate: float = 1e-4
    """Of the encoder."""
    head_rate: float = 1e-3
    ramp: float = 0.1
    distillation: float = 0.2
    """Weight of the standardised squared error to what the encoder said of the clean take when it came."""
    all_words: float = 0.1
    """Weight of telling all words apart, beside 1 of the wake words."""
    held_out: list[str] = field(default_factory=list)
    """Words that are not told apart: those on which `kwsd bench words` shows what a word is worth that nothing was trained on."""
    voice: float = 0.2
    """Weight of the voices' loss; 0: words alone."""
    margin: float = 0.2
    scale: float = 24.0
    teacher: float = 8.0
    """Weight, within the voices' loss, of 1 - cosine to the speaker's pooled teacher vector."""
    frozen: bool = False
    start: Start = "warm"
    """Of a student that comes from no checkpoint; and its `width`, and whether it is `separable`."""
    width: float = 1.0
    separable: bool = False
    where: str | None = None
    """The folder or hub name of a transformer, to be fine-tuned itself in the student's stead."""
    upper: int = 3
    """Of its blocks, that are trained."""
    tap_layer: int = 2
    """From which its voices are told."""
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50


class RawScenes(NamedTuple):
    """Scenes as they were recorded, `clean [batch, sample]`, what is to become of them, and what is said in them."""

    clean: Tensor
    how: Degradation
    labels: Tensor
    """Of the wake words, int8 `[batch, chunk, word]`."""
    ends: Tensor
    """Where which word has just ended: `[word, (row, chunk, type)]`."""
    masks: list[list[tuple[int, int, int]]]
    """Of each row's features."""

    def to(self, device: torch.device) -> RawScenes:
        return RawScenes(self.clean.to(device), self.how.to(device), self.labels.to(device), self.ends.to(device), self.masks)


class WordBatches(IterableDataset[RawScenes]):
    """Endless batches of scenes; `prepare` makes of them features as heard and of the clean take `[batch, frame, band]`, the labels and the ends."""

    def __init__(self, stores: list[Path], rooms: Path, spoken: Spoken, types: list[str], features: Features, settings: Settings, seed: int) -> None:
        self.stores, self.rooms, self.spoken, self.features, self.settings, self.seed = stores, rooms, spoken, features, settings, seed
        self.types, self.responses = {text: n for n, text in enumerate(types)}, Rooms(rooms)

    def prepare(self, raw: RawScenes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        heard = self.features(augment.degrade(raw.clean, raw.how, self.responses))
        for mel, masks in zip(heard, raw.masks, strict=True):
            augment.mask(mel, masks)
        return heard, self.features(raw.clean.round().clamp(-32768, 32767)), raw.labels, raw.ends

    def __iter__(self) -> Iterator[RawScenes]:
        scenes = Scenes(Corpora(*self.stores), self.rooms, seed=worker_seed(self.seed), spoken=self.spoken)
        chunks = int(self.settings.scene_s * 16000) // CHUNK
        while True:
            drawn = [scenes.draw(chunks * CHUNK) for _ in range(self.settings.word_batch)]
            masks = [augment.draw_masks(chunks * STRIDE_FRAMES, BANDS, scenes.rng) if scenes.rng.random() < 0.3 else [] for _ in drawn]
            labels = np.stack([scenes.labels(s.words, chunks) for s in drawn])
            ends = [(row, *end) for row, scene in enumerate(drawn) for end in self._ends(scene, chunks, scenes.rng)]
            clean, how = torch.from_numpy(np.stack([s.clean for s in drawn])), augment.stack([s.degradation for s in drawn])
            yield RawScenes(clean, how, torch.from_numpy(labels), torch.tensor(ends, dtype=torch.int64).reshape(-1, 3), masks)

    def _ends(self, scene: Scene, chunks: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
        """(chunk, type) of each word that is told apart, 0 to 0.24 s after its end; and of one quiet moment."""
        for text, _, end in scene.said:
            chunk = -(-end // CHUNK) - 1 + int(rng.integers(0, 3))
            if text in self.types and chunk < chunks:
                yield chunk, self.types[text]
        still = ~scene.clean.reshape(chunks, CHUNK).any(axis=1)
        quiet = np.flatnonzero(np.convolve(still, np.ones(QUIET_CHUNKS), "valid") > QUIET_CHUNKS - 0.5) + QUIET_CHUNKS - 1
        if len(quiet) and SILENCE in self.types:
            yield int(rng.choice(quiet)), self.types[SILENCE]


def wake_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Max-pool loss: each word's best frame where it has just ended must fire, its four best frames elsewhere must not.

    `logits`, `labels` `[batch, frame, word]`; labels 1 just after the word, 0 elsewhere, -1 ignored."""
    hit = logits.masked_fill(labels != 1, -torch.inf).amax(dim=1)
    there = (labels == 1).any(dim=1)
    positive = F.softplus(-hit[there]).sum()
    worst = logits.masked_fill(labels != 0, -30.0).topk(4, dim=1).values
    return (positive + F.softplus(worst).sum() * 0.25) / len(logits)


class WordSpace(nn.Module):
    """A vector of unit length for the word that has just ended: `window [n, 16, inputs]` of embeddings to `[n, 128]`. For training alone."""

    dim = 128

    def __init__(self, inputs: int = Encoder.embedding_dim) -> None:
        super().__init__()
        self.shape = {"inputs": inputs}
        self.norm = nn.BatchNorm1d(inputs)
        self.mix = nn.Conv1d(inputs, 192, WakeHead.context)
        self.out = nn.Linear(192, self.dim)

    def forward(self, window: Tensor) -> Tensor:
        return F.normalize(self.out(F.relu(self.mix(self.norm(window.transpose(1, 2))).squeeze(2))), dim=1)


def windows(embedding: Tensor, row: Tensor, chunk: Tensor) -> Tensor:
    """The 16 embeddings that end at `chunk [n]` of `row [n]`, zeros before the first: `[n, 16, dim]` of `[batch, chunk, dim]`."""
    padded = F.pad(embedding, (0, 0, WakeHead.context - 1, 0))
    return padded[row[:, None], chunk[:, None] + torch.arange(WakeHead.context, device=chunk.device)]


class Joint(nn.Module):
    """The trunk between its heads. `forward` serves either task, so that one wrapper serves several devices."""

    def __init__(self, encoder: Trunk, types: int, people: int, teacher: Tensor, settings: Settings) -> None:
        super().__init__()
        self.settings, self.people = settings, len(teacher)
        self.encoder, self.wake = encoder, WakeHead(inputs=encoder.embedding_dim)
        self.speaker = SpeakerHead(encoder.tap_dim, encoder.embedding_dim)
        self.space, self.types = WordSpace(encoder.embedding_dim), MarginSoftmax(WordSpace.dim, types, settings.scale)
        self.project, self.softmax = nn.Linear(SpeakerHead.dim, teacher.shape[1]), MarginSoftmax(SpeakerHead.dim, people, settings.scale)
        self.came = copy.deepcopy(encoder.folded() if isinstance(encoder, Encoder) else encoder).requires_grad_(False) if settings.distillation else None
        self.register_buffer("teacher", teacher, persistent=False)

    def _encode(self, encoder: Trunk, mel: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(mel.device.type, torch.bfloat16):
            embedding, tap, _ = encoder(mel, encoder.zero_state(len(mel)))
        return embedding.float(), tap.float()

    def forward(self, task: str, *batch: Tensor) -> tuple[Tensor, ...]:
        """`words`: heard and clean mel, labels and ends, to the loss of the wake words, that of all words, the share of these named
        right, and the distance to what the encoder said when it came. `voices`: mel, people, the margin, to the loss of the
        identities, the distance to their teacher, and the share named right."""
        if task == "words":
            heard, clean, labels, ends = batch
            embedding, _ = self._encode(self.encoder, heard)
            logits, _, _ = self.wake(embedding, self.wake.zero_state(len(heard)))
            word = self.space(windows(embedding, ends[:, 0], ends[:, 1]))
            named, right = self.types(word, ends[:, 2], 0.0), self.types.right(word, ends[:, 2])
            return wake_loss(logits, labels), named, right, self._distance(embedding, clean)
        mel, person, margin = batch
        embedding, tap = self._encode(self.encoder, mel)
        with torch.autocast(mel.device.type, torch.bfloat16):
            voice = self.speaker(tap[:, LEAD_CHUNKS * TAP_FRAMES :], embedding[:, LEAD_CHUNKS:]).float()
        identity = self.softmax(voice, person, float(margin))
        known = person < self.people
        likeness = F.cosine_similarity(self.project(voice[known]), self.teacher[person[known]])  # type: ignore[index]
        return identity, (1 - likeness).sum() / known.sum().clamp(min=1), self.softmax.right(voice, person)

    def _distance(self, embedding: Tensor, clean: Tensor) -> Tensor:
        if self.came is None:
            return embedding.new_zeros(())
        with torch.no_grad():
            target, _ = self._encode(self.came, clean)
        spread = target.flatten(0, 1).std(0).clamp(min=1e-3)
        return (((embedding - target) / spread) ** 2).mean()

    def parts(self) -> dict[str, nn.Module]:
        heads = {"head": self.wake, "speaker": self.speaker, "project": self.project, "softmax": self.softmax, "space": self.space, "types": self.types}
        return {"encoder": self.encoder, **heads, **({"came": self.came} if self.came is not None else {})}


def trunk_of(start: Path | None, settings: Settings, stores: list[Path]) -> Trunk:
    """What is to be trained: the student of the checkpoint `start`, else a new one; or the transformer that the settings name."""
    if settings.where is not None:
        return TransformerTrunk(settings.where, settings.upper, settings.tap_layer)
    if start is None:
        return new_student(settings.start, settings.width, settings.separable, stores)
    return load_encoder(start) if settings.frozen else load(start, "encoder", Encoder).requires_grad_(True)


def train(stores: list[Path], rooms: Path, spoken: Spoken, known: Voices, start: Path | None, out: Path, settings: Settings) -> None:
    """Train from the encoder of the checkpoint `start` (None: a new one), resuming from `out` where it exists."""
    with devices() as (device, rank, world):
        torch.manual_seed(settings.seed)
        corpora = Corpora(*stores)
        types = [SILENCE, *spoken.types(clip for clip in corpora.clips if not clip.development and not clip.noise)]
        types = [text for text in types if text not in settings.held_out]
        crops = voices.Settings(settings.steps, batch=settings.voice_batch)
        people = by_speaker(corpora, development=False)
        teacher = torch.from_numpy(known.matrix(people))
        encoder = trunk_of(start, settings, stores)
        given = torch.load(start, weights_only=True) if start else {}
        joint = Joint(encoder, len(types), len(people) * len(crops.speeds), teacher, settings).to(device).train()
        for name, part in joint.parts().items():
            if name in given and name not in ("encoder", "came"):
                part.load_state_dict(given[name])
        for one in (joint.encoder, joint.came):
            if isinstance(one, Encoder):
                channels_last(one)
        if settings.frozen:
            joint.encoder.requires_grad_(False)
        features = features_of(encoder)
        heads = [p for name, part in joint.parts().items() if name not in ("encoder", "came") for p in part.parameters()]
        groups = [{"params": joint.encoder.parameters(), "lr": settings.rate}, {"params": heads, "lr": settings.head_rate}]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-3)
        updates, rates = settings.steps * (2 if settings.voice else 1), [settings.rate, settings.head_rate]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=updates + 1, pct_start=settings.ramp)
        first = resume(out, device, **joint.parts(), optimiser=optimiser, schedule=schedule)
        log.info("%d words, %d people; step %d of %d", len(types), len(people), first, settings.steps)
        model: nn.Module = joint if world == 1 else nn.parallel.DistributedDataParallel(joint, find_unused_parameters=True)
        seed = settings.seed + first * world + rank
        scenes, takes = WordBatches(stores, rooms, spoken, types, features, settings, seed), voices.Crops(stores, rooms, [features], crops, seed)
        word_batches, voice_batches = loading.load(scenes, scenes.prepare, device), loading.load(takes, takes.prepare, device)

        def update(loss: Tensor) -> None:
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(joint.parameters(), 5.0)
            optimiser.step()
            schedule.step()

        began, sums = time.monotonic(), np.zeros(7)
        for step in range(first, settings.steps):
            wake, named, told, distance = model("words", *next(word_batches))
            update(wake + settings.all_words * named + settings.distillation * distance)
            sums[:4] += [x.item() for x in (wake, named, told, distance)]
            if settings.voice:
                margin = torch.tensor(settings.margin * min(max(2 * step / settings.steps - 0.5, 0.0), 1.0))
                identity, away, right = model("voices", *next(voice_batches), margin)
                update(settings.voice * (identity + settings.teacher * away))
                sums[4:] += [x.item() for x in (identity, away, right)]
            if rank == 0 and (step + 1) % settings.log_every == 0:
                pace = (time.monotonic() - began) / (step + 1 - first)
                log.info("step %d/%d  wake %.4f  words %.3f, right %.3f  distillation %.4f  identity %.3f  teacher %.3f  named right %.3f"
                         "  %.2f s/step  %.0f min left",
                         step + 1, settings.steps, *(sums / settings.log_every), pace, pace * (settings.steps - step - 1) / 60)  # fmt: skip
                sums[:] = 0
            if rank == 0 and ((step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps):
                save(out, **joint.parts(), optimiser=optimiser, schedule=schedule, step=step + 1, settings=asdict(settings), words=types)
