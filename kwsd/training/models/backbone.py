"""What stands between audio and the two heads in `kwsd train finetune`: the student's encoder, or a transformer teacher itself.

A trunk takes the features of a batch and gives `embedding [batch, chunk, embedding_dim]` for words and `tap [batch, 4 chunk, tap_dim]` for
voices, so that teacher and student are compared with the same heads, data and losses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from kwsd.audio.log_mel import LogMel
from kwsd.training.data.corpora import RATE, Corpora
from kwsd.training.models.network import TAP_FRAMES, Encoder
from kwsd.training.models.pruning import slim
from kwsd.training.models.speech_embedding import front_end, pretrained_encoder
from kwsd.training.models.teachers import TransformerLayers

Features = Callable[[Tensor], Tensor]
"""Of int16-scale `[batch, sample]` (whole chunks): float32 `[batch, frame, band]`, eight frames a chunk, on the same device."""


def log_mel(front: LogMel, x: Tensor) -> Tensor:
    """`front` in torch, from the start of a stream: `x [batch, sample]` to `[batch, frame, band]`."""
    window, filters = (torch.from_numpy(part).to(x.device) for part in (front.window, front.filters))
    frames = nn.functional.pad(x, (front.history_samples, 0)).unfold(1, front.window_samples, front.hop_samples)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window, front.fft_samples))
    power = spectrum.square().sum(-1) @ filters
    return power.clamp(min=10.0 ** (front.floor_db / 10)).log10() * (10 * front.scale) + front.offset


def student_features(x: Tensor) -> Tensor:
    """The student's own log-mel."""
    return log_mel(front_end(), x)


class TransformerTrunk(nn.Module):
    """A pretrained transformer of 50 frames a second: words from its top layer, voices from `tap_layer`. It sees the whole of what it is given.

    Its upper blocks, `upper` of them, are trained; all else stays as it came."""

    def __init__(self, where: str | Path, upper: int = 0, tap_layer: int = 2) -> None:
        """Raises TeacherError."""
        super().__init__()
        self.layers, self.tap_layer = TransformerLayers(where), tap_layer
        self.shape = {"where": str(where), "upper": upper, "tap_layer": tap_layer}
        self.embedding_dim = self.tap_dim = self.layers.dim
        for block in list(self.layers.blocks)[len(self.layers.blocks) - upper :]:
            block.requires_grad_(True)

    def zero_state(self, batch: int = 1) -> list[Tensor]:
        return []

    def features(self, x: Tensor) -> Tensor:
        """Whisper's log-mel; of the others the waveform, ten milliseconds a frame."""
        inputs = self.layers.inputs(x)
        return inputs.transpose(1, 2) if self.layers.family == "whisper" else inputs.reshape(len(x), -1, 160)

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        hidden = self.layers(features.transpose(1, 2) if self.layers.family == "whisper" else features.flatten(1))
        frames = features.shape[1] // 2
        tap, top = (nn.functional.pad(hidden[n], (0, 0, 0, frames - hidden[n].shape[1])) for n in (self.tap_layer, -1))
        return top.reshape(len(top), -1, TAP_FRAMES, self.embedding_dim).mean(2), tap, state

    def train(self, mode: bool = True) -> TransformerTrunk:
        """What is not trained stays in evaluation mode."""
        super().train(False)
        for block in self.layers.blocks:
            block.train(mode and next(block.parameters()).requires_grad)
        return self


Trunk = Encoder | TransformerTrunk
Start = Literal["warm", "fresh"]
"""Of a student: from the speech embedding's weights, or from none."""


def new_student(start: Start, width: float, separable: bool, stores: list[Path]) -> Encoder:
    """A student at its beginning; warm ones that are narrower or separable are slimmed from the speech embedding, as it hears the `stores`."""
    if start == "fresh":
        return Encoder(width, separable, normed=True)
    wide = pretrained_encoder()
    return wide if width == 1 and not separable else slim(wide, _recordings(Corpora(*stores)), width, separable)


def _recordings(corpora: Corpora, rows: int = 32, seconds: int = 4) -> Tensor:
    """Log-mel `[row, frame, 32]` of recordings of the training split, one after the other."""
    clips = [c for c in corpora.clips if not c.development and not c.noise]
    drawn = np.random.default_rng(0).permutation(len(clips))[: 4 * rows]
    samples = np.concatenate([corpora.read(clips[n])[: seconds * RATE] for n in drawn])
    return student_features(torch.from_numpy(np.resize(samples, (rows, seconds * RATE)).astype(np.float32)))


def features_of(trunk: Trunk) -> Features:
    return student_features if isinstance(trunk, Encoder) else trunk.features


def channels_last(encoder: Encoder) -> None:
    """Convolutions of few channels are a quarter faster so."""
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
