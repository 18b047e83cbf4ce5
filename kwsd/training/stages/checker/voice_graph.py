"""A network of voices as a graph of the bundle, in 8 bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch.jit._trace import TracerWarning

from kwsd import ort
from kwsd.training.data.windows import WINDOW_SAMPLES
from kwsd.training.models.voice_network import VoiceGraph, VoiceNetwork
from kwsd.training.stages.checker.export import OPSET


def write(network: VoiceNetwork, kind: Literal["mel", "waveform"], path: Path) -> None:
    """Write `network`, for what a checker of a `kind` takes, to `path`.

    Its first layer stays in float: it takes powers of very different size."""
    example = torch.zeros(1, WINDOW_SAMPLES)
    whole = path.with_suffix(".float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size")
        torch.onnx.export(
            VoiceGraph(network, kind).eval(),
            (network.bels(example) if kind == "mel" else example,),
            str(whole),
            input_names=[kind],
            output_names=["voice"],
            opset_version=OPSET,
            dynamic_axes={kind: {0: "batch"}, "voice": {0: "batch"}},
            dynamo=False,
        )
    layers = [node.name for node in onnx.load(str(whole)).graph.node if node.op_type == "LSTM"]
    quantization = ort.quantization()
    quantization.quantize_dynamic(
        whole,
        path,
        op_types_to_quantize=["LSTM"],
        nodes_to_exclude=layers[:1],
        per_channel=True,
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
    )
    whole.unlink()
