"""The backbones of `kwsd train finetune`: the student's encoder, or a transformer teacher itself.

A backbone takes the features of a batch and gives `embedding [batch, chunk, embedding_dim]` for
words and intermediate features `[batch, 4 chunk, intermediate_dim]` for voices, so that teacher and
student are compared with the same heads, data and losses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora
from kwsd.training.features import (
    HOP_SAMPLES,
    INTERMEDIATE_FRAMES,
    LEAD_CHUNKS,
    Features,
    student_features,
)
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHead
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.pruning import prune
from kwsd.training.models.speech_embedding import pretrained_encoder


class TransformerBackbone(nn.Module):
    """A pretrained transformer of 50 frames per second, which sees all of what it is given.

    Words come from its top layer, voices from `intermediate_layer`. Its upper blocks, `upper` of
    them, are trained; the rest stays as it was loaded."""

    def __init__(self, where: str | Path, upper: int = 0, intermediate_layer: int = 2) -> None:
        """`where`: a folder or a hub name. Raises TeacherError."""
        super().__init__()
        self.layers = load_pretrained(where).network
        self.intermediate_layer = intermediate_layer
        self.shape = {
            "where": str(where),
            "upper": upper,
            "intermediate_layer": intermediate_layer,
        }
        self.embedding_dim = self.layers.dim
        self.intermediate_dim = self.layers.dim
        for block in list(self.layers.blocks)[len(self.layers.blocks) - upper :]:
            block.requires_grad_(True)

    def zero_state(self, batch: int = 1) -> list[Tensor]:
        """Return no state: a transformer has none."""
        return []

    def features(self, x: Tensor) -> Tensor:
        """Return Whisper's log-mel of `x [batch, sample]`, or the waveform, 10 ms per frame."""
        inputs = self.layers.inputs(x, centered=True)
        return inputs if self.layers.kind == "mel" else inputs.reshape(len(x), -1, HOP_SAMPLES)

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return embedding, intermediate features and `state` as it was."""
        hidden = self.layers(features if self.layers.kind == "mel" else features.flatten(1))
        frames = features.shape[1] // 2
        intermediate, top = (
            nn.functional.pad(hidden[n], (0, 0, 0, frames - hidden[n].shape[1]))
            for n in (self.intermediate_layer, -1)
        )
        chunks = top.reshape(len(top), -1, INTERMEDIATE_FRAMES, self.embedding_dim)
        return chunks.mean(2), intermediate, state

    def train(self, mode: bool = True) -> TransformerBackbone:
        """Set the training mode; what is not trained stays in evaluation mode."""
        super().train(False)
        for block in self.layers.blocks:
            block.train(mode and next(block.parameters()).requires_grad)
        return self


Backbone = Encoder | TransformerBackbone
Start = Literal["warm", "fresh"]
"""Where a student starts: from the speech embedding's weights, or from random ones."""


def new_student(start: Start, width: float, separable: bool, corpora: Corpora) -> Encoder:
    """Return a new student.

    Warm students that are narrower or separable are pruned from the speech embedding, fitted to
    recordings of `corpora`."""
    if start == "fresh":
        return Encoder(width, separable, normed=True)
    wide = pretrained_encoder()
    if width == 1 and not separable:
        return wide
    return prune(wide, _recordings(corpora), width, separable)


def _recordings(corpora: Corpora, rows: int = 32, seconds: int = 4) -> Tensor:
    """Return log-mel `[row, frame, 32]` of recordings of the training split, joined."""
    utterances = [u for u in corpora.utterances if not u.development and not u.noise]
    drawn = np.random.default_rng(0).permutation(len(utterances))[: 4 * rows]
    samples = np.concatenate([corpora.read(utterances[n])[: seconds * SAMPLE_RATE] for n in drawn])
    joined = np.resize(samples, (rows, seconds * SAMPLE_RATE)).astype(np.float32)
    return student_features(torch.from_numpy(joined))


def features_of(backbone: Backbone) -> Features:
    """Return the features that `backbone` takes."""
    return student_features if isinstance(backbone, Encoder) else backbone.features


def channels_last(encoder: Encoder) -> Encoder:
    """Put `encoder` into the memory format in which its convolutions of few channels are a quarter
    faster, and return it."""
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


@torch.inference_mode()
def voice_of(
    backbone: Backbone, features: Features, head: SpeakerHead, x: np.ndarray
) -> np.ndarray:
    """Return the embedding `[dim]` of the speech in `x [sample]`, int16 scale, at most 2 s of
    it."""
    margin = 800  # 50 ms on either side
    start, end = speech_span(x)
    x = x[max(start - margin, 0) : end + margin][: 2 * SAMPLE_RATE]
    padded = np.pad(x, (LEAD_CHUNKS * CHUNK_SAMPLES, -len(x) % CHUNK_SAMPLES))
    inputs = features(torch.from_numpy(augment.quantize_int16(padded)[None]))
    with torch.autocast("cpu", torch.bfloat16):
        embedding, intermediate, _ = backbone(inputs, backbone.zero_state())
    intermediate = intermediate[:, LEAD_CHUNKS * INTERMEDIATE_FRAMES :].float()
    return np.asarray(head(intermediate, embedding[:, LEAD_CHUNKS:].float())[0].numpy())
