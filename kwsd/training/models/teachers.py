"""Teachers: pretrained models whose output a student learns. None of them runs on the device.

- `Transformer`: any HuBERT, wav2vec 2.0, WavLM or Whisper that `transformers` loads, by folder or
  by hub name, with a choice of layers. Codes are those of its own quantizer (wav2vec 2.0) or of a
  k-means codebook over one of its layers.
- `SpeechEmbedding`: Google's network for short words, as published, or made robust: the encoder of
  a checkpoint of `finetune`.
- `Voice`: Resemblyzer's speaker encoder; it has one vector per utterance, and no frames.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training import features
from kwsd.training.data.targets import TeacherError
from kwsd.training.models import speech_embedding
from kwsd.training.models.checkpoint import load_encoder
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.pretrained import NO_GROUPS, load_pretrained

WHISPER_SAMPLES = 480_000
"""Whisper's window: 30 s."""
VOICE_SAMPLES = 25_600
"""The window of Resemblyzer's encoder: 1.6 s."""
VOICE_FRAMES = 160


class Teacher(Protocol):
    """A teacher of `kwsd train cache`; utterances are int16-scale float32 `[sample]` at 16 kHz."""

    name: str
    rate_hz: float
    """Frames per second; 0 for a teacher that has none."""
    dim: int
    """Size of one frame of one layer, or of a pooled vector of a teacher without frames."""
    layers: tuple[int, ...]
    """The layers whose frames it gives."""

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[layer, frame, dim]`. Raises TeacherError where it has none."""
        ...

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[layer, dim]`: the mean over time."""
        ...

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Return int64 `[frame]`: the code of each frame. Raises TeacherError without a
        codebook."""
        ...

    def code_groups(self) -> np.ndarray:
        """Return the vectors of its own quantizer, float32 `[group, entry, dim]`, empty without
        one: a code is a number of one digit a group, the first the lowest."""
        ...


@dataclass
class Codebook:
    """Vectors that represent the frames of a layer."""

    vectors: np.ndarray
    """float32 `[code, dim]`"""
    layer: int

    def nearest(self, frames: np.ndarray) -> np.ndarray:
        """Return the nearest code, int64 `[frame]`, of each of `frames [frame, dim]`."""
        distance = (self.vectors**2).sum(1) - 2 * frames @ self.vectors.T
        return np.asarray(distance.argmin(1), np.int64)


def k_means(
    frames: np.ndarray, codes: int, layer: int, rounds: int = 20, seed: int = 0
) -> Codebook:
    """Return a codebook of `frames [frame, dim]` by Lloyd's algorithm.

    It starts with k-means++ (Arthur and Vassilvitskii 2007); empty cells are drawn again. Raises
    TeacherError where there are fewer frames than codes."""
    if len(frames) < codes:
        raise TeacherError(f"{len(frames)} frames cannot be divided into {codes} codes")
    rng = np.random.default_rng(seed)
    vectors = np.empty((codes, frames.shape[1]), np.float32)
    vectors[0] = frames[rng.integers(len(frames))]
    nearest = ((frames - vectors[0]) ** 2).sum(1)
    for n in range(1, codes):
        if nearest.sum() > 0:
            vectors[n] = frames[rng.choice(len(frames), p=nearest / nearest.sum())]
        else:
            vectors[n] = frames[rng.integers(len(frames))]
        nearest = np.minimum(nearest, ((frames - vectors[n]) ** 2).sum(1))
    book = Codebook(vectors, layer)
    for _ in range(rounds):
        cell = book.nearest(frames)
        counts = np.bincount(cell, minlength=codes)
        sums = np.zeros_like(vectors, np.float64)
        np.add.at(sums, cell, frames)
        means = sums / np.maximum(counts, 1)[:, None]
        drawn = frames[rng.integers(len(frames), size=codes)]
        moved = np.where(counts[:, None] > 0, means, drawn).astype(np.float32)
        done = np.allclose(moved, book.vectors, atol=1e-5)
        book.vectors = moved
        if done:
            break
    return book


class Transformer:
    """A pretrained transformer encoder as a teacher; layers are those of
    `kwsd.training.models.transformer.Transformer`."""

    def __init__(
        self,
        where: str | Path,
        layers: Sequence[int],
        *,
        name: str | None = None,
        codebook: Codebook | None = None,
        window_s: float = 0.0,
    ) -> None:
        """`where`: a folder or a hub name.

        `window_s`: Whisper was trained on windows of 30 s; it gets at least this much, silence
        after the speech, with the first of its positions. 0 is the true length, and cheapest.
        Raises TeacherError."""
        self.name = name or Path(where).name
        self.layers = tuple(layers)
        self._window = window_s
        self._codebook = codebook
        self._pretrained = load_pretrained(where)
        self._network = self._pretrained.network
        self.dim = self._network.dim
        self.rate_hz = self._network.rate_hz
        count = len(self._network.blocks)
        if not self.layers or any(not 0 <= layer <= count for layer in self.layers):
            raise TeacherError(
                f"{where} has layers 0 to {count}; {list(self.layers)} were asked for"
            )

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[layer, frame, dim]`."""
        hidden = self._hidden(samples)
        return np.stack([hidden[layer][0].float().numpy() for layer in self.layers])

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[layer, dim]`: the mean over time."""
        return self.frames(samples).mean(axis=1)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Return int64 `[frame]`; the pair of the two groups of wav2vec 2.0's quantizer is one
        code.

        Raises TeacherError without a codebook and a quantizer."""
        if self._codebook is not None:
            frames = self._hidden(samples)[self._codebook.layer][0].float().numpy()
            return self._codebook.nearest(frames)
        with torch.inference_mode():
            codes = self._pretrained.codes(self._network.inputs(_row(samples)))[0]
            return np.asarray(codes.numpy())

    def code_groups(self) -> np.ndarray:
        """Return the vectors of wav2vec 2.0's quantizer, float32 `[group, entry, dim]`."""
        return self._pretrained.code_groups()

    def _hidden(self, samples: np.ndarray) -> list[Tensor]:
        """Return `[1, frame, dim]` of each layer."""
        with torch.inference_mode():
            if self._network.kind == "waveform":
                hidden: list[Tensor] = self._network(self._network.inputs(_row(samples)))
                return hidden
            frames = max(len(samples) // 320, 1)
            wanted = max(frames * 320, round(self._window * SAMPLE_RATE))
            length = min(wanted, WHISPER_SAMPLES)
            samples = np.pad(samples[:length], (0, max(length - len(samples), 0)))
            layers = self._network(self._network.inputs(_row(samples), centered=True))
            return [layer[:, : min(frames, WHISPER_SAMPLES // 320)] for layer in layers]


def _row(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples.astype(np.float32))[None]


@dataclass
class SpeechEmbedding:
    """Google's speech embedding (Lin et al. 2020, arXiv 2002.01322): 96 numbers every 80 ms over
    775 ms."""

    name: str = "speech_embedding"
    where: Path | None = None
    """The checkpoint of `finetune` whose encoder is used; None: the network as published."""
    rate_hz: float = 12.5
    dim: int = 96
    layers: tuple[int, ...] = (0,)
    codebook: Codebook | None = None
    _network: Encoder | None = field(default=None, repr=False)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[1, chunk, 96]`: each frame ends with its chunk of 80 ms; before the
        utterance there is silence."""
        if self._network is None:
            self._network = self._load()
        front = features.front_end()
        whole = samples[: max(len(samples) // CHUNK_SAMPLES, 1) * CHUNK_SAMPLES]
        missing = max(CHUNK_SAMPLES - len(whole), 0)
        whole = np.pad(whole, (front.history_samples, missing)).astype(np.float32)
        mel = torch.from_numpy(front(whole))[None]
        # The network is too small to gain by lower precision.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            embedding, _, _ = self._network(mel, self._network.zero_state())
        return embedding.numpy()

    def _load(self) -> Encoder:
        """Return the network. Raises TeacherError."""
        if self.where is None:
            return speech_embedding.pretrained_encoder().eval().requires_grad_(False)
        try:
            return load_encoder(self.where)
        except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise TeacherError(
                f"{self.where}: no checkpoint of `kwsd train finetune` with a student's encoder "
                f"({error})"
            ) from error

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[layer, dim]`: the mean over time."""
        return self.frames(samples).mean(axis=1)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Return int64 `[frame]`. Raises TeacherError without a codebook."""
        if self.codebook is None:
            raise TeacherError(f"{self.name} has no codebook; fit one with `k_means`")
        return self.codebook.nearest(self.frames(samples)[0])

    def code_groups(self) -> np.ndarray:
        """Return none: it has no quantizer."""
        return NO_GROUPS


@dataclass
class Voice:
    """Resemblyzer's speaker encoder (GE2E, Wan et al. 2018, arXiv 1710.10467).

    A short utterance says little about a voice: pool a speaker's utterances."""

    name: str = "voice"
    rate_hz: float = 0.0
    dim: int = 256
    layers: tuple[int, ...] = (0,)
    _encoder: Any = field(default=None, repr=False)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Raise TeacherError: it has no frames."""
        raise TeacherError(f"{self.name} has no frames, only one vector per utterance")

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 `[1, 256]` of unit length."""
        from resemblyzer.audio import normalize_volume

        x = normalize_volume(samples.astype(np.float32) / 32768, -30, increase_only=False)
        embedding = self.network().embed_utterance(x)
        return np.asarray(embedding, np.float32)[None]

    def windows(self, spoken: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 `[window, 256]` of unit length for short stretches of speech, int16-scale
        float32 `[sample]`: each is repeated until it is as long as the encoder's window."""
        from resemblyzer.audio import normalize_volume, wav_to_mel_spectrogram

        mels = []
        for samples in spoken:
            x = np.resize(samples.astype(np.float32) / 32768, VOICE_SAMPLES)
            level = float(np.sqrt((x * x).mean()))
            x = normalize_volume(x, -30, increase_only=False) if level else x
            mels.append(wav_to_mel_spectrogram(x)[:VOICE_FRAMES])
        with torch.inference_mode():
            vectors = self.network()(torch.from_numpy(np.stack(mels)))
        return np.nan_to_num(vectors.numpy())  # silence has no direction

    def network(self) -> Any:
        """Return Resemblyzer's network, `torch.nn.Module`."""
        from resemblyzer import VoiceEncoder

        if self._encoder is None:
            self._encoder = VoiceEncoder("cpu", verbose=False)
        return self._encoder

    def codes(self, samples: np.ndarray) -> np.ndarray:
        """Raise TeacherError: it has no codebook."""
        raise TeacherError(f"{self.name} has no codebook")

    def code_groups(self) -> np.ndarray:
        """Return none: it has no quantizer."""
        return NO_GROUPS
