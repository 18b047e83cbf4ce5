"""Outputs of a graph that are computed only where they are wanted.

onnxruntime computes all of a graph whatever is fetched. What one output alone needs goes into a
branch of an `If`, with a scalar input of its own that says whether the branch is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kwsd.model.runtime import wanted_by


def defer(path: Path, outputs: Sequence[str]) -> None:
    """Have the graph `path` compute the `outputs`, float32 `[batch, dim]` each, only where the
    input `wanted_by(output)` is true; else they are empty, `[0, dim]`."""
    model = onnx.load(path)
    for output in outputs:
        _defer(model.graph, output)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _defer(graph: Any, output: str) -> None:
    """Move what `output` alone needs into a branch."""
    others = _needed(graph, [o.name for o in graph.output if o.name != output])
    own = [node for node in graph.node if node.output[0] not in others]
    shared = [node for node in graph.node if node.output[0] in others]
    read = {name for node in shared for name in node.input}
    constants = [c for c in graph.initializer if c.name not in read]
    (shape,) = (o.type.tensor_type.shape for o in graph.output if o.name == output)
    dim = shape.dim[-1].dim_value
    computed, empty = f"{output}_computed", f"{output}_empty"
    for node in own:
        for names in (node.input, node.output):
            names[:] = [computed if name == output else name for name in names]
    branches = {
        "then_branch": helper.make_graph(own, computed, [], [_vectors(computed, dim)], constants),
        "else_branch": helper.make_graph(
            [
                helper.make_node(
                    "Constant",
                    [],
                    [empty],
                    value=numpy_helper.from_array(np.zeros((0, dim), np.float32)),
                )
            ],
            empty,
            [],
            [_vectors(empty, dim)],
        ),
    }
    wanted = wanted_by(output)
    kept = [c for c in graph.initializer if c.name in read]
    choice = helper.make_node("If", [wanted], [output], **branches)
    for field, values in (("node", [*shared, choice]), ("initializer", kept)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.input.append(helper.make_tensor_value_info(wanted, TensorProto.BOOL, []))


def _needed(graph: Any, outputs: Sequence[str]) -> set[str]:
    """Return the names of everything that `outputs` are computed from, and theirs."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    left = list(outputs)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            if name in makers:
                left += [*makers[name].input, *makers[name].output]
    return found


def _vectors(name: str, dim: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, dim])
