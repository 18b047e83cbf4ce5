"""Corruptions of `.npz` files: of the archive, of the arrays' headers, and of what is in them."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from fuzz.mutations import corrupt_bytes

BOMB = 100 << 20
"""Bytes that a bomb unpacks to."""
TYPES = """\
<f4 <f8 <f2 >f4 <i8 <u8 <i1 |i1 |b1 |O |S4 <U1 <U9 <U9999999 <U99999999999 <c16 <M8[s] |V8
<f4,<f4 [('a','<f4')] x <f16 float32"""
DESCR = TYPES.split()
SHAPES = (
    "()",
    "(0,)",
    "(1,)",
    "(3,)",
    "(3, 64)",
    "(0, 64)",
    "(64, 3)",
    "(1000000000000,)",
    "(0, 1000000000000)",
    "(1000000, 1000000)",
    "(9223372036854775807,)",
    "(18446744073709551616,)",
    "(-1,)",
    "(-1, -64)",
    "(3, 64, 1)",
    f"({'1, ' * 40})",
    f"({'9' * 600},)",
    "(3L,)",
    "(True,)",
    "(3.0,)",
    "[3]",
    "((((3))))",
    "x",
    "",
)
VALUES = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e38, 1e20, 1e-45, 0.0, -1.0, 1.0, 2.0, 127.0)
TEXTS = ("", "x", "a\nb", "a\0b", "x" * 300, "é" * 70, "\u202e", "..", "/etc/passwd")
CODE_POINTS = (0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF, 0, 10, 0xFDD0)


@dataclass(frozen=True)
class Member:
    """A member of an archive, and what its headers claim of it."""

    name: bytes
    data: bytes
    """As it is stored."""
    size: int
    """What it claims to unpack to."""
    crc: int
    method: int = 0
    flags: int = 0
    offset: int | None = None
    """What the directory claims; the truth where it is None."""
    stored: int | None = None
    """Bytes that it claims to be stored in; the truth where it is None."""


def member(name: str, data: bytes, method: int = 0) -> Member:
    """Return a member that claims the truth."""
    packed = data
    if method == zipfile.ZIP_DEFLATED:
        deflate = zlib.compressobj(1, wbits=-15)
        packed = deflate.compress(data) + deflate.flush()
    return Member(name.encode(), packed, len(data), zlib.crc32(data), method)


def archive(members: list[Member], entries: int | None = None, comment: bytes = b"") -> bytes:
    """Return an archive; `entries` is how many its directory claims."""
    out = bytearray()
    directory = bytearray()
    for one in members:
        stored = len(one.data) if one.stored is None else one.stored
        sizes = (one.crc, stored & 0xFFFFFFFF, one.size & 0xFFFFFFFF, len(one.name))
        offset = len(out) if one.offset is None else one.offset
        head = struct.pack("<HHHHHIIIHH", 20, one.flags, one.method, 0, 33, *sizes, 0)
        out += b"PK\x03\x04" + head + one.name + one.data
        entry = struct.pack(
            "<HHHHHHIIIHHHHHII",
            20,
            20,
            *struct.unpack("<HHHHIIIHH", head[2:]),
            0,
            0,
            0,
            0,
            offset & 0xFFFFFFFF,
        )
        directory += b"PK\x01\x02" + entry + one.name
    count = len(members) if entries is None else entries
    end = struct.pack(
        "<HHHHIIH", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), len(out), len(comment)
    )
    return bytes(out + directory) + b"PK\x05\x06" + end + comment


def unpacked(data: bytes) -> list[tuple[str, bytes]]:
    """Return the members of a sound archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return [(info.filename, opened.read(info)) for info in opened.infolist()]


@functools.cache
def bomb() -> Member:
    """Return a member of zeros that is a thousandth of what it unpacks to."""
    deflate = zlib.compressobj(9, wbits=-15)
    block = bytes(1 << 20)
    packed = b"".join(deflate.compress(block) for _ in range(BOMB >> 20)) + deflate.flush()
    return Member(b"", packed, BOMB, 0, zipfile.ZIP_DEFLATED)


def corrupt_array(data: bytes, rng: Random) -> bytes:
    """Corrupt one `.npy`: its header, or its elements."""
    length = int.from_bytes(data[8:10], "little")
    head, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    descr = head.split("'descr': '", 1)[1].split("'", 1)[0]
    shape = head.split("'shape': ", 1)[1].rsplit(", }", 1)[0]
    match rng.randrange(9):
        case 0:
            head = head.replace(f"'{descr}'", f"'{rng.choice(DESCR)}'")
        case 1:
            head = head.replace(f"'shape': {shape}", f"'shape': {rng.choice(SHAPES)}")
        case 2:
            new = rng.choice(SHAPES), rng.choice(DESCR)
            head = f"{{'descr': '{new[1]}', 'fortran_order': False, 'shape': {new[0]}, }}\n"
        case 3:
            head = rng.choice(
                (
                    head.replace("False", rng.choice(("True", "1", "None", "[]"))),
                    head.replace("'fortran_order': False, ", ""),
                    "(" * rng.choice((90, 900)),
                    "__import__('os').system('x')",
                    "{" * 200 + "}" * 200,
                    head + " " * rng.choice((1, 5000, 60000)),
                    "",
                )
            )
        case 4:
            version = rng.choice((b"\0\0", b"\2\0", b"\3\0", b"\x09\x09", b"\xff\xff"))
            wide = struct.pack("<I", rng.choice((len(head), 2**31, 2**32 - 1)))
            width = rng.choice((wide, struct.pack("<H", rng.choice((0, len(head), 65535)))))
            return data[:6] + version + width + head.encode("latin-1") + body
        case 5:
            return corrupt_bytes(data, rng)
        case 6 if "<U" in descr:
            body = rng.choice(
                (
                    rng.choice(TEXTS).encode("utf-32-le"),
                    struct.pack("<I", rng.choice(CODE_POINTS)) + body[4:],
                )
            )
            characters = max(len(body) // 4, 1)
            head = head.replace(f"'{descr}'", f"'<U{characters}'")
            body = body.ljust(4 * characters, b"\0")
        case _ if descr in ("<f4", "<f8", "<i8", "|i1"):
            flat = np.frombuffer(body, descr).copy()
            with np.errstate(all="ignore"):
                odd = np.array(rng.choice(VALUES)).astype(descr)
            if len(flat) and rng.random() < 0.6:
                flat[rng.randrange(len(flat))] = odd
            else:
                flat[:] = odd
            body = flat.tobytes()
        case _:
            body = corrupt_bytes(body, rng)
    encoded = head.encode("latin-1", "replace")
    return data[:8] + struct.pack("<H", len(encoded) & 0xFFFF) + encoded + body


def corrupt_archive(
    data: bytes, rng: Random, inside: dict[str, Callable[[bytes, Random], bytes]]
) -> bytes:
    """Corrupt an archive; `inside` corrupts the arrays of these names in a way of their own."""
    if rng.random() < 0.25:
        return corrupt_bytes(data, rng)
    arrays = unpacked(data)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    at = rng.randrange(len(arrays))
    if rng.random() < 0.6:
        name, array = arrays[at]
        own = inside.get(name.removesuffix(".npy"))
        changed = own(array, rng) if own and rng.random() < 0.8 else corrupt_array(array, rng)
        arrays[at] = name, changed
    members = [member(name, array, method) for name, array in arrays]
    if rng.random() < 0.5:
        members = _corrupt_members(members, at, rng)
    entries = rng.choice((None, None, None, 0, len(members) + 1, 65535))
    comment = rng.choice((b"", b"", b"", b"x", b"PK\x05\x06" + bytes(18)))
    whole = archive(members, entries, comment)
    return whole if rng.random() < 0.8 else corrupt_bytes(whole, rng)


def _corrupt_members(members: list[Member], at: int, rng: Random) -> list[Member]:
    one = members[at]
    sizes = (0, 1, one.size - 1, one.size + 1, 2**20, 2**31, 2**32 - 1)
    match rng.randrange(11):
        case 0:
            return members[:at] + members[at + 1 :]
        case 1:
            return [*members, one]
        case 2:
            name = rng.choice((b"x.npy", b"", b"../x.npy", b"a\0b", b"x" * 3000, b"\xff\xfe"))
            members[at] = replace(one, name=name)
        case 3:
            return members + [member(f"{n}.npy", b"x") for n in range(rng.choice((9, 900, 9000)))]
        case 4:
            members[at] = replace(one, size=rng.choice(sizes))
        case 5:
            members[at] = replace(one, stored=rng.choice(sizes))
        case 6:
            members[at] = replace(one, method=rng.choice((1, 8, 9, 12, 14, 93, 99, 65535)))
        case 7:
            members[at] = replace(one, flags=rng.choice((1, 8, 0x20, 0x40, 0x800, 0xFFFF)))
        case 8:
            members[at] = replace(one, offset=rng.choice((0, 1, 2**31, 2**32 - 1)))
        case 9:
            members[at] = replace(one, crc=one.crc ^ 1)
        case _:
            claimed = rng.choice((one.size, BOMB, 2**32 - 1))
            members[at] = replace(bomb(), name=one.name, size=claimed)
    return members
