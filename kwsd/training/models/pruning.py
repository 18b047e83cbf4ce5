"""A smaller encoder from a trained one: narrower, separable, or both; distillation repairs it.

The channels with the smallest weights are removed (Li et al. 2017, arXiv 1608.08710). A convolution
becomes a filter per channel and a mixture of channels by the best approximation of rank one,
channel by channel. Layer by layer, the rest is fitted by least squares to the whole encoder's
output there (He et al. 2017, arXiv 1707.06168).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.models.encoder import Encoder


@torch.no_grad()
def prune(wide: Encoder, mel: Tensor, width: float = 1.0, separable: bool = False) -> Encoder:
    """Return `wide` at the given width and kind, fitted to its outputs for `mel [batch, frame,
    32]`.

    Raises ValueError where that would be wider, or where `wide` is separable already."""
    wide = wide.folded()
    out = Encoder(width, separable)
    if out.intermediate_dim > wide.intermediate_dim or wide.shape["separable"]:
        raise ValueError(f"an encoder of {wide.shape} cannot be pruned to {out.shape}")
    outputs = [_copy(wide.first, out.first, torch.arange(1))]
    for at in range(len(wide.across)):
        for layer, pruned in _layers_at(wide, out, at, separable):
            if isinstance(pruned, tuple):
                outputs.append(_separate(layer, *pruned, outputs[-1]))
            else:
                outputs.append(_copy(layer, pruned, outputs[-1]))
    outputs.append(_copy(wide.last, out.last, outputs[-1]))
    *inner, last = _record(wide, (*wide.activated(), wide.last), mel)
    # What the activation makes small counts less. Of the speech embedding, 0.50 is then explained
    # at two thirds of its width, else 0.42.
    targets = [*(F.leaky_relu(output, 0.2) for output in inner), last]
    for target, layer, channels in zip(targets, (*out.activated(), out.last), outputs, strict=True):
        # The layer's input, now that the layers below are fitted.
        (given,) = _record(out, [layer], mel, inputs=True)
        _fit(layer, given, target[:, channels])
    return out


def _layers_at(
    wide: Encoder, out: Encoder, at: int, separable: bool
) -> list[tuple[nn.Conv2d, nn.Conv2d | tuple[nn.Conv2d, nn.Conv2d]]]:
    """Return the two convolutions at pair `at` of `wide`, each with what takes its place in
    `out`."""
    pairs: list[tuple[nn.Conv2d, nn.Conv2d | tuple[nn.Conv2d, nn.Conv2d]]] = []
    for kind in ("across", "along"):
        layer = getattr(wide, kind)[at]
        pruned = getattr(out, kind)[at]
        if separable:
            mix = cast(nn.Conv2d, out.mix[at])
            filters, mix = pruned if kind == "across" else (pruned, mix)
            pairs.append((layer, (filters, mix)))
        else:
            pairs.append((layer, pruned))
    return pairs


def _record(
    encoder: Encoder, layers: Sequence[nn.Conv2d], mel: Tensor, inputs: bool = False
) -> list[Tensor]:
    """Return the outputs (or the `inputs`) of `layers` for `mel`, copied: later layers overwrite
    them."""
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, x, y: found.append((x[0] if inputs else y).clone()))
        for layer in layers
    ]
    encoder(mel, encoder.zero_state(len(mel)))
    for hook in hooks:
        hook.remove()
    return found


def _fit(layer: nn.Conv2d, given: Tensor, target: Tensor) -> None:
    """Set weights and biases such that `layer` comes nearest to `target [batch, output, frame,
    band]` for its input `given`."""
    assert layer.bias is not None
    inputs = layer.weight[0].numel() + 1
    products = torch.zeros(inputs, inputs, dtype=torch.float64)
    answers = torch.zeros(inputs, target.shape[1], dtype=torch.float64)
    for x, y in zip(given, target, strict=True):
        padding = cast("tuple[int, ...]", layer.padding)  # text only where torch computes it
        columns = F.unfold(x[None], layer.kernel_size, padding=padding)[0].double()
        columns = torch.cat([columns, torch.ones_like(columns[:1])])
        products += columns @ columns.T
        answers += columns @ y.flatten(1).double().T
    scale = products.diagonal().sqrt().clamp(min=1e-12)
    scaled = products / (scale[:, None] * scale) + 1e-6 * torch.eye(inputs, dtype=torch.float64)
    solved = (torch.linalg.solve(scaled, answers / scale[:, None]) / scale[:, None]).T
    layer.weight.copy_(solved[:, :-1].unflatten(1, layer.weight.shape[1:]))
    layer.bias.copy_(solved[:, -1])


def _strongest(layer: nn.Conv2d, count: int) -> Tensor:
    """Return the indices of the `count` outputs of largest weights, in order."""
    return layer.weight.detach().abs().sum((1, 2, 3)).topk(count).indices.sort().values


def _copy(wide: nn.Conv2d, out: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Copy the strongest outputs of `wide`, over the remaining `inputs`; return their indices."""
    outputs = _strongest(wide, out.out_channels)
    assert wide.bias is not None
    assert out.bias is not None
    out.weight.copy_(wide.weight[outputs][:, inputs])
    out.bias.copy_(wide.bias[outputs])
    return outputs


def _separate(wide: nn.Conv2d, filters: nn.Conv2d, mix: nn.Conv2d, inputs: Tensor) -> Tensor:
    """As `_copy`, into a filter per channel and a mixture: `W[o, i, k] ≈ mix[o, i] · filter[i, k]`,
    as near as can be."""
    outputs = _strongest(wide, mix.out_channels)
    assert wide.bias is not None
    assert filters.bias is not None
    assert mix.bias is not None
    kernels = wide.weight[outputs][:, inputs].flatten(2).transpose(0, 1)  # [input, output, tap]
    u, s, v = torch.linalg.svd(kernels, full_matrices=False)
    scale = s[:, 0].sqrt()
    mix.weight.copy_((u[:, :, 0] * scale[:, None]).T[:, :, None, None])
    filters.weight.copy_((v[:, 0] * scale[:, None]).view_as(filters.weight))
    mix.bias.copy_(wide.bias[outputs])
    filters.bias.zero_()
    return outputs
