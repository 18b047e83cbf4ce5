"""Archives of arrays (`.npz`), as numpy writes them: no pickles, nothing unpacked on trust.

The declaration of a file says, for each array, of which type it may be and how long at most. The
archive's directory, the sizes it claims, the way it is compressed, and the type and shape in each
array's header are held against that before anything of that size is allocated.
"""

from __future__ import annotations

import encodings.utf_32_le  # noqa: F401  # the codec of numpy's text
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np

from kwsd.bounded.file import Damaged

MAX_MEMBERS = 32
MAX_DIRECTORY = 8192
"""Bytes of an archive's directory."""
MAX_HEADER = 1024
"""Bytes of an array's header."""
MAX_BYTES = 32 << 20
"""Bytes of all arrays together, unpacked."""
END = b"PK\x05\x06"
END_64 = b"PK\x06\x07"
MAGIC = b"\x93NUMPY"
HEADER = re.compile(
    r"\{'descr': '([^']{2,8})', 'fortran_order': (False|True), 'shape': \(([0-9, ]*)\), \}\s*"
)
READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RuntimeError,  # an encrypted member
    ValueError,
)
"""What zipfile raises for archives that are damaged, or of a kind that it does not know."""


@dataclass(frozen=True)
class Numbers:
    """An array of numbers."""

    dtype: str
    """Such as `<f4`, `<i8` or `|i1`."""
    most: tuple[int, ...] = ()
    """The greatest length of each axis; an array has as many axes."""


@dataclass(frozen=True)
class Text:
    """Texts."""

    characters: int
    """The greatest length of each."""
    most: tuple[int, ...] = ()
    """The greatest length of each axis; an array has as many axes."""


Kind = Numbers | Text
Kinds = Mapping[str, Kind]
"""The arrays of a file by name."""


def decode(
    data: bytes | IO[bytes], kinds: Kinds, most: int = MAX_BYTES, optional: Kinds | None = None
) -> dict[str, Any]:
    """Return the arrays of an archive: numpy arrays of finite numbers, and texts as `str`.

    Those of `optional` may all be missing together. Arrays that are named in neither are left
    alone. `most` bounds the bytes of all arrays together. Raises Damaged.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with _archive(file) as archive:
            if optional and any(f"{name}.npy" in archive.namelist() for name in optional):
                kinds = {**kinds, **optional}
            members = _members(archive, kinds)
            if sum(member.file_size for member in members.values()) > most:
                raise Damaged(f"its arrays claim more than {most} bytes")
            return {
                name: _array(_unpacked(archive, members[name]), name, kind)
                for name, kind in kinds.items()
            }
    except Damaged:
        raise
    except READ_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


def shape(file: IO[bytes], name: str, kind: Numbers) -> tuple[int, ...]:
    """Return the shape of one array of an archive, of which only the header is read.

    Raises Damaged.
    """
    try:
        with _archive(file) as archive:
            member = _members(archive, {name: kind})[name]
            with archive.open(member) as opened:
                head = opened.read(MAX_HEADER + 16)
        return _header(head, name, kind, member.file_size)[1]
    except Damaged:
        raise
    except READ_ERRORS as error:
        raise Damaged(str(error) or type(error).__name__) from error


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Open an archive whose directory is small: zipfile makes an object of every entry in it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 42, 0))
    tail = file.read(42)
    end = tail[-22:]
    if len(end) < 22 or not end.startswith(END) or end[-2:] != b"\0\0":
        raise Damaged("it is no archive of arrays, or was cut off")
    entries, directory = struct.unpack("<HI", end[10:16])
    if tail.startswith(END_64) or entries > MAX_MEMBERS or directory > MAX_DIRECTORY:
        raise Damaged(f"the archive claims more than {MAX_MEMBERS} members")
    file.seek(0)
    return zipfile.ZipFile(file)


def _members(archive: zipfile.ZipFile, kinds: Kinds) -> dict[str, zipfile.ZipInfo]:
    """Return the members that hold the arrays of `kinds`. Raises Damaged where one is missing."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise Damaged(f"it holds two arrays {name!r}")
        if name not in kinds:
            continue
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Damaged(f"{name!r} is compressed in a way that is not known")
        found[name] = member
    if missing := [name for name in kinds if name not in found]:
        raise Damaged(f"it holds no {', '.join(missing)}")
    return found


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return what a member holds: as many bytes as it claims."""
    with archive.open(member) as opened:
        data = opened.read(member.file_size)
        if len(data) != member.file_size or opened.read(1):  # the second checks the sum
            raise Damaged(f"{member.filename!r} is shorter or longer than it claims")
    return data


def _array(data: bytes, name: str, kind: Numbers | Text) -> Any:
    begin, shape, descr, fortran = _header(data, name, kind, len(data))
    body = memoryview(data)[begin:]
    if isinstance(kind, Text):
        width = int(descr[2:]) * 4
        texts = [
            bytes(body[at * width : (at + 1) * width]).decode("utf-32-le").rstrip("\0")
            for at in range(prod(shape))
        ]
        return texts if shape else texts[0]
    flat = np.frombuffer(body, np.dtype(descr))
    array = flat.reshape(shape, order="F" if fortran else "C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Damaged(f"{name!r} holds what is not a number (NaN or infinite)")
    return array


def _header(
    data: bytes, name: str, kind: Numbers | Text, size: int
) -> tuple[int, tuple[int, ...], str, bool]:
    """Return where the elements of an array begin, its shape, its type, and whether it is stored
    by columns.

    `data` is at least the header, `size` the bytes of the whole. Raises Damaged.
    """
    if data[:6] != MAGIC or len(data) < 12:
        raise Damaged(f"{name!r} is no array")
    begin, length = (10, data[8:10]) if data[6] == 1 else (12, data[8:12])
    end = begin + int.from_bytes(length, "little")
    found = HEADER.fullmatch(data[begin:end].decode("latin-1")) if end <= MAX_HEADER else None
    if not found:
        raise Damaged(f"{name!r} has a header that cannot be read")
    descr = found[1]
    shape = tuple(int(axis[:20]) for axis in found[3].replace(" ", "").split(",") if axis)
    if isinstance(kind, Text):
        text = re.fullmatch(r"<U([0-9]{1,7})", descr)
        if not text or int(text[1]) > kind.characters:
            raise Damaged(f"{name!r} is {descr}, not text of at most {kind.characters} characters")
        itemsize = int(text[1]) * 4
    elif descr != kind.dtype:
        raise Damaged(f"{name!r} is of the type {descr}, not {kind.dtype}")
    else:
        itemsize = np.dtype(descr).itemsize
    if len(shape) != len(kind.most) or any(
        axis > most for axis, most in zip(shape, kind.most, strict=True)
    ):
        raise Damaged(f"{name!r} has the shape {shape}; at most {kind.most} is expected")
    if prod(shape) * itemsize != size - end:
        raise Damaged(f"{name!r} claims the shape {shape}, and holds {size - end} bytes")
    return end, shape, descr, found[2] == "True"
