"""Regular files of at most so many bytes; anything else is refused without blocking."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

MAX_MESSAGE = 1000
"""Longest message of a FileError: a file may hold a megabyte where a name is expected."""
STARVED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing of a file: out of descriptors, or of memory."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


class FileError(ValueError):
    """A file cannot be used; the message, one line, names it and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Damaged(ValueError):
    """Bytes are not what they should be; the message says why, and names no file."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Return `text` as one line of UTF-8 of a bounded length, odd characters escaped."""
    text = text if len(text) < 10 * MAX_MESSAGE else text[:MAX_MESSAGE] + text[-MAX_MESSAGE:]
    shown = "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )
    if len(shown) > MAX_MESSAGE:
        shown = f"{shown[: MAX_MESSAGE // 2]} … {shown[-MAX_MESSAGE // 2 :]}"
    return shown


def check_regular(path: Path, *, links: bool = True) -> None:
    """Raise Damaged where `path` is no regular file, and OSError where there is none.

    Without `links`, a symbolic link is none either. Nothing is opened: opening a pipe would wait
    for its writer, and opening a device may do something.
    """
    _refuse_other_kinds(path.stat(follow_symlinks=links).st_mode)


def open_regular(path: Path, *, links: bool = True) -> BufferedReader:
    """Open a regular file for reading.

    Raises OSError, and Damaged for a file of another kind.
    """
    check_regular(path, links=links)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    handle = os.open(path, flags | (0 if links else os.O_NOFOLLOW))
    try:
        _refuse_other_kinds(os.fstat(handle).st_mode)  # another file may have taken the name
        return os.fdopen(handle, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise


def read(path: Path, most: int, *, links: bool = True) -> bytes:
    """Return the bytes of a regular file.

    Raises OSError, and Damaged for a file of another kind or of more than `most` bytes.
    """
    with open_regular(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Damaged(f"it has {size} bytes; at most {most} are read")
        data = file.read(most + 1)  # it may have grown, and files of /proc claim to be empty
    if len(data) > most:
        raise Damaged(f"it has more than {most} bytes")
    return data


def _refuse_other_kinds(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Damaged(f"it is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
