"""Files of one kind in the state directory: never half-written, never lost, read by their owner
alone.

Writing goes to a temporary file in the same folder, is flushed to the disk, and only then takes
the name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kwsd.bounded import file as bounded
from kwsd.bounded.file import Damaged, FileError
from kwsd.names import ALLOWED, IDENTIFIER, MAX_LENGTH, identifier, is_allowed, look_up, normal

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
    """The name of the voiceprint or word, or of its file where that holds none."""


def check_name(name: str, thing: str, error: type[StateError] = StateError) -> str:
    """Return `name` in normal form if a `thing` may have it. Raises `error`."""
    stored = normal(name)
    if not is_allowed(stored):
        raise error(
            f"{name!r} cannot be a {thing}'s name: up to {MAX_LENGTH} {ALLOWED} are allowed, "
            "a letter or digit first"
        )
    return stored


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
    """The files of a folder that end with `suffix`, each one `thing`, made for one encoder.

    A file is a regular file of at most `max_bytes`. It is called by the identifier of the name that
    it holds; one that is called otherwise, as kwsd 0.1.0 and whoever copies a file do, has the name
    that it is called by. Errors are of the type `error`.
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

    def parse(self, path: Path, name: str, data: bytes) -> T:
        """Return what the file of `name` holds; the name is empty where it is not known.

        Raises the error where it is damaged or of another encoder.
        """
        raise NotImplementedError

    def name_in(self, data: bytes) -> str | None:
        """Return the name that a file holds, None where it holds none. Raises Damaged."""
        raise NotImplementedError

    def stem(self, name: str) -> str:
        """Return what the file of `name` is called, without the suffix."""
        return identifier(name)

    def again(self, name: str) -> str:
        """Return what to do where a file is lost, whose name may be empty."""
        raise NotImplementedError

    def damaged(self, path: Path, name: str, why: object) -> StateError:
        """Return the error for a file that is damaged: `why` says how."""
        fix = f"remove it and {self.again(name)}, or restore it"
        return self.error(f"{path}: damaged ({why}); {fix}")

    def to_bytes(self, thing: T) -> bytes:
        """Return the file of `thing`."""
        raise NotImplementedError

    def load(self, name: str) -> T:
        """Return the thing `name`.

        Raises the error where it is missing, damaged, or of another encoder.
        """
        path = self.path(name)
        data = self._read(path, name)
        return self.parse(path, self._held(path, data) or name, data)

    def load_all(self) -> tuple[dict[str, T], list[StateError]]:
        """Return everything that can be used, by name, and why the rest cannot.

        Raises OSError where descriptors or memory have run out: nothing is known of the files then.
        """
        good: dict[str, T] = {}
        bad: list[StateError] = []
        try:
            paths = self._paths()
        except StateError as error:
            return {}, [error]
        for path in paths:
            name = path.name.removesuffix(self.suffix)
            try:
                check_name(name, self.thing, self.error)
            except StateError as error:
                bad.append(self.error(f"{self.folder}: {error}; rename the file"))
                continue
            try:
                data = self._read(path, "")
                held = self._held(path, data)
                name = held or name
                thing = self.parse(path, held or "", data)
            except StateError as error:
                error.thing = name
                bad.append(error)
            else:
                good[name] = thing
        return dict(sorted(good.items())), bad

    def path(self, name: str) -> Path:
        """Return the path of the file of `name`, whether there is one yet or not.

        Raises the error where the name is not allowed, or the folder is closed.
        """
        own = self._own_path(name)
        if os.path.lexists(own):
            return own
        files = self._files()
        found = look_up(name, files)
        return files[found] if found else own

    def names(self) -> list[str]:
        """Return the names of all files, sorted. Raises the error where the folder is closed."""
        return sorted(self._files())

    def stems(self) -> set[str]:
        """Return what the files are called, without the suffix, and what they would be called if
        they were saved now. Raises the error where the folder is closed."""
        called = {path.name.removesuffix(self.suffix) for path in self._paths()}
        return called | {identifier(name) for name in self._files()}

    def _own_path(self, name: str) -> Path:
        """Return the path at which `name` is saved. Raises the error where it is not allowed."""
        return self.folder / (self.stem(check_name(name, self.thing, self.error)) + self.suffix)

    def _paths(self) -> list[Path]:
        """Return the paths of all files, those that are called by an identifier last.

        Raises the error where the folder is closed.
        """
        try:
            files = [path for path in self.folder.glob(f"*{self.suffix}") if path.name[0] != "."]
        except OSError as error:
            if error.errno in bounded.STARVED:
                raise
            raise self.error(f"{self.folder}: cannot be listed ({error.strerror})") from error
        return sorted(files, key=lambda path: (self._is_identifier(path), path.name))

    def _files(self) -> dict[str, Path]:
        """Return the files by name, or by what they are called where they hold none."""
        files = {}
        for path in self._paths():
            name = path.name.removesuffix(self.suffix)
            if self._is_identifier(path):
                with suppress(StateError):
                    name = self._held(path, self._read(path, "")) or name
            files[name] = path
        return files

    def _is_identifier(self, path: Path) -> bool:
        return IDENTIFIER.fullmatch(path.name.removesuffix(self.suffix)) is not None

    def _held(self, path: Path, data: bytes) -> str | None:
        """Return the name of the file `data`; None where it should hold one, and is damaged."""
        called = path.name.removesuffix(self.suffix)
        if not self._is_identifier(path):
            return called
        try:
            held = self.name_in(data)
        except Damaged:
            return None
        named = held is not None and is_allowed(held) and self.stem(held) == called
        return held if named else called

    def _read(self, path: Path, name: str) -> bytes:
        """Return the bytes of a file. Raises the error where it is missing or cannot be read."""
        try:
            return bounded.read(path, self.max_bytes, links=False)
        except Damaged as error:
            raise self.damaged(path, name, error) from error
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
        """Write the file of `thing`, atomically and durably, in place of one of the same name.

        Raises the error (for a full disk, or for what could not be read again, say); the file that
        was there before is then unchanged.
        """
        path = self._own_path(thing.name)
        data = self.to_bytes(thing)
        self._check(path, thing, data)
        before = self.path(thing.name)
        try:
            write_atomically(path, data)
        except OSError as error:
            text = f"{path}: could not be saved ({error.strerror})"
            raise self.error(f"{text}; nothing was changed, make room and try again") from error
        if before != path:  # of kwsd 0.1.0, or spelled otherwise
            with suppress(OSError):
                before.unlink()

    def _check(self, path: Path, thing: T, data: bytes) -> None:
        """Raise the error where the file `data` of `thing` could not be read again."""
        try:
            if len(data) > self.max_bytes:
                raise Damaged(f"it would have {len(data)} bytes; at most {self.max_bytes} are read")
            type(self)(self.folder, thing.encoder_id, self.dim).parse(path, thing.name, data)
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
