"""Bundles with checkers: the shipped one, and small random graphs beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from onnx_graph import model, node

from kwsd.model import bundle as bundles
from kwsd.model.bundle import FRONT_END, MANIFEST

SAMPLES = 32240
"""200 mel frames of the shipped front end."""
FRAMES = 200
BANDS = 32
WORDS = 6


def graph(input: str = "mel", *, seed: int = 0, scale: float = 3.0, fill: float = 0.0) -> bytes:
    """Return the graph of a checker that knows nothing: a random projection of the whole window.

    Its logits have a deviation of about `scale`; with a `fill` of NaN all are NaN.
    """
    rng = np.random.default_rng(seed)
    axes: list[int | str] = [FRAMES, BANDS] if input == "mel" else [SAMPLES]
    size = FRAMES * BANDS if input == "mel" else SAMPLES
    # The frames have a mean, which would drown what differs between windows.
    weights = rng.normal(0, scale / np.sqrt(size), (size, WORDS)).astype(np.float32)
    weights -= weights.mean(axis=0)
    nodes = [
        node("Flatten", [input], "flat", axis=1),
        node("MatMul", ["flat", "weights"], "raw"),
        node("Add", ["raw", "bias"], "logits"),
        node("Relu", ["logits"], "words"),
        node("LpNormalization", ["logits"], "voice", axis=-1, p=2),
    ]
    constants = {"weights": weights, "bias": np.full(WORDS, fill, np.float32)}
    outputs: dict[str, list[int | str]] = {
        name: ["batch", WORDS] for name in ("logits", "words", "voice")
    }
    return model(nodes, {input: ["batch", *axes]}, outputs, constants)


def entry(data: dict[str, Any], size: str, input: str, candidate: float) -> dict[str, Any]:
    """Return the manifest's part of a checker, for a manifest's `data`."""
    word = {"threshold": 0.5, "scores": [0.2, 0.9], "scores_10db": [0.1, 0.8]}
    points = [
        {"threshold": at, "false_accepts_per_hour": rate, "miss_rate": 0.1, "miss_rate_10db": 0.2}
        for at, rate in ((0.9, 0.1), (0.5, 0.5), (0.3, 1.0))
    ]
    return {
        "file": "checker.onnx" if size == "small" else f"checker_{size}.onnx",
        "input": input,
        "samples": SAMPLES,
        "peak": 0.5,
        **({"front_end": "checker_front_end.npz"} if input == "mel" else {}),
        "candidate": dict.fromkeys(data["words"], candidate),
        "calibration": {"checker": 1.0, "stream": 0.5, "offset": 0.5},
        "words": {name: {**word, "operating_points": points} for name in data["words"]},
    }


def write(
    folder: Path,
    *sizes: str,
    input: str = "mel",
    candidate: float = 0.05,
    seed: int = 0,
    fill: float = 0.0,
    scale: float = 3.0,
) -> Path:
    """Write a copy of the shipped bundle with checkers of these sizes; return the folder."""
    shutil.copytree(bundles.default_path(), folder, dirs_exist_ok=True)
    shutil.copy(folder / FRONT_END, folder / "checker_front_end.npz")
    data = json.loads((folder / MANIFEST).read_text())
    data["checkers"] = {}
    for n, size in enumerate(sizes):
        made = entry(data, size, input, candidate)
        (folder / made["file"]).write_bytes(graph(input, seed=seed + n, fill=fill, scale=scale))
        data["checkers"][size] = made
    save(folder, data)
    return folder


def save(folder: Path, data: dict[str, Any]) -> None:
    """Write the manifest, with the hashes of all files as they are now."""
    data["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.suffix in (".onnx", ".npz")
    }
    (folder / MANIFEST).write_text(json.dumps(data))
