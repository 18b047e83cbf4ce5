"""Stage 3: the speaker heads over the frozen encoder's low and high frames, and finer bands of the same audio.

Additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698) over all speakers with an identity in the training
split, beside the cosine to the *speaker's* pooled embedding from a teacher (Resemblyzer, GE2E, Wan et al. 2018, arXiv
1710.10467), whole clips pooled, so that one word learns to say what many sentences told the teacher.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.audio.log_mel import LogMel
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment, loading
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import RATE, Clip, Corpora
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import CHUNK, Scenes
from kwsd.training.models.backbone import Features, Trunk, channels_last, log_mel, student_features
from kwsd.training.models.checkpoint import load, load_encoder, resume, save
from kwsd.training.models.network import STRIDE_FRAMES, TAP_FRAMES, Encoder, SpeakerHead, SpeakerHeads
from kwsd.training.models.speech_embedding import FLOOR_DB
from kwsd.training.stages.cache import Voices

log = logging.getLogger(__name__)
LEAD_CHUNKS = 6
"""Chunks before the crop, so that the encoder has warmed up as it has in a running stream."""


@dataclass(frozen=True)
class Settings:
    steps: int
    batch: int = 96
    crop_chunks: list[int] = field(default_factory=lambda: [10, 24])
    """Least and greatest length of a crop in chunks of 80 ms, drawn anew for each batch."""
    margin: float = 0.25
    scale: float = 24.0
    teacher: float = 8.0
    """Weight of 1 - cosine to the speaker's pooled teacher embedding."""
    speeds: list[float] = field(default_factory=lambda: [1.0, 0.89, 1.12])
    """Each speed at which a person's clips are played makes another person of them (Yamamoto et al. 2019); the teacher knows those of speed 1."""
    rate: float = 2e-3
    heads: int = 2
    """From so many seeds, beginning with `seed`."""
    seed: int = 3
    checkpoint_every: int = 250


FINE_BANDS, FINE_HZ = 64, (20.0, 7600.0)


def voice_front_end() -> LogMel:
    """The finer bands, evenly spaced on O'Shaughnessy's mel scale: the student's own end at 3.8 kHz, and are too wide to tell a voice's harmonics."""
    low, high = 2595 * np.log10(1 + np.array(FINE_HZ) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, FINE_BANDS + 2) / 2595) - 1)
    window, fft = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), 1024
    hz = np.arange(fft // 2 + 1)[:, None] * RATE / fft
    rising, falling = (hz - edges[:-2]) / np.diff(edges[:-1]), (edges[2:] - hz) / np.diff(edges[1:])
    filters = np.maximum(np.minimum(rising, falling), 0)
    return LogMel(window.astype(np.float32), filters.astype(np.float32), hop_samples=160, fft_samples=fft, floor_db=FLOOR_DB, scale=0.1, offset=0.0)


def by_speaker(corpora: Corpora, development: bool) -> dict[str, list[Clip]]:
    """Clips of each person of the split who has at least one second of speech."""
    people: dict[str, list[Clip]] = {}
    for clip in corpora.clips:
        if clip.person and clip.development == development:
            people.setdefault(clip.person, []).append(clip)
    return {who: clips for who, clips in sorted(people.items()) if sum(c.samples for c in clips) >= 16000}


class RawCrops(NamedTuple):
    """Crops as they were recorded, `clean [batch, sample]` with a lead-in of silence, what is to become of them, and whose they are `[batch]`."""

    clean: Tensor
    how: Degradation
    person: Tensor

    def to(self, device: torch.device) -> RawCrops:
        return RawCrops(self.clean.to(device), self.how.to(device), self.person.to(device))


class Crops(IterableDataset[RawCrops]):
    """Endless batches of crops; `prepare` makes each of the `features` `[batch, frame, band]` of them as a microphone hears them, and the person `[batch]`."""

    def __init__(self, stores: list[Path], rooms: Path, features: Sequence[Features], settings: Settings, seed: int) -> None:
        self.stores, self.rooms, self.features, self.settings, self.seed = stores, rooms, features, settings, seed
        self.responses = Rooms(rooms)

    def prepare(self, raw: RawCrops) -> tuple[Tensor, ...]:
        heard = augment.degrade(raw.clean, raw.how, self.responses)
        return *(features(heard) for features in self.features), raw.person

    def __iter__(self) -> Iterator[RawCrops]:
        corpora = Corpora(*self.stores)
        scenes = Scenes(corpora, self.rooms, seed=worker_seed(self.seed))
        people = list(by_speaker(corpora, development=False).values())
        while True:
            who = scenes.rng.choice(len(people) * len(self.settings.speeds), self.settings.batch, replace=False)
            crop = int(scenes.rng.integers(self.settings.crop_chunks[0], self.settings.crop_chunks[1] + 1)) * CHUNK
            clean = np.stack([self._crop(scenes, people[one % len(people)], self.settings.speeds[one // len(people)], crop) for one in who])
            how = augment.stack([scenes.degradation(clean.shape[1], harsh=0.8) for _ in who])
            yield RawCrops(torch.from_numpy(clean), how, torch.from_numpy(who))

    def _crop(self, scenes: Scenes, clips: list[Clip], speed: float, samples: int) -> np.ndarray:
        rng, parts, have = scenes.rng, [], 0
        while have < samples:
            x = scenes.corpora.read(clips[rng.integers(len(clips))])
            if len(x) < 48000:
                start, end = speech_span(x)
                x = x[max(start - 800, 0) : end + 800]
            elif len(x) > (most := round(samples * speed) + 1):
                at = rng.integers(len(x) - most)
                x = x[at : at + most]
            x = augment.change_speed(x, speed) if speed != 1 else x
            parts.append(augment.gain_to(x, -26))
            have += len(x)
        speech = np.concatenate(parts)[:samples]
        return np.concatenate([np.zeros(LEAD_CHUNKS * CHUNK, np.float32), speech])


class MarginSoftmax(nn.Module):
    """Angular margin softmax: `embedding [batch, dim]` of unit length and `person [batch]` to the mean cross-entropy."""

    def __init__(self, dim: int, people: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(people, dim) * 0.05)
        self.scale = scale

    def forward(self, embedding: Tensor, person: Tensor, margin: float) -> Tensor:
        cosine = (embedding @ F.normalize(self.weight, dim=1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        shifted = torch.cos(torch.acos(cosine) + margin)
        # Past pi the shifted cosine would rise again; there it falls on in a straight line.
        shifted = torch.where(cosine > math.cos(math.pi - margin), shifted, cosine - margin * math.sin(margin))
        own = F.one_hot(person, len(self.weight)).bool()
        return F.cross_entropy(self.scale * torch.where(own, shifted, cosine), person)

    @torch.no_grad()
    def right(self, embedding: Tensor, person: Tensor) -> Tensor:
        """The share of `embedding` whose nearest is its own `person`."""
        return ((embedding @ F.normalize(self.weight, dim=1).T).argmax(1) == person).float().mean()


def frames_of(encoder: Encoder, mel: Tensor, skip_chunks: int) -> tuple[Tensor, Tensor]:
    """The encoder's frames after the first `skip_chunks`: tap `[batch, 4 k, 384]`, embedding `[batch, k, 96]`."""
    with torch.no_grad():
        embedding, tap, _ = encoder(mel, encoder.zero_state(len(mel)))
    return tap[:, skip_chunks * TAP_FRAMES :].float(), embedding[:, skip_chunks:].float()


def train(stores: list[Path], rooms: Path, voices: Voices, encoder_path: Path, out: Path, settings: Settings) -> None:
    """Train the heads into `out`, resuming where they were cut off."""
    paths = [out.with_suffix(f".{n}.pt") for n in range(settings.heads)]
    for n, path in enumerate(paths):
        train_head(stores, rooms, voices, encoder_path, path, replace(settings, seed=settings.seed + n))
    trained = [load(path, "head", SpeakerHead) for path in paths]
    heads = SpeakerHeads(settings.heads, **trained[0].shape)
    for head, one in zip(heads.heads, trained, strict=True):
        head.load_state_dict(one.state_dict())
    save(out, head=heads, step=settings.steps)


def train_head(stores: list[Path], rooms: Path, voices: Voices, encoder_path: Path, out: Path, settings: Settings) -> None:
    """One head, through the checkpoint `out`."""
    torch.manual_seed(settings.seed)
    corpora = Corpora(*stores)
    people = by_speaker(corpora, development=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = torch.from_numpy(voices.matrix(people)).to(device)
    log.info("%d people, %d clips", len(people), sum(map(len, people.values())))
    encoder = load_encoder(encoder_path).to(device)
    channels_last(encoder)
    fine = voice_front_end()
    head, project = SpeakerHead(encoder.tap_dim, fine=fine.bands).to(device).train(), nn.Linear(SpeakerHead.dim, teacher.shape[1]).to(device)
    softmax = MarginSoftmax(SpeakerHead.dim, len(people) * len(settings.speeds), settings.scale).to(device)
    parameters = [*head.parameters(), *project.parameters(), *softmax.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1, pct_start=0.15)
    first = resume(out, device, head=head, project=project, softmax=softmax, optimiser=optimiser, schedule=schedule)
    crops = Crops(stores, rooms, [student_features, partial(log_mel, fine)], settings, settings.seed + first)
    batches = loading.load(crops, crops.prepare, device)
    began, sums = time.monotonic(), np.zeros(3)
    for step in range(first, settings.steps):
        mel, bands, person = next(batches)
        assert mel.shape[1] % STRIDE_FRAMES == 0
        with torch.autocast(device.type, torch.bfloat16):
            embedding = head(*frames_of(encoder, mel, LEAD_CHUNKS), bands[:, LEAD_CHUNKS * STRIDE_FRAMES :]).float()
        margin = settings.margin * min(max(2 * step / settings.steps - 0.5, 0.0), 1.0)
        identity = softmax(embedding, person, margin)
        known = person < len(people)
        distance = (1 - F.cosine_similarity(project(embedding[known]), teacher[person[known]])).sum() / known.sum().clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        (identity + settings.teacher * distance).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        schedule.step()
        sums += identity.item(), distance.item(), softmax.right(embedding, person).item()
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - first)
            log.info("step %d/%d  identity %.3f  teacher %.3f  named right %.3f  %.2f s/step  %.0f min left", step + 1, settings.steps, *(sums / 50),
                     pace, pace * (settings.steps - step - 1) / 60)  # fmt: skip
            sums[:] = 0
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            save(out, head=head, project=project, softmax=softmax, optimiser=optimiser, schedule=schedule, step=step + 1)


@torch.inference_mode()
def voice_of(trunk: Trunk, features: Features, head: SpeakerHead, x: np.ndarray) -> np.ndarray:
    """The head's embedding `[dim]` of the speech in `x [sample]`, int16 scale, at most 2 s of it."""
    start, end = speech_span(x)
    x = x[max(start - 800, 0) : end + 800][: 2 * RATE]
    mel = features(torch.from_numpy(augment.to_int16(np.pad(x, (LEAD_CHUNKS * CHUNK, -len(x) % CHUNK)))[None]))
    with torch.autocast("cpu", torch.bfloat16):
        embedding, tap, _ = trunk(mel, trunk.zero_state())
    return np.asarray(head(tap[:, LEAD_CHUNKS * TAP_FRAMES :].float(), embedding[:, LEAD_CHUNKS:].float())[0].numpy())
