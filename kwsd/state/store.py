"""Files of one kind in the state directory: never half-written, never lost, read by their owner
alone.

Writing goes to a temporary file in the same folder, is flushed to the disk, and only then takes
the name.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kwsd.bounded import file as bounded
from kwsd.bounded.file import Damaged, FileError

NAME = re.compile(r"[^\W_][\w .'-]{0,62}", re.UNICODE)
LATEST = 253402300799
"""The last second of the year 9999, since the epoch: no time in a file is later."""


class Named(Protocol):
    """Something with a name, made for one encoder."""

    @property
    def name(self) -> str:
        """The name, which the file carries."""
        ...

    @property
    def encoder_id(self) -> str:
        """The encoder for which it was made."""
        ...


T = TypeVar("T", bound=Named)


class StateError(FileError):
    """A file of the state directory cannot be read, written or used; the message names the fix."""

    thing = ""
    """The name of the voiceprint or word, where it is known."""


def check_name(name: str, thing: str, error: type[StateError] = StateError) -> str:
    """Return `name` if a `thing` may have it. Raises `error`."""
    if not NAME.fullmatch(name) or name != name.strip() or ".." in name:
        raise error(
            f"{name!r} cannot be a {thing}'s name: up to 63 letters, digits, spaces, . _ ' and - "
            "are allowed, a letter or digit first"
        )
    return name


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` as the file `path`, mode 0600, durably.

    Raises OSError; the file that was there before is then unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.unlink(missing_ok=True)  # whatever it is, it is not written through
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(partial, flags, 0o600), "wb") as out:
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
    """The files `NAME + suffix` of a folder, each one `thing`, made for one encoder.

    A file is a regular file of at most `max_bytes`. Errors are of the type `error`.
    """

    suffix: str
    thing: str
    error: type[StateError]
    max_bytes: int

    def __init__(self, folder: Path, encoder_id: str, dim: int | None = None) -> None:
        """`dim` is the length of the encoder's vectors that the files hold; None is any."""
        self.folder = folder
        self.encoder_id = encoder_id
        self.dim = dim

    def parse(self, name: str, data: bytes) -> T:
        """Return what a file holds. Raises the error where it is damaged or of another encoder."""
        raise NotImplementedError

    def again(self, name: str) -> str:
        """Return what to do where a file is lost."""
        raise NotImplementedError

    def damaged(self, name: str, why: object) -> StateError:
        """Return the error for a file that is damaged: `why` says how."""
        fix = f"remove it and {self.again(name)}, or restore it"
        return self.error(f"{self.path(name)}: damaged ({why}); {fix}")

    def to_bytes(self, thing: T) -> bytes:
        """Return the file of `thing`."""
        raise NotImplementedError

    def load(self, name: str) -> T:
        """Return the thing `name`.

        Raises the error where it is missing, damaged, or of another encoder.
        """
        return self.parse(name, self.read(name))

    def load_all(self) -> tuple[dict[str, T], list[StateError]]:
        """Return everything that can be used, by name, and why the rest cannot.

        Raises OSError where descriptors or memory have run out: nothing is known of the files then.
        """
        good: dict[str, T] = {}
        bad: list[StateError] = []
        try:
            names = self.names()
        except StateError as error:
            return {}, [error]
        for name in names:
            try:
                check_name(name, self.thing, self.error)
            except StateError as error:
                bad.append(self.error(f"{self.folder}: {error}; rename the file"))
                continue
            try:
                good[name] = self.load(name)
            except StateError as error:
                error.thing = name
                bad.append(error)
        return good, bad

    def path(self, name: str) -> Path:
        """Return the path of the file of `name`. Raises the error where the name is not allowed."""
        return self.folder / (check_name(name, self.thing, self.error) + self.suffix)

    def names(self) -> list[str]:
        """Return the names of all files, sorted. Raises the error where the folder is closed."""
        try:
            files = [path.name for path in self.folder.glob(f"*{self.suffix}")]
        except OSError as error:
            if error.errno in bounded.STARVED:
                raise
            raise self.error(f"{self.folder}: cannot be listed ({error.strerror})") from error
        return sorted(f.removesuffix(self.suffix) for f in files if not f.startswith("."))

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises the error where it is missing or cannot be read."""
        path = self.path(name)
        try:
            return bounded.read(path, self.max_bytes, links=False)
        except Damaged as error:
            raise self.damaged(name, error) from error
        except FileNotFoundError:
            raise self.error(self._missing(name)) from None
        except PermissionError as error:
            fix = "it should belong to the daemon's user, mode 0600"
            raise self.error(f"{path}: may not be read ({error.strerror}); {fix}") from error
        except OSError as error:
            if error.errno in bounded.STARVED:
                raise
            raise self.error(f"{path}: cannot be read ({error.strerror})") from error

    def _missing(self, name: str) -> str:
        known = ", ".join(self.names()) or "none"
        return f"no {self.thing} is called {name!r}; there is {known}"

    def save(self, thing: T) -> None:
        """Write the file of `thing`, atomically and durably.

        Raises the error (for a full disk, or for what could not be read again, say); the file that
        was there before is then unchanged.
        """
        path = self.path(thing.name)
        data = self.to_bytes(thing)
        self._check(thing, data)
        try:
            write_atomically(path, data)
        except OSError as error:
            text = f"{path}: could not be saved ({error.strerror})"
            raise self.error(f"{text}; nothing was changed, make room and try again") from error

    def _check(self, thing: T, data: bytes) -> None:
        """Raise the error where the file `data` of `thing` could not be read again."""
        try:
            if len(data) > self.max_bytes:
                raise Damaged(f"it would have {len(data)} bytes; at most {self.max_bytes} are read")
            type(self)(self.folder, thing.encoder_id, self.dim).parse(thing.name, data)
        except ValueError as error:
            text = f"{thing.name}: could not be saved ({error}); nothing was changed"
            raise self.error(text) from error

    def delete(self, name: str) -> None:
        """Delete a file. Raises the error where there is none."""
        path = self.path(name)
        try:
            path.unlink()
            _sync(self.folder)
        except FileNotFoundError:
            raise self.error(self._missing(name)) from None
        except OSError as error:
            raise self.error(f"{path}: could not be deleted ({error.strerror})") from error
