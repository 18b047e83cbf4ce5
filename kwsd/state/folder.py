"""The state directory itself: no links, and nothing that a crash has left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kwsd.config import ConfigError

CLIPS = "clips"
TAKES = "takes"


def check(folder: Path) -> None:
    """Raise ConfigError where a state directory, or a folder in it, is a symbolic link.

    What lies behind a link may be anybody's, and `clips clear` would delete it.
    """
    if folder.is_symlink():
        text = f"state: {folder} is a symbolic link to {folder.readlink()}"
        raise ConfigError(f"{text}; name the folder itself: `state: {folder.resolve()}`")
    for inside in (folder / CLIPS, folder / TAKES):
        if os.access(folder, os.X_OK) and inside.is_symlink():
            text = f"state: {inside} is a symbolic link to {inside.readlink()}"
            fix = f"remove it, or set `state` to a folder with room for {inside.name}"
            raise ConfigError(f"{text}; {fix}")


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a state directory for as long as the context lasts; return whether nobody else has.

    A directory that is not there yet belongs to whoever makes it.
    """
    with ExitStack() as stack:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield True
            return
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        yield True


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
