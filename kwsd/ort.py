"""onnxruntime with its telemetry off: everything in kwsd gets it from here.

From version 1.32 on, its wheels for Linux write a device id and a database of events under the
user's cache folder, and look up the name of a collector, from the first import on. The library
reads the variable when it is loaded, so it is set before. Ruff refuses every other import
(`banned-api` in pyproject.toml).
"""

from __future__ import annotations

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

if hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime", "quantization"]


def quantization() -> Any:
    """Return the module `onnxruntime.quantization`, which needs the package onnx."""
    import onnxruntime.quantization as module

    return module
