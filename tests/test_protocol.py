"""The protocol as tables, and under any split of the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.protocol import messages as protocol
from kwsd.protocol.messages import MAX_LINE, MAX_MALFORMED, Bad, LineReader, Request, parse_request


def line(**body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (line(type="status", id=1), Request("status", 1, {})),
        (line(type="status"), Request("status", None, {})),
        (line(type="status", id="a", new="ignored"), Request("status", "a", {})),
        (line(type="audio", id=2, start=0, end=9), Request("audio", 2, {"start": 0, "end": 9})),
        (line(type="subscribe", types=["wake"], words=None), Request("subscribe", None, {"types": ["wake"]})),
        (line(type="enroll.next", timeout_s=3), Request("enroll.next", None, {"timeout_s": 3})),
    ],
)
def test_good_lines(data: bytes, expected: Request) -> None:
    assert parse_request(data) == expected


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"{", "malformed", "JSON"),
        (b"\xff\xfe\x00\x01", "malformed", "JSON"),
        (b"[" * 100_000, "malformed", "JSON"),
        (b"[1]", "malformed", "object"),
        (b"3", "malformed", "object"),
        (line(id=1), "unknown_type", "None"),
        (line(type="dance", id=1), "unknown_type", "'dance'; there are subscribe"),
        (line(type=["status"]), "unknown_type", "status"),
        (line(type="status", id=[1]), "bad_request", "id must be"),
        (line(type="status", id=True), "bad_request", "id must be"),
        (line(type="audio", start=0), "bad_request", "audio needs end"),
        (line(type="audio", start="0", end=1), "bad_request", "start must be int"),
        (line(type="audio", start=True, end=1), "bad_request", "start must be int"),
        (line(type="subscribe", types="wake"), "bad_request", "types must be list"),
        (line(type="subscribe", types=[1]), "bad_request", "list of texts"),
        (line(type="subscribe", types=["wak"]), "bad_request", "no events of type 'wak'"),
        (line(type="enroll.begin"), "bad_request", "enroll.begin needs name"),
    ],
)
def test_bad_lines(data: bytes, code: str, message: str) -> None:
    bad = parse_request(data)
    assert isinstance(bad, Bad)
    assert bad.code == code
    assert message in bad.message
    assert not bad.fatal


@given(st.lists(st.sampled_from([line(type="status", id=7), line(type="nope"), b"junk", b""]), max_size=12), st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(one + b"\n" for one in lines)
    whole = LineReader().feed(stream)
    reader, pieces, at = LineReader(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 20))
        pieces += reader.feed(stream[at : at + size])
        at += size
    assert pieces == whole


@given(st.binary(max_size=3000))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    for message in LineReader().feed(data):
        assert isinstance(message, Bad | Request)


def test_repeated_malformed_lines_end_the_connection() -> None:
    messages = LineReader().feed(b"junk\n" * (MAX_MALFORMED + 3))
    assert len(messages) == MAX_MALFORMED
    assert [getattr(m, "fatal", False) for m in messages] == [False] * (MAX_MALFORMED - 1) + [True]


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_line_that_is_too_long_ends_it_and_holds_no_memory(ending: bytes) -> None:
    reader, messages = LineReader(), []
    for _ in range(64):
        messages += reader.feed(b"x" * (MAX_LINE // 32))
    messages += reader.feed(ending)
    assert [(m.code, m.fatal) for m in messages if isinstance(m, Bad)] == [("too_long", True)]
    assert len(reader._rest) == 0
    assert LineReader().feed(b"x" * (MAX_LINE + 5) + ending + b"{}")[0] == messages[0]


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=5), st.integers(1))
def test_numbering_an_encoded_event_keeps_the_rest(body: dict[str, Any], seq: int) -> None:
    event = {"type": "wake", **body, "seq": None}
    del event["seq"]
    encoded = protocol.with_seq(protocol.encode(event), seq)
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded) == {"seq": seq, **event}
