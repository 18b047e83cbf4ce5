"""Stage 4: checkpoints to a model bundle: ONNX graphs with named states, the front end's constants, a manifest with hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from kwsd.audio.log_mel import LogMel
from kwsd.config import ConfigError
from kwsd.model.bundle import COHORT, FORMAT, FRONT_END, MANIFEST, NEGATIVES, SPEAKER, STUDENT, VOICE_FRONT_END, OperatingPoint, write_front_end
from kwsd.training.models.backend import Backend
from kwsd.training.models.network import SMOOTHING_CHUNKS, STRIDE_FRAMES, WORDS, Encoder, SpeakerHeads, WakeHead
from kwsd.training.stages.quantize import quantise

CHUNK_SAMPLES = 1280


class Student(nn.Module):
    """Encoder and wake head as one streaming graph."""

    def __init__(self, encoder: Encoder, head: WakeHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.eval()

    def forward(self, mel: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        embedding, tap, after = self.encoder(mel, list(state[:-1]))
        logits, timing, last = self.head(embedding, state[-1])
        return (logits, timing, embedding, tap, *after, last)


def state_names(encoder: Encoder) -> list[str]:
    names = ["first", *(f"along{i}" for i in range(len(encoder.along))), "last", "wake"]
    return [f"state_in.{n}" for n in names]


def receptive_chunks() -> int:
    """Chunks, the present one included, on which a posterior depends: the encoder's frames and the head's embeddings."""
    return -(-(Encoder.receptive_frames - STRIDE_FRAMES) // STRIDE_FRAMES) + 1 + WakeHead.context - 1


def export_student(student: Student, path: Path) -> None:
    inputs = (torch.zeros(1, 2 * STRIDE_FRAMES, 32), *student.encoder.zero_state(), student.head.zero_state())
    ins = state_names(student.encoder)
    outs = [n.replace("_in.", "_out.") for n in ins]
    torch.onnx.export(
        student, inputs, str(path), input_names=["mel", *ins], output_names=["logits", "timing", "embedding", "tap", *outs], opset_version=17,
        dynamic_axes={"mel": {1: "frames"}, "logits": {1: "chunks"}, "timing": {1: "chunks"}, "embedding": {1: "chunks"}, "tap": {1: "tap_frames"}},
        dynamo=False,
    )  # fmt: skip
    _check(path)


class Speaker(nn.Module):
    """Speaker heads and, once fitted, their backend as one graph."""

    def __init__(self, head: SpeakerHeads, backend: Backend | None = None) -> None:
        super().__init__()
        self.head, self.backend = head, backend
        self.eval()

    def forward(self, tap: Tensor, embedding: Tensor, fine: Tensor) -> Tensor:
        voice: Tensor = self.head(tap, embedding, fine)
        return voice if self.backend is None else self.backend(voice)


def export_speaker(speaker: Speaker, path: Path) -> None:
    shape = speaker.head.shape
    inputs = (torch.zeros(1, 40, shape["tap"]), torch.zeros(1, 10, shape["embedding"]), torch.zeros(1, 80, shape["fine"]))
    torch.onnx.export(speaker, inputs, str(path), input_names=["tap", "embedding", "fine"], output_names=["speaker"], opset_version=17,
                      dynamic_axes={"tap": {1: "tap_frames"}, "embedding": {1: "chunks"}, "fine": {1: "frames"}}, dynamo=False)  # fmt: skip
    _check(path)


def _check(path: Path) -> None:
    """Fold what can be folded, and see that the graph is sound."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path.read_bytes(), options)
    model = onnx.load(str(path))
    model.doc_string, model.producer_version = "", ""
    given = {value.name: value.type for value in model.graph.input}
    for value in model.graph.output:  # the exporter does not see that a state keeps its shape
        if value.name.startswith("state_out."):
            value.type.CopyFrom(given[value.name.replace("_out.", "_in.")])
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def encoder_id(encoder: Encoder, front_end: LogMel, grids: str = "") -> str:
    """Of all that decides what the encoder says; `grids` is what `quantise` said."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(grids.encode())
    digest.update(front_end.window.tobytes() + front_end.filters.tobytes() + repr((front_end.floor_db, front_end.scale, front_end.offset)).encode())
    return digest.hexdigest()[:16]


def export(encoder: Encoder, wake: WakeHead, front_end: LogMel, out: Path, mels: Sequence[np.ndarray] = ()) -> None:
    """Write the bundle, less its speaker head, with provisional thresholds; `evaluate` sets the measured ones, and `negatives` adds the bank.

    The encoder is put into 8 bit where there are `mels`, each `[frame, band]`, to calibrate it on."""
    out.mkdir(parents=True, exist_ok=True)
    student = Student(encoder, wake)
    export_student(student, out / STUDENT)
    macs = macs_per_second(out / STUDENT)
    grids = quantise(out / STUDENT, mels) if mels else ""
    write_front_end(out / FRONT_END, front_end)
    parts = {"encoder": encoder, "wake": wake}
    manifest: dict[str, Any] = {
        "kind": "kwsd-bundle",
        "format": FORMAT,
        "encoder_id": encoder_id(encoder, front_end, grids),
        "sample_rate": 16000,
        "chunk_samples": CHUNK_SAMPLES,
        "receptive_chunks": receptive_chunks(),
        "smoothing_chunks": SMOOTHING_CHUNKS,
        "words": {word: {"threshold": 0.5, "operating_points": []} for word in WORDS},
        "speaker": {"threshold": 0.5, "slope": 1.0, "offset": 0.0},
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "macs_per_second": macs,
        "files": {},
    }
    write_manifest(manifest, out)


def put_speaker(out: Path, speaker: Speaker, front_end: LogMel) -> None:
    """Put speaker heads, which hear `front_end` beside the encoder, into the bundle `out`, in the place of those which it may have. Raises ConfigError."""
    if speaker.head.shape["fine"] != front_end.bands:
        raise ConfigError(
            f"these speaker heads take {speaker.head.shape['fine']} finer bands instead of {front_end.bands}; train them with this kwsd's `heads`"
        )
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    export_speaker(speaker, out / SPEAKER)
    write_front_end(out / VOICE_FRONT_END, front_end)
    manifest["parameters"]["speaker"] = sum(p.numel() for p in speaker.parameters())
    frames_id = manifest.setdefault("frames_id", manifest["encoder_id"])  # what the encoder itself is known by, whichever heads came after it
    parts = frames_id.encode() + (out / SPEAKER).read_bytes() + (out / VOICE_FRONT_END).read_bytes()
    manifest["encoder_id"] = hashlib.sha256(parts).hexdigest()[:16]
    write_manifest(manifest, out)


def write_manifest(manifest: dict[str, Any], out: Path) -> None:
    """Write the manifest with the present hashes of the files."""
    there = [name for name in (STUDENT, SPEAKER, FRONT_END, VOICE_FRONT_END, NEGATIVES, COHORT) if (out / name).exists()]
    manifest["files"] = {name: {"sha256": hashlib.sha256((out / name).read_bytes()).hexdigest(), "bytes": (out / name).stat().st_size} for name in there}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def rewrite_manifest(out: Path) -> None:
    """Put the present hashes of the files into the manifest of the bundle `out`."""
    write_manifest(json.loads((out / MANIFEST).read_text(encoding="utf-8")), out)


@dataclass(frozen=True)
class Measured:
    """What the development split says of a word."""

    threshold: float
    """The default."""
    points: list[OperatingPoint]
    scores: list[float]
    scores_10db: list[float]
    """Quantiles of its recordings' highest scores."""


def set_thresholds(out: Path, words: dict[str, Measured], speaker: dict[str, float]) -> None:
    """Put measured thresholds and operating points into the manifest of the bundle `out`."""
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    for word, found in words.items():
        points = [{k: round(v, 6) for k, v in asdict(p).items()} for p in found.points]
        manifest["words"][word] = {"threshold": round(found.threshold, 6), "operating_points": points, "scores": found.scores, "scores_10db": found.scores_10db}
    manifest["speaker"] = {name: round(value, 4) for name, value in speaker.items()}
    write_manifest(manifest, out)


def macs_per_second(path: Path, feed_frames: int = STRIDE_FRAMES) -> int:
    """Multiply-accumulates a second of audio of the student's convolutions and matrix products, counted on its graph."""
    model = onnx.shape_inference.infer_shapes(_with_frames(onnx.load(str(path)), feed_frames))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*model.graph.value_info, *model.graph.output, *model.graph.input]}
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "FusedConv"):
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(weights[node.input[1]][1:]))
        elif node.op_type in ("MatMul", "Gemm"):
            dims = weights.get(node.input[1]) or shapes[node.input[1]]
            total += int(np.prod(shapes[node.output[0]])) * dims[-2 if node.op_type == "MatMul" else 0]
    return total * 16000 // (feed_frames * 160)


def _with_frames(model: onnx.ModelProto, frames: int) -> onnx.ModelProto:
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = frames
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return model
