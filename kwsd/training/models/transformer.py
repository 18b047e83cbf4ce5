"""Transformer encoders over a waveform or a log-mel spectrogram: HuBERT, wav2vec 2.0, WavLM and
Whisper, whole or thin.

One implementation serves the pretrained teacher, its thin student and the exported checker, so that
the three can only differ in their weights and in how many heads and hidden units their blocks have.
`kwsd.training.models.pretrained` fills it from what `transformers` has saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.format import SAMPLE_RATE

WHISPER_RANGE = 8.0
"""Whisper's mel bels lie at most this far below the loudest of the window (Radford et al. 2022,
arXiv 2212.04356)."""


class GatedPositions(nn.Module):
    """WavLM's gated relative position bias (Chen et al. 2022, arXiv 2110.13900, equations 4 to 7).

    Each head looks at its own slice of the block's input, whichever heads a thin block keeps."""

    def __init__(
        self, heads: Sequence[int], head_dim: int, buckets: int, max_distance: int
    ) -> None:
        """`heads` are indices of the slices of the input, one for each head that there is."""
        super().__init__()
        self.head_dim = head_dim
        self.buckets = buckets
        self.max_distance = max_distance
        self.table = nn.Embedding(buckets, len(heads))
        self.gate = nn.Linear(head_dim, 8)
        self.scale = nn.Parameter(torch.ones(1, len(heads), 1, 1))
        self.slices: Tensor
        self.register_buffer("slices", torch.tensor(list(heads)))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the attention's logits for `x [batch, frame, dim]`: `[batch,
        head, frame, frame]`."""
        own = torch.unflatten(x, 2, (-1, self.head_dim))[:, :, self.slices].transpose(1, 2)
        first, second = self.gate(own).unflatten(3, (2, 4)).sum(-1).sigmoid().unbind(-1)
        strength = first[..., None] * (second[..., None] * self.scale - 1) + 2
        bias = self.table(self._bucket(x.shape[1])).permute(2, 0, 1)
        return strength * bias

    def _bucket(self, frames: int) -> Tensor:
        """Return the bucket of the distance of each pair of frames, int64 `[frame, frame]`."""
        at = torch.arange(frames, device=self.slices.device)
        distance = at[None] - at[:, None]
        half = self.buckets // 2
        exact = half // 2
        far = (distance.abs().clamp(min=1).float() / exact).log() / math.log(
            self.max_distance / exact
        )
        far = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
        near = distance.abs()
        return (distance > 0).long() * half + torch.where(near < exact, near, far)


class Attention(nn.Module):
    """Self-attention over all frames, with as many heads as it is given.

    `x [batch, frame, dim]` to the heads' answers `[batch, frame, head · head_dim]` (`heads_of`) and
    to their projection (`forward`)."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, positions: GatedPositions | None
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        inner = heads * head_dim
        self.query, self.key, self.value = (nn.Linear(dim, inner) for _ in range(3))
        self.out = nn.Linear(inner, dim)
        self.positions = positions

    def heads_of(self, x: Tensor) -> Tensor:
        """Return the answers of all heads, side by side."""
        query, key, value = (
            project(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        bias = self.positions(x) if self.positions is not None else None
        answers = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return answers.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output `[batch, frame, dim]`."""
        return self.out(self.heads_of(x))


class Block(nn.Module):
    """A transformer block: attention and a hidden layer, each added to the stream.

    Normalized before each (`first`: Whisper, the large waveform models) or after it (the base
    ones)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        hidden: int,
        norm_first: bool,
        positions: GatedPositions | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(dim, heads, head_dim, positions)
        self.attention_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.hidden_norm = nn.LayerNorm(dim)

    def hidden_of(self, x: Tensor) -> Tensor:
        """Return the hidden units for the stream `x` after the attention."""
        return F.gelu(self.up(self.hidden_norm(x) if self.norm_first else x))

    def attended(self, x: Tensor) -> Tensor:
        """Return the input of the attention for the stream `x`."""
        return self.attention_norm(x) if self.norm_first else x

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream `[batch, frame, dim]` after the block."""
        x = x + self.attention(self.attended(x))
        x = x if self.norm_first else self.attention_norm(x)
        x = x + self.down(self.hidden_of(x))
        return x if self.norm_first else self.hidden_norm(x)


class MelStem(nn.Module):
    """Whisper's way from log-mel to its first block: two convolutions and learned positions."""

    shortest = 400
    """Samples that give a frame."""

    def __init__(self, dim: int, bands: int, positions: int) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv1d(bands, dim, 3, padding=1)
        self.second: nn.Module = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(positions, dim))
        self.filters: Tensor
        self.register_buffer("filters", torch.zeros(201, bands))

    def inputs(self, samples: Tensor, centered: bool = False) -> Tensor:
        """Return mel bels `[batch, frame, band]` of `samples [batch, sample]` in ±1, float32.

        Frame k covers samples 160 k … 160 k + 400, and nothing is padded; `centered`: it lies
        around sample 160 k, as Whisper was trained."""
        with torch.autocast(samples.device.type, enabled=False):
            window = torch.hann_window(400, device=samples.device)
            x = samples.float()
            if centered:
                x = F.pad(x, (200, 199), mode="reflect")
            spectrum = torch.view_as_real(torch.fft.rfft(x.unfold(1, 400, 160) * window))
            return (spectrum.square().sum(-1) @ self.filters).clamp(min=1e-10).log10()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the stream at 20 ms `[batch, frame, dim]`."""
        floor = inputs.amax((1, 2), keepdim=True) - WHISPER_RANGE
        mel = (torch.maximum(inputs, floor) + 4) / 4
        x = F.gelu(self.second(F.gelu(self.first(mel.transpose(1, 2))))).transpose(1, 2)
        return x + self.positions[: x.shape[1]]


class WaveStem(nn.Module):
    """The waveform models' way to their first block: strided convolutions, a projection, and a
    grouped convolution for positions."""

    def __init__(
        self,
        dim: int,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        *,
        bias: bool,
        every_norm: bool,
        projection_norm: bool,
        positions: int,
        groups: int,
        norm_first: bool,
        normalize: bool,
    ) -> None:
        """`every_norm`: layer normalization after each convolution, else one over time after the
        first; `normalize`: the input at zero mean and unit variance."""
        super().__init__()
        self.every_norm = every_norm
        self.norm_first = norm_first
        self.normalize = normalize
        self.shortest = 1
        """Samples that give a frame."""
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            self.shortest = (self.shortest - 1) * stride + kernel
        inputs = [1, *channels[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(*shape, bias=bias)
            for shape in zip(inputs, channels, kernels, strides, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if every_norm else nn.GroupNorm(width, width)
            for width in (channels if every_norm else channels[:1])
        )
        self.projection_norm = nn.LayerNorm(channels[-1]) if projection_norm else nn.Identity()
        self.projection = nn.Linear(channels[-1], dim)
        self.positions = nn.Conv1d(dim, dim, positions, padding=positions // 2, groups=groups)
        self.norm = nn.Identity() if norm_first else nn.LayerNorm(dim)

    def inputs(self, samples: Tensor, centered: bool = False) -> Tensor:
        """Return the waveform `[batch, sample]` as the model takes it, of `samples` in ±1; it is
        never `centered`."""
        if not self.normalize:
            return samples.float()
        x = samples.float()
        variance = x.var(1, correction=0, keepdim=True)
        return (x - x.mean(1, keepdim=True)) / (variance + 1e-7).sqrt()

    def extracted(self, inputs: Tensor) -> Tensor:
        """Return what the convolutions find, normalized, `[batch, frame, channel]`: the input of
        wav2vec 2.0's quantizer."""
        x = inputs[:, None]
        for n, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if self.every_norm:
                x = self.norms[n](x.transpose(1, 2)).transpose(1, 2)
            elif n == 0:
                x = self.norms[0](x)
            x = F.gelu(x)
        normalized: Tensor = self.projection_norm(x.transpose(1, 2))
        return normalized

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the stream at 20 ms `[batch, frame, dim]`."""
        x = self.projection(self.extracted(inputs))
        placed = F.gelu(self.positions(x.transpose(1, 2))[:, :, : x.shape[1]]).transpose(1, 2)
        return self.norm(x + placed)


class Transformer(nn.Module):
    """A transformer encoder, layer by layer. Layer 0 is the input of the first block, layer n the
    output of the nth, the last one after the final normalization where there is one."""

    rate_hz = SAMPLE_RATE / 320

    def __init__(
        self,
        dim: int,
        head_dim: int,
        heads: Sequence[Sequence[int]],
        hidden: Sequence[int],
        norm_first: bool,
        mel: dict[str, Any] | None = None,
        wave: dict[str, Any] | None = None,
        gated: dict[str, int] | None = None,
    ) -> None:
        """`heads` are the teacher's heads that each block has, `hidden` its hidden units.

        `mel` or `wave` are the arguments of its stem, `gated` those of `GatedPositions`."""
        super().__init__()
        self.shape: dict[str, Any] = {
            "dim": dim,
            "head_dim": head_dim,
            "heads": [list(kept) for kept in heads],
            "hidden": list(hidden),
            "norm_first": norm_first,
            "mel": mel,
            "wave": wave,
            "gated": gated,
        }
        self.dim = dim
        self.stem: MelStem | WaveStem
        self.stem = (
            MelStem(dim, **mel) if mel else WaveStem(dim, norm_first=norm_first, **wave or {})
        )
        self.blocks = nn.ModuleList(
            Block(
                dim,
                len(kept),
                head_dim,
                units,
                norm_first,
                GatedPositions(kept, head_dim, **gated) if gated else None,
            )
            for kept, units in zip(heads, hidden, strict=True)
        )
        self.norm = nn.LayerNorm(dim) if norm_first else nn.Identity()

    @property
    def kind(self) -> Literal["mel", "waveform"]:
        """What it takes."""
        return "mel" if isinstance(self.stem, MelStem) else "waveform"

    def inputs(self, samples: Tensor, centered: bool = False) -> Tensor:
        """Return the input of `forward` for int16-scale `samples [batch, sample]`: mel bels
        `[batch, frame, band]`, or the waveform; `centered`: see `MelStem`."""
        missing = max(self.stem.shortest - samples.shape[1], 0)
        return self.stem.inputs(F.pad(samples, (0, missing)) / 32768, centered)

    def freeze(self, blocks: int) -> None:
        """Leave the first `blocks` as they are, with all before them; 0: nothing."""
        for part in (self.stem, *self.blocks[:blocks]) if blocks else ():
            part.requires_grad_(False)

    def given(self, samples: Tensor) -> Tensor:
        """Return what the daemon gives the graph of a checker for int16-scale windows `[batch,
        sample]`: mel bels `[batch, frame, band]`, or the waveform in ±1."""
        return self.inputs(samples) if self.kind == "mel" else samples / 32768

    def of_given(self, given: Tensor) -> list[Tensor]:
        """Return all layers for what `given` returns."""
        return self(given if self.kind == "mel" else self.stem.inputs(given))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return all layers, `[batch, frame, dim]` each."""
        layers = [self.stem(inputs)]
        for block in self.blocks:
            layers.append(block(layers[-1]))
        layers[-1] = self.norm(layers[-1])
        return layers

    def sounds(self, inputs: Tensor) -> Tensor | None:
        """Return which frames of a padded `inputs` are more than the digital silence it is padded
        with, bool `[batch, frame]`; None for a waveform, of which that is not known."""
        if self.kind == "waveform":
            return None
        loudest = inputs.amax(2)[:, ::2]
        return loudest > inputs.amin((1, 2))[:, None]

    @torch.no_grad()
    def frames(self, samples: int) -> int:
        """Return how many frames of 20 ms a window of `samples` has."""
        silence = torch.zeros(1, samples, device=next(self.parameters()).device)
        return int(self.stem(self.inputs(silence)).shape[1])

    def parameters_used(self, frames: int) -> int:
        """Return how many parameters `frames` frames of 20 ms use: of learned positions only the
        first."""
        total = sum(parameter.numel() for parameter in self.parameters())
        if isinstance(self.stem, MelStem):
            total -= max(len(self.stem.positions) - frames, 0) * self.dim
        return total
