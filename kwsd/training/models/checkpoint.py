"""Checkpoints of the training stages: written atomically, read by the stages that follow.

A checkpoint holds named parts; a part with a dict `shape` is saved with it, and `load` builds it
from that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from kwsd.training.models.encoder import Encoder

Part = TypeVar("Part", bound=nn.Module)
STAGES = {
    "finetuned.pt": "finetune",
    "wake.pt": "heads --only wake",
    "speaker.pt": "heads --only speaker",
    "tuned.pt": "checker --only tune",
}
"""What writes the checkpoints that later stages read."""


def save(out: Path, **parts: object) -> None:
    """Write `parts` to `out` atomically: the state dict of what has one, other values as they
    are."""
    partial = out.with_suffix(f".{os.getpid()}.partial")  # others of a run may write the same
    shapes = {
        name: shape
        for name, part in parts.items()
        if isinstance(shape := getattr(part, "shape", None), dict)
    }
    values = {
        name: part.state_dict() if hasattr(part, "state_dict") else part
        for name, part in parts.items()
    }
    torch.save({**values, "shapes": shapes}, partial)
    partial.rename(out)


def resume(out: Path, device: torch.device, **parts: Any) -> int:
    """Fill `parts` from the checkpoint `out` where it exists.

    Return the step at which it was written, else 0."""
    if not out.exists():
        return 0
    saved = torch.load(out, weights_only=True, map_location=device)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def load(path: Path, name: str, kind: type[Part]) -> Part:
    """Return the part `name` of a checkpoint, of its saved shape, in evaluation mode.

    Raises OSError, KeyError, RuntimeError or pickle.UnpicklingError where `path` has none."""
    if not path.exists():
        stage = STAGES.get(path.name)
        fix = f"run `kwsd train {stage}` first" if stage else "check the name"
        raise FileNotFoundError(f"{path}: no such checkpoint; {fix}")
    saved = torch.load(path, weights_only=True)
    part = kind(**saved.get("shapes", {}).get(name, {}))
    part.load_state_dict(saved[name])
    return part.eval().requires_grad_(False)


def load_encoder(path: Path) -> Encoder:
    """Return the encoder of a checkpoint, in evaluation mode, with its normalization folded in."""
    return load(path, "encoder", Encoder).folded().eval().requires_grad_(False)
