"""`kwsd train compare --teacher`: the checker's student beside its teacher, as paper A measures
them (Kerpicci et al. 2022, arXiv 2210.16611).

Both are tuned alike, in as many steps: first the heads on the frozen encoder, then everything, a
batch of words (cross-entropy) and a batch of voices (angular margin softmax) in turn. Both are
asked the same questions, and the interval is that of the differences between their answers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.metrics import bootstrap_interval, equal_error_rate, verification_trials
from kwsd.training.data import augment, spoken
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.loading import load, worker_seed
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.voice_rooms import VoiceRooms, VoiceSettings
from kwsd.training.data.windows import WINDOW_SAMPLES, at_peak
from kwsd.training.data.word_scenes import SILENCE
from kwsd.training.development import Development, Report
from kwsd.training.loop import Devices, Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, pair_contrast, rising_margin
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import STEP_FRAMES, CheckerHead, VoiceHead
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings
from kwsd.training.stages.compare import MIN_TAKES, OTHER, OTHERS, classified, labeled_words

log = logging.getLogger(__name__)
SAMPLES = round(1.28 * SAMPLE_RATE) + 240
"""A window for one word: 16 steps of 80 ms."""
AFTER_SAMPLES = round(0.2 * SAMPLE_RATE)
"""What is heard after a word that is asked about."""
DRAWS = 200
"""Halves of the people from which the interval of an equal error rate is read."""


class HeadlineSettings(Settings, frozen=True):
    """The settings of `headline.yaml`."""

    head_steps: int
    """Steps of the heads on the frozen encoder, first."""
    steps: int
    """Steps of everything."""
    layers: list[int]
    """The layers that the word head mixes."""
    voice_layers: list[int]
    words: int = 32
    """Words of a batch."""
    voices: VoiceSettings = VoiceSettings(people=16, devices=8, shortest_s=0.6, longest_s=0.95)
    rate: float = 2e-4
    head_rate: float = 1.5e-3
    ramp: float = 0.1
    voice: float = 0.2
    """Weight of the voices; the words have 1."""
    margin: float = 0.2
    scale: float = 24.0
    mixed_precision: bool = True
    """Multiply in bfloat16 where the device computes in it."""
    seed: int = 3
    checkpoint_every: int = 50
    log_every: int = 25


class LabeledBatch(NamedTuple):
    """Windows with one word at their end, or with none."""

    clean: Tensor
    """float32 `[batch, sample]`"""
    degradation: Degradation
    label: Tensor
    """int64 `[batch]`"""

    def to(self, device: torch.device) -> LabeledBatch:
        """Return the batch on `device`."""
        return LabeledBatch(
            self.clean.to(device), self.degradation.to(device), self.label.to(device)
        )


class LabeledWords(IterableDataset[LabeledBatch]):
    """Endless batches of the training split's words, as `labeled_words` asks about the
    development split's: `OTHER` and silence have their shares."""

    def __init__(self, data: TrainingData, classes: Sequence[str], batch: int, seed: int) -> None:
        self.data = data
        self.classes = list(classes)
        self.batch = batch
        self.seed = seed
        self.responses = Rooms(data.rooms)

    def prepare(self, batch: LabeledBatch) -> tuple[Tensor, Tensor]:
        """Return the windows as heard, at the checker's level, and their classes."""
        heard = augment.degrade(batch.clean, batch.degradation, self.responses)
        return at_peak(heard[:, -SAMPLES:]), batch.label

    def __iter__(self) -> Iterator[LabeledBatch]:
        scenes = self.data.scenes(seed=worker_seed(self.seed))
        rng = scenes.rng
        single, others = classified(
            scenes.corpora, self.data.transcripts(), self.classes, development=False
        )
        share = np.array([OTHERS, 1, 1 if scenes.noise else 0], float)
        while True:
            windows, degradations, labels = [], [], []
            for kind in rng.choice(3, self.batch, p=share / share.sum()):
                if kind == 2:
                    x = scenes.fill(lambda: scenes.pick(scenes.noise), WINDOW_SAMPLES)
                    label, place = SILENCE, (0, WINDOW_SAMPLES)
                elif kind == 1 and others:
                    utterance, *span = others[rng.integers(len(others))]
                    x, label = scenes.corpora.read(utterance), OTHER
                    place = span[0], span[1]
                else:
                    utterance = single[rng.integers(len(single))]
                    x, label, place = scenes.corpora.read(utterance), utterance.text, (0, 0)
                window, degradation = spoken.window(scenes, x, *place)
                windows.append(window)
                degradations.append(degradation)
                labels.append(self.classes.index(label))
            yield LabeledBatch(
                torch.from_numpy(np.stack(windows)),
                augment.stack(degradations),
                torch.tensor(labels),
            )


class TwoTasks(nn.Module):
    """An encoder with a head for words and one for voices."""

    def __init__(
        self,
        encoder: Transformer,
        classes: int,
        people: int,
        settings: HeadlineSettings,
        here: Devices,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        frames = encoder.stem(encoder.inputs(torch.zeros(1, SAMPLES))).shape[1]
        self.words = CheckerHead(classes, encoder.dim, settings.layers, frames // STEP_FRAMES)
        self.voice = VoiceHead(encoder.dim, settings.voice_layers)
        self.people = MarginSoftmax(VoiceHead.dim, people, settings.scale)
        self.settings = settings
        self.here = here

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts of a checkpoint."""
        return dict(self.named_children())

    def forward(
        self, task: str, heard: Tensor, known: Tensor, margin: float = 0.0, frozen: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of `words` or of `voices`, and how many were right."""
        inputs = self.encoder.inputs(heard)
        mixed = self.here.autocast(self.settings.mixed_precision)
        with torch.set_grad_enabled(not frozen), mixed:
            hidden = [layer.float() for layer in self.encoder(inputs)]
        if task == "words":
            logits = self.words(hidden)
            return F.cross_entropy(logits, known), (logits.argmax(1) == known).float().mean()
        vectors = self.voice(hidden, self.encoder.sounds(inputs))
        contrast, right = pair_contrast(vectors, self.settings.scale)
        return self.people(vectors, known, margin) + 0.5 * contrast, right


def train(
    data: TrainingData,
    encoder: Transformer,
    classes: Sequence[str],
    out: Path,
    settings: HeadlineSettings,
) -> TwoTasks:
    """Tune `encoder` with new heads through the checkpoint `out`, and return it, in evaluation
    mode."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        people = data.corpora().people(development=False)
        model = TwoTasks(encoder, len(classes), len(people), settings, here)
        model.train().requires_grad_(True).to(here.device)
        heads = [part for name, part in model.parts.items() if name != "encoder"]
        total = settings.head_steps + settings.steps
        loop = Loop(
            out,
            model.parts,
            [
                Group(encoder.parameters(), settings.rate),
                Group([p for head in heads for p in head.parameters()], settings.head_rate),
            ],
            LoopSettings(
                total,
                settings.ramp,
                weight_decay=2e-2,
                updates_per_step=2,
                log_every=settings.log_every,
                checkpoint_every=settings.checkpoint_every,
            ),
            here,
            run=settings,
            notes={"classes": list(classes)},
        )
        seed = here.seed(settings.seed, loop.first)
        labeled = LabeledWords(data, classes, settings.words, seed)
        rooms = VoiceRooms(data, settings.voices, seed + 1)
        word_batches = load(labeled, labeled.prepare, here.device)
        voice_batches = load(rooms, rooms.prepare, here.device)
        shared = here.share(model)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            frozen = n < settings.head_steps
            heard, label = next(word_batches)
            loss, right = shared("words", heard, label, frozen=frozen)
            yield loss, {"words": loss.detach(), "right": right}
            heard, person = next(voice_batches)
            margin = rising_margin(settings.margin, n, total)
            loss, same = shared("voices", heard[:, -SAMPLES:], person, margin=margin, frozen=frozen)
            yield settings.voice * loss, {"voices": loss.detach(), "same": same}

        loop.run(step)
    return model.eval()


class Answers(NamedTuple):
    """What a model answers on a split."""

    right: np.ndarray
    """bool `[clip]`"""
    speakers: list[str]
    """Who says each clip."""
    people: list[np.ndarray]
    """The voices `[take, dim]` of each person."""

    def figures(self) -> Report:
        """Return the accuracy (None without clips), the equal error rate of one take against one,
        and how much was asked."""
        return {
            "accuracy": float(self.right.mean()) if len(self.right) else None,
            "eer": _equal_errors(self.people),
            "clips": len(self.right),
            "people": len(self.people),
        }


@torch.inference_mode()
def answers(model: TwoTasks, data: TrainingData, classes: Sequence[str]) -> Answers:
    """Ask `model` about the words and people of the development split of `data`.

    Raises ValueError with fewer than two people."""
    development = Development(data)
    encoder = model.encoder
    right: list[bool] = []
    speakers: list[str] = []
    for x, word, speaker in labeled_words(development, data.transcripts(), classes):
        known = word not in (OTHER, SILENCE)
        end = speech_span(x)[1] if known else len(x)
        window = np.pad(x[:end], (SAMPLES, 0))[-(SAMPLES - AFTER_SAMPLES) :]
        after = np.pad(x[end:][:AFTER_SAMPLES], (0, max(AFTER_SAMPLES - len(x) + end, 0)))
        heard = at_peak(torch.from_numpy(np.concatenate([window, after]).astype(np.float32))[None])
        best = int(model.words(encoder(encoder.inputs(heard))).argmax())
        right.append(classes[best] == word)
        speakers.append(speaker)
    people = []
    for takes in development.takes(development.roles.word_accuracy):
        if len(takes) < MIN_TAKES:
            continue
        vectors = []
        for take in takes:
            begin, end = speech_span(take)
            spoken_part = torch.from_numpy(take[begin:end].astype(np.float32))[None]
            inputs = encoder.inputs(at_peak(spoken_part))
            vectors.append(model.voice(encoder(inputs))[0].numpy())
        people.append(np.stack(vectors))
    if len(people) < 2:
        raise ValueError(f"{len(people)} people have six takes; the equal error rate needs two")
    return Answers(np.array(right), speakers, people)


def difference(student: Answers, teacher: Answers) -> Report:
    """Return how far the student's figures lie above its teacher's, with 95 % intervals of the
    paired differences: over speakers, and over halves of the people, which have the same spread
    (Politis et al. 1999). Without clips there is none of the accuracy."""
    accuracy = None
    if len(student.right):
        apart = student.right.astype(float) - teacher.right
        low, high = bootstrap_interval(apart, student.speakers)
        accuracy = {"value": float(apart.mean()), "low": low, "high": high}
    rng = np.random.default_rng(0)
    count = len(student.people)
    drawn = []
    for _ in range(DRAWS):
        half = rng.permutation(count)[: max(count // 2, 2)]
        own, other = (
            _equal_errors([answered.people[n] for n in half]) for answered in (student, teacher)
        )
        drawn.append(own - other)
    eer_low, eer_high = np.quantile(drawn, [0.025, 0.975])
    eer = _equal_errors(student.people) - _equal_errors(teacher.people)
    return {
        "accuracy": accuracy,
        "eer": {"value": eer, "low": float(eer_low), "high": float(eer_high)},
    }


def _equal_errors(people: list[np.ndarray]) -> float:
    return equal_error_rate(*verification_trials(people)[0])[0]


def headline(
    data: TrainingData, teacher: str, distilled: Path, folder: Path, settings: HeadlineSettings
) -> Report:
    """Tune the transformer `teacher` and its student in the checkpoint `distilled` alike, through
    checkpoints in `folder`; return what both know of the development split, and of the recordings
    for validation where there are some. Raises TeacherError."""
    folder.mkdir(parents=True, exist_ok=True)
    corpora = data.corpora()
    named = {
        u.text
        for u in corpora.utterances
        if data.roles.has_single_words(u.corpus) and not u.development
    }
    classes = [*sorted(named), OTHER, SILENCE]
    splits = {"development": data, "val": data.validation()}
    report: Report = {"classes": [name or "silence" for name in classes]}
    found: dict[str, dict[str, Answers]] = {}
    encoders: dict[str, Callable[[], Transformer]] = {
        "teacher": lambda: load_pretrained(teacher).network,
        "student": lambda: checkpoint.load(distilled, "encoder", Transformer),
    }
    for name, encoder in encoders.items():
        model = train(data, encoder(), classes, folder / f"{name}.pt", settings)
        frames = model.words.positions.shape[0] * STEP_FRAMES
        report[name] = {"parameters": model.encoder.parameters_used(frames)}
        found[name] = {
            split: answers(model, part, classes) for split, part in splits.items() if part
        }
        report[name] |= {split: asked.figures() for split, asked in found[name].items()}
        report[name] |= report[name].pop("development")
        log.info("%s: %s", name, json.dumps(report[name]))
    report["difference"] = {
        split: difference(student, found["teacher"][split])
        for split, student in found["student"].items()
    }
    return report
