"""Pretrained transformer encoders, as `transformers` has saved them, into `Transformer`; or as
`kwsd train compare --teacher` and `checker` have tuned them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kwsd.training.data.targets import TeacherError
from kwsd.training.models import checkpoint
from kwsd.training.models.transformer import Transformer, WaveStem

FAMILIES = ("hubert", "wav2vec2", "wavlm", "whisper")
"""Types of transformers that can be teachers."""
NO_GROUPS = np.zeros((0, 0, 0), np.float32)
"""The vectors of a quantizer that a teacher does not have."""


class Pretrained(NamedTuple):
    """What a folder or a hub name holds."""

    network: Transformer
    family: str
    quantizer: Any
    """wav2vec 2.0's own, where it was saved for pretraining; else None."""

    def codes(self, inputs: Tensor) -> Tensor:
        """Return the quantizer's code of each frame of `inputs`, int64 `[batch, frame]`: a number
        of one digit a group, the first the lowest. Raises TeacherError without a quantizer."""
        stem = self.network.stem
        if self.quantizer is None or not isinstance(stem, WaveStem):
            raise TeacherError(
                f"a {self.family} has no quantizer of its own; "
                "fit a codebook to one of its layers with `k_means`"
            )
        groups = self.quantizer.num_groups
        scores = self.quantizer.weight_proj(stem.extracted(inputs))
        digits: Tensor = scores.unflatten(-1, (groups, -1)).argmax(-1)
        place = self.quantizer.num_vars ** torch.arange(groups, device=digits.device)
        return (digits * place).sum(-1)

    def code_groups(self) -> np.ndarray:
        """Return the quantizer's vectors, float32 `[group, entry, dim]`, empty without one."""
        if self.quantizer is None:
            return NO_GROUPS
        vectors = self.quantizer.codevectors.detach()
        shape = (self.quantizer.num_groups, self.quantizer.num_vars, -1)
        groups: np.ndarray = vectors.reshape(shape).cpu().numpy()
        return groups


def _tuned(path: Path) -> Pretrained:
    """Return the encoder of a checkpoint, which has no quantizer. Raises TeacherError."""
    try:
        network = checkpoint.load(path, "encoder", Transformer)
    except (EOFError, LookupError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        text = f"{path}: no checkpoint of a transformer ({type(error).__name__}: {error})"
        raise TeacherError(
            f"{text}; name one that `kwsd train compare --teacher` or `checker` has written"
        ) from error
    return Pretrained(network, f"tuned {network.kind}", None)


def load_pretrained(where: str | Path) -> Pretrained:
    """Return the encoder in `where`, in evaluation mode, without gradients: that of a folder or a
    hub name, or of a checkpoint with a transformer that was tuned.

    Raises TeacherError."""
    if Path(where).is_file():
        return _tuned(Path(where))
    import transformers

    if Path(where).is_absolute() and not Path(where).is_dir():
        raise TeacherError(f"{where}: no such folder; name one with a model of transformers")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise TeacherError(f"{where}: no model that transformers can load ({error})") from error
    family = config.model_type
    if family not in FAMILIES:
        raise TeacherError(f"{where} is a {family}; teachers are {', '.join(FAMILIES)}")
    quantizer = None
    # The weights may be stored in half precision.
    if family == "whisper":
        whisper: Any = transformers.WhisperModel.from_pretrained(where, dtype=torch.float32)
        network = _whisper(whisper.encoder, config)
    else:
        model: Any
        if "Wav2Vec2ForPreTraining" in (config.architectures or ()):
            pretraining: Any = transformers.Wav2Vec2ForPreTraining
            whole = pretraining.from_pretrained(where, dtype=torch.float32)
            quantizer = whole.quantizer.eval().requires_grad_(False)
            model = whole.wav2vec2
        else:
            model = transformers.AutoModel.from_pretrained(where, dtype=torch.float32)
        network = _waveform(model.eval(), config, _normalizes(where))
    return Pretrained(network.eval().requires_grad_(False), family, quantizer)


def _whisper(encoder: Any, config: Any) -> Transformer:
    """Return Whisper's encoder."""
    import transformers

    dim = config.d_model
    count = config.encoder_attention_heads
    network = Transformer(
        dim,
        dim // count,
        [list(range(count))] * config.encoder_layers,
        [config.encoder_ffn_dim] * config.encoder_layers,
        norm_first=True,
        mel={"bands": config.num_mel_bins, "positions": config.max_source_positions},
    )
    extractor: Any = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    values = {
        "stem.filters": torch.from_numpy(extractor.mel_filters).float(),
        "stem.positions": encoder.embed_positions.weight,
        **_named("stem.first", encoder.conv1),
        **_named("stem.second", encoder.conv2),
        **_named("norm", encoder.layer_norm),
    }
    for n, block in enumerate(encoder.layers):
        parts = {
            "attention.query": block.self_attn.q_proj,
            "attention.key": block.self_attn.k_proj,
            "attention.value": block.self_attn.v_proj,
            "attention.out": block.self_attn.out_proj,
            "attention_norm": block.self_attn_layer_norm,
            "up": block.fc1,
            "down": block.fc2,
            "hidden_norm": block.final_layer_norm,
        }
        for name, part in parts.items():
            values |= _named(f"blocks.{n}.{name}", part)
    return _filled(network, values)


def _waveform(model: Any, config: Any, normalize: bool) -> Transformer:
    """Return a HuBERT, wav2vec 2.0 or WavLM encoder."""
    dim = config.hidden_size
    count = config.num_attention_heads
    layers = config.num_hidden_layers
    norm_first = config.do_stable_layer_norm
    if getattr(config, "conv_pos_batch_norm", False):
        raise TeacherError("a positional convolution with batch normalization is not supported")
    gated = None
    if config.model_type == "wavlm":
        gated = {"buckets": config.num_buckets, "max_distance": config.max_bucket_distance}
    extractor, projection = model.feature_extractor, model.feature_projection
    has_norm = hasattr(projection, "layer_norm")
    network = Transformer(
        dim,
        dim // count,
        [list(range(count))] * layers,
        [config.intermediate_size] * layers,
        norm_first,
        wave={
            "channels": list(config.conv_dim),
            "kernels": list(config.conv_kernel),
            "strides": list(config.conv_stride),
            "bias": config.conv_bias,
            "every_norm": config.feat_extract_norm == "layer",
            "projection_norm": has_norm,
            "positions": config.num_conv_pos_embeddings,
            "groups": config.num_conv_pos_embedding_groups,
            "normalize": normalize,
        },
        gated=gated,
    )
    encoder = model.encoder
    placing = encoder.pos_conv_embed.conv
    values = {
        "stem.positions.weight": placing.weight,
        "stem.positions.bias": placing.bias,
        **_named("stem.projection", projection.projection),
    }
    if has_norm:
        values |= _named("stem.projection_norm", projection.layer_norm)
    for n, layer in enumerate(extractor.conv_layers):
        values |= _named(f"stem.convolutions.{n}", layer.conv)
        if hasattr(layer, "layer_norm"):
            values |= _named(f"stem.norms.{n}", layer.layer_norm)
    values |= _named("norm" if norm_first else "stem.norm", encoder.layer_norm)
    for n, block in enumerate(encoder.layers):
        parts = {
            "attention.query": block.attention.q_proj,
            "attention.key": block.attention.k_proj,
            "attention.value": block.attention.v_proj,
            "attention.out": block.attention.out_proj,
            "attention_norm": block.layer_norm,
            "up": block.feed_forward.intermediate_dense,
            "down": block.feed_forward.output_dense,
            "hidden_norm": block.final_layer_norm,
        }
        if gated is not None:
            parts["attention.positions.gate"] = block.attention.gru_rel_pos_linear
            # The first block's table serves all.
            parts["attention.positions.table"] = encoder.layers[0].attention.rel_attn_embed
            scale = block.attention.gru_rel_pos_const
            values[f"blocks.{n}.attention.positions.scale"] = scale
        for name, part in parts.items():
            values |= _named(f"blocks.{n}.{name}", part)
    return _filled(network, values)


def _named(name: str, part: nn.Module) -> dict[str, Tensor]:
    """Return the weights of `part` as `name.…`."""
    return {f"{name}.{key}": value for key, value in part.named_parameters()}


def _filled(network: Transformer, values: Mapping[str, Tensor]) -> Transformer:
    """Return `network` with the weights `values`; a key's bias, which Whisper lacks, is zero.

    Raises TeacherError where they are of another shape."""
    own = network.state_dict()

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, now in own.items():
            if name in values:
                yield name, values[name].detach()
            elif name.endswith(("attention.key.bias", "positions.slices")):
                yield name, torch.zeros_like(now) if name.endswith("bias") else now
            else:
                raise TeacherError(f"the pretrained model has no {name}")

    try:
        network.load_state_dict(dict(weights()))
    except RuntimeError as error:
        raise TeacherError(f"the pretrained model has another shape: {error}") from error
    return network


def _normalizes(where: str | Path) -> bool:
    """Return whether the checkpoint wants its input at zero mean and unit variance; True, as
    wav2vec 2.0 does, where it does not say."""
    import transformers

    try:
        return bool(transformers.Wav2Vec2FeatureExtractor.from_pretrained(where).do_normalize)
    except OSError:
        return True
