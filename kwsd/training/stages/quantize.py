"""The student's convolutions in 8 bit: weights int8 per channel, activations uint8, ranges from scenes of the training split.

What a state holds is on the very grid of the tensor it is joined to, so that cutting a stream into chunks changes nothing:
online still equals offline. The wake head (small, and decisive) and the embedding that it gets stay in float.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

log = logging.getLogger(__name__)
KEPT = 99.999
"""Percentile of each take's activations that the range keeps; what lies beyond is clipped."""
FLOOR = -0.4
"""The activation is never lower (`network.squash`), nor is anything under FLOOR / 0.2 before it of use."""
SHAPED = ("Clip", "MaxPool", "Unsqueeze")
"""What passes its input's grid on."""


class _Once(CalibrationDataReader):  # type: ignore[misc]
    """onnxruntime wants data even where every range is given."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._feeds.pop() if self._feeds else None


def quantise(path: Path, mels: Iterable[np.ndarray]) -> str:
    """Put the encoder of the graph `path` into 8 bit; `mels`, each `[frame, band]`, are what it is calibrated on.

    What it says of the grids belongs into the encoder's id."""
    model = onnx.load(str(path))
    encoder = [node for node in model.graph.node if node.name.startswith("/encoder/")]
    last = [node for node in encoder if node.op_type == "Conv"][-1]
    nodes = [n for n in encoder if n is not last and n.op_type in ("Conv", "LeakyRelu", "Concat", *SHAPED)]
    nodes = [n for n in nodes if n.op_type != "Concat" or n.input[0].startswith("state_in.")]
    tops = _tops(model, [n.output[0] for n in nodes if n.op_type in ("Conv", "LeakyRelu")], mels)
    made_by = {output: node for node in nodes for output in node.output}

    def grid(tensor: str) -> tuple[float, float]:
        node = made_by.get(tensor)
        if node is None:
            return 0.0, tops["mel"]
        if node.op_type in SHAPED:
            return grid(node.input[0])
        if node.op_type == "Concat":
            return grid(node.input[1])
        return (FLOOR / 0.2 if node.op_type == "Conv" else FLOOR), tops[tensor]

    tensors = {t for node in nodes for t in (*node.output, *(i for i in node.input if i == "mel"))}
    overrides = {tensor: [_parameters(*grid(tensor))] for tensor in tensors}
    overrides |= {n.input[0]: overrides[n.output[0]] for n in nodes if n.op_type == "Concat"}
    states = [n for n in overrides if n.startswith("state_in.")]
    log.info("8 bit: %d nodes of %d, %d states", len(nodes), len(model.graph.node), len(states))
    quantize_static(
        model, str(path), _Once(_feed(model, np.zeros((16, 32), np.float32))), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=[n.name for n in nodes],
        extra_options={"TensorQuantOverrides": overrides},
    )  # fmt: skip
    return repr(sorted((tensor, grid(tensor)) for tensor in tensors))


def _parameters(low: float, high: float) -> dict[str, Any]:
    scale = (high - low) / 255
    return {"scale": np.array(scale, np.float32), "zero_point": np.array(round(-low / scale), np.uint8), "quant_type": QuantType.QUInt8}


def _feed(model: onnx.ModelProto, mel: np.ndarray) -> dict[str, np.ndarray]:
    zero = {i.name: np.zeros([d.dim_value for d in i.type.tensor_type.shape.dim], np.float32) for i in model.graph.input if i.name != "mel"}
    return {"mel": mel[None], **zero}


def _tops(model: onnx.ModelProto, tensors: list[str], mels: Iterable[np.ndarray]) -> dict[str, float]:
    """The upper end of each tensor's range, and of the features'."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for tensor in tensors:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options)
    tops = dict.fromkeys(["mel", *tensors], 0.0)
    for mel in mels:
        values = {"mel": mel, **dict(zip(tensors, session.run(tensors, _feed(model, mel)), strict=True))}
        for tensor, value in values.items():
            tops[tensor] = max(tops[tensor], float(np.percentile(value, 100.0 if tensor == "mel" else KEPT)))
    return tops
