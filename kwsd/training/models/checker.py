"""The checker: a transformer over a window of two seconds, with a head for the wake words and one
for voices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.models.transformer import Transformer

STEP_FRAMES = 4
"""Frames of 20 ms that the word head averages: steps of 80 ms."""


class Mixture(nn.Module):
    """A learned mixture of a transformer's layers, each normalized first (as in SUPERB, Yang et al.
    2021, arXiv 2105.01051)."""

    def __init__(self, layers: Sequence[int], dim: int) -> None:
        """`layers` are mixed; 0 is the input of the first block."""
        super().__init__()
        self.layers = list(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.layers)
        self.weight = nn.Parameter(torch.zeros(len(self.layers)))

    def forward(self, hidden: Sequence[Tensor], step: int = 1) -> Tensor:
        """Return the mixture `[batch, step, dim]` of frames averaged over `step`."""
        share = torch.softmax(self.weight, 0)
        total = torch.zeros(())
        for n, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = hidden[layer]
            if step > 1:
                x = torch.unflatten(x[:, : x.shape[1] // step * step], 1, (-1, step)).mean(2)
            total = total + share[n] * norm(x)
        return total


class CheckerHead(nn.Module):
    """A logit for each wake word that may have just ended: `[batch, word]`."""

    def __init__(
        self,
        words: int,
        dim: int,
        layers: Sequence[int],
        steps: int,
        width: int = 96,
        hidden: int = 128,
        dropout: float = 0.4,
    ) -> None:
        """`steps` of 80 ms are in a window; `dim` is the transformer's."""
        super().__init__()
        self.shape = {
            "words": words,
            "dim": dim,
            "layers": list(layers),
            "steps": steps,
            "width": width,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.mixture = Mixture(layers, dim)
        self.enter = nn.Linear(dim, width)
        self.positions = nn.Parameter(torch.zeros(steps, width))
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.hidden = nn.Linear(steps * width, hidden)
        self.out = nn.Linear(hidden, words)
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Return the logits for the layers of a transformer, `[batch, frame, dim]` each."""
        x = F.gelu(self.enter(self.drop(self.mixture(hidden, STEP_FRAMES))) + self.positions)
        x = x + F.gelu(self.mix(x.transpose(1, 2))).transpose(1, 2)
        return self.out(self.drop(F.gelu(self.hidden(self.drop(x.flatten(1))))))


class VoiceHead(nn.Module):
    """A voice's vector of unit length for a window: `[batch, 160]`.

    Two dilated convolutions and attentive statistics pooling (Okabe et al. 2018, arXiv
    1803.10963)."""

    dim = 160

    def __init__(
        self, dim: int, layers: Sequence[int], width: int = 224, attention: int = 64
    ) -> None:
        """`dim` is the transformer's."""
        super().__init__()
        self.shape = {"dim": dim, "layers": list(layers), "width": width, "attention": attention}
        self.mixture = Mixture(layers, dim)
        self.enter = nn.Sequential(nn.Conv1d(dim, width, 1), nn.ReLU(), nn.BatchNorm1d(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
                nn.ReLU(),
                nn.BatchNorm1d(width),
            )
            for dilation in (2, 4)
        )
        self.attention = nn.Sequential(
            nn.Conv1d(3 * width, attention, 1), nn.Tanh(), nn.Conv1d(attention, 3 * width, 1)
        )
        self.out = nn.Sequential(
            nn.BatchNorm1d(6 * width), nn.Linear(6 * width, self.dim), nn.BatchNorm1d(self.dim)
        )

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Return the vectors for the layers of a transformer, `[batch, frame, dim]` each."""
        x = self.enter(self.mixture(hidden).transpose(1, 2))
        outs = [x]
        for block in self.blocks:
            x = x + block(x)
            outs.append(x)
        x = torch.cat(outs, dim=1).float()
        weight = torch.softmax(self.attention(x), dim=2)
        mean = (weight * x).sum(2)
        deviation = ((weight * x * x).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
        return F.normalize(self.out(torch.cat([mean, deviation], dim=1)), dim=1)


class Checker(nn.Module):
    """Encoder and heads as one graph: what the daemon runs."""

    def __init__(self, encoder: Transformer, words: CheckerHead, voice: VoiceHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.words = words
        self.voice = voice

    def given(self, samples: Tensor) -> Tensor:
        """Return what the daemon gives the graph for int16-scale windows `[batch, sample]`: mel
        bels `[batch, frame, band]`, or the waveform in ±1."""
        return self.encoder.inputs(samples) if self.encoder.kind == "mel" else samples / 32768

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits `[batch, word]` and the voices `[batch, 160]` of windows."""
        is_mel = self.encoder.kind == "mel"
        hidden = self.encoder(given if is_mel else self.encoder.stem.inputs(given))
        return self.words(hidden), self.voice(hidden)
