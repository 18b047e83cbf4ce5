"""Small ONNX graphs, written by hand: the core tests have no package that makes them.

A graph is its protobuf message (onnx.proto3): a field is a number, a wire type and a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FLOAT = 1
OPSET = 17
IR_VERSION = 8
Axes = Sequence[int | str]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    """Return a NodeProto of one output; attributes are whole numbers."""
    body = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)
    for name, value in attributes.items():
        # name, i, type INT; int64 of -1 has ten bytes
        body += _field(5, _field(1, name) + _field(3, value % (1 << 64)) + _field(20, 2))
    return body


def _tensor(name: str, values: np.ndarray) -> bytes:
    body = b"".join(_field(1, axis) for axis in values.shape)
    return body + _field(2, FLOAT) + _field(8, name) + _field(9, values.astype("<f4").tobytes())


def _value(name: str, axes: Axes) -> bytes:
    dims = b"".join(
        _field(1, _field(1, axis) if isinstance(axis, int) else _field(2, axis)) for axis in axes
    )
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def model(
    nodes: Sequence[bytes],
    inputs: Mapping[str, Axes],
    outputs: Mapping[str, Axes],
    constants: Mapping[str, np.ndarray],
) -> bytes:
    """Return a ModelProto of float32 tensors; an axis with a name is free."""
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, "graph")
    graph += b"".join(_field(5, _tensor(*item)) for item in constants.items())
    graph += b"".join(_field(11, _value(*item)) for item in inputs.items())
    graph += b"".join(_field(12, _value(*item)) for item in outputs.items())
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(2, OPSET))
