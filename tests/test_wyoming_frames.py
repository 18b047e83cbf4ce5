"""The reader of frames holds no more of a stranger's than its bounds, and waits no longer."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.bridges.wyoming import frames
from kwsd.bridges.wyoming.frames import (
    MAX_DATA,
    MAX_LINE,
    MAX_PAYLOAD,
    Frame,
    FrameError,
    read_frame,
)

T = TypeVar("T")


def encoded(type: str, data: dict[str, object] | None = None, payload: bytes = b"") -> bytes:
    """Return a frame as the library writes it."""
    body = json.dumps(data).encode() if data else b""
    head = {"type": type, "data_length": len(body), "payload_length": len(payload), "version": "1"}
    return json.dumps(head).encode() + b"\n" + body + payload


def read_all(*parts: bytes, ends: bool = True, first: bool = False) -> list[Frame]:
    """Return the frames that come in these parts. Raises FrameError."""

    async def read() -> list[Frame]:
        reader = asyncio.StreamReader(limit=MAX_LINE)
        found: list[Frame] = []

        async def consume() -> None:
            while frame := await read_frame(reader, first=first and not found):
                found.append(frame)

        task = asyncio.create_task(consume())
        for part in parts:
            reader.feed_data(part)
            await asyncio.sleep(0)
        if ends:
            reader.feed_eof()
        await task
        return found

    return asyncio.run(read())


FRAMES = [
    Frame("ping", {"text": "a\nb"}, b""),
    Frame("audio-chunk", {"rate": 16000, "width": 2}, b"\n{}\n" * 50),
    Frame("describe", {}, b""),
    Frame("audio-chunk", {"rate": 16000}, bytes(MAX_LINE * 3)),
]


@given(st.lists(st.integers(0, 250_000), max_size=8))
def test_frames_come_whole_however_they_are_cut(cuts: list[int]) -> None:
    sent = b"".join(encoded(*frame) for frame in FRAMES)
    at = [0, *sorted(cut % len(sent) for cut in cuts), len(sent)]
    assert read_all(*(sent[a:b] for a, b in itertools.pairwise(at))) == FRAMES


def test_data_may_be_in_the_line_and_after_it() -> None:
    line = b'{"type":"detect","data":{"a":1,"b":1},"data_length":7,"payload_length":null}\n{"b":2}'
    assert read_all(line) == [Frame("detect", {"a": 1, "b": 2}, b"")]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\n", "not a line of JSON with a type"),
        (b"GET / HTTP/1.1\r\n", "not a line of JSON"),
        (b"[]\n", "not a line of JSON with a type"),
        (b"{}\n", "not a line of JSON with a type"),
        (b'{"type":5}\n', "not a line of JSON with a type"),
        (b'{"type":"' + b"x" * 65 + b'"}\n', "with a type"),
        (b'{"type":"\xff"}\n', "not a line of JSON"),
        (b'{"type":"x","data":{"a":' + b"[" * 30_000 + b"\n", "not a line of JSON"),
        (b"x" * (MAX_LINE + 2), "a line of more than 65536 bytes"),
        (b"x" * MAX_LINE + b"x\n", "a line of more than 65536 bytes"),
        (b'{"type":"x","data_length":65537}\n', "data_length: 65537 is not a number of bytes up"),
        (b'{"type":"x","data_length":-1}\n', "data_length: -1"),
        (b'{"type":"x","data_length":1e99}\n', "not a line of JSON"),
        (b'{"type":"x","payload_length":1048577}\n', "payload_length: 1048577"),
        (b'{"type":"x","payload_length":99999999999999999999}\n', "not a line|payload_length"),
        (b'{"type":"x","payload_length":true}\n', "not a line of JSON"),
        (b'{"type":"x","data_length":2}\n[]', "its data are no JSON object"),
        (b'{"type":"x","data_length":3}\n{"a', "its data are no JSON object"),
    ],
)
def test_what_is_no_frame_is_refused(sent: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        read_all(sent, ends=False)


def test_the_largest_frame_is_read() -> None:
    pad = MAX_LINE - len(b'{"type":"x","y":""}\n')
    line = b'{"type":"x","y":"' + b"a" * pad + b'"}\n'
    assert len(line) == MAX_LINE
    assert read_all(line)[0].type == "x"
    data = {"a": "b" * (MAX_DATA - 9)}
    frame = encoded("x", data, bytes(MAX_PAYLOAD))  # type: ignore[arg-type]
    assert read_all(frame) == [Frame("x", data, bytes(MAX_PAYLOAD))]


def test_a_frame_that_breaks_off_is_the_end() -> None:
    sent = encoded("ping", {"text": "x"}, b"abc")
    for length in range(len(sent)):
        assert read_all(sent[:length]) == []


@pytest.mark.parametrize("length", [0, 1, 5, 60])
def test_a_slow_frame_is_refused(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_S", 0.05)
    sent = encoded("ping", {"text": "x" * 10}, b"abc")
    with pytest.raises(FrameError, match=r"no whole frame within 0\.05 s"):
        read_all(sent[:length], ends=False, first=True)


def test_between_two_frames_there_may_be_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_S", 0.05)

    async def read() -> list[Frame | None]:
        reader = asyncio.StreamReader(limit=MAX_LINE)
        reader.feed_data(encoded("ping"))
        first = await read_frame(reader, first=True)
        second = asyncio.create_task(read_frame(reader))
        await asyncio.sleep(0.2)
        reader.feed_data(encoded("ping"))
        return [first, await second]

    assert asyncio.run(read()) == [Frame("ping", {}, b"")] * 2


def test_a_thousand_hostile_streams() -> None:
    """Each is a list of frames or a FrameError; the same at a large size is in `peers`."""
    generator = random.Random(1)
    refused = [one for one in map(outcome, hostile(generator)) if isinstance(one, FrameError)]
    assert 300 < len(refused) < 1000
    assert not any("\n" in str(error) for error in refused)


def hostile(generator: random.Random, count: int = 1000) -> list[bytes]:
    """Return corrupted streams."""
    sent = b"".join(encoded(*frame) for frame in FRAMES[:3])
    streams = []
    for _ in range(count):
        stream = bytearray(sent)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(stream))
            match generator.randrange(4):
                case 0:
                    stream[at] ^= 1 << generator.randrange(8)
                case 1:
                    del stream[at : at + generator.randint(1, 40)]
                case 2:
                    stream[at:at] = generator.randbytes(generator.randint(1, 40))
                case 3:
                    stream[at:at] = b"9" * generator.randint(1, 30)
            stream = stream or bytearray(b"x")
        streams.append(bytes(stream))
    return streams


def outcome(stream: bytes) -> list[Frame] | FrameError:
    """Return what a stream is read as."""
    try:
        return read_all(stream)
    except FrameError as error:
        return error
