"""Voices by a recurrent network over mel bels: LSTM layers as GE2E has them (Wan et al. 2018, arXiv
1710.10467), so that it can begin with Resemblyzer's weights."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.format import SAMPLE_RATE

WINDOW = 400
"""Samples of a frame."""
HOP = 160
FLOOR_BELS = -10.0
"""Mel bels of digital silence."""
LEVEL_DB = -30.0
"""Level in dB of full scale to which what sounds in a window is brought, as Resemblyzer does."""
FRAMES = 160
"""Frames that the layers hear, Resemblyzer's 1.6 s: what is shorter is repeated."""
BANDS = 80
"""Bands of `mel_filters` for a waveform."""


def mel_filters(bands: int) -> np.ndarray:
    """Return filters of equal area, float32 `[201, band]`, evenly spaced on Slaney's mel scale up
    to 8 kHz: Whisper's with 80 bands, Resemblyzer's with 40."""
    from transformers import audio_utils

    filters = audio_utils.mel_filter_bank(
        WINDOW // 2 + 1, bands, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return np.asarray(filters, np.float32)


class VoiceNetwork(nn.Module):
    """A voice's vector of unit length for a window: `[batch, dim]`.

    Its bands are merged to Resemblyzer's, what sounds is brought to one level and repeated for
    `FRAMES`, the last state of the top layer is projected, and what is common to everybody is taken
    away."""

    def __init__(
        self,
        bands: int = BANDS,
        merged: int = 40,
        width: int = 256,
        layers: int = 3,
        dim: int = 256,
    ) -> None:
        """`bands` are merged to `merged`; the layers are `width` wide."""
        super().__init__()
        self.shape = {
            "bands": bands,
            "merged": merged,
            "width": width,
            "layers": layers,
            "dim": dim,
        }
        self.dim = dim
        self.filters: Tensor
        self.register_buffer("filters", torch.zeros(WINDOW // 2 + 1, bands))
        self.loudness: Tensor
        self.register_buffer("loudness", torch.zeros(bands))
        self.merge = nn.Linear(bands, merged, bias=False)
        self.lstm = nn.LSTM(merged, width, layers, batch_first=True)
        self.out = nn.Linear(width, dim)
        self.common: Tensor
        self.register_buffer("common", torch.zeros(dim))

    def hear_by(self, filters: np.ndarray) -> None:
        """Take bands of `filters [201, band]`, and merge them to what comes nearest to
        Resemblyzer's."""
        merging = _mixed(filters, mel_filters(self.merge.out_features))
        self.filters.copy_(torch.tensor(filters))
        self.loudness.copy_(torch.tensor(_mixed(filters, np.ones((len(filters), 1)))[:, 0]))
        with torch.no_grad():
            self.merge.weight.copy_(torch.tensor(merging.T))

    def begin_as(self, teacher: Any, common: np.ndarray) -> None:
        """Take over the weights of Resemblyzer's network, which says `common [dim]` of everybody:
        it says nearly the same then of clean speech, less `common`."""
        self.lstm.load_state_dict(teacher.lstm.state_dict())
        self.out.load_state_dict(teacher.linear.state_dict())
        self.common.copy_(torch.from_numpy(common))

    def bels(self, samples: Tensor) -> Tensor:
        """Return mel bels `[batch, frame, band]` of windows `[batch, sample]` in ±1."""
        at = torch.arange(WINDOW)
        angle = 2 * math.pi / WINDOW * at[None] * torch.arange(WINDOW // 2 + 1)[:, None]
        window = torch.hann_window(WINDOW)
        waves = (torch.cat([angle.cos(), angle.sin()]) * window)[:, None]
        parts = F.conv1d(samples[:, None], waves.to(samples.device), stride=HOP)
        real, imaginary = parts.transpose(1, 2).chunk(2, dim=2)
        power = (real.square() + imaginary.square()) @ self.filters
        return power.clamp(min=10**FLOOR_BELS).log10()

    def forward(self, bels: Tensor, sounds: Tensor | None = None) -> Tensor:
        """Return the vectors for mel bels `[batch, frame, band]`; `sounds [batch, frame]` are the
        frames that are listened to (default: all that is no digital silence)."""
        if sounds is None:
            sounds = bels.amax(2) > FLOOR_BELS + 1
        power = 10**bels * sounds[:, :, None]
        heard = (power @ self.loudness).sum(1) / sounds.sum(1).clamp(min=1)
        # The power of a frame is half of its window's energy times the square of the level.
        energy = float(torch.hann_window(WINDOW).square().sum()) * WINDOW / 2
        gain = energy * 10 ** (LEVEL_DB / 10) / heard.clamp(min=1e-9)
        merged = repeated(self.merge(power * gain[:, None, None]), sounds)
        states, _ = self.lstm(merged)
        voice = F.normalize(F.relu(self.out(states[:, -1])), dim=1)
        return F.normalize(voice - self.common, dim=1)


def repeated(frames: Tensor, sounds: Tensor) -> Tensor:
    """Return `FRAMES` of `frames [batch, frame, band]`, from the first one on that `sounds [batch,
    frame]`, again and again."""
    first = sounds.to(torch.int64).argmax(1, keepdim=True)
    at = first + torch.arange(FRAMES, device=frames.device) % (frames.shape[1] - first)
    return frames.gather(1, at[:, :, None].expand(-1, -1, frames.shape[2]))


def _mixed(filters: np.ndarray, wanted: np.ndarray, rounds: int = 1000) -> np.ndarray:
    """Return by which weights of 0 and more `filters [bin, band]` come nearest to `wanted [bin,
    …]`: `[band, …]` (Lee and Seung 2000)."""
    weights = np.full((filters.shape[1], wanted.shape[1]), wanted.mean() / filters.mean() / 10)
    for _ in range(rounds):
        weights *= (filters.T @ wanted) / np.maximum(filters.T @ (filters @ weights), 1e-12)
    return weights


class VoiceGraph(nn.Module):
    """A network as a checker's graph has it, for what the checker takes."""

    def __init__(self, network: VoiceNetwork, kind: Literal["mel", "waveform"]) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, given: Tensor) -> Tensor:
        """Return the vectors for mel bels `[batch, frame, band]`, or a waveform in ±1 `[batch,
        sample]`."""
        vectors: Tensor = self.network(given if self.kind == "mel" else self.network.bels(given))
        return vectors
