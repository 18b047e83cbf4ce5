"""Takes: the recordings that an added word was made from, kept on this machine with the word.

Each word has a folder of FLAC files, mode 0600, and of an index beside them. What the index does
not name is nothing: it is written after the recordings that it names, and they go after it. So a
crash leaves recordings that `tidy` deletes, and never a take that is half there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from kwsd.audio import flac, pcm
from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.names import IDENTIFIER, identifier, is_allowed
from kwsd.protocol.data import MAX_TAKE_SAMPLES, MAX_TAKES, TakeInfo
from kwsd.state.folder import TAKES
from kwsd.state.store import StateError, write_atomically

INDEX = "takes.json"
MAX_INDEX = 64 << 10
"""Bytes of an index."""
MAX_FLAC = 2 * MAX_TAKE_SAMPLES + (16 << 10)
"""Bytes of a recording: FLAC is never much larger than its samples."""
ID = re.compile(r"[0-9a-f]{16}")
CLEAR = "`kwsd word takes NAME drop N` deletes one take, and `clear` all of them"


class TakeError(StateError):
    """A take is missing or damaged, or cannot be kept; the message says why."""


class _Index(Struct, frozen=True):
    """What a folder holds, in order."""

    name: str
    """Of the word."""
    takes: list[TakeInfo]


def take_id(samples: np.ndarray) -> str:
    """Return the id of a recording, int16 `[sample]`: it depends on its samples alone."""
    return hashlib.sha256(pcm.to_bytes(samples)).hexdigest()[:16]


class TakeStore:
    """The folder `takes` of a state directory."""

    def __init__(self, state: Path) -> None:
        self.folder = state / TAKES

    def names(self) -> list[str]:
        """Return the words whose takes are kept, without those whose index is damaged."""
        found = []
        for folder in self._folders():
            with suppress(TakeError):
                if (index := self._read(folder)) and index.takes:
                    found.append(index.name)
        return sorted(found)

    def faults(self) -> list[StateError]:
        """Return why takes cannot be used, as far as it shows without decoding them."""
        bad: list[StateError] = []
        for folder in self._folders():
            try:
                index = self._read(folder)
            except TakeError as error:
                bad.append(error)
                continue
            for take in index.takes if index else ():
                path = _recording(folder, take.id)
                try:
                    bounded.check_regular(path, links=False)
                except (OSError, Damaged) as error:
                    bad.append(_unreadable(path, error))
        return bad

    def listed(self, name: str) -> list[TakeInfo]:
        """Return the takes of a word, in order; none where none are kept.

        Raises TakeError where the index is damaged.
        """
        index = self._read(self._of(name))
        return index.takes if index else []

    def samples(self, name: str, id: str) -> tuple[TakeInfo, np.ndarray]:
        """Return a take of a word, and its audio, int16 `[sample]` at 16 kHz. Raises TakeError."""
        take = next((one for one in self.listed(name) if one.id == id), None)
        if take is None:
            raise TakeError(f"{name!r} has no take {id!r}; `kwsd word takes` lists them")
        path = _recording(self._of(name), id)
        try:
            data = bounded.read(path, MAX_FLAC, links=False)
            samples = flac.from_bytes(data, MAX_TAKE_SAMPLES)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        if take_id(samples) != id or len(samples) != take.samples:
            raise _unreadable(path, Damaged("it is not the recording that was kept"))
        return take, samples

    @contextmanager
    def replacing(
        self, name: str, takes: Sequence[TakeInfo], new: Mapping[str, np.ndarray]
    ) -> Iterator[None]:
        """Keep `takes` as those of a word, in place of all that it had, if the context succeeds.

        `new` has the audio of those that are not kept yet, int16 `[sample]`, by their ids. Raises
        TakeError (for a full disk, say); what was there before is then unchanged, as it is where
        the context raises.
        """
        folder = self._of(name)
        if folder.is_symlink():
            raise TakeError(f"{folder}: is a symbolic link; remove it")
        path = folder / INDEX
        before = None
        with suppress(OSError, Damaged):
            before = bounded.read(path, MAX_INDEX, links=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            for id in {take.id for take in takes} & new.keys():
                write_atomically(_recording(folder, id), flac.to_bytes(new[id]))
            write_atomically(path, msgspec.json.encode(_Index(name, list(takes))))
        except OSError as error:
            self._restore(folder, before)
            text = f"{folder}: the takes could not be kept ({error.strerror})"
            raise TakeError(f"{text}; nothing was changed, make room and try again") from error
        try:
            yield
        except BaseException:
            self._restore(folder, before)
            raise
        self._prune(folder)

    def delete(self, name: str) -> int:
        """Delete the takes of a word, and return how many there were. Raises TakeError."""
        folder = self._of(name)
        count = 0
        with suppress(TakeError):
            count = len(self.listed(name))
        try:
            for path in _files(folder):
                path.unlink(missing_ok=True)
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                folder.rmdir()
        except OSError as error:
            raise TakeError(f"{folder}: could not be deleted ({error.strerror})") from error
        return count

    def tidy(self, stems: Collection[str]) -> list[Path]:
        """Delete what a crash has left, and return it: recordings that no index names, and those
        of words that are not there. `stems` are what the files of the words that are there are
        called, without their suffix."""
        deleted = []
        for folder in self._folders():
            if folder.name in stems:
                deleted += self._prune(folder)
                continue
            with suppress(OSError):
                for path in _files(folder):
                    path.unlink()
                    deleted.append(path)
                folder.rmdir()
        return deleted

    def _of(self, name: str) -> Path:
        return self.folder / identifier(name)

    def _folders(self) -> list[Path]:
        """Return the folders of words; what else is there is not kwsd's."""
        return [
            path
            for path in sorted(self.folder.glob("*"))
            if IDENTIFIER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        ]

    def _read(self, folder: Path) -> _Index | None:
        """Return what a folder holds; None where there is none. Raises TakeError."""
        path = folder / INDEX
        try:
            if folder.is_symlink():
                raise Damaged(f"{folder} is a symbolic link")
            index = bounded_json.decode(bounded.read(path, MAX_INDEX, links=False), _Index)
            if not is_allowed(index.name) or identifier(index.name) != folder.name:
                raise Damaged(f"it is of the word {index.name!r}")
            if len(index.takes) > MAX_TAKES:
                raise Damaged(f"it names {len(index.takes)} takes; at most {MAX_TAKES} are kept")
            for take in index.takes:
                if not ID.fullmatch(take.id) or not 0 <= take.start < take.end <= take.samples:
                    raise Damaged(f"its take {take.id!r} is none that there can be")
        except FileNotFoundError:
            return None
        except (OSError, Damaged) as error:
            raise _unreadable(path, error) from error
        return index

    def _restore(self, folder: Path, before: bytes | None) -> None:
        """Put the index back that was there before, and delete what it does not name."""
        with suppress(OSError):
            if before is not None:
                write_atomically(folder / INDEX, before)
            else:
                (folder / INDEX).unlink(missing_ok=True)
        self._prune(folder)
        with suppress(OSError):
            folder.rmdir()  # where nothing is left

    def _prune(self, folder: Path) -> list[Path]:
        """Delete the recordings that the index does not name, and return them; none where it is
        damaged: they may be all that is left of a word."""
        deleted = []
        with suppress(TakeError, OSError):
            index = self._read(folder)
            named = {f"{take.id}.flac" for take in index.takes} if index else set()
            for path in _files(folder):
                if path.name not in named and path.name != INDEX:
                    path.unlink()
                    deleted.append(path)
        return deleted


def _recording(folder: Path, id: str) -> Path:
    return folder / f"{id}.flac"


def _files(folder: Path) -> list[Path]:
    """Return the files of a word's folder that are kwsd's, the index first."""
    if folder.is_symlink():
        return []
    partial = list(folder.glob(".*.partial"))
    index = folder / INDEX
    there = [index] if os.path.lexists(index) else []
    return [*there, *partial, *(p for p in folder.glob("*.flac") if ID.fullmatch(p.stem))]


def _unreadable(path: Path, error: Exception) -> TakeError:
    if isinstance(error, OSError):
        return TakeError(f"{path}: cannot be read ({error.strerror}); {CLEAR}")
    return TakeError(f"{path}: damaged ({error}); restore it, or delete it; {CLEAR}")
