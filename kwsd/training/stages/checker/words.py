"""What was said, as a vector of unit length: a head on a checker's frozen encoder, trained to tell
many words apart, so that words which it never heard lie apart as well.

First `hear` hears the windows of words through the 8-bit encoder, as devices have it, and keeps the
last steps of a few layers; then `train` needs no encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import field
from torch import Tensor

from kwsd.config import ConfigError
from kwsd.training.data.loading import load
from kwsd.training.data.spoken import HeldOut, kinds_of
from kwsd.training.loop import Group, Loop, LoopSettings, devices
from kwsd.training.losses import MarginSoftmax, pair_contrast, rising_margin
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import SpokenHead
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings import Settings
from kwsd.training.stages.checker import few_shot
from kwsd.training.stages.checker.export import FrameGraph, encoder_id, load_head
from kwsd.training.stages.checker.kept import Kept, is_kept, keep
from kwsd.training.stages.checker.spoken import WordPairs

log = logging.getLogger(__name__)


class WordsSettings(Settings, frozen=True):
    """The settings `words` of `checker.yaml`."""

    steps: int
    layers: list[int]
    """The layers that the head mixes."""
    last_steps: int = 16
    """Steps of 80 ms before the end of a window that the head sees."""
    width: int = 160
    dropout: float = 0.2
    words: int = 96
    """Words of a batch, two windows of each."""
    margin: float = 0.15
    scale: float = 22.0
    contrast: float = 0.5
    """Weight of the contrastive loss over the pairs."""
    rate: float = 1.5e-3
    ramp: float = 0.1
    weight_decay: float = 2e-2
    left_out: list[str] = field(default_factory=list)
    """Words that are heard but not trained on, and then tried as added words."""
    seed: int = 3
    checkpoint_every: int = 200
    log_every: int = 50


def hear(spoken: Path, trained: Path, out: Path, settings: WordsSettings) -> None:
    """Write the frames of the windows in the folder `spoken` into the folder `out`, through the
    encoder of the checkpoint `trained`; what is there is not heard again.

    Raises FileNotFoundError where there are no windows, and ConfigError where frames are of another
    encoder."""
    out.mkdir(parents=True, exist_ok=True)
    windows = Kept.load(spoken, "checker --only spoken")
    encoder = checkpoint.load(trained, "encoder", Transformer)
    head = SpokenHead(encoder.dim, settings.layers, settings.last_steps)
    graph = FrameGraph(encoder, head, out / "encoder.onnx")
    made_by = {
        "encoder": encoder_id(encoder),
        "layers": settings.layers,
        "last_steps": settings.last_steps,
        **windows.made_by,
    }
    at = 0
    for n, shard in enumerate(windows.windows):
        known = {name: values[at : at + len(shard)] for name, values in windows.known.items()}
        at += len(shard)
        path = out / f"{n:03}.npz"
        if not is_kept(path, made_by):
            frames = [graph(np.asarray(window)) for window in shard]
            keep(path, np.stack(frames), made_by, **known)
            log.info("%s: %d of %d windows", path.name, at, len(windows.known["kind"]))


def make(spoken: Path, trained: Path, out: Path, settings: WordsSettings) -> None:
    """Hear the windows in the folder `spoken` through the encoder of the checkpoint `trained`, and
    train the head through the checkpoint `out`, beside which the frames are kept."""
    frames = out.with_suffix("")
    hear(spoken, trained, frames, settings)
    train(frames, out, settings)


def trained_head(
    path: Path, encoder: Transformer, kinds: list[str], scale: float
) -> tuple[SpokenHead, MarginSoftmax]:
    """Return the head and its classes from the checkpoint `path`, to be trained further.

    Raises ConfigError where it was trained on another encoder, or on other words than `kinds`."""
    head = load_head(path, "spoken", SpokenHead, encoder).train().requires_grad_(True)
    saved = torch.load(path, weights_only=True)
    if saved["kinds"] != kinds:
        raise ConfigError(
            f"{path} was trained on other words than there are now: remove it, and the folder "
            f"{path.with_suffix('')}, and run `kwsd train checker` as before"
        )
    classes = MarginSoftmax(SpokenHead.dim, len(kinds), scale)
    classes.load_state_dict(saved["softmax"])
    return head, classes


def train(frames: Path, out: Path, settings: WordsSettings) -> None:
    """Train the head on what is in the folder `frames`, through the checkpoint `out`; try the words
    that it did not learn."""
    found = Kept.load(frames, "checker --only words")
    layers = found.made_by["layers"]
    left_out = kinds_of(settings.left_out, HeldOut.of(()))
    with devices() as here:
        torch.manual_seed(settings.seed)
        _, _, steps, dim = found.windows[0].shape
        pairs = WordPairs(found, settings.words, settings.seed, left_out.values())
        head = SpokenHead(dim, layers, steps, settings.width, dropout=settings.dropout).to(
            here.device
        )
        softmax = MarginSoftmax(head.dim, len(pairs.kinds), settings.scale).to(here.device)
        log.info("%d words, %d windows", len(pairs.kinds), len(found.known["kind"]))
        loop = Loop(
            out,
            {"spoken": head, "softmax": softmax},
            [Group([*head.parameters(), *softmax.parameters()], settings.rate)],
            LoopSettings(
                settings.steps,
                settings.ramp,
                weight_decay=settings.weight_decay,
                log_every=settings.log_every,
                checkpoint_every=settings.checkpoint_every,
            ),
            here,
            run=settings,
            notes={"encoder_id": found.made_by["encoder"], "kinds": pairs.kinds},
        )
        pairs.seed = here.seed(settings.seed, loop.first)
        batches = load(pairs, pairs.prepare, here.device)
        model = here.share(head)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            batch = next(batches)
            vectors = model(batch.windows)
            margin = rising_margin(settings.margin, n, settings.steps)
            identity = softmax(vectors, batch.kind, margin)
            contrast, right = pair_contrast(vectors, settings.scale)
            figures: dict[str, Any] = {"words": identity.detach(), "pairs": right}
            figures["right"] = softmax.accuracy(vectors, batch.kind)
            yield identity + settings.contrast * contrast, figures

        loop.run(step)
        if settings.left_out and here.rank == 0:
            few_shot.measure(frames, out, settings.left_out)
