"""Checkpoints of the training stages: written atomically, read by the stages that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kwsd.training.network import Encoder


def save(out: Path, **parts: object) -> None:
    """Write a checkpoint atomically: state dicts of what has one, other values as they are."""
    partial = out.with_suffix(".partial")
    torch.save({k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}, partial)
    partial.rename(out)


def resume(out: Path, device: torch.device, **parts: Any) -> int:
    """Fill `parts` from the checkpoint `out` where it exists; the step at which it was written, else 0."""
    if not out.exists():
        return 0
    saved = torch.load(out, weights_only=True, map_location=device)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def load_encoder(path: Path) -> Encoder:
    """The trained encoder of a checkpoint, in evaluation mode."""
    encoder = Encoder()
    encoder.load_state_dict(torch.load(path, weights_only=True)["encoder"])
    return encoder.eval().requires_grad_(False)
