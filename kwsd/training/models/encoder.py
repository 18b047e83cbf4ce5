"""The student's encoder in torch, with its state as an argument.

`forward(mel, state)` serves training (one long chunk from the zero state), streaming and export
alike."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.features import BANDS, RECEPTIVE_FRAMES


class TimeConv(nn.Conv2d):
    """A convolution valid in time.

    Its state is the last `time - 1` frames of its input, `[batch, channel, frame, band]`."""

    def __init__(
        self, inputs: int, outputs: int, time: int, bands: int, width: int = 1, groups: int = 1
    ) -> None:
        """`inputs` and `outputs` are channels; the kernel covers `time` frames of `width` bands."""
        super().__init__(inputs, outputs, (time, width), padding=(0, width // 2), groups=groups)
        self.state_shape = (inputs, time - 1, bands)
        """`[channel, frame, band]`"""

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for `x [batch, channel, frame, band]` and the state after it."""
        x = torch.cat([state.to(x.dtype), x], dim=2)
        return self(x), x[:, :, -self.state_shape[1] :]


def squash(x: Tensor) -> Tensor:
    """Return the speech embedding's activation of `x`: LeakyReLU(0.2), never below -0.4."""
    # `hardtanh` takes a quarter of the time of `clamp` in training.
    return F.hardtanh(F.leaky_relu(x, 0.2, inplace=True), -0.4, torch.inf)


def _across(inputs: int, outputs: int, separable: bool) -> nn.Module:
    """Return a convolution over three bands."""
    if not separable:
        return nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1))
    filters = nn.Conv2d(inputs, inputs, (1, 3), padding=(0, 1), groups=inputs)
    return nn.Sequential(filters, nn.Conv2d(inputs, outputs, 1))


class Encoder(nn.Module):
    """Google's speech-embedding network (Lin et al. 2020, arXiv 2002.01322), streaming: 2-D
    convolutions valid in time.

    `mel [batch, frame, 32]` (frames a multiple of 8) to `embedding [batch, frame / 8, 96]` and to
    the intermediate features `[batch, frame / 2, 384]`: the first pooled layer (24 channels of 16
    bands), which still knows voices.

    `width` scales the channels. A `separable` encoder (Howard et al. 2017, arXiv 1704.04861)
    filters each channel by itself and mixes the channels afterwards. Fresh weights neither shrink
    nor grow what passes through twenty layers (He et al. 2015, arXiv 1502.01852). A `normed`
    encoder normalizes each layer by the batch in training (Ioffe and Szegedy 2015, arXiv
    1502.03167); `folded` moves the normalization into the weights.
    """

    embedding_dim = 96
    receptive_frames = RECEPTIVE_FRAMES

    def __init__(self, width: float = 1.0, separable: bool = False, normed: bool = False) -> None:
        super().__init__()
        self.shape = {"width": width, "separable": separable, "normed": normed}
        w24, w48, w72, w96 = (max(8, round(count * width / 8) * 8) for count in (24, 48, 72, 96))
        self.intermediate_dim = w24 * 16
        across: list[nn.Module] = []
        along: list[nn.Module] = []
        mix: list[nn.Module] = []
        self.first = TimeConv(1, w24, 3, BANDS, width=3)
        # (inputs, outputs, bands, pairs of a convolution across bands and one along time, pooling
        # in time)
        plan = [
            (w24, w24, 32, 1, 2),
            (w24, w48, 16, 2, 1),
            (w48, w72, 8, 2, 2),
            (w72, w96, 4, 2, 1),
            (w96, w96, 2, 2, 2),
        ]
        self.plan = [(pairs, pool) for *_, pairs, pool in plan]
        for inputs, outputs, bands, pairs, _ in plan:
            for pair in range(pairs):
                across.append(_across(inputs if pair == 0 else outputs, outputs, separable))
                groups = outputs if separable else 1
                along.append(TimeConv(outputs, outputs, 3, bands, groups=groups))
                mix.append(nn.Conv2d(outputs, outputs, 1) if separable else nn.Identity())
        self.across = nn.ModuleList(across)
        self.along = nn.ModuleList(along)
        self.mix = nn.ModuleList(mix)
        self.last = TimeConv(w96, self.embedding_dim, 3, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                # Of a separable pair only the second convolution is followed by the activation.
                kind: Literal["linear", "leaky_relu"]
                kind = "linear" if layer.groups > 1 else "leaky_relu"
                nn.init.kaiming_normal_(layer.weight, 0.2, nonlinearity=kind)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(conv.out_channels) if normed else nn.Identity()
            for conv in self.activated()
        )

    def activated(self) -> list[nn.Conv2d]:
        """Return the convolutions that the activation follows, in order."""
        layers: list[nn.Module] = [self.first]
        for across, along, mix in zip(self.across, self.along, self.mix, strict=True):
            layers += [across[1], mix] if isinstance(across, nn.Sequential) else [across, along]
        return [layer for layer in layers if isinstance(layer, nn.Conv2d)]

    @torch.no_grad()
    def folded(self) -> Encoder:
        """Return the encoder without normalization, which is now in the weights."""
        if not self.shape["normed"]:
            return self
        out = Encoder(self.shape["width"], bool(self.shape["separable"]))
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("norms.")}
        out.load_state_dict(weights)
        for conv, norm in zip(out.activated(), self.norms, strict=True):
            batch = norm.state_dict()
            scale = batch["weight"] / (batch["running_var"] + norm.eps).sqrt()
            conv.weight.mul_(scale[:, None, None, None])
            assert conv.bias is not None
            conv.bias.copy_((conv.bias - batch["running_mean"]) * scale + batch["bias"])
        return out

    def stateful(self) -> list[TimeConv]:
        """Return the convolutions along time, in the order of the states."""
        return [self.first, *self.along, self.last]

    def zero_state(self, batch: int = 1) -> list[Tensor]:
        """Return the state at the start of a stream: one tensor per convolution along time."""
        device = self.last.weight.device
        return [torch.zeros(batch, *layer.state_shape, device=device) for layer in self.stateful()]

    def forward(self, mel: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return embedding, intermediate features and the state after `mel [batch, frame, 32]`."""
        x, after = self.first.step(mel.unsqueeze(1), state[0])
        states = [after]
        x = squash(self.norms[0](x))
        intermediate = x
        at = 0
        for block, (pairs, pool) in enumerate(self.plan):
            for _ in range(pairs):
                x = squash(self.norms[2 * at + 1](self.across[at](x)))
                x, after = self.along[at].step(x, state[at + 1])  # type: ignore[operator]
                x = squash(self.norms[2 * at + 2](self.mix[at](x)))
                at += 1
                states.append(after)
            x = F.max_pool2d(x, (pool, 2))
            if block == 0:
                intermediate = x
        x, after = self.last.step(x, state[-1])
        frames = intermediate.shape[2]
        intermediate = intermediate.transpose(1, 2).reshape(-1, frames, self.intermediate_dim)
        return x.squeeze(3).transpose(1, 2), intermediate, [*states, after]
