"""`kwsd train export`: checkpoints to the graphs of a model bundle, ONNX with named states."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.log_mel import LogMel
from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.bundle import ENCODER, SPEAKER
from kwsd.model.runtime import INTERMEDIATE
from kwsd.ort import onnxruntime
from kwsd.training.bundle_writer import BundleWriter
from kwsd.training.features import (
    BANDS,
    FINE_BANDS,
    HOP_SAMPLES,
    INTERMEDIATE_FRAMES,
    STRIDE_FRAMES,
    voice_front_end,
)
from kwsd.training.models.backend import Backend
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHeads, WakeHead
from kwsd.training.settings.catalog import WordList
from kwsd.training.stages.quantize import quantize

OPSET = 17
"""Version of the ONNX operators."""
WAKE_STATE = "state_in.wake"
"""Name of the wake head's state in the graph."""


class StreamingModel(nn.Module):
    """Encoder and wake head as one streaming graph."""

    def __init__(self, encoder: Encoder, head: WakeHead) -> None:
        """Both go to evaluation mode."""
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.eval()

    def forward(self, mel: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return logits, timing, embedding, intermediate features, and the states after `mel`."""
        embedding, intermediate, after = self.encoder(mel, list(state[:-1]))
        logits, timing, last = self.head(embedding, state[-1])
        return (logits, timing, embedding, intermediate, *after, last)


class SpeakerModel(nn.Module):
    """Speaker heads and, once fitted, their backend as one graph."""

    def __init__(self, head: SpeakerHeads, backend: Backend | None = None) -> None:
        """Both go to evaluation mode."""
        super().__init__()
        self.head = head
        self.backend = backend
        self.eval()

    def forward(self, intermediate: Tensor, embedding: Tensor, fine: Tensor) -> Tensor:
        """Return the speaker embedding; arguments are those of `SpeakerHead`."""
        voice: Tensor = self.head(intermediate, embedding, fine)
        return voice if self.backend is None else self.backend(voice)


def export_encoder(
    encoder: Encoder,
    wake: WakeHead,
    front_end: LogMel,
    words: WordList,
    out: Path,
    mels: Sequence[np.ndarray] = (),
) -> None:
    """Write encoder and wake head into the bundle `out`, with provisional thresholds.

    `evaluate` sets the measured ones. The encoder is put into 8 bit where there are `mels`, each
    `[frame, band]`, to calibrate it on. Raises ConfigError where the head has other words."""
    _check_words(wake, words)
    with BundleWriter(out) as writer:
        path = writer.file(ENCODER)
        _export_streaming(StreamingModel(encoder, wake), path)
        macs = graph_macs_per_second(path)
        grids = quantize(path, mels) if mels else ""
        parts = {"encoder": encoder, "wake": wake}
        parameters = {
            name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()
        }
        writer.set_encoder(
            words, encoder_id(encoder, front_end, grids), front_end, parameters, macs
        )


def export_wake(wake: WakeHead, words: WordList, out: Path) -> None:
    """Put `wake` into the bundle `out` behind the encoder that it has, in place of its head.

    The encoder's id stays, and with it all that was made from its frames. Thresholds are
    provisional, and the second stage, whose candidates were the other head's, is left out until it
    is exported again. Raises ConfigError where the head has other words than `words`, BundleError
    where there is no bundle."""
    _check_words(wake, words)
    student = bundles.load(out).file(ENCODER)
    with BundleWriter(out) as writer:
        path = writer.file(ENCODER)
        _export_head(wake, path)
        _join(student, path)
        parameters = sum(p.numel() for p in wake.parameters())
        writer.set_wake(words, parameters, graph_macs_per_second(path))


def export_speaker(speaker: SpeakerModel, out: Path) -> None:
    """Write speaker heads into the bundle `out`, in place of those that it may have.

    Raises ConfigError where they take other bands than `voice_front_end` gives."""
    fine = speaker.head.shape["fine"]
    if fine != FINE_BANDS:
        raise ConfigError(
            f"these speaker heads take {fine} fine bands instead of {FINE_BANDS}; "
            "train them with this kwsd's `heads`"
        )
    with BundleWriter(out) as writer:
        _export_speaker_graph(speaker, writer.file(SPEAKER))
        writer.set_speaker(voice_front_end(), sum(p.numel() for p in speaker.parameters()))


def encoder_id(encoder: Encoder, front_end: LogMel, grids: str = "") -> str:
    """Return the id of all that decides the encoder's output; `grids` is what `quantize`
    returned."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(name.encode() + values.tobytes())
    digest.update(grids.encode())
    digest.update(front_end.window.tobytes() + front_end.filters.tobytes())
    digest.update(repr((front_end.floor_db, front_end.scale, front_end.offset)).encode())
    return digest.hexdigest()[:16]


def _check_words(wake: WakeHead, words: WordList) -> None:
    if wake.words != len(words):
        raise ConfigError(
            f"the wake head has {wake.words} words, words.yaml has {len(words)}; "
            "train it with this words.yaml"
        )


def _export_head(wake: WakeHead, path: Path) -> None:
    """Write the graph of the head alone to `path`."""
    torch.onnx.export(
        wake.eval(),
        (torch.zeros(1, 2, wake.inputs), wake.zero_state()),
        str(path),
        input_names=["embedding", WAKE_STATE],
        output_names=["logits", "timing", WAKE_STATE.replace("_in.", "_out.")],
        opset_version=OPSET,
        dynamic_axes={name: {1: "chunks"} for name in ("embedding", "logits", "timing")},
        dynamo=False,
    )
    _finish(path)


def _join(student: Path, head: Path) -> None:
    """Replace the head in the streaming graph `student` by the graph `head`, into `head`."""
    whole, new = onnx.load(str(student)), onnx.load(str(head))
    inputs = [value.name for value in whole.graph.input if value.name != WAKE_STATE]
    outputs = [value.name for value in whole.graph.output]
    own = {value.name for value in new.graph.output}
    encoder = onnx.utils.Extractor(whole).extract_model(
        inputs, [name for name in outputs if name not in own]
    )
    new.ir_version = encoder.ir_version
    # Nodes are called as in a graph that was exported whole, by which benchmarks know the head. The
    # encoder may share constants that are called so, so tensors are not.
    kept = {"rename_inputs": False, "rename_outputs": False, "inplace": True}
    onnx.compose.add_prefix(new, "/head", rename_edges=False, rename_initializers=False, **kept)
    onnx.compose.add_prefix(new, "wake.", rename_nodes=False, **kept)
    joined = onnx.compose.merge_models(
        encoder, new, io_map=[("embedding", "embedding")], outputs=outputs
    )
    onnx.checker.check_model(joined)
    onnx.save(joined, str(head))


def _export_streaming(model: StreamingModel, path: Path) -> None:
    """Write the streaming graph to `path`."""
    encoder = model.encoder
    names = ["first", *(f"along{n}" for n in range(len(encoder.along))), "last", "wake"]
    states = [f"state_in.{name}" for name in names]
    torch.onnx.export(
        model,
        (torch.zeros(1, 2 * STRIDE_FRAMES, BANDS), *encoder.zero_state(), model.head.zero_state()),
        str(path),
        input_names=["mel", *states],
        output_names=[
            "logits",
            "timing",
            "embedding",
            INTERMEDIATE,
            *(state.replace("_in.", "_out.") for state in states),
        ],
        opset_version=OPSET,
        dynamic_axes={
            "mel": {1: "frames"},
            "logits": {1: "chunks"},
            "timing": {1: "chunks"},
            "embedding": {1: "chunks"},
            INTERMEDIATE: {1: "tap_frames"},
        },
        dynamo=False,
    )
    _finish(path)


def _export_speaker_graph(speaker: SpeakerModel, path: Path) -> None:
    """Write the speaker graph to `path`."""
    shape = speaker.head.shape
    chunks = 10
    torch.onnx.export(
        speaker,
        (
            torch.zeros(1, INTERMEDIATE_FRAMES * chunks, shape["intermediate"]),
            torch.zeros(1, chunks, shape["embedding"]),
            torch.zeros(1, STRIDE_FRAMES * chunks, shape["fine"]),
        ),
        str(path),
        input_names=[INTERMEDIATE, "embedding", "fine"],
        output_names=["speaker"],
        opset_version=OPSET,
        dynamic_axes={
            INTERMEDIATE: {1: "tap_frames"},
            "embedding": {1: "chunks"},
            "fine": {1: "frames"},
        },
        dynamo=False,
    )
    _finish(path)


def _finish(path: Path) -> None:
    """Fold constants in the graph `path`, and check that it is sound."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path.read_bytes(), options)
    model = onnx.load(str(path))
    model.doc_string = ""
    model.producer_version = ""
    inputs = {value.name: value.type for value in model.graph.input}
    for value in model.graph.output:  # the exporter does not see that a state keeps its shape
        if value.name.startswith("state_out."):
            value.type.CopyFrom(inputs[value.name.replace("_out.", "_in.")])
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def graph_macs_per_second(path: Path) -> int:
    """Return the multiply-accumulates per second of audio of the graph's convolutions and matrix
    products."""
    model = onnx.shape_inference.infer_shapes(_with_frames(onnx.load(str(path)), STRIDE_FRAMES))
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.output, *graph.input]
    }
    weights = {weight.name: list(weight.dims) for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "FusedConv"):
            kernel = weights[node.input[1]][1:]
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(kernel))
        elif node.op_type in ("MatMul", "Gemm"):
            dims = weights.get(node.input[1]) or shapes[node.input[1]]
            inner = dims[-2 if node.op_type == "MatMul" else 0]
            total += int(np.prod(shapes[node.output[0]])) * inner
    assert CHUNK_SAMPLES == STRIDE_FRAMES * HOP_SAMPLES
    return total * SAMPLE_RATE // CHUNK_SAMPLES


def _with_frames(model: onnx.ModelProto, frames: int) -> onnx.ModelProto:
    """Return `model` for this many frames instead of any."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = frames
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return model
