"""Teachers: what a pretrained model says of an utterance. None of them is ever on the device.

- `Transformer`: any of HuBERT, wav2vec 2.0, WavLM and Whisper that `transformers` loads, by folder or by hub name, with a choice of
  layers; codes are those of its own quantiser (wav2vec 2.0) or of a k-means codebook over one of its layers.
- `SpeechEmbedding`: Google's network for short words, as it is; or made robust, the encoder of a checkpoint of `finetune`.
- `Voice`: Resemblyzer's speaker encoder; it has one vector an utterance, and no frames.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.data.corpora import RATE
from kwsd.training.models import speech_embedding
from kwsd.training.models.checkpoint import load_encoder
from kwsd.training.models.network import Encoder

WHISPER_SAMPLES = 480_000
FAMILIES = ("hubert", "wav2vec2", "wavlm", "whisper")


class TeacherError(ValueError):
    """A teacher cannot be loaded or asked; the message says why."""


class Teacher(Protocol):
    """Frames are what it says of each moment; an utterance is int16-scale float32 `[sample]` at 16 kHz."""

    name: str
    rate_hz: float
    """Frames a second; 0 of a teacher that has none."""
    dim: int
    """Of one frame of one layer, or of a pooled vector of a teacher without frames."""
    layers: tuple[int, ...]

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[layer, frame, dim]`. Raises TeacherError where it has none."""
        ...

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[layer, dim]`: the mean over time."""
        ...

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """int64 `[frame]`: which vector of the codebook stands for each frame. Raises TeacherError where there is no codebook."""
        ...


@dataclass
class Codebook:
    """Vectors that stand for frames of a layer."""

    vectors: np.ndarray
    """float32 `[code, dim]`"""
    layer: int

    def nearest(self, frames: np.ndarray) -> np.ndarray:
        """int64 `[frame]` of `[frame, dim]`, by Euclidean distance."""
        distance = (self.vectors**2).sum(1) - 2 * frames @ self.vectors.T
        return np.asarray(distance.argmin(1), np.int64)


def k_means(frames: np.ndarray, codes: int, layer: int, rounds: int = 20, seed: int = 0) -> Codebook:
    """Lloyd's algorithm over `frames [frame, dim]`, begun by k-means++ (Arthur and Vassilvitskii 2007); empty cells are drawn anew."""
    if len(frames) < codes:
        raise TeacherError(f"{len(frames)} frames cannot be parted into {codes} codes")
    rng = np.random.default_rng(seed)
    vectors = np.empty((codes, frames.shape[1]), np.float32)
    vectors[0] = frames[rng.integers(len(frames))]
    nearest = ((frames - vectors[0]) ** 2).sum(1)
    for n in range(1, codes):
        vectors[n] = frames[rng.choice(len(frames), p=nearest / nearest.sum())] if nearest.sum() > 0 else frames[rng.integers(len(frames))]
        nearest = np.minimum(nearest, ((frames - vectors[n]) ** 2).sum(1))
    book = Codebook(vectors, layer)
    for _ in range(rounds):
        own = book.nearest(frames)
        counts = np.bincount(own, minlength=codes)
        sums = np.zeros_like(vectors, np.float64)
        np.add.at(sums, own, frames)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], frames[rng.integers(len(frames), size=codes)]).astype(np.float32)
        done = np.allclose(moved, book.vectors, atol=1e-5)
        book.vectors = moved
        if done:
            break
    return book


class TransformerLayers(nn.Module):
    """The layers of a pretrained transformer encoder, for batches and with gradients.

    Layer 0 is what goes into the first block, layer n what comes out of the nth."""

    def __init__(self, where: str | Path) -> None:
        """`where`: a folder or a hub name. Raises TeacherError."""
        super().__init__()
        import transformers

        try:
            config = transformers.AutoConfig.from_pretrained(where)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{where}: no model that transformers can load ({error})") from error
        if config.model_type not in FAMILIES:
            raise TeacherError(f"{where} is a {config.model_type}; teachers are {', '.join(FAMILIES)}")
        self.family, self.quantiser = config.model_type, None
        if self.family == "whisper":
            extractor: Any = transformers.WhisperFeatureExtractor
            self.register_buffer("_filters", torch.from_numpy(extractor(feature_size=config.num_mel_bins).mel_filters).float(), persistent=False)
            self._shortest = 400
            model: Any = transformers.WhisperModel.from_pretrained(where, dtype=torch.float32).encoder
            self.count, self.dim, self.rate_hz = config.encoder_layers, config.d_model, RATE / 320
        else:
            self._normalise, self._shortest = _normalises(where), _shortest(config.conv_kernel, config.conv_stride)
            if self.family == "wav2vec2" and "Wav2Vec2ForPreTraining" in (config.architectures or ()):
                pretrained: Any = transformers.Wav2Vec2ForPreTraining.from_pretrained(where, dtype=torch.float32)
                model, self.quantiser = pretrained.wav2vec2, pretrained.quantizer.eval()
            else:
                model = transformers.AutoModel.from_pretrained(where, dtype=torch.float32)
            self.count, self.dim, self.rate_hz = config.num_hidden_layers, config.hidden_size, RATE / float(np.prod(config.conv_stride))
        self.model = model.eval().requires_grad_(False)

    @property
    def blocks(self) -> Any:
        """The transformer's blocks, lowest first."""
        return self.model.layers if self.family == "whisper" else self.model.encoder.layers

    def inputs(self, samples: Tensor) -> Tensor:
        """What `forward` takes, of int16-scale `samples [batch, sample]`: Whisper's log-mel `[batch, band, frame]`, else the waveform."""
        x = F.pad(samples.float(), (0, max(self._shortest - samples.shape[1], 0))) / 32768
        if self.family == "whisper":
            return self._log_mel(x)
        if self._normalise:
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
        return x

    def _log_mel(self, x: Tensor) -> Tensor:
        """Whisper's front end (Radford et al. 2022, arXiv 2212.04356), in float32 whatever is cast automatically around it."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(x, 400, 160, window=torch.hann_window(400, device=x.device), return_complex=True)[..., :-1]
            mel = (self._filters.T @ spectrum.abs().square()).clamp(min=1e-10).log10()  # type: ignore[operator]
        return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """What goes into each block and comes out of the last, `[batch, frame, dim]` each."""
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


class Transformer:
    """A pretrained transformer encoder as a teacher; layers are those of `TransformerLayers`."""

    def __init__(self, where: str | Path, layers: Sequence[int], *, name: str | None = None, codebook: Codebook | None = None, window_s: float = 0.0) -> None:
        """`where`: a folder or a hub name. `window_s`: Whisper was trained on windows of 30 s; it sees at least so many, silence after the
        speech, with the first of its positions: 0 is the true length, and cheapest. Raises TeacherError."""
        self.name, self.layers, self._window, self._codebook = name or Path(where).name, tuple(layers), window_s, codebook
        self._network = TransformerLayers(where)
        self.dim, self.rate_hz, count = self._network.dim, self._network.rate_hz, self._network.count
        if not self.layers or any(not 0 <= layer <= count for layer in self.layers):
            raise TeacherError(f"{where} has layers 0 to {count}; {list(self.layers)} were asked for")

    def frames(self, samples: np.ndarray) -> np.ndarray:
        hidden = self._hidden(samples)
        return np.stack([hidden[layer][0].float().numpy() for layer in self.layers])

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        return self.frames(samples).mean(axis=1)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Of its own quantiser's two groups the pair counts as one code."""
        if self._codebook is not None:
            return self._codebook.nearest(self._hidden(samples)[self._codebook.layer][0].float().numpy())
        network, quantiser = self._network, self._network.quantiser
        if quantiser is None:
            raise TeacherError(f"{self.name} has no quantiser of its own; fit a codebook to one of its layers with `k_means`")
        with torch.inference_mode():
            features = network.model.feature_extractor(network.inputs(_row(samples))).transpose(1, 2)
            scores = quantiser.weight_proj(network.model.feature_projection(features)[1])
            own = scores.view(scores.shape[1], quantiser.num_groups, -1).argmax(-1)
            return np.asarray((own * quantiser.num_vars ** torch.arange(own.shape[1])).sum(1).numpy(), np.int64)

    def _hidden(self, samples: np.ndarray) -> list[Tensor]:
        """`[1, frame, dim]` of each layer."""
        with torch.inference_mode():
            if self._network.family != "whisper":
                hidden: list[Tensor] = self._network(self._network.inputs(_row(samples)))
                return hidden
            frames = max(len(samples) // 320, 1)
            length = min(max(frames * 320, round(self._window * RATE)), WHISPER_SAMPLES)
            samples = np.pad(samples[:length], (0, max(length - len(samples), 0)))
            return [h[:, : min(frames, WHISPER_SAMPLES // 320)] for h in self._network(self._network.inputs(_row(samples)))]


def _row(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples.astype(np.float32))[None]


def _normalises(where: str | Path) -> bool:
    """Whether the checkpoint wants its input at zero mean and unit variance; wav2vec 2.0's way where it does not say."""
    import transformers

    try:
        return bool(transformers.Wav2Vec2FeatureExtractor.from_pretrained(where).do_normalize)
    except OSError:
        return True


def _shortest(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that give one frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        samples = (samples - 1) * stride + kernel
    return samples


@dataclass
class SpeechEmbedding:
    """Google's speech embedding (Lin et al. 2020, arXiv 2002.01322): 96 numbers every 80 ms over 775 ms."""

    name: str = "speech_embedding"
    where: Path | None = None
    """The checkpoint of `finetune` whose encoder stands in its stead; None: as it came."""
    rate_hz: float = 12.5
    dim: int = 96
    layers: tuple[int, ...] = (0,)
    codebook: Codebook | None = None
    _network: Any = field(default=None, repr=False)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """The frame of each chunk of 80 ms, which ends with it; before the utterance there was silence."""
        if self._network is None:
            self._network = self._load()
        front = speech_embedding.front_end()
        whole = samples[: max(len(samples) // 1280, 1) * 1280]
        whole = np.pad(whole, (front.history_samples, max(1280 - len(whole), 0))).astype(np.float32)
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):  # too small a network to gain by it
            embedding, _, _ = self._network(torch.from_numpy(front(whole))[None], self._network.zero_state())
        return embedding.numpy()

    def _load(self) -> Encoder:
        """Raises TeacherError."""
        if self.where is None:
            return speech_embedding.pretrained_encoder().eval().requires_grad_(False)
        try:
            return load_encoder(self.where)
        except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise TeacherError(f"{self.where}: no checkpoint of `kwsd train finetune` with a student's encoder ({error})") from error

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        return self.frames(samples).mean(axis=1)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        if self.codebook is None:
            raise TeacherError(f"{self.name} has no codebook; fit one with `k_means`")
        return self.codebook.nearest(self.frames(samples)[0])


@dataclass
class Voice:
    """Resemblyzer's speaker encoder (GE2E, Wan et al. 2018, arXiv 1710.10467). A short clip says little of a voice: pool a speaker's clips."""

    name: str = "voice"
    rate_hz: float = 0.0
    dim: int = 256
    layers: tuple[int, ...] = (0,)
    _encoder: Any = field(default=None, repr=False)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        raise TeacherError(f"{self.name} has no frames, only a vector an utterance")

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[1, 256]` of unit length."""
        from resemblyzer import VoiceEncoder
        from resemblyzer.audio import normalize_volume

        if self._encoder is None:
            self._encoder = VoiceEncoder("cpu", verbose=False)
        embedding = self._encoder.embed_utterance(normalize_volume(samples.astype(np.float32) / 32768, -30, increase_only=False))
        return np.asarray(embedding, np.float32)[None]

    def codes(self, samples: np.ndarray) -> np.ndarray:
        raise TeacherError(f"{self.name} has no codebook")
