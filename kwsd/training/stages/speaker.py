"""`kwsd train heads --only speaker`: the speaker heads over the frozen encoder's intermediate
features and embeddings, and fine bands of the same audio.

Additive angular margin softmax over all people of the training split, beside the cosine to the
*speaker's* vector from a teacher (Resemblyzer, GE2E, Wan et al. 2018, arXiv 1710.10467): it is made
of many utterances, so that the embedding of one word learns what many sentences reveal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from msgspec import field
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.data import loading
from kwsd.training.data.crops import Crops, CropSettings
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.features import (
    FINE_BANDS,
    INTERMEDIATE_FRAMES,
    LEAD_CHUNKS,
    STRIDE_FRAMES,
    student_features,
    voice_features,
)
from kwsd.training.loop import Devices, Group, Loop, LoopSettings
from kwsd.training.losses import MarginSoftmax, rising_margin
from kwsd.training.models.backbone import channels_last
from kwsd.training.models.checkpoint import load, load_encoder, save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHead, SpeakerHeads
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)


class SpeakerSettings(Settings, frozen=True):
    """The settings `speaker` of `heads.yaml`."""

    steps: int
    batch: int = 96
    crop_chunks: list[int] = field(default_factory=lambda: [10, 24])
    """See `CropSettings`."""
    margin: float = 0.25
    scale: float = 24.0
    """Of the cosines in the softmax."""
    teacher: float = 8.0
    """Weight of 1 - cosine to the speaker's vector by the teacher."""
    speeds: list[float] = field(default_factory=lambda: [1.0, 0.89, 1.12])
    """See `CropSettings`."""
    rate: float = 2e-3
    heads: int = 2
    """How many heads, from consecutive seeds beginning with `seed`."""
    seed: int = 3
    checkpoint_every: int = 250
    log_every: int = 50

    @property
    def crops(self) -> CropSettings:
        """The settings of a batch."""
        return CropSettings(self.batch, self.crop_chunks, self.speeds)


def train(
    data: TrainingData, voices: Voices, encoder_path: Path, out: Path, settings: SpeakerSettings
) -> None:
    """Train the heads on the encoder of the checkpoint `encoder_path` into `out`.

    Each head resumes where it was interrupted. Raises TeacherError."""
    paths = [out.with_suffix(f".{n}.pt") for n in range(settings.heads)]
    for n, path in enumerate(paths):
        train_head(
            data,
            voices,
            encoder_path,
            path,
            msgspec.structs.replace(settings, seed=settings.seed + n),
        )
    trained = [load(path, "head", SpeakerHead) for path in paths]
    heads = SpeakerHeads(settings.heads, **trained[0].shape)
    for head, source in zip(heads.heads, trained, strict=True):
        head.load_state_dict(source.state_dict())
    save(out, head=heads, step=settings.steps)


def train_head(
    data: TrainingData, voices: Voices, encoder_path: Path, out: Path, settings: SpeakerSettings
) -> None:
    """Train one head through the checkpoint `out`. Raises TeacherError."""
    torch.manual_seed(settings.seed)
    people = data.corpora().people(development=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = torch.from_numpy(voices.matrix(people)).to(device)
    log.info("%d people, %d utterances", len(people), sum(map(len, people.values())))
    encoder = channels_last(load_encoder(encoder_path).to(device))
    head = SpeakerHead(encoder.intermediate_dim, fine=FINE_BANDS).to(device).train()
    project = nn.Linear(SpeakerHead.dim, teacher.shape[1]).to(device)
    identities = len(people) * len(settings.speeds)
    softmax = MarginSoftmax(SpeakerHead.dim, identities, settings.scale).to(device)
    parts = {"head": head, "project": project, "softmax": softmax}
    loop = Loop(
        out,
        parts,
        [Group([p for part in parts.values() for p in part.parameters()], settings.rate)],
        LoopSettings(
            settings.steps,
            ramp=0.15,
            weight_decay=5e-4,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
        ),
        Devices(device),
        run=settings,
    )
    seed = settings.seed + loop.first
    crops = Crops(data, [student_features, voice_features], settings.crops, seed)
    batches = loading.load(crops, crops.prepare, device)

    def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        mel, bands, person = next(batches)
        assert mel.shape[1] % STRIDE_FRAMES == 0
        with torch.autocast(device.type, torch.bfloat16):
            frames = encode(encoder, mel, LEAD_CHUNKS)
            embedding = head(*frames, bands[:, LEAD_CHUNKS * STRIDE_FRAMES :]).float()
        margin = rising_margin(settings.margin, n, settings.steps)
        identity = softmax(embedding, person, margin)
        known = person < len(people)
        cosine = F.cosine_similarity(project(embedding[known]), teacher[person[known]])
        distance = (1 - cosine).sum() / known.sum().clamp(min=1)
        yield (
            identity + settings.teacher * distance,
            {
                "identity": identity,
                "teacher": distance,
                "identity_accuracy": softmax.accuracy(embedding, person),
            },
        )

    loop.run(step)


def encode(encoder: Encoder, mel: Tensor, skip_chunks: int) -> tuple[Tensor, Tensor]:
    """Return the encoder's frames after the first `skip_chunks`: intermediate features
    `[batch, 4 k, 384]` and embedding `[batch, k, 96]`."""
    with torch.no_grad():
        embedding, intermediate, _ = encoder(mel, encoder.zero_state(len(mel)))
    intermediate = intermediate[:, skip_chunks * INTERMEDIATE_FRAMES :]
    return intermediate.float(), embedding[:, skip_chunks:].float()
