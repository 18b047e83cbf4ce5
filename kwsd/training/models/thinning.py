"""A thin transformer from a whole one: every block keeps a few heads and hidden units.

Block by block, on the stream that the thin blocks below really give: the heads are chosen by trying
every combination, the hidden units by eliminating, one after the other, the one whose loss costs
least (Hassibi and Stork 1993, the optimal brain surgeon, on a layer's output), and the two output
matrices are refitted in closed form to the whole network's stream there (He et al. 2017, arXiv
1707.06168). Nothing is trained; distillation comes after.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from kwsd.training.models.transformer import Block, GatedPositions, Transformer

log = logging.getLogger(__name__)
RIDGE = 1e-4
"""Regularization of the fits, as a share of the mean square of the inputs."""
BATCH = 32
"""Windows that are computed at once."""


@torch.no_grad()
def thin(whole: Transformer, inputs: Tensor, heads: int, hidden: int) -> Transformer:
    """Return `whole` with `heads` heads and `hidden` hidden units in each block, fitted to its
    stream for `inputs [window, …]`.

    Raises ValueError where a block has fewer than that."""
    blocks = cast("list[Block]", list(whole.blocks))
    shape = whole.shape
    if any(len(kept) < heads for kept in shape["heads"]) or min(shape["hidden"]) < hidden:
        raise ValueError(f"no block of {shape['heads']}, {shape['hidden']} is thinner than asked")
    kept_heads = []
    stream = torch.cat([whole.stem(part) for part in torch.split(inputs, BATCH)])
    given = stream
    """The whole network's stream before the block."""
    fitted: list[dict[str, Tensor]] = []
    for n, block in enumerate(blocks):
        attended, after = _sums(block, given)
        between, which, attention = _thin_attention(block, stream, attended, heads)
        stream, units = _thin_hidden(block, between, after, hidden)
        given = after if block.norm_first else block.hidden_norm(after)
        kept_heads.append([shape["heads"][n][head] for head in which])
        fitted.append({**attention, **units})
        log.info("block %d: heads %s, likeness %.3f", n + 1, which, likeness(stream, given))
    out = Transformer(**{**shape, "heads": kept_heads, "hidden": [hidden] * len(blocks)})
    values = {
        name: value for name, value in whole.state_dict().items() if not name.startswith("blocks.")
    }
    for n, block_values in enumerate(fitted):
        values |= {f"blocks.{n}.{name}": value for name, value in block_values.items()}
    out.load_state_dict(values)
    return out.eval()


def likeness(a: Tensor, b: Tensor) -> float:
    """Return the mean cosine of the frames of `a` and `b` `[window, frame, dim]`, their means
    removed."""
    a, b = (x.flatten(0, 1) - x.flatten(0, 1).mean(0) for x in (a, b))
    return float(nn.functional.cosine_similarity(a, b, dim=1).mean())


def _sums(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whole network's stream after the attention of `block` and after its hidden layer,
    both before any normalization."""

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.split(x, BATCH):
            attended = part + block.attention(block.attended(part))
            between = attended if block.norm_first else block.attention_norm(attended)
            yield attended, between + block.down(block.hidden_of(between))

    attended, after = zip(*parts(), strict=True)
    return torch.cat(attended), torch.cat(after)


def _thin_attention(
    block: Block, stream: Tensor, target: Tensor, heads: int
) -> tuple[Tensor, list[int], dict[str, Tensor]]:
    """Choose and refit the heads; return the stream after the attention, the heads and the
    weights. `target` is the whole network's sum there."""
    attention = block.attention
    dim = attention.head_dim
    answers = torch.cat([attention.heads_of(block.attended(x)) for x in torch.split(stream, BATCH)])
    fit = _Fit(answers, target - stream)
    count = answers.shape[2] // dim
    chosen = min(
        combinations(range(count), heads), key=lambda which: fit.error(_columns(which, dim))
    )
    columns = _columns(chosen, dim)
    weight, bias = fit.solve(columns)
    stream = stream + answers[:, :, columns] @ weight.T + bias
    values = {
        "attention.out.weight": weight,
        "attention.out.bias": bias,
        **_parameters(block.attention_norm, "attention_norm"),
    }
    for name in ("query", "key", "value"):
        project = cast(nn.Linear, getattr(attention, name))
        values[f"attention.{name}.weight"] = project.weight[columns]
        values[f"attention.{name}.bias"] = project.bias[columns]
    if attention.positions is not None:
        values |= _positions(attention.positions, list(chosen))
    return stream if block.norm_first else block.attention_norm(stream), list(chosen), values


def _thin_hidden(
    block: Block, stream: Tensor, target: Tensor, hidden: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Choose and refit the hidden units; return the stream after the block, and the weights."""
    units = torch.cat([block.hidden_of(x) for x in torch.split(stream, BATCH)])
    fit = _Fit(units, target - stream)
    columns = fit.eliminate(hidden)
    weight, bias = fit.solve(columns)
    stream = stream + units[:, :, columns] @ weight.T + bias
    values = {
        "up.weight": block.up.weight[columns],
        "up.bias": block.up.bias[columns],
        "down.weight": weight,
        "down.bias": bias,
        **_parameters(block.hidden_norm, "hidden_norm"),
    }
    return stream if block.norm_first else block.hidden_norm(stream), values


class _Fit:
    """Least squares from columns of `inputs` and a bias to `targets`, in float64."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        """`inputs`, `targets` are `[window, frame, n]`."""
        x, y = inputs.flatten(0, 1), targets.flatten(0, 1)
        self.mean_x, self.mean_y = x.double().mean(0), y.double().mean(0)
        n = x.shape[1]
        self.products = torch.zeros(n, n, dtype=torch.float64)
        self.answers = torch.zeros(n, y.shape[1], dtype=torch.float64)
        for part, answer in zip(torch.split(x, 4096), torch.split(y, 4096), strict=True):
            centered = part.double() - self.mean_x
            self.products += centered.T @ centered
            self.answers += centered.T @ (answer.double() - self.mean_y)
        self.products.diagonal().add_(RIDGE * self.products.diagonal().mean())

    def error(self, columns: Tensor) -> float:
        """Return the squared error of the fit to `columns`, less a constant."""
        answers = self.answers[columns]
        solved = torch.linalg.solve(self.products[columns][:, columns], answers)
        return -float((solved * answers).sum())

    def solve(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights `[target, column]` and the bias, float32."""
        products = self.products[columns][:, columns]
        weight = torch.linalg.solve(products, self.answers[columns]).T
        bias = self.mean_y - weight @ self.mean_x[columns]
        return weight.float(), bias.float()

    def eliminate(self, keep: int) -> Tensor:
        """Return the columns that are left after those that cost least are gone, one by one."""
        inverse = torch.linalg.inv(self.products)
        weight = inverse @ self.answers
        gone = torch.zeros(len(inverse), dtype=torch.bool)
        for _ in range(len(inverse) - keep):
            cost = weight.square().sum(1) / inverse.diagonal()
            at = int(cost.masked_fill(gone, torch.inf).argmin())
            row = inverse[at] / inverse[at, at]
            weight.addr_(row, weight[at].clone(), alpha=-1)
            inverse.addr_(row, inverse[at].clone(), alpha=-1)
            gone[at] = True
        return (~gone).nonzero()[:, 0]


def _columns(heads: tuple[int, ...], dim: int) -> Tensor:
    return torch.cat([torch.arange(head * dim, (head + 1) * dim) for head in heads])


def _parameters(part: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in part.named_parameters()}


def _positions(positions: GatedPositions, which: list[int]) -> dict[str, Tensor]:
    """Return the weights of the bias of the heads `which`."""
    name = "attention.positions"
    return {
        f"{name}.table.weight": positions.table.weight[:, which],
        f"{name}.gate.weight": positions.gate.weight,
        f"{name}.gate.bias": positions.gate.bias,
        f"{name}.scale": positions.scale[:, which],
        f"{name}.slices": positions.slices[which],
    }
