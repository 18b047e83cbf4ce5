"""The encoder's convolutions in 8 bit: weights per channel, activations uint8, ranges from scenes
of the training split.

A state is on the very grid of the tensor that it is joined to, so that cutting a stream into chunks
changes nothing: online still equals offline. The wake head (small, and decisive) and the embedding
that it gets stay in float.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kwsd import ort
from kwsd.ort import onnxruntime
from kwsd.training.features import BANDS, STRIDE_FRAMES

log = logging.getLogger(__name__)
quantization = ort.quantization()
Reader: Any = quantization.CalibrationDataReader
PERCENTILE = 99.999
"""Percentile of each scene's activations that the range covers; what lies beyond is clipped."""
FLOOR = -0.4
"""The activation is never lower (`encoder.squash`), nor is anything below FLOOR / 0.2 before it of
use."""
PASS_THROUGH = ("Clip", "MaxPool", "Unsqueeze")
"""Operators whose output is on their input's grid."""


class _OneFeed(Reader):  # type: ignore[misc]
    """A single input: onnxruntime wants data even where every range is given."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the input, then None."""
        return self._feeds.pop() if self._feeds else None


def quantize(path: Path, mels: Iterable[np.ndarray]) -> str:
    """Put the encoder of the graph `path` into 8 bit, calibrated on `mels`, each `[frame, band]`.

    Return a description of the grids, which belongs in the encoder's id."""
    model = onnx.load(str(path))
    nodes = _quantized_nodes(model)
    inner = [node.output[0] for node in nodes if node.op_type in ("Conv", "LeakyRelu")]
    tops = _tops(model, inner, mels)
    made_by = {output: node for node in nodes for output in node.output}

    def grid(tensor: str) -> tuple[float, float]:
        node = made_by.get(tensor)
        if node is None:
            return 0.0, tops["mel"]
        if node.op_type in PASS_THROUGH:
            return grid(node.input[0])
        if node.op_type == "Concat":
            return grid(node.input[1])
        return (FLOOR / 0.2 if node.op_type == "Conv" else FLOOR), tops[tensor]

    tensors = {t for node in nodes for t in node.output}
    tensors |= {t for node in nodes for t in node.input if t == "mel"}
    overrides = {tensor: [_parameters(*grid(tensor))] for tensor in tensors}
    joins = [node for node in nodes if node.op_type == "Concat"]
    overrides |= {node.input[0]: overrides[node.output[0]] for node in joins}
    states = [name for name in overrides if name.startswith("state_in.")]
    log.info("8 bit: %d nodes of %d, %d states", len(nodes), len(model.graph.node), len(states))
    quantization.quantize_static(
        model,
        str(path),
        _OneFeed(_feed(model, np.zeros((2 * STRIDE_FRAMES, BANDS), np.float32))),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_quantize=[node.name for node in nodes],
        extra_options={"TensorQuantOverrides": overrides},
    )
    quantized = onnx.load(str(path))
    unsign_weights(quantized)
    onnx.save(quantized, str(path))
    return repr(sorted((tensor, grid(tensor)) for tensor in tensors))


def unsign_weights(model: onnx.ModelProto) -> None:
    """Turn the int8 weights of `model` and their zero points into uint8: the same values.

    An x86-64 processor without VNNI adds two products of uint8 and int8 in 16 bits, and saturates:
    the same graph gives other scores there. Products of uint8 are added in 32 bits everywhere."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        signed = weights.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if signed is None or signed.data_type != onnx.TensorProto.INT8:
            continue
        for weight in (signed, weights[node.input[2]]):
            moved = onnx.numpy_helper.to_array(weight).astype(np.int16) + 128
            weight.CopyFrom(onnx.numpy_helper.from_array(moved.astype(np.uint8), weight.name))


def _quantized_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the encoder's nodes that go into 8 bit: all but the last convolution and what is
    around them."""
    encoder = [node for node in model.graph.node if node.name.startswith("/encoder/")]
    last = [node for node in encoder if node.op_type == "Conv"][-1]
    kinds = ("Conv", "LeakyRelu", "Concat", *PASS_THROUGH)
    nodes = [node for node in encoder if node is not last and node.op_type in kinds]
    return [
        node for node in nodes if node.op_type != "Concat" or node.input[0].startswith("state_in.")
    ]


def _parameters(low: float, high: float) -> dict[str, Any]:
    """Return the grid of the range `low … high` as onnxruntime takes it."""
    scale = (high - low) / 255
    return {
        "scale": np.array(scale, np.float32),
        "zero_point": np.array(round(-low / scale), np.uint8),
        "quant_type": quantization.QuantType.QUInt8,
    }


def _feed(model: onnx.ModelProto, mel: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of `model` for `mel` from the zero state."""
    states = {
        value.name: np.zeros([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32)
        for value in model.graph.input
        if value.name != "mel"
    }
    return {"mel": mel[None], **states}


def _tops(
    model: onnx.ModelProto, tensors: list[str], mels: Iterable[np.ndarray]
) -> dict[str, float]:
    """Return the upper end of each tensor's range, and of the features'."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for tensor in tensors:
        info = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
        watched.graph.output.append(info)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options)
    tops = dict.fromkeys(["mel", *tensors], 0.0)
    for mel in mels:
        outputs = session.run(tensors, _feed(model, mel))
        values = {"mel": mel, **dict(zip(tensors, outputs, strict=True))}
        for tensor, value in values.items():
            percentile = 100.0 if tensor == "mel" else PERCENTILE
            tops[tensor] = max(tops[tensor], float(np.percentile(value, percentile)))
    return tops
