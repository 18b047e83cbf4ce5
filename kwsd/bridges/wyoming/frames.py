"""Frames of the Wyoming protocol, read within bounds.

A frame is a line of JSON, and after it as many bytes of JSON (`data_length`) and of a payload
(`payload_length`) as the line says. The reader of the library `wyoming` trusts these lengths; this
one holds no more than the bounds here of one frame, and waits no longer than `FRAME_S` for its end.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from kwsd import validation
from kwsd.bounded import json
from kwsd.bounded.file import Damaged

T = TypeVar("T", bound=Struct)
MAX_LINE = 1 << 16
"""Longest line, in bytes with its newline."""
MAX_DATA = 1 << 16
"""Longest data after the line, in bytes."""
MAX_PAYLOAD = 1 << 20
"""Longest payload, in bytes."""
FRAME_S = 10.0
"""Longest time from the first byte of a frame to its last, and to the first frame, in seconds."""
MAX_TYPE = 64
"""Longest type, in characters."""


LATEST_MS = 1 << 53
Timestamp = Annotated[float, Meta(ge=-LATEST_MS, le=LATEST_MS)]
"""Milliseconds of the sender's time."""


class FrameError(ValueError):
    """What was sent is no frame, or none within the bounds; the stream cannot be resumed."""


class Frame(NamedTuple):
    """One event of the protocol, as it was sent."""

    type: str
    data: dict[str, Any]
    payload: bytes


class AudioFormat(Struct, frozen=True):
    """The format of audio, as `audio-start` and `audio-chunk` name it."""

    rate: Annotated[int, Meta(ge=1000, le=768_000)]
    """Samples per second."""
    width: Literal[1, 2, 3, 4]
    """Bytes of a sample: a signed whole number, little-endian."""
    channels: Annotated[int, Meta(ge=1, le=64)]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a sample of every channel."""
        return self.width * self.channels


class Ping(Struct, frozen=True):
    """The data of `ping`."""

    text: str | None = None


class _Line(Struct, frozen=True):
    type: Annotated[str, Meta(max_length=MAX_TYPE)]
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


async def read_frame(reader: asyncio.StreamReader, *, first: bool = False) -> Frame | None:
    """Return the next frame, or None at the end of the stream.

    The `reader` has the limit `MAX_LINE`. Between two frames it waits for as long as it takes; for
    the `first` one, `FRAME_S`. Raises FrameError.
    """
    try:
        async with asyncio.timeout(FRAME_S if first else None) as waiting:
            begin = await reader.read(1)
            waiting.reschedule(asyncio.get_running_loop().time() + FRAME_S)
            return await _rest(reader, begin) if begin else None
    except TimeoutError:
        raise FrameError(f"no whole frame within {FRAME_S:g} s") from None
    except asyncio.IncompleteReadError:
        return None  # the peer has gone within a frame
    except asyncio.LimitOverrunError:
        raise FrameError(f"a line of more than {MAX_LINE} bytes") from None


async def _rest(reader: asyncio.StreamReader, begin: bytes) -> Frame:
    """Return the frame that begins with `begin`."""
    rest = await reader.readuntil(b"\n") if begin != b"\n" else b""
    if len(rest) >= MAX_LINE:
        raise FrameError(f"a line of more than {MAX_LINE} bytes")
    try:
        line = json.decode(begin + rest, _Line)
    except Damaged as error:
        raise FrameError(f"not a line of JSON with a type ({error})") from None
    data = await _part(reader, "data_length", line.data_length, MAX_DATA)
    payload = await _part(reader, "payload_length", line.payload_length, MAX_PAYLOAD)
    fields = line.data or {}
    if data:
        try:
            fields = {**fields, **json.decode(data, dict[str, Any])}
        except Damaged as error:
            raise FrameError(f"its data are no JSON object ({error})") from None
    return Frame(line.type, fields, payload)


async def _part(reader: asyncio.StreamReader, name: str, length: int | None, most: int) -> bytes:
    """Return a part of a frame, `length` bytes. Raises FrameError where there are too many."""
    if not length:
        return b""
    if not 0 < length <= most:
        raise FrameError(f"{name}: {length} is not a number of bytes up to {most}")
    return await reader.readexactly(length)


def fields(frame: Frame, kind: type[T]) -> T:
    """Return the data of a frame as its type has them. Raises FrameError."""
    try:
        return msgspec.convert(frame.data, kind)
    except msgspec.ValidationError as error:
        fault = validation.explain(error, kind, frame.data)
        path = (*fault.path, fault.name) if fault.name is not None else fault.path
        text = f"{frame.type}: {validation.dotted(path)} {fault.problem}"
        raise FrameError(text) from None
