"""The student in torch: the encoder, the wake head and the speaker head, each with its state as an argument.

`forward(x, state) -> (out, state)` serves training (one long chunk from the zero state), streaming and export alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
SMOOTHING_CHUNKS = 5
"""A word is taught to fire for so many chunks after its end, and scored by their mean: what only resembles it seldom fires for as long."""
STRIDE_FRAMES = 8
"""Mel frames to one embedding: 80 ms."""
TAP_FRAMES = 4
"""Tap frames to one embedding: 20 ms each."""


class TimeConv(nn.Conv2d):
    """A convolution valid in time: the last `kernel - 1` frames of the input are its state `[batch, channel, frame, band]`."""

    def __init__(self, inputs: int, outputs: int, time: int, bands: int, width: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, (time, width), padding=(0, width // 2), groups=groups)
        self.state_shape = (inputs, time - 1, bands)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([state.to(x.dtype), x], dim=2)
        return self(x), x[:, :, -self.state_shape[1] :]


def squash(x: Tensor) -> Tensor:
    """The speech embedding's activation: LeakyReLU(0.2), never below -0.4."""
    return F.hardtanh(F.leaky_relu(x, 0.2, inplace=True), -0.4, torch.inf)  # a quarter of `clamp`'s time in training


def _across(inputs: int, outputs: int, separable: bool) -> nn.Module:
    """A convolution over three bands."""
    if not separable:
        return nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1))
    return nn.Sequential(nn.Conv2d(inputs, inputs, (1, 3), padding=(0, 1), groups=inputs), nn.Conv2d(inputs, outputs, 1))


class Encoder(nn.Module):
    """Google's speech-embedding network (Lin et al. 2020, arXiv 2002.01322), streaming: 2-D convolutions valid in time.

    `mel [batch, frame, 32]` (frames a multiple of 8) to `embedding [batch, frame / 8, 96]` and to the tap
    `[batch, frame / 2, 384]`, the first pooled layer (24 channels of 16 bands), which still knows voices.

    `width` scales the channels; a `separable` one (Howard et al. 2017, arXiv 1704.04861) filters each channel by itself and mixes them
    afterwards. Fresh weights neither fade nor swell what passes through twenty layers (He et al. 2015, arXiv 1502.01852). A `normed`
    one normalises each layer by the batch while it is trained (Ioffe and Szegedy 2015, arXiv 1502.03167); `folded` is what then remains.
    """

    embedding_dim = 96
    receptive_frames = 76
    """Mel frames that one embedding depends on."""

    def __init__(self, width: float = 1.0, separable: bool = False, normed: bool = False) -> None:
        super().__init__()
        self.shape = {"width": width, "separable": separable, "normed": normed}
        w24, w48, w72, w96 = (max(8, round(channels * width / 8) * 8) for channels in (24, 48, 72, 96))
        self.tap_dim = w24 * 16
        across, along, mix = [], [], []
        self.first = TimeConv(1, w24, 3, 32, width=3)
        # (inputs, outputs, bands, pairs of one convolution across bands and one along time, pooling in time)
        plan = [(w24, w24, 32, 1, 2), (w24, w48, 16, 2, 1), (w48, w72, 8, 2, 2), (w72, w96, 4, 2, 1), (w96, w96, 2, 2, 2)]
        self.plan = [(pairs, pool) for *_, pairs, pool in plan]
        for inputs, outputs, bands, pairs, _ in plan:
            for pair in range(pairs):
                across.append(_across(inputs if pair == 0 else outputs, outputs, separable))
                along.append(TimeConv(outputs, outputs, 3, bands, groups=outputs if separable else 1))
                mix.append(nn.Conv2d(outputs, outputs, 1) if separable else nn.Identity())
        self.across, self.along, self.mix = nn.ModuleList(across), nn.ModuleList(along), nn.ModuleList(mix)
        self.last = TimeConv(w96, self.embedding_dim, 3, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # of a separable pair only the second is followed by the activation
                nn.init.kaiming_normal_(layer.weight, 0.2, nonlinearity="linear" if layer.groups > 1 else "leaky_relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) if normed else nn.Identity() for conv in self.activated())

    def activated(self) -> list[nn.Conv2d]:
        """The convolutions that the activation follows, in their order."""
        layers: list[nn.Module] = [self.first]
        for across, along, mix in zip(self.across, self.along, self.mix, strict=True):
            layers += [across[1], mix] if isinstance(across, nn.Sequential) else [across, along]
        return [layer for layer in layers if isinstance(layer, nn.Conv2d)]

    @torch.no_grad()
    def folded(self) -> Encoder:
        """The same without normalisation: that of all batches seen is now in the weights."""
        if not self.shape["normed"]:
            return self
        out = Encoder(self.shape["width"], bool(self.shape["separable"]))
        out.load_state_dict({name: value for name, value in self.state_dict().items() if not name.startswith("norms.")})
        for conv, norm in zip(out.activated(), self.norms, strict=True):
            told = norm.state_dict()
            scale = told["weight"] / (told["running_var"] + norm.eps).sqrt()
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias.copy_((conv.bias - told["running_mean"]) * scale + told["bias"])  # type: ignore[union-attr]
        return out

    def stateful(self) -> list[TimeConv]:
        return [self.first, *self.along, self.last]

    def zero_state(self, batch: int = 1) -> list[Tensor]:
        device = self.last.weight.device
        return [torch.zeros(batch, *layer.state_shape, device=device) for layer in self.stateful()]

    def forward(self, mel: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        x, after = self.first.step(mel.unsqueeze(1), state[0])
        x, out, tap, at = squash(self.norms[0](x)), [after], x, 0
        for block, (pairs, pool) in enumerate(self.plan):
            for _ in range(pairs):
                x = squash(self.norms[2 * at + 1](self.across[at](x)))
                x, after = self.along[at].step(x, state[at + 1])  # type: ignore[operator]
                x, at = squash(self.norms[2 * at + 2](self.mix[at](x))), at + 1
                out.append(after)
            x = F.max_pool2d(x, (pool, 2))
            if block == 0:
                tap = x
        x, after = self.last.step(x, state[-1])
        return x.squeeze(3).transpose(1, 2), tap.transpose(1, 2).reshape(-1, tap.shape[2], self.tap_dim), [*out, after]


class WakeHead(nn.Module):
    """Per-word frame logits over the last 16 embeddings (1.28 s), and how long ago the word began and ended.

    `embedding [batch, frame, 96]` to `logits [batch, frame, word]` and `timing [batch, frame, 2]` (seconds since the
    beginning and since the end of the word, meaningful where a logit is high). State: the last 15 embeddings.
    """

    context = 16

    def __init__(self, words: int = len(WORDS), width: int = 112, hidden: int = 64, inputs: int = Encoder.embedding_dim) -> None:
        super().__init__()
        self.shape = {"words": words, "width": width, "hidden": hidden, "inputs": inputs}
        self.words, self.inputs = words, inputs
        self.norm = nn.BatchNorm1d(inputs)
        self.mix = nn.Conv1d(inputs, width, self.context)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, words + 2)
        self.drop = nn.Dropout(0.2)

    def zero_state(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, self.context - 1, self.inputs, device=self.out.weight.device)

    def forward(self, embedding: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([state, embedding], dim=1)
        after = x[:, 1 - self.context :]
        y = self.mix(self.norm(x.transpose(1, 2))).transpose(1, 2)
        y = self.out(F.relu(self.hidden(self.drop(F.relu(y)))))
        return y[..., : self.words], y[..., self.words :], after


def _over_bands(inputs: int, outputs: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class SpeakerHead(nn.Module):
    """Speaker embedding of a span of encoder frames, low and high, and of finer bands, where it takes any: a small TDNN with attentive statistics.

    `tap [batch, 4 k, 384]`, `embedding [batch, k, 96]` and `fine [batch, 8 k, fine]` to `[batch, 192]` of unit length. The finer bands pass
    convolutions over time and frequency (as in ECAPA CNN-TDNN, Thienpondt et al. 2021, arXiv 2104.02370). Dilated residual blocks whose
    outputs are concatenated (as in ECAPA-TDNN, Desplanques et al. 2020, arXiv 2005.07143), then attentive statistics pooling (Okabe et al.
    2018, arXiv 1803.10963). It runs once a wake, so it may look both ways within its span.
    """

    dim = 192

    def __init__(
        self,
        tap: int = 24 * 16,
        embedding: int = Encoder.embedding_dim,
        fine: int = 0,
        width: int = 144,
        blocks: int = 4,
        pooled: int = 224,
        attention: int = 48,
    ) -> None:
        super().__init__()
        self.shape = {"tap": tap, "embedding": embedding, "fine": fine, "width": width, "blocks": blocks, "pooled": pooled, "attention": attention}
        plan = [(1, 16, (1, 1)), (16, 16, (1, 2)), (16, 24, (2, 2)), (24, 24, (1, 2))]  # inputs, outputs, strides over time and bands
        self.fine = nn.Sequential(nn.BatchNorm2d(1), *(_over_bands(*layer) for layer in plan)) if fine else nn.Identity()
        inputs = tap + embedding + 24 * fine // 8
        self.enter = nn.Sequential(nn.BatchNorm1d(inputs), nn.Conv1d(inputs, width, 1), nn.ReLU(), nn.BatchNorm1d(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 1), nn.ReLU(), nn.BatchNorm1d(width),
                nn.Conv1d(width, width, 5, padding=2 * (1 + i), dilation=1 + i, groups=width), nn.ReLU(), nn.BatchNorm1d(width),
                nn.Conv1d(width, width, 1), nn.ReLU(), nn.BatchNorm1d(width),
            )
            for i in range(blocks)
        )  # fmt: skip
        self.gather = nn.Sequential(nn.Conv1d(width * blocks, pooled, 1), nn.ReLU(), nn.BatchNorm1d(pooled))
        self.attention = nn.Sequential(nn.Conv1d(pooled, attention, 1), nn.Tanh(), nn.Conv1d(attention, pooled, 1))
        self.out = nn.Sequential(nn.BatchNorm1d(2 * pooled), nn.Linear(2 * pooled, self.dim), nn.BatchNorm1d(self.dim))

    def forward(self, tap: Tensor, embedding: Tensor, fine: Tensor | None = None) -> Tensor:
        high = embedding.transpose(1, 2).repeat_interleave(TAP_FRAMES, dim=2)
        parts = [tap.transpose(1, 2), high]
        if fine is not None:
            parts.append(self.fine(fine.unsqueeze(1)).transpose(2, 3).flatten(1, 2))
        x = self.enter(torch.cat(parts, dim=1))
        outs = []
        for block in self.blocks:
            x = x + block(x)
            outs.append(x)
        x = self.gather(torch.cat(outs, dim=1)).float()
        weight = torch.softmax(self.attention(x).float(), dim=2)
        mean = (weight * x).sum(2)
        deviation = ((weight * x * x).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
        return F.normalize(self.out(torch.cat([mean, deviation], dim=1)), dim=1)


class SpeakerHeads(nn.Module):
    """Speaker heads of one `shape`, trained from different seeds, side by side: `[batch, 192 heads]` of unit length. They err differently."""

    def __init__(self, heads: int = 1, **shape: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(SpeakerHead(**shape) for _ in range(heads))
        self.shape = {"heads": heads, **self.heads[0].shape}  # type: ignore[dict-item]

    def forward(self, tap: Tensor, embedding: Tensor, fine: Tensor | None = None) -> Tensor:
        return F.normalize(torch.cat([head(tap, embedding, fine) for head in self.heads], dim=1), dim=1)
