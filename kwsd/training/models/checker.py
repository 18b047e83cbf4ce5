"""The checker: a transformer over a window of two seconds, with a head for the wake words, one for
voices, and one that tells any words apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.models.transformer import Transformer

STEP_FRAMES = 4
"""Frames of 20 ms that the word head averages: steps of 80 ms."""
EPS = 0.1
"""Of the normalizations of voices: a unit that was silent in training must not drown all others
where it is heard at last."""


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
        self, dim: int, layers: Sequence[int], width: int = 192, attention: int = 64
    ) -> None:
        """`dim` is the transformer's."""
        super().__init__()
        self.shape = {"dim": dim, "layers": list(layers), "width": width, "attention": attention}
        self.mixture = Mixture(layers, dim)
        self.enter = nn.Sequential(nn.Conv1d(dim, width, 1), nn.ReLU(), nn.BatchNorm1d(width, EPS))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
                nn.ReLU(),
                nn.BatchNorm1d(width, EPS),
            )
            for dilation in (1, 2)
        )
        self.attention = nn.Sequential(
            nn.Conv1d(3 * width, attention, 1), nn.Tanh(), nn.Conv1d(attention, 3 * width, 1)
        )
        self.out = nn.Sequential(
            nn.BatchNorm1d(6 * width, EPS), nn.Linear(6 * width, self.dim), nn.BatchNorm1d(self.dim)
        )

    def forward(self, hidden: Sequence[Tensor], sounds: Tensor | None = None) -> Tensor:
        """Return the vectors for the layers of a transformer, `[batch, frame, dim]` each; `sounds
        [batch, frame]` are the frames that are listened to (default: all)."""
        x = self.enter(self.mixture(hidden).transpose(1, 2))
        outs = [x]
        for block in self.blocks:
            x = x + block(x)
            outs.append(x)
        x = torch.cat(outs, dim=1).float()
        attention = self.attention(x)
        if sounds is not None:
            attention = attention.masked_fill(~sounds[:, None], -1e4)
        weight = torch.softmax(attention, dim=2)
        mean = (weight * x).sum(2)
        deviation = ((weight * x * x).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
        return F.normalize(self.out(torch.cat([mean, deviation], dim=1)), dim=1)


class SpokenHead(nn.Module):
    """A vector of unit length for the word that has just ended: `[batch, 128]`.

    It looks at the last steps of the window alone."""

    dim = 128

    def __init__(
        self,
        dim: int,
        layers: Sequence[int],
        steps: int = 16,
        width: int = 160,
        hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:
        """`steps` of 80 ms are looked at; `dim` is the transformer's."""
        super().__init__()
        self.shape = {
            "dim": dim,
            "layers": list(layers),
            "steps": steps,
            "width": width,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.layers = list(layers)
        self.steps = steps
        self.mixture = Mixture(range(len(self.layers)), dim)
        self.enter = nn.Linear(dim, width)
        self.positions = nn.Parameter(torch.zeros(steps, width))
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(3))
        self.hidden = nn.Linear(steps * width, hidden)
        self.out = nn.Linear(hidden, self.dim)
        self.drop = nn.Dropout(dropout)

    def last_steps(self, hidden: Sequence[Tensor]) -> Tensor:
        """Return what `forward` takes, `[batch, layer, step, dim]`, of a transformer's layers."""
        frames = self.steps * STEP_FRAMES
        last = []
        for layer in self.layers:
            x = hidden[layer]
            x = x[:, x.shape[1] % STEP_FRAMES :][:, -frames:]
            last.append(torch.unflatten(x, 1, (-1, STEP_FRAMES)).mean(2))
        return torch.stack(last, dim=1)

    def forward(self, steps: Tensor) -> Tensor:
        """Return the vectors for the last steps of the layers, as `last_steps` has them."""
        x = self.drop(self.mixture(steps.unbind(1)))
        x = (F.gelu(self.enter(x)) + self.positions).transpose(1, 2)
        for block in self.blocks:
            x = x + F.gelu(block(x))
        x = self.drop(x.transpose(1, 2).flatten(1))
        return F.normalize(self.out(self.drop(F.gelu(self.hidden(x)))), dim=1)


class Checker(nn.Module):
    """Encoder and heads as one graph: what the daemon runs."""

    def __init__(
        self,
        encoder: Transformer,
        words: CheckerHead,
        voice: VoiceHead,
        spoken: SpokenHead | None = None,
    ) -> None:
        """`spoken` is None where added words are heard by the first stage alone."""
        super().__init__()
        self.encoder = encoder
        self.words = words
        self.voice = voice
        self.spoken = spoken

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        """Return the logits `[batch, word]`, the voices `[batch, 160]` and, where there is a head
        for them, the words `[batch, 128]` of windows, as `Transformer.given` has them."""
        hidden = self.encoder.of_given(given)
        known = (self.words(hidden), self.voice(hidden, self.encoder.sounds(given)))
        return (
            known if self.spoken is None else (*known, self.spoken(self.spoken.last_steps(hidden)))
        )
