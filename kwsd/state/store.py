"""Files of one kind in the state directory: never half-written, never lost, read by their owner alone.

Writing goes to a temporary file in the same folder, is flushed to the disk, and only then takes the name.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

NAME = re.compile(r"[^\W_][\w .'-]{0,62}", re.UNICODE)


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class StateError(ValueError):
    """A file of the state directory cannot be read, written or used; the message names it and the mend."""


def check_name(name: str, thing: str, error: type[StateError] = StateError) -> str:
    """`name` if a `thing` may be called so. Raises `error`."""
    if not NAME.fullmatch(name) or name != name.strip() or ".." in name:
        raise error(f"{name!r} cannot be a {thing}'s name: up to 63 letters, digits, spaces, . _ ' and -, a letter or digit first")
    return name


def write_atomically(path: Path, data: bytes) -> None:
    """`data` as the file `path`, 0600, on the disk when this returns. Raises OSError, and then what stood there still stands."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
        _sync(path.parent)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Store(Generic[T]):
    """The files `NAME + suffix` of a folder, each one `thing`, bound to an encoder; errors are of the type `error`."""

    suffix: str
    thing: str
    error: type[StateError]

    def __init__(self, folder: Path, encoder_id: str) -> None:
        self.folder, self.encoder_id = folder, encoder_id

    def parse(self, name: str, data: bytes) -> T:
        """What a file holds. Raises the error where it is damaged or of another encoder."""
        raise NotImplementedError

    def to_bytes(self, thing: T) -> bytes:
        raise NotImplementedError

    def load(self, name: str) -> T:
        """Raises the error where it is missing, damaged, or of another encoder."""
        return self.parse(name, self.read(name))

    def load_all(self) -> tuple[dict[str, T], list[StateError]]:
        """Everything that can be used, and why the rest cannot."""
        good: dict[str, T] = {}
        bad: list[StateError] = []
        try:
            names = self.names()
        except StateError as error:
            return {}, [error]
        for name in names:
            try:
                good[name] = self.load(name)
            except StateError as error:
                bad.append(error)
        return good, bad

    def path(self, name: str) -> Path:
        """Where `name` is kept. Raises the error where nothing may be called so."""
        return self.folder / (check_name(name, self.thing, self.error) + self.suffix)

    def names(self) -> list[str]:
        """What is there, sorted. Raises the error where the folder may not be listed."""
        try:
            return sorted(p.name.removesuffix(self.suffix) for p in self.folder.glob(f"*{self.suffix}") if not p.name.startswith("."))
        except OSError as error:
            raise self.error(f"{self.folder}: cannot be listed ({error.strerror})") from error

    def read(self, name: str) -> bytes:
        """Raises the error where it is missing or may not be read."""
        path = self.path(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise self.error(f"no {self.thing} is called {name!r}") from None
        except PermissionError as error:
            raise self.error(f"{path}: may not be read ({error.strerror}); it should belong to the daemon's user, mode 0600") from error
        except OSError as error:
            raise self.error(f"{path}: cannot be read ({error.strerror})") from error

    def save(self, thing: T) -> None:
        """Atomic and durable. Raises the error (a full disk, say); what stood there before then still stands."""
        path = self.path(thing.name)
        try:
            write_atomically(path, self.to_bytes(thing))
        except OSError as error:
            raise self.error(f"{path}: could not be saved ({error.strerror}); nothing was changed, make room and try again") from error

    def delete(self, name: str) -> None:
        """Raises the error where there is none."""
        path = self.path(name)
        try:
            path.unlink()
            _sync(self.folder)
        except FileNotFoundError:
            raise self.error(f"no {self.thing} is called {name!r}") from None
        except OSError as error:
            raise self.error(f"{path}: could not be deleted ({error.strerror})") from error
