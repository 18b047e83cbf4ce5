"""A checkpoint of `kwsd train finetune` as a wake-word and speaker model, in torch and without the
detector's gate, so that teachers which no device could run are measured like students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.training.data import augment
from kwsd.training.features import SMOOTHING_CHUNKS
from kwsd.training.models.backbone import Backbone, TransformerBackbone, features_of, voice_of
from kwsd.training.models.backend import Backend
from kwsd.training.models.checkpoint import load, load_encoder
from kwsd.training.models.heads import SpeakerHead, WakeHead, WordSpace, embedding_windows

WINDOW_CHUNKS = 100
"""Long audio is scored in windows of 8 s."""
WINDOW_LEAD = 38
"""The first chunks of a window, 3 s, only warm up."""


@dataclass
class TrainedModel:
    """The parts of a checkpoint that are measured."""

    backbone: Backbone
    wake: WakeHead
    speaker: SpeakerHead
    space: WordSpace
    types: Tensor
    """`[word, dim]` of unit length: the directions of the words that it classifies."""
    words: list[str]
    """The names of these words."""
    backend: Backend = field(default_factory=Backend)
    """Fitted by `compare`, as `export` fits the one that ships."""

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Return the model of the checkpoint `path`."""
        saved = torch.load(path, weights_only=True, mmap=True)
        shape = saved["shapes"].get("encoder", {})
        backbone: Backbone = (
            load(path, "encoder", TransformerBackbone) if "where" in shape else load_encoder(path)
        )
        return cls(
            backbone,
            load(path, "head", WakeHead),
            load(path, "speaker", SpeakerHead),
            load(path, "space", WordSpace),
            F.normalize(saved["types"]["weight"], dim=1),
            saved["words"],
        )

    @torch.inference_mode()
    def frames(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return embedding and intermediate features of `x [batch, sample]`, int16 scale, in whole
        chunks."""
        features = features_of(self.backbone)(torch.from_numpy(augment.quantize_int16(x)))
        with torch.autocast("cpu", torch.bfloat16):
            embedding, intermediate, _ = self.backbone(features, self.backbone.zero_state(len(x)))
        return embedding.float(), intermediate.float()

    @torch.inference_mode()
    def scores(self, x: np.ndarray, batch: int = 12) -> np.ndarray:
        """Return the smoothed posteriors `[chunk, word]` of `x [sample]`, as the trigger sees
        them."""
        hop = WINDOW_CHUNKS - WINDOW_LEAD
        chunks = len(x) // CHUNK_SAMPLES
        count = max(-(-chunks // hop), 1)
        after = count * hop * CHUNK_SAMPLES - len(x) + CHUNK_SAMPLES
        padded = np.pad(x, (WINDOW_LEAD * CHUNK_SAMPLES, after)).astype(np.float32)
        windows = np.stack(
            [
                padded[n * hop * CHUNK_SAMPLES :][: WINDOW_CHUNKS * CHUNK_SAMPLES]
                for n in range(count)
            ]
        )
        parts = []
        for at in range(0, count, batch):
            embedding, _ = self.frames(windows[at : at + batch])
            logits, _, _ = self.wake(embedding, self.wake.zero_state(len(embedding)))
            parts.append(logits[:, WINDOW_LEAD:].flatten(0, 1))
        posterior = torch.sigmoid(torch.cat(parts)[:chunks]).numpy()
        padded = np.pad(posterior, ((SMOOTHING_CHUNKS, 0), (0, 0)), mode="edge")
        summed = np.cumsum(padded, axis=0)
        smoothed = (summed[SMOOTHING_CHUNKS:] - summed[:-SMOOTHING_CHUNKS]) / SMOOTHING_CHUNKS
        return np.asarray(smoothed)

    @torch.inference_mode()
    def voice(self, x: np.ndarray) -> np.ndarray:
        """Return the speaker embedding `[dim]` of the speech in `x [sample]`."""
        voice = torch.from_numpy(self.raw_voice(x))[None]
        return np.asarray(self.backend(voice)[0].numpy())

    def raw_voice(self, x: np.ndarray) -> np.ndarray:
        """Return the embedding of `voice` before the backend."""
        return voice_of(self.backbone, features_of(self.backbone), self.speaker, x)

    @torch.inference_mode()
    def word(self, x: np.ndarray, end: int, classes: Sequence[str]) -> str:
        """Return which of `classes` was said when sample `end` of `x` is reached; "other" for
        another word."""
        chunks = len(x) // CHUNK_SAMPLES
        embedding, _ = self.frames(x[None, : chunks * CHUNK_SAMPLES])
        first = min(-(-end // CHUNK_SAMPLES) - 1, chunks - 1)
        at = torch.arange(first, min(first + 3, chunks))
        vectors = self.space(embedding_windows(embedding, torch.zeros_like(at), at))
        cosine = (vectors @ self.types.T).mean(0).numpy()
        best = self.words[int(cosine.argmax())]
        return best if best in classes else "other"

    def sizes(self) -> dict[str, int]:
        """Return the parameters of the backbone and of the heads, and multiply-accumulates per
        second of audio."""
        heads = (self.wake, self.speaker)
        return {
            "parameters": sum(p.numel() for p in self.backbone.parameters()),
            "head_parameters": sum(p.numel() for head in heads for p in head.parameters()),
            "macs_per_second": backbone_macs_per_second(self.backbone),
        }


def backbone_macs_per_second(backbone: Backbone) -> int:
    """Return the multiply-accumulates per second of audio of all convolutions and matrix products
    with weights; attention's own products are left out."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * (weight[0].numel())

    kinds = nn.Conv1d | nn.Conv2d | nn.Linear
    layers = [module for module in backbone.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    seconds = 4
    with torch.inference_mode():
        features = features_of(backbone)(torch.zeros(1, seconds * SAMPLE_RATE))
        backbone(features, backbone.zero_state())
    for hook in hooks:
        hook.remove()
    return total // seconds
