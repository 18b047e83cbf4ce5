"""Bundles with checkers: the shipped one, and small random graphs beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx_graph import model, node

from kwsd.metrics import joined
from kwsd.model import bundle as bundles
from kwsd.model.bundle import COHORT, FRONT_END, MANIFEST

SAMPLES = 32240
"""200 mel frames of the shipped front end."""
FRAMES = 200
BANDS = 32
WORDS = 6
"""Words of the bundle, and numbers of a voice embedding."""
VOICES = {"threshold": 0.6, "slope": 1.2, "offset": -0.5}
"""How scores of joined voices are calibrated."""


def graph(
    input: str = "mel",
    *,
    seed: int = 0,
    scale: float = 3.0,
    fill: float = 0.0,
    outputs: Sequence[str] = ("logits", "words", "voice"),
) -> bytes:
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
    given: dict[str, list[int | str]] = {name: ["batch", WORDS] for name in outputs}
    return model(nodes, {input: ["batch", *axes]}, given, constants)


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
    voices: bool = False,
) -> Path:
    """Write a copy of the shipped bundle with checkers of these sizes; return the folder.

    `voices` are scored with the checkers' embeddings as well.
    """
    shutil.copytree(bundles.default_path(), folder, dirs_exist_ok=True)
    shutil.copy(folder / FRONT_END, folder / "checker_front_end.npz")
    data = json.loads((folder / MANIFEST).read_text())
    data["checkers"] = {}
    for n, size in enumerate(sizes):
        made = entry(data, size, input, candidate)
        (folder / made["file"]).write_bytes(graph(input, seed=seed + n, fill=fill, scale=scale))
        if voices:
            made |= {"cohort": f"cohort_{size}.npz", "speaker": dict(VOICES)}
            _write_cohort(folder, made["cohort"], n)
        data["checkers"][size] = made
    save(folder, data)
    return folder


def _write_cohort(folder: Path, name: str, seed: int) -> None:
    """Write the shipped cohort, joined with parts that are anybody's."""
    rng = np.random.default_rng(seed)
    arrays = {}
    with np.load(folder / COHORT) as shipped:
        for which in ("cohort", "strangers"):
            head = _unit(shipped[which].astype(np.float32))
            voice = _unit(rng.normal(size=(len(head), WORDS)).astype(np.float32))
            arrays[which] = np.round(127 * joined(head, voice, 0.5)).astype(np.int8)
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def save(folder: Path, data: dict[str, Any]) -> None:
    """Write the manifest, with the hashes of all files as they are now."""
    data["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.suffix in (".onnx", ".npz")
    }
    (folder / MANIFEST).write_text(json.dumps(data))
