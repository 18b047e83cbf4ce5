"""The state directory itself: no links, and nothing that a crash has left behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kwsd.config import ConfigError

CLIPS = "clips"


def check(folder: Path) -> None:
    """Raise ConfigError where a state directory, or the folder of clips in it, is a symbolic link.

    What lies behind a link may be anybody's, and `clips clear` would delete it.
    """
    if folder.is_symlink():
        text = f"state: {folder} is a symbolic link to {folder.readlink()}"
        raise ConfigError(f"{text}; name the folder itself: `state: {folder.resolve()}`")
    clips = folder / CLIPS
    if os.access(folder, os.X_OK) and clips.is_symlink():
        text = f"state: {clips} is a symbolic link to {clips.readlink()}"
        raise ConfigError(f"{text}; remove it, or set `state` to a folder with room for clips")


def tidy(folder: Path) -> list[Path]:
    """Delete what a crash has left in a state directory, and return it.

    These are files that were never completed, and recordings of clips that were never listed.
    Nobody else may be writing there.
    """
    clips = folder / CLIPS
    left = [*folder.glob(".*.partial"), *clips.glob(".*.partial")]
    left += [wav for wav in clips.glob("*.wav") if not wav.with_suffix(".json").exists()]
    deleted = []
    for path in left:
        with suppress(OSError):
            path.unlink()
            deleted.append(path)
    return deleted
