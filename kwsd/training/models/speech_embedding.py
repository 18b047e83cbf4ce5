"""The word teacher: an encoder with the weights of Google's speech embedding (Lin et al. 2020,
arXiv 2002.01322)."""

from __future__ import annotations

import numpy as np
import torch

from kwsd.training import tflite
from kwsd.training.models.encoder import Encoder


def pretrained_encoder() -> Encoder:
    """Return the encoder with the teacher's weights, in evaluation mode.

    Raises ModuleNotFoundError where a package of the extra `[train]` is missing."""
    model = tflite.interpreter("embedding_model.tflite", (1, 76, 32, 1))
    pairs = []
    for op in model._get_ops_details():
        if op["op_name"] == "CONV_2D":
            weight, bias = (
                torch.from_numpy(np.array(model.get_tensor(i))) for i in op["inputs"][1:3]
            )
            pairs.append((weight.permute(0, 3, 1, 2).contiguous(), bias))
    encoder = Encoder()
    for layer, (weight, bias) in zip([*encoder.activated(), encoder.last], pairs, strict=True):
        assert layer.weight.shape == weight.shape, (layer, weight.shape)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return encoder.eval()
