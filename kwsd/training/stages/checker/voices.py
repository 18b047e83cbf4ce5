"""`kwsd train voices`: voices by a network of the checker's own, beside its tuned head.

First `gather` hears many people at a few hundred microphones, each of them in a room with its
noise, and keeps mel bels, and what Resemblyzer says of each window before anything happens to it.
Then `train` begins with Resemblyzer's weights, and may teach them to say the same of short words in
noise and rooms. Each speed at which a person is played makes another person (Yamamoto et al. 2019).
The first windows of a batch's pairs come from a few of the microphones, and the second ones from
others: who is to be told apart shares a room, and the same person does not.
"""

from __future__ import annotations

import hashlib
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
from kwsd.training.data.windows import WINDOW_SAMPLES, at_peak
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.models.teachers import Voice
from kwsd.training.models.voice_network import BANDS, HOP, VoiceNetwork, mel_filters
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.kept import Kept, is_kept, keep

log = logging.getLogger(__name__)
SHARD = 2000
"""Windows of a file."""
BATCH = 50
"""Windows that are heard at once."""
SHOWN = (60, 150)
"""Least and greatest length of the part of a window that a batch shows, in frames of 10 ms; every
fifth batch shows it whole."""


class VoicesSettings(Settings, frozen=True):
    """The settings `voices` of `checker.yaml`."""

    steps: int
    """0: the network stays what it begins with, and `windows` tell what is common to everybody."""
    windows: int
    """Windows that are heard."""
    share: float
    """Weight of the network, above 0 and below 1, beside the head that was tuned."""
    weight: float
    """Weight of both, above 0 and below 1, beside the speaker heads."""
    heard: VoiceSettings = field(default_factory=lambda: VoiceSettings(devices=400, shared=0.8))
    """Where they are heard; its `people` are ignored."""
    speeds: list[float] = field(default_factory=lambda: [1.0, 0.89, 1.12])
    pairs: int = 32
    """Pairs of windows of a batch, each of one person at two microphones."""
    groups: int = 4
    """Microphones of the first windows of the pairs of a batch."""
    teacher: float = 10.0
    """Weight of 1 - cosine to what Resemblyzer says of a window; 0: it is not asked, and the
    network begins with nothing."""
    own: float = 1.0
    """See `VoiceWindows.targets`."""
    scale: float = 24.0
    contrast: float = 0.1
    """Weight of the contrastive loss: each first window to its second, among all others."""
    sentences: float = 0.55
    """Share of the windows by people who say sentences: of these a teacher knows more."""
    width: int = 256
    """Units of a layer; Resemblyzer's, where it is asked."""
    rate: float = 2e-4
    ramp: float = 0.05
    weight_decay: float = 1e-3
    seed: int = 41
    checkpoint_every: int = 200
    log_every: int = 50

    def __post_init__(self) -> None:
        if not (self.steps or self.teacher):
            raise ValueError("teacher=0 begins with nothing; set steps as well")


@dataclass(frozen=True)
class VoiceWindows:
    """What `gather` keeps."""

    kept: Kept
    """Its windows are mel bels, float16 `[window, frame, band]`."""
    length: np.ndarray
    """int64 `[window]`: how many of the frames, the last ones, hold sound."""
    person: np.ndarray
    """int64 `[window]`: person + speed * people."""
    device: np.ndarray
    """int64 `[window]`: the microphone, -1 for as recorded."""
    sentence: np.ndarray
    """bool `[window]`: by a person who says sentences."""
    teacher: np.ndarray
    """float16 `[window, dim]`: what the teacher says of it; empty without a teacher."""

    @classmethod
    def load(cls, folder: Path) -> VoiceWindows:
        """Return all that is in `folder`. Raises FileNotFoundError where there is nothing."""
        kept = Kept.load(folder, "voices")
        names = ("length", "person", "device", "sentence", "teacher")
        return cls(kept, *(kept.known[name] for name in names))

    def common(self) -> np.ndarray:
        """Return what the teacher says of everybody, float32 `[dim]`."""
        return np.asarray(self.teacher.astype(np.float32).mean(0))

    def targets(self, own: float) -> np.ndarray:
        """Return what a window's vector, less `common`, is pulled to, float32 `[window, dim]` of
        unit length: `own` of what the teacher says of it, the rest what it says of all that the
        person says.

        Of one word a teacher knows little; of a person who is heard in training it knows all, but
        there are few of them."""
        said = self.teacher.astype(np.float32) - self.common()
        said /= np.linalg.norm(said, axis=1, keepdims=True).clip(1e-6)
        persons, of = np.unique(self.person, return_inverse=True)
        mean = np.zeros((len(persons), said.shape[1]), np.float32)
        np.add.at(mean, of, said)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-6)
        target = own * said + (1 - own) * mean[of]
        return np.asarray(target / np.linalg.norm(target, axis=1, keepdims=True).clip(1e-6))


def voices(
    data: TrainingData, filters: np.ndarray | None, out: Path, settings: VoicesSettings
) -> VoiceNetwork:
    """Train a network through the checkpoint `out`, on windows in the folder of its name, and
    return it. `filters [201, band]` are those of the mel that it takes; None for a waveform.

    Raises ConfigError where either was made otherwise."""
    filters = mel_filters(BANDS) if filters is None else filters
    gather(data, filters, out.with_suffix(""), settings)
    return train(filters, out, settings)


def gather(data: TrainingData, filters: np.ndarray, out: Path, settings: VoicesSettings) -> None:
    """Write mel bels by `filters [201, band]` of windows of the training split's people into the
    folder `out`, and what the teacher says of each; two files for each `SHARD`. What is there is
    not made again.

    Raises ConfigError where it was made otherwise."""
    out.mkdir(parents=True, exist_ok=True)
    made_by = {
        "filters": hashlib.sha256(filters.tobytes()).hexdigest()[:16],
        "teacher": bool(settings.teacher),
    }
    network = VoiceNetwork(filters.shape[1])
    network.hear_by(filters)
    teacher = Voice() if settings.teacher else None
    scenes = data.scenes(seed=settings.seed)
    scenes.reseed([settings.seed])
    places = [Device(scenes, settings.heard.telephone) for _ in range(settings.heard.devices)]
    rooms = Rooms(data.rooms)
    people = list(scenes.corpora.people(development=False).values())
    lengths = np.array([np.median([one.samples for one in takes]) for takes in people])
    order = _order(len(people) * len(settings.speeds), settings)
    for n, at in enumerate(range(0, settings.windows, SHARD)):
        path = out / f"{n:03}.npz"
        if is_kept(path, made_by):
            continue
        scenes.reseed([settings.seed, n])
        person = order[at : at + SHARD]
        shared = scenes.rng.random(len(person)) < settings.heard.shared
        device = np.where(shared, scenes.rng.integers(len(places), size=len(person)), -1)
        bels: list[np.ndarray] = []
        frames: list[int] = []
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
            at_level = at_peak(torch.from_numpy(np.stack(spoken)))
            bels.append(network.bels(at_level / 32768).numpy().astype(np.float16))
            frames += [len(np.trim_zeros(samples, "f")) // HOP for samples in spoken]
            if teacher is not None:
                alone = [_spoken(x) for x in at_peak(torch.from_numpy(np.stack(clean))).numpy()]
                vectors += list(teacher.windows([np.trim_zeros(x) for x in alone]))
        keep(
            path,
            np.concatenate(bels),
            made_by,
            length=np.array(frames, np.int64),
            person=person,
            device=device,
            sentence=lengths[person % len(people)] > WINDOW_SAMPLES,
            teacher=np.array(vectors or np.zeros((len(person), 0)), np.float16),
        )
        log.info("%s: %d of %d windows", path.name, at + len(person), settings.windows)


def _order(identities: int, settings: VoicesSettings) -> np.ndarray:
    """Return who is heard in each window: everybody once, and again in another order."""
    rng = np.random.default_rng(settings.seed)
    times = -(-settings.windows // identities)
    return np.concatenate([rng.permutation(identities) for _ in range(times)])[: settings.windows]


def _spoken(samples: np.ndarray) -> np.ndarray:
    """Return a window as the device gives it to the network: what is voiced, after silence, float32
    `[sample]`."""
    heard = HighPass().step(samples.round().astype(np.int16))
    spoken = spoken_part(heard)
    return np.pad(spoken.astype(np.float32), (len(samples) - len(spoken), 0))


class PairBatch(NamedTuple):
    """Windows of people, first all first ones of the pairs, then all second ones."""

    bels: Tensor
    """float32 `[2 pair, frame, band]`."""
    sounds: Tensor
    """bool `[2 pair, frame]`."""
    target: Tensor
    """float32 `[2 pair, dim]`: what the teacher says."""

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`."""
        return PairBatch(*(part.to(device) for part in self))


class VoicePairs(IterableDataset[PairBatch]):
    """Endless batches of pairs."""

    def __init__(self, found: VoiceWindows, settings: VoicesSettings, seed: int) -> None:
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
                "windows, or heard.shared, by --set"
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
            shown = most if rng.random() < 0.2 else min(int(rng.integers(*SHOWN)), most)
            length = found.length[rows]
            if rng.random() < 0.5:  # as much as a short word tells
                length = np.maximum((length * rng.uniform(0.5, 1, len(rows))).astype(int), 30)
            sounds = np.arange(shown) >= shown - np.minimum(length, shown)[:, None]
            yield PairBatch(
                torch.from_numpy(found.kept.rows(rows)[:, most - shown :].astype(np.float32)),
                torch.from_numpy(sounds),
                torch.from_numpy(self.targets[rows]),
            )

    def _firsts(self, rng: np.random.Generator) -> np.ndarray:
        """Return windows of different people, at a few microphones."""
        groups = min(self.settings.groups, len(self.of_device))
        each = self.settings.pairs // groups
        drawn = rng.choice(len(self.of_device), groups, replace=False)
        rows = np.concatenate([self._at(self.of_device[n], each, rng) for n in drawn])
        _, first = np.unique(self.found.person[rows], return_index=True)
        return np.asarray(rows[np.sort(first)])

    def _at(self, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return some of the windows at one microphone."""
        sentence = self.found.sentence[rows]
        share = self.settings.sentences
        if sentence.all() or not sentence.any():
            weights = np.ones(len(rows))
        else:
            weights = np.where(sentence, share / sentence.mean(), (1 - share) / (~sentence).mean())
        chance = weights / weights.sum()
        count = min(count, int((chance > 0).sum()))
        return np.asarray(rng.choice(rows, count, replace=False, p=chance))

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


def train(filters: np.ndarray, out: Path, settings: VoicesSettings) -> VoiceNetwork:
    """Begin as the teacher, train on what `gather` left through the checkpoint `out` where there
    are steps, and return the network."""
    found = VoiceWindows.load(out.with_suffix(""))
    with devices() as here:
        torch.manual_seed(settings.seed)
        network = VoiceNetwork(filters.shape[1], width=settings.width)
        network.hear_by(filters)
        if settings.teacher:
            network.begin_as(Voice().network(), found.common())
        if not settings.steps:
            return network.eval()
        model = _Learner(network, settings).to(here.device)
        parts: dict[str, nn.Module] = {"voice": network}
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
        )
        pairs = VoicePairs(found, settings, here.seed(settings.seed, loop.first))
        batches = load(pairs, pairs.prepare, here.device)
        shared = here.share(model)

        def step(_: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            yield shared(next(batches))

        loop.run(step)
    return network.cpu().eval()


class _Learner(nn.Module):
    """The network with what it learns by."""

    def __init__(self, network: VoiceNetwork, settings: VoicesSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and figures."""
        settings = self.settings
        vectors = self.network(batch.bels, batch.sounds)
        first, second = vectors.chunk(2)
        likeness = settings.scale * first @ second.T
        same = torch.arange(len(first), device=likeness.device)
        # A first window's rivals are the second ones of others, and the first ones: some of these
        # share its microphone.
        rivals = settings.scale * first @ first.T - 1e9 * torch.eye(len(first), device=same.device)
        contrast = F.cross_entropy(torch.cat([likeness, rivals], dim=1), same)
        contrast = (contrast + F.cross_entropy(likeness.T, same)) / 2
        loss = settings.contrast * contrast
        figures = {"same": (likeness.argmax(1) == same).float().mean()}
        if settings.teacher:
            cosine = F.cosine_similarity(vectors, batch.target)
            loss = loss + settings.teacher * (1 - cosine).mean()
            figures["teacher"] = cosine.detach().mean()
        return loss, figures
