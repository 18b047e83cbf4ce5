"""Reads the two published graphs of Google's speech embedding (Lin et al. 2020, arXiv 2002.01322).

The package `pyopen-wakeword` carries `embedding_model.tflite` and `melspectrogram.tflite`
(Apache-2.0). The wake words beside them are CC BY-NC-SA: nothing here touches them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from kwsd import extras


def interpreter(name: str, shape: tuple[int, ...]) -> Any:
    """Return an `ai_edge_litert` interpreter of the graph `name`, for an input of `shape`.

    Raises ModuleNotFoundError where a package of the extra `[train]` is missing."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    spec = importlib.util.find_spec("pyopen_wakeword")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the speech embedding comes with the package pyopen-wakeword: "
            + extras.command("train")
        )
    path = Path(spec.submodule_search_locations[0]) / "models" / name
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    model = Interpreter(str(path), experimental_op_resolver_type=resolver)
    model.resize_tensor_input(model.get_input_details()[0]["index"], shape)
    model.allocate_tensors()
    return model


def run(name: str, x: np.ndarray) -> np.ndarray:
    """Return the output of the original graph `name` for `x`: `melspectrogram.tflite` or
    `embedding_model.tflite`."""
    model = interpreter(name, x.shape)
    model.set_tensor(model.get_input_details()[0]["index"], x.astype(np.float32))
    model.invoke()
    return np.array(model.get_tensor(model.get_output_details()[0]["index"]))
