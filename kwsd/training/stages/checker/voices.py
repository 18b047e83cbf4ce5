"""Voices by the checker's encoder: a head on a low layer of it, frozen, beside the speaker heads.

First `gather` hears many people at a few hundred microphones, each of them in a room with its
noise, and keeps the layer's frames, and what Resemblyzer says of each window before anything
happens to it; then `train` needs no encoder. Each speed at which a person is
played makes another person (Yamamoto et al. 2019). The first windows of a batch's pairs come from a
few of the microphones, and the second ones from others: who is to be told apart shares a room, and
the same person does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from msgspec import field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.audio.high_pass import HighPass
from kwsd.training.bundle_runtime import spoken_part
from kwsd.training.data import augment
from kwsd.training.data.augment import Rooms
from kwsd.training.data.loading import load, worker_seed
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.voice_rooms import Device, VoiceSettings, as_recorded, window
from kwsd.training.data.windows import at_peak
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, rising_margin
from kwsd.training.models.checker import VoiceHead
from kwsd.training.models.teachers import Voice
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.export import FrameGraph, encoder_id, load_checker
from kwsd.training.stages.checker.kept import Kept, is_kept, keep

log = logging.getLogger(__name__)
SHARD = 2000
"""Windows of a file."""
BATCH = 50
"""Windows that are heard at once."""
SHORTEST_FRAMES = 55
"""Least length of the part of a window that a batch shows."""


class VoicesSettings(Settings, frozen=True):
    """The settings `voices` of `checker.yaml`."""

    steps: int
    layer: int
    """The layer of the encoder; 0 is the input of its first block."""
    windows: int
    """Windows that are heard."""
    heard: VoiceSettings = field(default_factory=lambda: VoiceSettings(devices=250, shared=0.8))
    """Where they are heard; its `people` are ignored."""
    speeds: list[float] = field(default_factory=lambda: [1.0, 0.89, 1.12])
    pairs: int = 48
    """Pairs of windows of a batch, each of one person at two microphones."""
    groups: int = 4
    """Microphones of the first windows of the pairs of a batch."""
    teacher: float = 6.0
    """Weight of 1 - cosine to what Resemblyzer says of a window; 0: it is not asked."""
    own: float = 0.5
    """See `VoiceFrames.targets`."""
    margin: float = 0.2
    scale: float = 24.0
    contrast: float = 0.5
    """Weight of the contrastive loss: each first window to its second, among all others."""
    width: int = 192
    rate: float = 2e-3
    ramp: float = 0.15
    weight_decay: float = 5e-3
    seed: int = 41
    checkpoint_every: int = 200
    log_every: int = 50


@dataclass(frozen=True)
class VoiceFrames:
    """What `gather` keeps."""

    kept: Kept
    """Its windows are float16 `[window, frame, dim]`."""
    length: np.ndarray
    """int64 `[window]`: how many of the frames, the last ones, hold sound."""
    person: np.ndarray
    """int64 `[window]`: person + speed * people."""
    device: np.ndarray
    """int64 `[window]`: the microphone, -1 for as recorded."""
    teacher: np.ndarray
    """float16 `[window, dim]`: what the teacher says of it; empty without a teacher."""

    @classmethod
    def load(cls, folder: Path) -> VoiceFrames:
        """Return all that is in `folder`. Raises FileNotFoundError where there is nothing."""
        kept = Kept.load(folder, "voices")
        return cls(kept, *(kept.known[name] for name in ("length", "person", "device", "teacher")))

    def targets(self, own: float) -> np.ndarray:
        """Return what a window's vector is pulled to, float32 `[window, dim]` of unit length:
        `own` of what the teacher says of it, the rest what it says of all that the person says.

        Of one word a teacher knows little; of a person who is heard in training it knows all, but
        there are few of them."""
        said = self.teacher.astype(np.float32)
        said -= said.mean(0)
        said /= np.linalg.norm(said, axis=1, keepdims=True).clip(1e-6)
        persons, of = np.unique(self.person, return_inverse=True)
        mean = np.zeros((len(persons), said.shape[1]), np.float32)
        np.add.at(mean, of, said)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-6)
        target = own * said + (1 - own) * mean[of]
        return np.asarray(target / np.linalg.norm(target, axis=1, keepdims=True).clip(1e-6))


def gather(data: TrainingData, tuned: Path, out: Path, settings: VoicesSettings) -> None:
    """Write frames of windows of the training split's people into the folder `out`, by the encoder
    of the checkpoint `tuned` in 8 bit, as devices have it, and what the teacher says of each; two
    files for each `SHARD`. What is there is not made again.

    Raises ConfigError where it was made otherwise."""
    out.mkdir(parents=True, exist_ok=True)
    checker = load_checker(tuned)
    made_by = {
        "encoder": encoder_id(checker.encoder),
        "layer": settings.layer,
        "teacher": bool(settings.teacher),
    }
    graph = FrameGraph(checker, out / "encoder.onnx", settings.layer)
    teacher = Voice() if settings.teacher else None
    scenes = data.scenes(seed=settings.seed)
    scenes.reseed([settings.seed])
    places = [Device(scenes, settings.heard.telephone) for _ in range(settings.heard.devices)]
    rooms = Rooms(data.rooms)
    people = list(scenes.corpora.people(development=False).values())
    order = _order(len(people) * len(settings.speeds), settings)
    for n, at in enumerate(range(0, settings.windows, SHARD)):
        path = out / f"{n:03}.npz"
        if is_kept(path, made_by):
            continue
        scenes.reseed([settings.seed, n])
        person = order[at : at + SHARD]
        shared = scenes.rng.random(len(person)) < settings.heard.shared
        device = np.where(shared, scenes.rng.integers(len(places), size=len(person)), -1)
        frames: list[np.ndarray] = []
        lengths: list[int] = []
        vectors: list[np.ndarray] = []
        for begin in range(0, len(person), BATCH):
            clean = []
            degradations = []
            for identity, place in zip(
                person[begin : begin + BATCH], device[begin : begin + BATCH], strict=True
            ):
                speed, who = divmod(int(identity), len(people))
                seconds = scenes.rng.uniform(settings.heard.shortest_s, settings.heard.longest_s)
                clean.append(window(scenes, people[who], seconds, settings.speeds[speed]))
                degradations.append(
                    places[place].degradation() if place >= 0 else as_recorded(scenes)
                )
            heard = augment.degrade(
                torch.from_numpy(np.stack(clean)), augment.stack(degradations), rooms
            )
            spoken = [_spoken(samples) for samples in at_peak(heard).numpy()]
            given = checker.given(at_peak(torch.from_numpy(np.stack(spoken))))
            frames += [graph.of(given[one : one + 1]) for one in range(len(given))]
            sounds = checker.encoder.sounds(given)
            most = len(frames[-1])
            lengths += [most] * len(spoken) if sounds is None else sounds.sum(1).tolist()
            if teacher is not None:
                vectors += list(teacher.windows([np.trim_zeros(samples) for samples in clean]))
        keep(
            path,
            np.stack(frames),
            made_by,
            length=np.array(lengths, np.int64),
            person=person,
            device=device,
            teacher=np.array(vectors or np.zeros((len(person), 0)), np.float16),
        )
        log.info("%s: %d of %d windows", path.name, at + len(person), settings.windows)


def _order(identities: int, settings: VoicesSettings) -> np.ndarray:
    """Return who is heard in each window: everybody once, and again in another order."""
    rng = np.random.default_rng(settings.seed)
    times = -(-settings.windows // identities)
    return np.concatenate([rng.permutation(identities) for _ in range(times)])[: settings.windows]


def _spoken(samples: np.ndarray) -> np.ndarray:
    """Return a window as the device gives it to the head: what is voiced, after silence, float32
    `[sample]`."""
    heard = HighPass().step(samples.round().astype(np.int16))
    spoken = spoken_part(heard)
    return np.pad(spoken.astype(np.float32), (len(samples) - len(spoken), 0))


class PairBatch(NamedTuple):
    """Windows of people, first all first ones of the pairs, then all second ones."""

    frames: Tensor
    """float32 `[2 pair, frame, dim]`."""
    sounds: Tensor
    """bool `[2 pair, frame]`."""
    person: Tensor
    """int64 `[2 pair]`."""
    target: Tensor
    """float32 `[2 pair, dim]`: what the teacher says."""

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`."""
        return PairBatch(*(part.to(device) for part in self))


class VoicePairs(IterableDataset[PairBatch]):
    """Endless batches of pairs."""

    def __init__(self, found: VoiceFrames, settings: VoicesSettings, seed: int) -> None:
        """Raises ValueError where nobody has two windows."""
        self.found = found
        self.settings = settings
        self.seed = seed
        self.targets = found.targets(settings.own)
        self.of_device = [rows for rows in _groups(found.device) if found.device[rows[0]] >= 0]
        self.of_person = {int(found.person[rows[0]]): rows for rows in _groups(found.person)}
        if not self.of_device or max(map(len, self.of_person.values())) < 2:
            raise ValueError(
                "voices need people of two windows at least, at shared microphones: raise "
                "voices.windows, or voices.heard.shared"
            )

    def prepare(self, batch: PairBatch) -> PairBatch:
        """Return the batch."""
        return batch

    def __iter__(self) -> Iterator[PairBatch]:
        rng = np.random.default_rng(worker_seed(self.seed))
        found = self.found
        most = found.kept.windows[0].shape[1]
        while True:
            firsts = self._firsts(rng)
            rows = np.concatenate([firsts, [self._second(rng, row) for row in firsts]])
            shown = int(rng.integers(min(SHORTEST_FRAMES, most), most + 1))
            length = found.length[rows]
            if rng.random() < 0.5:  # as much as a short word tells
                length = np.maximum((length * rng.uniform(0.55, 1, len(rows))).astype(int), 30)
            sounds = np.arange(shown) >= shown - np.minimum(length, shown)[:, None]
            yield PairBatch(
                torch.from_numpy(found.kept.rows(rows)[:, most - shown :].astype(np.float32)),
                torch.from_numpy(sounds),
                torch.from_numpy(found.person[rows]),
                torch.from_numpy(self.targets[rows]),
            )

    def _firsts(self, rng: np.random.Generator) -> np.ndarray:
        """Return windows of different people, at a few microphones."""
        groups = min(self.settings.groups, len(self.of_device))
        each = self.settings.pairs // groups
        drawn = rng.choice(len(self.of_device), groups, replace=False)
        rows = np.concatenate([rng.permutation(self.of_device[n])[:each] for n in drawn])
        _, first = np.unique(self.found.person[rows], return_index=True)
        return np.asarray(rows[np.sort(first)])

    def _second(self, rng: np.random.Generator, row: int) -> int:
        """Return another window of a person, at another microphone where there is one."""
        device = self.found.device
        others = self.of_person[int(self.found.person[row])]
        others = others[others != row]
        elsewhere = others[(device[others] != device[row]) | (device[others] < 0)]
        pool = elsewhere if len(elsewhere) else others
        return int(rng.choice(pool)) if len(pool) else row


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each label."""
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.split(np.argsort(of, kind="stable"), np.cumsum(counts)[:-1])


def train(data: TrainingData, frames: Path, out: Path, settings: VoicesSettings) -> None:
    """Train the head on what is in the folder `frames`, through the checkpoint `out`."""
    found = VoiceFrames.load(frames)
    people = len(data.corpora().people(development=False))
    with devices() as here:
        torch.manual_seed(settings.seed)
        layer = found.kept.made_by["layer"]
        head = VoiceHead(found.kept.windows[0].shape[-1], [layer], settings.width)
        softmax = MarginSoftmax(VoiceHead.dim, people * len(settings.speeds), settings.scale)
        model = _Learner(head, softmax, found.teacher.shape[1], settings).to(here.device)
        parts: dict[str, nn.Module] = {
            "voice": head,
            "people": softmax,
            "project": model.project,
        }
        loop = Loop(
            out,
            parts,
            [Group(model.parameters(), settings.rate)],
            LoopSettings(
                settings.steps,
                settings.ramp,
                weight_decay=settings.weight_decay,
                log_every=settings.log_every,
                checkpoint_every=settings.checkpoint_every,
            ),
            here,
            run=settings,
            notes={"encoder_id": found.kept.made_by["encoder"]},
        )
        pairs = VoicePairs(found, settings, here.seed(settings.seed, loop.first))
        batches = load(pairs, pairs.prepare, here.device)
        shared = here.share(model)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            batch = next(batches)
            yield shared(batch, rising_margin(settings.margin, n, settings.steps))

        loop.run(step)


class _Learner(nn.Module):
    """The head with what it learns by."""

    def __init__(
        self, head: VoiceHead, softmax: MarginSoftmax, teacher_dim: int, settings: VoicesSettings
    ) -> None:
        super().__init__()
        self.head = head
        self.softmax = softmax
        self.project = nn.Linear(VoiceHead.dim, max(teacher_dim, 1))
        self.settings = settings

    def forward(self, batch: PairBatch, margin: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and figures."""
        settings = self.settings
        layers = [batch.frames] * (self.head.mixture.layers[0] + 1)  # it looks at the last of them
        vectors = self.head(layers, batch.sounds)
        identity = self.softmax(vectors, batch.person, margin)
        first, second = vectors.chunk(2)
        likeness = settings.scale * first @ second.T
        same = torch.arange(len(first), device=likeness.device)
        # A first window's rivals are the second ones of others, and the first ones: some of these
        # share its microphone.
        rivals = settings.scale * first @ first.T - 1e9 * torch.eye(len(first), device=same.device)
        contrast = F.cross_entropy(torch.cat([likeness, rivals], dim=1), same)
        contrast = (contrast + F.cross_entropy(likeness.T, same)) / 2
        loss = identity + settings.contrast * contrast
        figures = {
            "identity": identity.detach(),
            "same": (likeness.argmax(1) == same).float().mean(),
        }
        if settings.teacher:
            cosine = F.cosine_similarity(self.project(vectors), batch.target)
            loss = loss + settings.teacher * (1 - cosine).mean()
            figures["teacher"] = cosine.detach().mean()
        return loss, figures
