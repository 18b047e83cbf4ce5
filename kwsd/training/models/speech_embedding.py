"""The word teacher: the weights and the front end of Google's speech embedding, read out of its .tflite files.

The package `pyopen-wakeword` carries `embedding_model.tflite` and `melspectrogram.tflite` (Apache-2.0). The wake words that
lie beside them are CC BY-NC-SA: nothing here touches them.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kwsd.audio.log_mel import LogMel
from kwsd.training.models.network import Encoder

FLOOR_DB = 10.0
"""The absolute floor that stands for the teacher's own, 80 dB under the maximum: digital silence lies at -100 dB, speech at a
common level peaks about 90 dB (int16 scale)."""


def _interpreter(name: str, shape: tuple[int, ...]) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    spec = importlib.util.find_spec("pyopen_wakeword")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the speech embedding comes with the package pyopen-wakeword: pip install 'kwsd[train]'")
    path = Path(spec.submodule_search_locations[0]) / "models" / name
    model = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    model.resize_tensor_input(model.get_input_details()[0]["index"], shape)
    model.allocate_tensors()
    return model


def run(name: str, x: np.ndarray) -> np.ndarray:
    """The original graph on `x`: `melspectrogram.tflite` or `embedding_model.tflite`. The tests compare with it."""
    model = _interpreter(name, x.shape)
    model.set_tensor(model.get_input_details()[0]["index"], x.astype(np.float32))
    model.invoke()
    return np.array(model.get_tensor(model.get_output_details()[0]["index"]))


@cache
def front_end(floor_db: float = FLOOR_DB) -> LogMel:
    """The teacher's mel front end with an absolute floor. Its 512-tap kernels are a 400-sample Hann window amid zeros."""
    model = _interpreter("melspectrogram.tflite", (1, 12400))
    constants = {tuple(t["shape"]): t["index"] for t in model.get_tensor_details()}
    kernel = max((np.array(model.get_tensor(t["index"])) for t in model.get_tensor_details() if tuple(t["shape"]) == (257, 1, 512, 1)),
                 key=lambda k: float(np.abs(k[0]).max()))  # fmt: skip
    window = kernel[0, 0, :, 0]
    inside = np.flatnonzero(np.abs(window) > 1e-7)
    start = int(inside[0]) - 1  # a periodic Hann window begins with a zero
    filters = np.array(model.get_tensor(constants[(257, 32)]))
    return LogMel(window[start : start + 400].copy(), filters, hop_samples=160, fft_samples=512, floor_db=floor_db, scale=0.1, offset=2.0)


def pretrained_encoder() -> Encoder:
    """The encoder with the teacher's weights."""
    model = _interpreter("embedding_model.tflite", (1, 76, 32, 1))
    pairs = []
    for op in model._get_ops_details():
        if op["op_name"] == "CONV_2D":
            weight, bias = (torch.from_numpy(np.array(model.get_tensor(i))) for i in op["inputs"][1:3])
            pairs.append((weight.permute(0, 3, 1, 2).contiguous(), bias))
    encoder = Encoder()
    for layer, (weight, bias) in zip([*encoder.activated(), encoder.last], pairs, strict=True):
        assert layer.weight.shape == weight.shape, (layer, weight.shape)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return encoder.eval()
