"""Bundles with checkers: the shipped one, and small random graphs beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import hiss, say
from onnx_graph import model, node

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.learn.word_takes import TakeEncoder
from kwsd.learn.word_vectors import write_checker_negatives
from kwsd.metrics import joined
from kwsd.model import bundle as bundles
from kwsd.model.bundle import COHORT, FRONT_END, MANIFEST, NEGATIVES
from kwsd.model.runtime import CheckerGraph, wanted_by

SAMPLES = 32240
"""200 mel frames of the shipped front end."""
FRAMES = 200
BANDS = 32
WORDS = 6
"""Words of the bundle, and numbers of a voice embedding."""
WORD_ID = "random"
WORD_DIM = 48
SKIPPED = 16
"""Chunks at the beginning of a segment of the bank that it does not hold."""
WORD_FRAMES = 100
"""Frames at the end of a window that the embedding of words hears, in blocks of a quarter."""
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
        node("MatMul", ["flat", "of_words"], "said"),
        node("LpNormalization", ["said"], "words", axis=-1, p=2),
        node("LpNormalization", ["logits"], "voice", axis=-1, p=2),
    ]
    constants = {
        "weights": weights,
        "bias": np.full(WORDS, fill, np.float32),
        "of_words": _of_words(size),
    }
    lengths = {"logits": WORDS, "words": WORD_DIM, "voice": WORDS}
    given: dict[str, list[int | str]] = {name: ["batch", lengths[name]] for name in outputs}
    return model(nodes, {input: ["batch", *axes]}, given, constants)


def run(session: Any, given: np.ndarray, *outputs: str) -> list[np.ndarray]:
    """Return `outputs` of a session, which computes the others only where it must."""
    first, *flags = [i.name for i in session.get_inputs()]
    feed = {flag: np.array(flag in map(wanted_by, outputs)) for flag in flags}
    return list(session.run(outputs, {first: given, **feed}))


def _of_words(size: int) -> np.ndarray:
    """Return weights `[size, WORD_DIM]` that are zero before the last frames.

    Within a quarter of these, each band has one weight: phrases differ, and a moment does not
    matter.
    """
    rng = np.random.default_rng(7)
    if size != FRAMES * BANDS:
        return rng.normal(0, 1, (size, WORD_DIM)).astype(np.float32)
    quarters = rng.normal(0, 1, (4, BANDS, WORD_DIM)).astype(np.float32)
    quarters -= quarters.mean(axis=(0, 1))
    weights = np.zeros((FRAMES, BANDS, WORD_DIM), np.float32)
    weights[-WORD_FRAMES:] = np.repeat(quarters, WORD_FRAMES // 4, axis=0)
    return weights.reshape(size, WORD_DIM)


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
    network: bool = False,
    bank: Sequence[np.ndarray] = (),
    words: Sequence[np.ndarray] = (),
) -> Path:
    """Write a copy of the shipped bundle with checkers of these sizes; return the folder.

    `voices` are scored with the checkers' embeddings as well, and those of a `network` beside each.
    Where there are segments of a `bank` of negatives, int16 `[sample]`, the checkers know words,
    and this is all of the bundle's bank, beside windows `[sample]` that end with single `words`.
    """
    shutil.copytree(bundles.default_path(), folder, dirs_exist_ok=True)
    shutil.copy(folder / FRONT_END, folder / "checker_front_end.npz")
    data = json.loads((folder / MANIFEST).read_text())
    data["checkers"] = {}
    for n, size in enumerate(sizes):
        made = entry(data, size, input, candidate)
        (folder / made["file"]).write_bytes(graph(input, seed=seed + n, fill=fill, scale=scale))
        if network:
            made["voices"] = {"file": f"voices_{size}.onnx", "share": 0.25}
            made_of = graph(input, seed=seed + 50 + n, outputs=("voice",))
            (folder / f"voices_{size}.onnx").write_bytes(made_of)
        if voices:
            made |= {"cohort": f"cohort_{size}.npz", "speaker": dict(VOICES)}
            _write_cohort(folder, made["cohort"], n, 2 * WORDS if network else WORDS)
        if bank:
            made["word_id"] = f"{WORD_ID} {n}"
        data["checkers"][size] = made
    save(folder, data)
    if bank:
        _write_bank(folder, data, bank, words)
    return folder


def _write_bank(
    folder: Path,
    data: dict[str, Any],
    segments: Sequence[np.ndarray],
    words: Sequence[np.ndarray],
) -> None:
    """Write frames and vectors of segments, and of single words, as training does."""
    bundle = bundles.load(folder)
    encoder = TakeEncoder(bundle)
    whole = [one[: len(one) // CHUNK_SAMPLES * CHUNK_SAMPLES] for one in segments]
    frames = [encoder.frames(one)[SKIPPED:] for one in whole]
    high = np.concatenate(frames)
    scale = (np.abs(high).max(axis=0) / 127).astype(np.float32)
    np.savez(
        folder / NEGATIVES,
        high=np.round(high / scale).astype(np.int8),
        scale=scale,
        starts=np.cumsum([0, *map(len, frames[:-1])]).astype(np.int64),
        texts=np.array([""] * len(frames)),
        speech=np.ones(len(frames), np.int8),
    )
    for size, made in data["checkers"].items():
        made["negatives"] = f"{size}_negatives.npz"
        graph = CheckerGraph(bundle, bundle.checkers[size])
        write_checker_negatives(folder / made["negatives"], graph, whole, SKIPPED, words)
    save(folder, data)


def chatter() -> list[np.ndarray]:
    """Return half a minute of speech and noise that holds no word of the tests, in segments."""
    texts = (
        "the weather is fine today and nobody knows why",
        "thank you very much for the lovely evening",
        "seven of them went down to the river",
        "please open the window before you leave",
    )
    segments = []
    for n, voice in enumerate(("en-us", "en-gb+f2", "en-us+m3", "en-gb-scotland")):
        said = [say(text, voice) for text in (*texts[n:], *texts[:n])][:3]
        segments.append(np.concatenate([hiss(0.5), *said, hiss(1.0, 300.0, n)]))
    return segments


def _write_cohort(folder: Path, name: str, seed: int, dim: int) -> None:
    """Write the shipped cohort, joined with parts that are anybody's."""
    rng = np.random.default_rng(seed)
    arrays = {}
    with np.load(folder / COHORT) as shipped:
        for which in ("cohort", "strangers"):
            head = _unit(shipped[which].astype(np.float32))
            voice = _unit(rng.normal(size=(len(head), dim)).astype(np.float32))
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
