"""Messages as tables, and under any split of the bytes, for both sides of a connection."""

from __future__ import annotations

import json
from typing import Any, cast, get_args

import pytest
from declared import values
from hypothesis import given
from hypothesis import strategies as st
from msgspec.inspect import type_info
from msgspec.structs import replace

from kwsd.events import Event, MicrophoneChange, Wake, to_dict
from kwsd.protocol import commands, messages
from kwsd.protocol.commands import COMMANDS, Command
from kwsd.protocol.data import WordThreshold
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.protocol.messages import (
    MAX_LINE,
    MAX_MALFORMED,
    MAX_REPLY_LINE,
    Connection,
    FromClient,
    FromServer,
    Greeting,
    Level,
    Received,
)
from kwsd.protocol.parsing import MAX_VALUES, InvalidRequest, parse_request
from kwsd.protocol.replies import DeletedReply
from kwsd.protocol.request import Request, reply_type


def line(**body: Any) -> bytes:
    """Return a line of JSON, without its newline."""
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (line(type="status", id=1), commands.Status(id=1)),
        (line(type="status"), commands.Status()),
        (line(type="status", id="a", new="ignored"), commands.Status(id="a")),
        (line(type="audio", id=2, start=0, end=9), commands.Audio(id=2, start=0, end=9)),
        (line(type="subscribe", types=["wake"], words=None), commands.Subscribe(types=["wake"])),
        (line(type="enroll.next", timeout_s=3), commands.EnrollNext(timeout_s=3)),
        (line(type="enroll.next", timeout_s=None, id=None), commands.EnrollNext()),
    ],
)
def test_good_lines(data: bytes, expected: Command) -> None:
    assert parse_request(data) == expected


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"{", "malformed", "JSON"),
        (b"\xff\xfe\x00\x01", "malformed", "JSON"),
        (b'{"type":"status","new":"\xff"}', "malformed", "UTF-8"),
        (b'{"type":"audio","start":NaN,"end":1}', "malformed", "JSON"),
        (b"[" * 100_000, "malformed", "JSON"),
        (b"[" * 33 + b"]" * 33, "malformed", "at most 32 levels"),
        (b'{"type":"status","x":' + b'{"a":' * 32 + b"1" + b"}" * 33, "malformed", "32 levels"),
        (b'{"type":"subscribe","types":' + b"[" * 900 + b"]" * 900 + b"}", "malformed", "levels"),
        (b'{"type":"status","x":[' + b"1," * MAX_VALUES + b"1]}", "malformed", "at most 16384 v"),
        (b'{"type":"status","x":"' + b"[" * 40 + b'","y":[[]}', "malformed", "JSON"),
        (b'{"type":"words.get","name":"\\ud800"}', "malformed", "JSON"),
        (b'{"type":"status","x":"\\udc00\\ud800"}', "malformed", "JSON"),
        (b'{"type":"words.get","name":"\xed\xa0\x80"}', "malformed", "UTF-8"),
        (b'{"type":"audio","start":0,"end":1e400}', "bad_request", "end: inf is not a whole"),
        (line(type="audio", start=0, end=10**400), "bad_request", "is not a whole number between"),
        (line(type="audio", start=0, end=2**63), "bad_request", "9223372036854775808 is not a"),
        (line(type="audio", start=-(10**30), end=1), "bad_request", "is not a whole number"),
        (b'{"type":"audio","start":0,"end":' + b"1" * 9000 + b"}", "malformed", "JSON"),
        (b'{"type":"peaks","since":-1e999}', "bad_request", "since: -inf is not a number between"),
        (line(type="enroll.next", timeout_s=10**400), "bad_request", "between 1 and 60"),
        (line(type="status", id=2**63), "bad_request", "id must be text or a whole number"),
        (line(type="status", id="x" * 257), "bad_request", "of at most 256 characters"),
        (b'{"type":"\xf0\x9f\x98\x80\\ud83d"}', "malformed", "JSON"),
        (line(type="subscribe", words=["w"] * 257), "bad_request", "a list of at most 256"),
        (b"[1]", "malformed", "object"),
        (b"3", "malformed", "object"),
        (line(id=1), "unknown_type", "the request has no type"),
        (line(type="dance", id=1), "unknown_type", "'dance'; expected one of subscribe"),
        (line(type="stats", id=1), "unknown_type", "'stats'; did you mean 'status'?"),
        (line(type=["status"]), "unknown_type", "status"),
        (line(type="status", id=[1]), "bad_request", "id must be text or a whole number"),
        (line(type="status", id=True), "bad_request", "id must be text or a whole number"),
        (b'{"type":"dance","id":"\\ud800"}', "bad_request", "id must be text that UTF-8"),
        (line(type="audio", start=0, end=None), "bad_request", "audio needs end"),
        (line(type="audio", start=0), "bad_request", "audio needs end"),
        (line(type="audio", start="0", end=1), "bad_request", "start: '0' is not a whole number"),
        (line(type="audio", start=True, end=1), "bad_request", "start: True is not a whole number"),
        (line(type="subscribe", types="wake"), "bad_request", "types: 'wake' is not a list"),
        (line(type="subscribe", types=[1]), "bad_request", "types[0]: 1 is not"),
        (
            line(type="subscribe", types=["wak"]),
            "bad_request",
            "types[0]: 'wak' is not 'lag', 'microphone', 'rejected' or 'wake'",
        ),
        (
            b'{"type":"status","type":"reload"}',
            "bad_request",
            "the key 'type' appears twice; write",
        ),
        (b'{"type":"words.get","name":5,"name":"b"}', "bad_request", "key 'name' appears twice"),
        (b'{"type":"words.get","name":"b","name":5}', "bad_request", "key 'name' appears twice"),
        (b'{"type":"words.get","name":null,"name":"b"}', "bad_request", "'name' appears twice"),
        (b'{"type":"words.get","name":"b","name":null}', "bad_request", "'name' appears twice"),
        (b'{"type":"enroll.begin","x":{"y":1,"y":2}}', "bad_request", "the key 'y' appears twice"),
        (line(type="enroll.begin"), "bad_request", "enroll.begin needs name"),
        (line(type="enroll.next", audio="%%%"), "bad_request", "audio: '%%%' is not base64"),
        (
            line(type="calibration.put", words={"w": {"threshold": 0.5}}),
            "bad_request",
            "calibration.put needs words.w.model",
        ),
    ],
)
def test_bad_lines(data: bytes, code: str, message: str) -> None:
    bad = parse_request(data)
    assert isinstance(bad, InvalidRequest)
    assert bad.code == code
    assert message in bad.message
    assert not bad.fatal
    messages.encode_error(bad.code, bad.message, bad.id)


def send(client: Connection[FromServer], request: Command) -> tuple[int, bytes]:
    """Return the id and the line of a request of any type."""
    return client.request(cast("Request[Any]", request))


def pieces(stream: bytes, data: st.DataObject) -> list[bytes]:
    """Return the bytes of a stream, cut anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    ends = [*cuts, len(stream)]
    return [stream[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]


LINES = [line(type="status", id=7), line(type="nope"), b"junk", b""]


@given(st.lists(st.sampled_from(LINES), max_size=12), st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(one + b"\n" for one in lines)
    whole = Connection.server().receive(stream)
    connection = Connection.server()
    received: list[FromClient] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 20))
        received += connection.receive(stream[at : at + size])
        at += size
    assert received == whole


REQUESTS: st.SearchStrategy[Command] = st.one_of([values(type_info(k)) for k in COMMANDS.values()])
EVENTS: st.SearchStrategy[Event] = st.one_of([values(type_info(k)) for k in get_args(Event)])


@given(st.lists(REQUESTS, max_size=5), st.data())
def test_a_server_gets_what_a_client_sends(requests: list[Command], data: st.DataObject) -> None:
    client = Connection.client()
    sent = [send(client, request) for request in requests]
    server = Connection.server()
    received: list[FromClient] = []
    for piece in pieces(b"".join(encoded for _, encoded in sent), data):
        received += server.receive(piece)
    expected = [replace(r, id=id) for r, (id, _) in zip(requests, sent, strict=True)]
    assert received == expected
    assert [id for id, _ in sent] == list(range(1, len(requests) + 1))


@given(st.lists(REQUESTS, max_size=4), st.lists(EVENTS, max_size=4), st.data())
def test_a_client_gets_what_a_server_sends(
    requests: list[Command], events: list[Event], data: st.DataObject
) -> None:
    client = Connection.client()
    server = Connection.server()
    stream = messages.encode_greeting("1.2", ["computer"], 16000)
    expected: list[FromServer] = [
        Greeting(protocol=2, version="1.2", words=["computer"], sample_rate=16000)
    ]
    for n, event in enumerate(events, 1):
        stream += server.number(messages.encode_event(replace(event, seq=None), details=True))
        expected.append(replace(event, seq=n))
    for request in requests:
        id, _ = send(client, request)
        stream += messages.encode_level(-31.5)
        expected.append(Level(-31.5))
        reply = data.draw(values(type_info(reply_type(type(request)))))
        stream += messages.encode_reply(id, reply)
        expected.append(Received(id, reply))
    received: list[FromServer] = []
    for piece in pieces(stream, data):
        received += client.receive(piece)
    assert received == expected


def test_a_client_gets_an_error_as_the_reply_to_its_request() -> None:
    client = Connection.client()
    id, _ = client.request(commands.Status())
    (received,) = client.receive(messages.encode_error("busy", "try again", id))
    assert isinstance(received, Received)
    assert received.id == id
    assert isinstance(received.reply, RequestError)
    assert (received.reply.code, str(received.reply)) == ("busy", "try again")


@given(st.binary(max_size=3000))
def test_no_bytes_are_too_strange_for_a_server(data: bytes) -> None:
    for message in Connection.server().receive(data):
        assert isinstance(message, Command | InvalidRequest)


@given(st.binary(max_size=3000))
def test_no_bytes_are_too_strange_for_a_client(data: bytes) -> None:
    received: list[FromServer] = []
    code = "protocol"
    try:
        received = Connection.client().receive(data)
    except DaemonError as error:
        code = error.code
    assert code == "protocol"
    assert all(isinstance(message, FromServer) for message in received)


def test_repeated_malformed_lines_end_the_connection() -> None:
    received = Connection.server().receive(b"junk\n" * (MAX_MALFORMED + 3))
    assert len(received) == MAX_MALFORMED
    fatal = [isinstance(m, InvalidRequest) and m.fatal for m in received]
    assert fatal == [False] * (MAX_MALFORMED - 1) + [True]


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_line_that_is_too_long_ends_the_connection_and_holds_no_memory(ending: bytes) -> None:
    connection = Connection.server()
    received = []
    for _ in range(64):
        received += connection.receive(b"x" * (MAX_LINE // 32))
    received += connection.receive(ending)
    bad = [(m.code, m.fatal) for m in received if isinstance(m, InvalidRequest)]
    assert bad == [("line_too_long", True)]
    assert len(connection.lines._rest) == 0
    again = Connection.server().receive(b"x" * (MAX_LINE + 5) + ending + b"{}")
    assert again[0] == received[0]


@pytest.mark.parametrize(("extra", "fits"), [(-1, True), (0, True), (1, False)])
def test_a_client_checks_the_length_of_a_line_before_it_sends(extra: int, fits: bool) -> None:
    _, shortest = Connection.client().request(commands.ClipsGet(clip=""))
    request = commands.ClipsGet(clip="x" * (MAX_LINE - len(shortest) + extra))
    client = Connection.client()
    if fits:
        _, encoded = client.request(request)
        (received,) = Connection.server().receive(encoded)
        assert isinstance(received, InvalidRequest)  # a clip's id is short, but the line is read
        assert received.code == "bad_request"
        return
    with pytest.raises(DaemonError, match=f"clips.get: .* at most {MAX_LINE} fit") as caught:
        client.request(request)
    assert caught.value.code == "line_too_long"
    id, _ = client.request(commands.Status())
    assert client.receive(messages.encode_error("busy", "", id))  # the connection goes on


@pytest.mark.parametrize(
    "command",
    [
        commands.Pause(holder="me", for_s=float("nan")),
        commands.Pause(holder="me", for_s=float("inf")),
        commands.CalibrationPut(
            words={"computer": WordThreshold(0.5, "m", rate=float("nan"), hours=1.0, time=1.0)}
        ),
    ],
)
def test_a_number_that_json_has_no_word_for_is_not_sent_as_null(command: Request[Any]) -> None:
    """A pause for null seconds would last until the connection ends."""
    with pytest.raises(DaemonError, match="a number is not finite") as caught:
        Connection.client().request(command)
    assert caught.value.code == "bad_request"
    Connection.client().request(commands.Pause(holder="me", for_s=2.5))


def test_a_client_gets_what_came_before_bad_bytes_and_then_the_error() -> None:
    client = Connection.client()
    greeting = messages.encode_greeting("1.2", ["computer"], 16000)
    (received,) = client.receive(greeting + b"junk\n" + messages.encode_level(-30.0))
    assert isinstance(received, Greeting)
    with pytest.raises(DaemonError, match="what the daemon sent"):
        client.receive(messages.encode_level(-30.0))


def test_a_client_skips_an_event_that_it_does_not_know() -> None:
    later = line(type="microphone", seq=1, state="muted", index=0) + b"\n"
    known = line(type="microphone", seq=2, state="lost", index=0) + b"\n"
    client = Connection.client()
    client.receive(messages.encode_greeting("9.0", [], 16000))
    (event,) = client.receive(later + known)
    assert isinstance(event, MicrophoneChange)
    assert event.seq == 2


def test_a_line_that_is_too_long_for_a_client() -> None:
    with pytest.raises(DaemonError, match=f"a line of over {MAX_REPLY_LINE} bytes"):
        Connection.client().receive(b"x" * MAX_REPLY_LINE)


@pytest.mark.parametrize("protocol", [1, 3])
def test_a_greeting_of_another_protocol_is_refused_with_both_numbers(protocol: int) -> None:
    greeting = line(type="hello", protocol=protocol, version="0.1.0", words=[], sample_rate=16000)
    message = f"the daemon speaks protocol {protocol}, this client speaks 2"
    with pytest.raises(DaemonError, match=message):
        Connection.client().receive(greeting + b"\n")


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)


@given(st.dictionaries(st.text(max_size=8), SCALARS, max_size=5), st.integers(1))
def test_numbering_an_encoded_event_keeps_the_rest(body: dict[str, Any], seq: int) -> None:
    event = {"type": "wake", **body, "seq": None}
    del event["seq"]
    encoded = messages.with_seq(line(**event) + b"\n", seq)
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded) == {"seq": seq, **event}


def test_an_event_leaves_out_what_is_not_known_but_the_speaker() -> None:
    wake = Wake(word="computer", score=0.9, threshold=0.5, start=1, end=2)
    expected = {"type": "wake", "word": "computer", "score": 0.9, "threshold": 0.5}
    assert to_dict(wake) == {**expected, "start": 1, "end": 2, "speaker": None}
    (received,) = Connection.client().receive(messages.encode_event(wake))
    assert received == wake


def test_deep_and_many_are_counted_outside_of_texts() -> None:
    brackets = json.dumps("[{" * 2000 + '\\"' + "]" * 40)
    assert parse_request(b'{"type":"status","x":' + brackets.encode() + b"}") == commands.Status()
    levels = b'{"type":"status","x":' + b"[" * 31 + b'"]]"' + b"]" * 31 + b"}"
    assert parse_request(levels) == commands.Status()


def test_a_message_with_half_a_surrogate_is_sent_readably() -> None:
    sent = messages.encode_error("bad_word", "no word is called '\ud800'", 1)
    assert json.loads(sent)["message"] == "no word is called '\\ud800'"


def test_a_reply_that_does_not_fit_a_line_is_an_error() -> None:
    reply = DeletedReply(deleted="x" * MAX_REPLY_LINE)
    with pytest.raises(RequestError, match="fit a line") as caught:
        messages.encode_reply(1, reply)
    assert caught.value.code == "reply_too_long"
