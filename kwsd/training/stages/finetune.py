"""`kwsd train finetune`: words and voices together, over all parameters (paper A, Kerpicci et al.
2022, arXiv 2210.16611).

Every step takes a batch of scenes with wake words, then one of voices, and updates the whole
encoder after each.

- Wake words: the max-pool loss on a provisional wake head.
- All words: every labeled or aligned word of a scene is classified by the last 1.28 s, so that the
  embedding separates words that it was never trained to wake on (cosine softmax over all words with
  a few utterances).
- Voices: angular margin softmax on the speaker head, and the speaker's vector by the voice teacher.
- A small term keeps the encoder near the outputs that it started with, on the clean scene.

`frozen: true` leaves the encoder as it is, for comparison.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from msgspec import field
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.data import loading
from kwsd.training.data.crops import Crops, CropSettings
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.word_scenes import SILENCE, WordScenes
from kwsd.training.features import INTERMEDIATE_FRAMES, LEAD_CHUNKS
from kwsd.training.loop import Devices, Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, rising_margin, wake_loss
from kwsd.training.models.backbone import (
    Backbone,
    Start,
    TransformerBackbone,
    channels_last,
    features_of,
    new_student,
)
from kwsd.training.models.checkpoint import load, load_encoder
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHead, WakeHead, WordSpace, embedding_windows
from kwsd.training.settings import Settings

ENCODERS = ("encoder", "reference_encoder")
"""The parts of a checkpoint that are not heads."""


class FinetuneSettings(Settings, frozen=True):
    """The settings of `finetune.yaml`."""

    steps: int
    word_batch: int = 24
    """Scenes per batch of words."""
    scene_s: float = 4.0
    voice_batch: int = 64
    """Crops per batch of voices."""
    rate: float = 1e-4
    """Learning rate of the encoder."""
    head_rate: float = 1e-3
    """Learning rate of the heads."""
    ramp: float = 0.1
    """Share of the updates in which the learning rates rise."""
    distillation: float = 0.2
    """Weight of the standardized squared error to the encoder's first outputs, on clean scenes."""
    all_words: float = 0.1
    """Weight of classifying all words; the wake words have the weight 1."""
    held_out: list[str] = field(default_factory=list)
    """Words that are left out of all words, so that `kwsd bench words` can measure added words that
    nothing was trained on."""
    voice: float = 0.2
    """Weight of the voices' loss; 0: words alone."""
    margin: float = 0.2
    scale: float = 24.0
    """Of the cosines in the softmaxes."""
    teacher: float = 8.0
    """Weight, within the voices' loss, of 1 - cosine to the speaker's vector by the teacher."""
    frozen: bool = False
    start: Start = "warm"
    """How a student starts without a checkpoint; `width` and `separable` give its shape."""
    width: float = 1.0
    separable: bool = False
    where: str | None = None
    """The folder or hub name of a transformer, which is then fine-tuned in the student's place."""
    upper: int = 3
    """How many of its blocks are trained."""
    intermediate_layer: int = 2
    """Layer whose features the voice head reads."""
    seed: int = 1
    checkpoint_every: int = 200
    log_every: int = 50


class JointModel(nn.Module):
    """A backbone and its heads. `forward` serves either task, so that one wrapper serves several
    devices."""

    def __init__(
        self,
        encoder: Backbone,
        words: int,
        types: int,
        people: int,
        teacher: Tensor,
        settings: FinetuneSettings,
    ) -> None:
        """`words` wake words, `types` of all words, `people` with their speeds; `teacher [person,
        dim]` holds the vectors of the people at speed 1."""
        super().__init__()
        self.settings = settings
        self.people = len(teacher)
        self.encoder = encoder
        self.wake = WakeHead(words, inputs=encoder.embedding_dim)
        self.speaker = SpeakerHead(encoder.intermediate_dim, encoder.embedding_dim)
        self.space = WordSpace(encoder.embedding_dim)
        self.types = MarginSoftmax(WordSpace.dim, types, settings.scale)
        self.project = nn.Linear(SpeakerHead.dim, teacher.shape[1])
        self.softmax = MarginSoftmax(SpeakerHead.dim, people, settings.scale)
        self.reference_encoder: Backbone | None = None
        if settings.distillation:
            reference = encoder.folded() if isinstance(encoder, Encoder) else encoder
            self.reference_encoder = copy.deepcopy(reference).requires_grad_(False)
        self.teacher: Tensor
        self.register_buffer("teacher", teacher, persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts of a checkpoint."""
        parts: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "head": self.wake,
            "speaker": self.speaker,
            "project": self.project,
            "softmax": self.softmax,
            "space": self.space,
            "types": self.types,
        }
        if self.reference_encoder is not None:
            parts["reference_encoder"] = self.reference_encoder
        return parts

    def forward(self, task: str, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return the losses of `words` (see `_words`) or of `voices` (see `_voices`)."""
        return self._words(*batch) if task == "words" else self._voices(*batch)

    def _words(
        self, heard: Tensor, clean: Tensor, labels: Tensor, ends: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the losses of the wake words and of all words, the accuracy of all words, and the
        distance to the reference encoder.

        The arguments are those that `WordScenes.prepare` gives."""
        embedding, _ = _encode(self.encoder, heard)
        logits, _, _ = self.wake(embedding, self.wake.zero_state(len(heard)))
        word = self.space(embedding_windows(embedding, ends[:, 0], ends[:, 1]))
        loss = self.types(word, ends[:, 2], 0.0)
        accuracy = self.types.accuracy(word, ends[:, 2])
        return wake_loss(logits, labels), loss, accuracy, self._distance(embedding, clean)

    def _voices(self, features: Tensor, person: Tensor, margin: Tensor) -> tuple[Tensor, ...]:
        """Return the loss of the identities, the distance to the teacher's vectors, and the
        accuracy of the identities."""
        embedding, intermediate = _encode(self.encoder, features)
        with torch.autocast(features.device.type, torch.bfloat16):
            voice = self.speaker(
                intermediate[:, LEAD_CHUNKS * INTERMEDIATE_FRAMES :], embedding[:, LEAD_CHUNKS:]
            ).float()
        identity = self.softmax(voice, person, float(margin))
        known = person < self.people
        cosine = F.cosine_similarity(self.project(voice[known]), self.teacher[person[known]])
        distance = (1 - cosine).sum() / known.sum().clamp(min=1)
        return identity, distance, self.softmax.accuracy(voice, person)

    def _distance(self, embedding: Tensor, clean: Tensor) -> Tensor:
        """Return the standardized squared error to the reference encoder's embedding of `clean`."""
        if self.reference_encoder is None:
            return embedding.new_zeros(())
        with torch.no_grad():
            target, _ = _encode(self.reference_encoder, clean)
        spread = target.flatten(0, 1).std(0).clamp(min=1e-3)
        return (((embedding - target) / spread) ** 2).mean()


def _encode(encoder: Backbone, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return embedding and intermediate features, float32."""
    with torch.autocast(features.device.type, torch.bfloat16):
        embedding, intermediate, _ = encoder(features, encoder.zero_state(len(features)))
    return embedding.float(), intermediate.float()


def train(
    data: TrainingData, voices: Voices, start: Path | None, out: Path, settings: FinetuneSettings
) -> None:
    """Train the encoder of the checkpoint `start` (None: a new one) through the checkpoint `out`.

    Raises TeacherError."""
    with devices() as here:
        torch.manual_seed(settings.seed)
        types = word_types(data, settings.held_out)
        crops = CropSettings(settings.voice_batch)
        people = data.corpora().people(development=False)
        teacher = torch.from_numpy(voices.matrix(people))
        encoder = _start_encoder(start, settings, data)
        identities = len(people) * len(crops.speeds)
        joint = JointModel(encoder, len(data.words), len(types), identities, teacher, settings)
        joint.to(here.device).train()
        _load_heads(joint, start)
        for part in (joint.encoder, joint.reference_encoder):
            if isinstance(part, Encoder):
                channels_last(part)
        if settings.frozen:
            joint.encoder.requires_grad_(False)
        loop = _loop(joint, out, settings, here, types)
        seed = here.seed(settings.seed, loop.first)
        features = features_of(encoder)
        scenes = WordScenes(data, types, features, settings.word_batch, settings.scene_s, seed)
        takes = Crops(data, [features], crops, seed)
        word_batches = loading.load(scenes, scenes.prepare, here.device)
        voice_batches = loading.load(takes, takes.prepare, here.device)
        model = here.share(joint)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            wake, words, accuracy, distance = model("words", *next(word_batches))
            yield (
                wake + settings.all_words * words + settings.distillation * distance,
                {"wake": wake, "words": words, "accuracy": accuracy, "distillation": distance},
            )
            if settings.voice:
                margin = torch.tensor(rising_margin(settings.margin, n, settings.steps))
                identity, away, named = model("voices", *next(voice_batches), margin)
                yield (
                    settings.voice * (identity + settings.teacher * away),
                    {"identity": identity, "teacher": away, "identity_accuracy": named},
                )

        loop.run(step)


def word_types(data: TrainingData, held_out: list[str]) -> list[str]:
    """Return the words to classify: silence first, then those of the training split with a few
    utterances, without `held_out`."""
    utterances = [u for u in data.corpora().utterances if not u.development and not u.noise]
    types = [SILENCE, *data.transcripts().types(utterances)]
    return [text for text in types if text not in held_out]


def _start_encoder(start: Path | None, settings: FinetuneSettings, data: TrainingData) -> Backbone:
    """Return the backbone to train: of a transformer, of the checkpoint `start`, or a new
    student."""
    if settings.where is not None:
        return TransformerBackbone(settings.where, settings.upper, settings.intermediate_layer)
    if start is None:
        return new_student(settings.start, settings.width, settings.separable, data.corpora())
    if settings.frozen:
        return load_encoder(start)
    return load(start, "encoder", Encoder).requires_grad_(True)


def _load_heads(joint: JointModel, start: Path | None) -> None:
    """Fill the heads that the checkpoint `start` holds."""
    saved = torch.load(start, weights_only=True) if start else {}
    for name, part in joint.parts().items():
        if name in saved and name not in ENCODERS:
            part.load_state_dict(saved[name])


def _loop(
    joint: JointModel, out: Path, settings: FinetuneSettings, here: Devices, types: list[str]
) -> Loop:
    """Return the loop over the parts of `joint`."""
    heads = [
        parameter
        for name, part in joint.parts().items()
        if name not in ENCODERS
        for parameter in part.parameters()
    ]
    return Loop(
        out,
        joint.parts(),
        [
            Group(joint.encoder.parameters(), settings.rate),
            Group(heads, settings.head_rate),
        ],
        LoopSettings(
            settings.steps,
            settings.ramp,
            weight_decay=1e-3,
            updates_per_step=2 if settings.voice else 1,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        ),
        here,
        run=settings,
        notes={"words": types},
    )
