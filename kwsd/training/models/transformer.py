"""Pretrained transformer encoders (HuBERT, wav2vec 2.0, WavLM, Whisper), layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data.targets import TeacherError

FAMILIES = ("hubert", "wav2vec2", "wavlm", "whisper")
"""Types of transformers that can be teachers."""


class TransformerLayers(nn.Module):
    """The layers of a pretrained transformer encoder, for batches and with gradients.

    Layer 0 is the input of the first block, layer n the output of the nth."""

    def __init__(self, where: str | Path) -> None:
        """`where`: a folder or a hub name. Raises TeacherError."""
        super().__init__()
        import transformers

        try:
            config = transformers.AutoConfig.from_pretrained(where)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{where}: no model that transformers can load ({error})") from error
        if config.model_type not in FAMILIES:
            raise TeacherError(
                f"{where} is a {config.model_type}; teachers are {', '.join(FAMILIES)}"
            )
        self.family: str = config.model_type
        self.quantizer: Any = None
        load = self._load_whisper if self.family == "whisper" else self._load_waveform_model
        self.model = load(where, config).eval().requires_grad_(False)

    def _load_whisper(self, where: str | Path, config: Any) -> Any:
        """Return Whisper's encoder; sets what the front end needs."""
        import transformers

        extractor: Any = transformers.WhisperFeatureExtractor
        filters = torch.from_numpy(extractor(feature_size=config.num_mel_bins).mel_filters).float()
        self.register_buffer("_filters", filters, persistent=False)
        self._shortest = 400
        self.count = int(config.encoder_layers)
        self.dim = int(config.d_model)
        self.rate_hz = SAMPLE_RATE / 320
        whisper: Any = transformers.WhisperModel.from_pretrained(where, dtype=torch.float32)
        return whisper.encoder

    def _load_waveform_model(self, where: str | Path, config: Any) -> Any:
        """Return a HuBERT, wav2vec 2.0 or WavLM encoder; sets what the front end needs."""
        import transformers

        self._normalize = _normalizes(where)
        self._shortest = _shortest(config.conv_kernel, config.conv_stride)
        self.count = int(config.num_hidden_layers)
        self.dim = int(config.hidden_size)
        self.rate_hz = SAMPLE_RATE / float(np.prod(config.conv_stride))
        if self.family == "wav2vec2" and "Wav2Vec2ForPreTraining" in (config.architectures or ()):
            pretraining: Any = transformers.Wav2Vec2ForPreTraining
            pretrained = pretraining.from_pretrained(where, dtype=torch.float32)
            self.quantizer = pretrained.quantizer.eval()
            return pretrained.wav2vec2
        return transformers.AutoModel.from_pretrained(where, dtype=torch.float32)

    @property
    def blocks(self) -> Any:
        """The transformer's blocks, from the lowest."""
        return self.model.layers if self.family == "whisper" else self.model.encoder.layers

    def inputs(self, samples: Tensor) -> Tensor:
        """Return the input of `forward` for int16-scale `samples [batch, sample]`: Whisper's
        log-mel `[batch, band, frame]`, else the waveform."""
        x = F.pad(samples.float(), (0, max(self._shortest - samples.shape[1], 0))) / 32768
        if self.family == "whisper":
            return self._log_mel(x)
        if self._normalize:
            variance = x.var(1, correction=0, keepdim=True)
            x = (x - x.mean(1, keepdim=True)) / (variance + 1e-7).sqrt()
        return x

    def _log_mel(self, x: Tensor) -> Tensor:
        """Return Whisper's features (Radford et al. 2022, arXiv 2212.04356), in float32 even under
        autocast."""
        with torch.autocast(x.device.type, enabled=False):
            window = torch.hann_window(400, device=x.device)
            spectrum = torch.stft(x, 400, 160, window=window, return_complex=True)[..., :-1]
            mel = self._filters.T @ spectrum.abs().square()  # type: ignore[operator]
            mel = mel.clamp(min=1e-10).log10()
        return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return the input of each block and the output of the last, `[batch, frame, dim]` each."""
        if self.family != "whisper":
            return list(self.model(inputs, output_hidden_states=True).hidden_states)
        encoder = self.model
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(inputs)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        hidden = [x]
        for block in encoder.layers:
            x = block(x, None)
            x = x[0] if isinstance(x, tuple) else x
            hidden.append(x)
        hidden[-1] = encoder.layer_norm(hidden[-1])
        return hidden


def _normalizes(where: str | Path) -> bool:
    """Return whether the checkpoint wants its input at zero mean and unit variance; True, as
    wav2vec 2.0 does, where it does not say."""
    import transformers

    try:
        return bool(transformers.Wav2Vec2FeatureExtractor.from_pretrained(where).do_normalize)
    except OSError:
        return True


def _shortest(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the fewest samples that give one frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        samples = (samples - 1) * stride + kernel
    return samples
