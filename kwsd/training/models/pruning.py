"""A smaller encoder out of a trained one: narrower, separable, or both; a start that distillation then repairs.

Channels go whose weights are smallest (Li et al. 2017, arXiv 1608.08710). A convolution becomes a filter a channel and a mixture of
channels by the best approximation of rank one, channel by channel. Layer by layer, what is left is then fitted by least squares to what the
whole encoder says there (He et al. 2017, arXiv 1707.06168).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.models.network import Encoder


@torch.no_grad()
def slim(wide: Encoder, mel: Tensor, width: float = 1.0, separable: bool = False) -> Encoder:
    """`wide` (not separable itself) at the width and kind asked for, fitted to what it says of `mel [batch, frame, 32]`.

    Raises ValueError where that would be wider."""
    wide, out = wide.folded(), Encoder(width, separable)
    if out.tap_dim > wide.tap_dim or wide.shape["separable"]:
        raise ValueError(f"an encoder of {wide.shape} cannot be slimmed to {out.shape}")
    kept = [_copy(wide.first, out.first, torch.arange(1))]
    for at in range(len(wide.across)):
        across, along = wide.across[at], wide.along[at]
        kept.append(_part(across, *out.across[at], kept[-1]) if separable else _copy(across, out.across[at], kept[-1]))  # type: ignore
        kept.append(_part(along, out.along[at], out.mix[at], kept[-1]) if separable else _copy(along, out.along[at], kept[-1]))  # type: ignore[arg-type]
    kept.append(_copy(wide.last, out.last, kept[-1]))
    *inner, last = _passed(wide, (*wide.activated(), wide.last), mel)
    # What the activation makes small counts less. Of the speech embedding 0.50 is then explained at two thirds of its width, else 0.42.
    said = [*(F.leaky_relu(output, 0.2) for output in inner), last]
    for whole, left, own in zip(said, (*out.activated(), out.last), kept, strict=True):
        (given,) = _passed(out, [left], mel, given=True)  # once the layers below are fitted
        _fit(left, given, whole[:, own])
    return out


def _passed(encoder: Encoder, layers: Sequence[nn.Conv2d], mel: Tensor, given: bool = False) -> list[Tensor]:
    """What each of `layers` says, or is given, when the encoder hears `mel`; copied, since what follows overwrites it."""
    found: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, x, y: found.append((x[0] if given else y).clone())) for layer in layers]
    encoder(mel, encoder.zero_state(len(mel)))
    for hook in hooks:
        hook.remove()
    return found


def _fit(layer: nn.Conv2d, given: Tensor, said: Tensor) -> None:
    """The weights and biases by which `layer` comes nearest to `said [batch, output, frame, band]` when it is `given` its input."""
    assert layer.bias is not None
    inputs = layer.weight[0].numel() + 1
    products, answers = torch.zeros(inputs, inputs, dtype=torch.float64), torch.zeros(inputs, said.shape[1], dtype=torch.float64)
    for x, y in zip(given, said, strict=True):
        columns = F.unfold(x[None], layer.kernel_size, padding=layer.padding)[0].double()  # type: ignore[arg-type]
        columns = torch.cat([columns, torch.ones_like(columns[:1])])
        products += columns @ columns.T
        answers += columns @ y.flatten(1).double().T
    scale = products.diagonal().sqrt().clamp(min=1e-12)
    alike = products / (scale[:, None] * scale) + 1e-6 * torch.eye(inputs, dtype=torch.float64)
    solved = (torch.linalg.solve(alike, answers / scale[:, None]) / scale[:, None]).T
    layer.weight.copy_(solved[:, :-1].unflatten(1, layer.weight.shape[1:]))
    layer.bias.copy_(solved[:, -1])


def _strongest(layer: nn.Conv2d, count: int) -> Tensor:
    """Indices of the `count` outputs of largest weights, in their order."""
    return layer.weight.detach().abs().sum((1, 2, 3)).topk(count).indices.sort().values


def _copy(wide: nn.Conv2d, out: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Copy what is kept of `wide`, whose kept `inputs` are given; its kept outputs."""
    outputs = _strongest(wide, out.out_channels)
    assert wide.bias is not None
    assert out.bias is not None
    out.weight.copy_(wide.weight[outputs][:, inputs])
    out.bias.copy_(wide.bias[outputs])
    return outputs


def _part(wide: nn.Conv2d, filters: nn.Conv2d, mix: nn.Conv2d, inputs: Tensor) -> Tensor:
    """As `_copy`, into a filter a channel and a mixture: `W[o, i, k] = mix[o, i] · filter[i, k]` as near as can be."""
    outputs = _strongest(wide, mix.out_channels)
    assert wide.bias is not None
    assert filters.bias is not None
    assert mix.bias is not None
    u, s, v = torch.linalg.svd(wide.weight[outputs][:, inputs].flatten(2).transpose(0, 1), full_matrices=False)  # of [input, output, tap]
    scale = s[:, 0].sqrt()
    mix.weight.copy_((u[:, :, 0] * scale[:, None]).T[:, :, None, None])
    filters.weight.copy_((v[:, 0] * scale[:, None]).view_as(filters.weight))
    mix.bias.copy_(wide.bias[outputs])
    filters.bias.zero_()
    return outputs
