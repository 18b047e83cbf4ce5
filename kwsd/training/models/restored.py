"""Parts of a checker's graph as modules again, so that training begins with what ships."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.training.models.checker import VoiceHead
from kwsd.training.models.transformer import MelStem, Transformer

ENCODER = "checker.encoder."
"""What the names of the encoder's parameters begin with in a graph."""
VOICE = "checker.voice."
"""The same of the head of voices."""
QUANTIZED = ("_quantized", "_scale", "_zero_point")
"""What the names of the parts of a weight in 8 bit end with."""
UNFOLDED = ".product."
"""What is in the names of those of its convolutions, each of which reaches over three frames."""


def shipped_checker(bundle: Path, wanted: str) -> Path:
    """Return the graph of the small checker in the folder `bundle`.

    Raises BundleError, and ConfigError where there is none, which names the setting `wanted`."""
    shipped = bundles.load(bundle)
    checker = shipped.checkers.get("small")
    if checker is None:
        raise ConfigError(f"{wanted}: {bundle} has no checker to begin with")
    return shipped.file(checker.file)


def restored(graph: Path, whole: Transformer) -> Transformer:
    """Return the encoder in `graph`, a thin copy of the teacher `whole` in 8 bit, in float32.

    Its weights are those that the graph multiplies by. Raises ConfigError where it holds no thin
    copy of `whole`."""
    found = _parameters(graph, ENCODER)
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


def restored_voice(graph: Path, like: VoiceHead) -> VoiceHead:
    """Return the head of voices in `graph`, shaped as `like`, with the weights that the graph
    multiplies by. Raises ConfigError where it holds none that is shaped so, or one that mixes
    several layers: their weights are not in it."""
    found = {name: torch.tensor(value) for name, value in _parameters(graph, VOICE).items()}
    head = copy.deepcopy(like)
    known = head.state_dict()
    unsaid = {name for name in known if name.endswith("num_batches_tracked")}
    if len(head.mixture.layers) == 1:
        unsaid.add("mixture.weight")
    if {name: value.shape for name, value in found.items()} != {
        name: value.shape for name, value in known.items() if name not in unsaid
    }:
        raise ConfigError(
            f"{graph}: holds no head of voices on one layer of the encoder; "
            "train one with tune.voice, or set export.voices to false"
        )
    head.load_state_dict(known | found)
    return head.eval().requires_grad_(False)


def _parameters(graph: Path, prefix: str) -> dict[str, np.ndarray]:
    """Return the parameters in `graph` whose names begin with `prefix`, by the rest of the name;
    those in 8 bit in float32."""
    import onnx
    from onnx.numpy_helper import to_array

    model = onnx.load(str(graph)).graph
    graphs = [
        model,
        *(part.g for node in model.node for part in node.attribute if part.HasField("g")),
    ]
    held = {one.name: to_array(one) for part in graphs for one in part.initializer}
    found = {
        name.removeprefix(prefix): value
        for name, value in held.items()
        if name.startswith(prefix) and not name.endswith(QUANTIZED)
    }
    for node in (node for part in graphs for node in part.node):
        _, _, name = node.name.partition("/" + prefix.replace(".", "/"))
        path, _, kind = name.rpartition("/")
        if node.op_type == "MatMulInteger" and kind.startswith(("MatMul", "Gemm")):
            _, quantized, _, zero_point = node.input
            scale = held[quantized.removesuffix("_quantized") + "_scale"]
            steps = held[quantized].astype(np.float32) - held[zero_point].astype(np.float32)
            found[f"{_module(path)}.weight"] = (steps * scale).T
    return found


def _module(path: str) -> str:
    """Return the name of the module at `path` in a graph, where that of a module within a list or
    sequence comes with what it lies in: "out/out.1" is "out.1"."""
    named = ""
    for part in path.split("/"):
        named = part if part.startswith(f"{named}.") else ".".join(filter(None, [named, part]))
    return named


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
