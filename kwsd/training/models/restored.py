"""The encoder of a checker's graph as a module again, so that training begins with what ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kwsd.config import ConfigError
from kwsd.training.models.transformer import MelStem, Transformer

ENCODER = "checker.encoder."
"""What the names of the encoder's parameters begin with in a graph."""
UNFOLDED = ".product."
"""What is in the names of those of its convolutions, each of which reaches over three frames."""


def restored(graph: Path, whole: Transformer) -> Transformer:
    """Return the encoder in `graph`, a thin copy of the teacher `whole` in 8 bit, in float32.

    Its weights are those that the graph multiplies by. Raises ConfigError where it holds no thin
    copy of `whole`."""
    import onnx
    from onnx.numpy_helper import to_array

    model = onnx.load(str(graph)).graph
    held = {one.name: to_array(one) for one in model.initializer}
    found = {
        name.removeprefix(ENCODER): value
        for name, value in held.items()
        if name.startswith(ENCODER)
    }
    for node in model.node:
        _, _, name = node.name.partition("/" + ENCODER.replace(".", "/"))
        module, _, kind = name.rpartition("/")
        if node.op_type == "MatMulInteger" and kind.startswith("MatMul"):
            _, quantized, _, zero_point = node.input
            scale = held[quantized.removesuffix("_quantized") + "_scale"]
            steps = held[quantized].astype(np.float32) - held[zero_point].astype(np.float32)
            found[f"{module.replace('/', '.')}.weight"] = (steps * scale).T
    for name in [name for name in found if UNFOLDED in name]:  # convolutions, as products
        value = found.pop(name)
        if value.ndim == 2:
            value = value.reshape(len(value), 3, -1).transpose(0, 2, 1)
        found[name.replace(UNFOLDED, ".")] = value
    foreign = ConfigError(
        f"{graph}: holds no thin copy of this teacher's encoder in 8 bit; name the teacher that it "
        "was made from, or begin with distill.start=thin"
    )
    stem = whole.stem
    if not isinstance(stem, MelStem) or "stem.positions" not in found:
        raise foreign
    student = Transformer(
        whole.dim,
        whole.shape["head_dim"],
        _heads(found, whole.shape["head_dim"]),
        _hidden(found),
        norm_first=True,
        mel={"bands": stem.filters.shape[1], "positions": len(found["stem.positions"])},
    )
    found["stem.filters"] = stem.filters.numpy()
    try:
        student.load_state_dict({name: torch.tensor(value) for name, value in found.items()})
    except RuntimeError as error:
        raise foreign from error
    return student


def _heads(found: dict[str, np.ndarray], head_dim: int) -> list[list[int]]:
    """Return the heads of each block; which of the teacher's they were is not known."""
    lengths = [len(bias) for bias in _of_blocks(found, "attention.query.bias")]
    return [list(range(length // head_dim)) for length in lengths]


def _hidden(found: dict[str, np.ndarray]) -> list[int]:
    """Return the hidden units of each block."""
    return [len(bias) for bias in _of_blocks(found, "up.bias")]


def _of_blocks(found: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Return a parameter of each block."""
    blocks = len({key.split(".")[1] for key in found if key.startswith("blocks.")})
    return [found[f"blocks.{n}.{name}"] for n in range(blocks)]
