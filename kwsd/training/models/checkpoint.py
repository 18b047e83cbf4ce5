"""Checkpoints of the training stages: written atomically, read by the stages that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from kwsd.training.models.network import Encoder

Part = TypeVar("Part", bound=nn.Module)


def save(out: Path, **parts: object) -> None:
    """Write a checkpoint atomically: state dicts of what has one, other values as they are; and the shape of what says it."""
    partial = out.with_suffix(".partial")
    shapes = {k: shape for k, v in parts.items() if isinstance(shape := getattr(v, "shape", None), dict)}
    torch.save({**{k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}, "shapes": shapes}, partial)
    partial.rename(out)


def resume(out: Path, device: torch.device, **parts: Any) -> int:
    """Fill `parts` from the checkpoint `out` where it exists; the step at which it was written, else 0."""
    if not out.exists():
        return 0
    saved = torch.load(out, weights_only=True, map_location=device)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def load(path: Path, name: str, kind: type[Part]) -> Part:
    """The part `name` of a checkpoint, of the shape that it was written with, in evaluation mode."""
    saved = torch.load(path, weights_only=True)
    part = kind(**saved.get("shapes", {}).get(name, {}))
    part.load_state_dict(saved[name])
    return part.eval().requires_grad_(False)


def load_encoder(path: Path) -> Encoder:
    """The encoder of a checkpoint, in evaluation mode, without the normalisation that it may have been trained with."""
    return load(path, "encoder", Encoder).folded().eval().requires_grad_(False)
