"""A smaller encoder out of a trained one: narrower, separable, or both; a start that distillation then repairs.

Channels go whose weights are smallest (Li et al. 2017, arXiv 1608.08710). A convolution becomes a filter a channel and a mixture of
channels by the best approximation of rank one, channel by channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kwsd.training.network import Encoder


def slim(wide: Encoder, width: float = 1.0, separable: bool = False) -> Encoder:
    """`wide` (not separable itself) at the width and kind asked for. Raises ValueError where that would be wider."""
    out = Encoder(width, separable)
    if out.tap_dim > wide.tap_dim or wide.shape["separable"]:
        raise ValueError(f"an encoder of {wide.shape} cannot be slimmed to {out.shape}")
    kept = _copy(wide.first, out.first, torch.arange(1))
    for at in range(len(wide.across)):
        across, along = wide.across[at], wide.along[at]
        kept = _part(across, *out.across[at], kept) if separable else _copy(across, out.across[at], kept)  # type: ignore
        kept = _part(along, out.along[at], out.mix[at], kept) if separable else _copy(along, out.along[at], kept)  # type: ignore[arg-type]
    _copy(wide.last, out.last, kept)
    return out


def _strongest(layer: nn.Conv2d, count: int) -> Tensor:
    """Indices of the `count` outputs of largest weights, in their order."""
    return layer.weight.detach().abs().sum((1, 2, 3)).topk(count).indices.sort().values


def _copy(wide: nn.Conv2d, out: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Copy what is kept of `wide`, whose kept `inputs` are given; its kept outputs."""
    outputs = _strongest(wide, out.out_channels)
    assert wide.bias is not None
    assert out.bias is not None
    out.weight.data.copy_(wide.weight.detach()[outputs][:, inputs])
    out.bias.data.copy_(wide.bias.detach()[outputs])
    return outputs


def _part(wide: nn.Conv2d, filters: nn.Conv2d, mix: nn.Conv2d, inputs: Tensor) -> Tensor:
    """As `_copy`, into a filter a channel and a mixture: `W[o, i, k] = mix[o, i] · filter[i, k]` as near as can be."""
    outputs = _strongest(wide, mix.out_channels)
    assert wide.bias is not None
    assert filters.bias is not None
    assert mix.bias is not None
    u, s, v = torch.linalg.svd(wide.weight.detach()[outputs][:, inputs].flatten(2).transpose(0, 1), full_matrices=False)  # of [input, output, tap]
    scale = s[:, 0].sqrt()
    mix.weight.data.copy_((u[:, :, 0] * scale[:, None]).T[:, :, None, None])
    filters.weight.data.copy_((v[:, 0] * scale[:, None]).view_as(filters.weight))
    mix.bias.data.copy_(wide.bias.detach()[outputs])
    filters.bias.data.zero_()
    return outputs
