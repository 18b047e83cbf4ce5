"""Corruptions of bytes and of the structures in them; all randomness comes from the `Random`."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip(data: bytes, rng: Random) -> bytes:
    """Change one to eight bytes, more often near the beginning and the end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if out else 0):
        near = rng.randrange(min(len(out), 256))
        at = rng.choice((rng.randrange(len(out)), near, len(out) - 1 - near))
        out[at] = rng.choice((out[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255))
    return bytes(out)


def truncate(data: bytes, rng: Random) -> bytes:
    """Cut the end off, or the beginning."""
    at = rng.randrange(len(data) + 1)
    return rng.choice((data[:at], data[:at], data[at:]))


def insert(data: bytes, rng: Random) -> bytes:
    """Insert random bytes, zeros, or a piece of the data."""
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 2, 4, 64, 4096))
    begin = rng.randrange(len(data) + 1)
    piece = rng.choice((rng.randbytes(size), bytes(size), data[begin : begin + size]))
    return data[:at] + piece + data[at:]


def remove(data: bytes, rng: Random) -> bytes:
    """Remove a piece."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 64, 4096)) :]


def overwrite(data: bytes, rng: Random) -> bytes:
    """Write an extreme number over four or two bytes."""
    width, form = rng.choice(((4, "<I"), (4, ">I"), (2, "<H")))
    at = rng.randrange(max(min(len(data), rng.choice((64, len(data) or 1))), 1))
    number = rng.choice(EXTREMES) & ((1 << (8 * width)) - 1)
    return data[:at] + struct.pack(form, number) + data[at + width :]


def foreign(data: bytes, rng: Random) -> bytes:
    """Return what is no file of the kind at all."""
    other = (b"", b"\0", b"PK\x05\x06" + bytes(18), b"{", b"\x80\x04cos\nsystem\n.", b"\xff" * 99)
    return rng.choice((*other, rng.randbytes(rng.choice((1, 100, 5000)))))


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip,
    flip,
    truncate,
    insert,
    remove,
    overwrite,
    foreign,
)


def corrupt_bytes(data: bytes, rng: Random) -> bytes:
    """Corrupt bytes that may be anything, once or a few times."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(BYTES)(data, rng)
    return data


RAW = "\ufdd0"
"""Begins a text that stands in JSON as it is, without quotes."""
ODD_JSON: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.5,
    1e-320,
    1e38,
    -1e38,
    1e308,
    "",
    "x",
    "nan",
    "NaN",
    "..",
    "../x",
    "a\nb",
    "a\0b",
    "\u202e",
    "x" * 1000,
    "é" * 70000,
    [],
    {},
    [[]],
    [1, 2, 3],
    {"a": 1},
    [0] * 5000,
    [{} for _ in range(5000)],
    {str(n): n for n in range(3000)},
    RAW + "NaN",
    RAW + "Infinity",
    RAW + "-Infinity",
    RAW + "1e999",
    RAW + "-1e999",
    RAW + "9" * 400,
    RAW + "9" * 5000,
    RAW + '"\\ud800"',
    RAW + '"\\udc00x"',
    RAW + "[" * 2000 + "]" * 2000,
    RAW + "[" * 100_000,
    RAW + '{"a":' * 3000 + "1" + "}" * 3000,
    RAW + "01",
    RAW + "'a'",
    RAW + '"\xff',
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in plain data."""
    found = [path]
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inside in items:
        found += paths(inside, (*path, key))
    return found


def corrupt_value(value: Any, rng: Random, odd: tuple[Any, ...] = ODD_JSON) -> Any:
    """Return plain data with something in it replaced, removed, renamed, added or repeated."""
    whole = {"": copy.deepcopy(value)}
    path = ("", *rng.choice(paths(value)))
    container: Any = whole
    for key in path[:-1]:
        container = container[key]
    key = path[-1]
    there = container[key]
    match rng.randrange(8):
        case 0 if len(path) > 1:
            del container[key]
        case 1 if isinstance(container, dict) and len(path) > 1:
            container[rng.choice(("x", "", "a\nb", key + "x", "é" * 300))] = container.pop(key)
        case 2 if isinstance(there, dict):
            there[rng.choice(("odd", "", *(str(k) for k in there)))] = rng.choice(odd)
        case 3 if isinstance(there, list) and there and len(repr(there)) < 1000:
            times = rng.choice((2, 40, 2000))
            container[key] = [copy.deepcopy(one) for _ in range(times) for one in there]
        case 4:
            container[key] = [there]
        case _:
            container[key] = rng.choice(odd)
    return whole[""]


def to_json(value: Any) -> bytes:
    """Return plain data as JSON; text that begins with RAW stands there as it is."""
    text = json.dumps(value, ensure_ascii=False)
    parts = text.split(f'"{RAW}')
    out = [parts[0]]
    for part in parts[1:]:
        raw, rest = _raw(part)
        out += [raw, rest]
    return "".join(out).encode("utf-8", "surrogatepass")


def _raw(text: str) -> tuple[str, str]:
    """Return the content of the JSON text at whose opening quote `text` begins, and the rest."""
    end = 0
    while text[end] != '"':
        end += 2 if text[end] == "\\" else 1
    return json.loads(f'"{text[:end]}"'), text[end + 1 :]


def corrupt_json(data: bytes, rng: Random) -> bytes:
    """Corrupt JSON as plain data, or as bytes."""
    if rng.random() < 0.3:
        return corrupt_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = corrupt_value(value, rng)
    return to_json(value)
