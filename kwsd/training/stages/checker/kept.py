"""What windows are heard once and read many times: files of a few hundred of them each, so that an
interrupted run goes on where it was, and what is kept may be larger than the memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.config import ConfigError


@dataclass(frozen=True)
class Kept:
    """Windows, or what an encoder made of them."""

    windows: list[np.ndarray]
    """`[window, …]` of each file, on disk."""
    known: dict[str, np.ndarray]
    """`[window, …]` each: what is known of them."""
    made_by: dict[str, Any]
    """By what, and how."""

    @classmethod
    def load(cls, folder: Path, stage: str) -> Kept:
        """Return all that is in `folder`. Raises FileNotFoundError where there is nothing, and
        names the `stage` of `kwsd train` that makes it."""
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            raise FileNotFoundError(f"{folder}: is empty; run `kwsd train {stage}`")
        parts = [dict(np.load(path)) for path in paths]
        made_by = json.loads(str(parts[0].pop("made_by")))
        return cls(
            [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths],
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            made_by,
        )

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return some of the windows, `[row, …]`."""
        ends = np.cumsum([len(windows) for windows in self.windows])
        files = np.searchsorted(ends, rows, side="right")
        return np.stack(
            [self.windows[n][row - ends[n]] for n, row in zip(files, rows, strict=True)]
        )


def keep(path: Path, windows: np.ndarray, made_by: dict[str, Any], **known: np.ndarray) -> None:
    """Write the file `path` (.npz, and .npy beside it): `windows [window, …]` and what is known of
    them."""
    np.save(path.with_suffix(".npy"), windows)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, made_by=np.array(json.dumps(made_by)), **known)
    partial.rename(path)


def is_kept(path: Path, made_by: dict[str, Any]) -> bool:
    """Return whether `path` is there. Raises ConfigError where it was made otherwise."""
    if not path.exists():
        return False
    before = json.loads(str(np.load(path)["made_by"]))
    if before != made_by:
        changed = sorted(key for key in made_by if before.get(key) != made_by[key])
        raise ConfigError(
            f"{path} was made otherwise ({', '.join(changed)}); remove {path.parent} to make all "
            "of it again"
        )
    return True
