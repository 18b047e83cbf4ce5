"""`docs/protocol.md` and its JSON Schema agree with the declaration of the protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from msgspec import inspect as types
from msgspec.inspect import StructType, type_info

from kwsd.detect import loudness
from kwsd.events import Event
from kwsd.protocol import schema
from kwsd.protocol.commands import COMMANDS, PROTOCOL
from kwsd.protocol.live import LiveMessage, RunningScores, StreamEnd
from kwsd.protocol.messages import MAX_LINE, MAX_REPLY_LINE, MAX_SHORT_LINE, Greeting
from kwsd.protocol.paging import PAGE_BYTES
from kwsd.protocol.parsing import MAX_DEPTH, MAX_VALUES
from kwsd.protocol.request import MAX_IDS, reply_type
from kwsd.server.channel import MAX_UNREAD_BYTES
from kwsd.server.clients import LONG_LINE_S, MAX_LONG_LINES
from kwsd.server.hub import MAX_BACKLOG_BYTES
from kwsd.server.pauses import MAX_HOLDERS
from kwsd.server.streams import MAX_LIVE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text()
LIVE = {kind.__struct_config__.tag: kind for kind in get_args(LiveMessage)}
EVENTS = {kind.__struct_config__.tag: kind for kind in get_args(Event)}


def section(title: str) -> str:
    """Return the text below a heading."""
    return re.split(r"\n## ", PAGE.split(f"\n## {title}\n")[1])[0]


def rows(title: str) -> dict[str, list[str]]:
    """Return the rows of the table in a section, by what is in their first cell."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells}


def named(cell: str) -> dict[str, bool]:
    """Return the fields in a cell, and whether each is marked as one that may be left out."""
    found: dict[str, bool] = {}
    for name, mark in re.findall(r"`([a-z_][a-z0-9_]*)`(\?)?", cell):
        assert name not in found, f"{name} appears twice in {cell}"
        found[name] = bool(mark)
    return found


def fields(kind: type) -> StructType:
    """Return the description of a struct."""
    described = type_info(kind)
    assert isinstance(described, StructType)
    return described


def structs(kind: types.Type) -> Iterator[type]:
    """Yield the structs that a type names directly."""
    match kind:
        case StructType():
            yield kind.cls
        case types.UnionType():
            for one in kind.types:
                yield from structs(one)
        case types.ListType():
            yield from structs(kind.item_type)
        case types.DictType():
            yield from structs(kind.value_type)


def links(kind: type) -> set[str]:
    """Return the names of the structs in the fields of a struct."""
    return {one.__name__ for field in fields(kind).fields for one in structs(field.type)}


def sent(kind: type) -> dict[str, bool]:
    """Return the fields that the server sends, and whether each may be left out."""
    may_omit: bool = kind.__struct_config__.omit_defaults  # type: ignore[attr-defined]
    return {f.encode_name: may_omit and not f.required for f in fields(kind).fields}


def data() -> dict[str, type]:
    """Return every struct that a request, a reply or an event carries, by its name."""
    found: dict[str, type] = {}

    def collect(kind: type) -> None:
        for field in fields(kind).fields:
            for one in structs(field.type):
                if one.__name__ not in found:
                    found[one.__name__] = one
                    collect(one)

    for request in COMMANDS.values():
        collect(request)
        collect(reply_type(request))
    for event in EVENTS.values():
        collect(event)
    for message in LIVE.values():
        collect(message)
    return found


REQUESTS = rows("Requests and replies")
DATA = rows("Data")


def test_every_request_is_described_and_marked_where_it_is_privileged() -> None:
    expected = [
        f"`{name}`" + (r" \*" if kind.privileged else "") for name, kind in COMMANDS.items()
    ]
    assert list(REQUESTS) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_the_fields_of_a_request(name: str) -> None:
    kind = COMMANDS[name]
    cell = REQUESTS[f"`{name}`" + (r" \*" if kind.privileged else "")][0]
    declared = fields(kind).fields
    expected = {f.encode_name: not f.required for f in declared if f.name != "id"}
    assert named(cell) == expected
    assert set(re.findall(r"`([A-Z]\w*)`", cell)) == links(kind)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_fields_of_a_reply(name: str) -> None:
    kind = COMMANDS[name]
    cell = REQUESTS[f"`{name}`" + (r" \*" if kind.privileged else "")][1]
    cell = cell.split("Before it")[0]  # the lines of a level
    assert named(cell) == sent(reply_type(kind))
    assert set(re.findall(r"`([A-Z][a-z]\w*)`", cell)) == links(reply_type(kind))


def test_every_type_of_data_is_described() -> None:
    assert {cell.strip("`") for cell in DATA} == set(data())


@pytest.mark.parametrize("name", data())
def test_the_fields_of_data(name: str) -> None:
    kind = data()[name]
    (cell,) = DATA[f"`{name}`"]
    assert named(cell) == sent(kind)
    assert set(re.findall(r"`([A-Z]\w*)`", cell)) == links(kind)
    is_list: bool = kind.__struct_config__.array_like  # type: ignore[attr-defined]
    if is_list:
        assert list(named(cell)) == list(sent(kind))
        assert f"`{name}`" in section("Data").split("are lists of the fields")[0]


def test_the_fields_of_events() -> None:
    described = rows("Events")
    assert set(described) == {f"`{name}`" for name in EVENTS}
    for name, kind in EVENTS.items():
        (cell,) = described[f"`{name}`"]
        assert set(named(cell)) == {field.encode_name for field in fields(kind).fields}
        assert set(re.findall(r"`([A-Z]\w*)`", cell)) == links(kind)


def test_the_fields_of_live_messages() -> None:
    described = rows("Streams")
    for name in ("stream", "stream.end"):
        assert named(described[f"`{name}`"][0]) == sent(LIVE[name])
    reasons = get_args(get_type_hints(StreamEnd)["reason"])
    assert [row.strip("`") for row in described if row.strip("`") not in LIVE] == list(reasons)
    text = section("Running scores").split("(It is one line.)")[1]
    assert set(re.findall(r"`([a-z_]+)`[:,;]", text)) == set(sent(RunningScores))


def test_the_definition_of_the_snr() -> None:
    text = " ".join(section("Level and SNR").split())
    assert "The five seconds up to its `start`" in text
    assert (loudness.NOISE_S, loudness.QUIETEST, loudness.MIN_NOISE_S) == (5, 0.25, 0.4)
    assert f"from {loudness.MIN_SNR_DB:g} to {loudness.MAX_SNR_DB:g}. It" in text


def test_the_greeting_and_the_numbers() -> None:
    assert f"This is protocol {PROTOCOL} of kwsd" in PAGE
    assert f'"protocol":{PROTOCOL},' in PAGE
    bounds = section("Bounds")
    assert f"| {MAX_LINE:,} bytes from those" in bounds
    assert f"and {MAX_SHORT_LINE:,} bytes from others" in bounds
    assert f"| {MAX_REPLY_LINE:,} bytes |" in bounds
    assert f"its commas and brackets | {MAX_VALUES:,} |" in bounds
    assert f"objects in a line | {MAX_DEPTH} |" in bounds
    assert f"{MAX_IDS:,} |" in bounds
    assert f"| {MAX_BACKLOG_BYTES >> 20} MiB; then" in bounds
    assert f"running scores, together | {MAX_LIVE} |" in bounds
    assert f"has not read | {MAX_UNREAD_BYTES:,} bytes, six" in bounds
    assert f"pause at the same time | {MAX_HOLDERS} |" in bounds
    assert f"| {LONG_LINE_S:g} s from its begin to its end, and {MAX_LONG_LINES} of" in bounds
    assert f"pages of at most {PAGE_BYTES:,} bytes" in section("Pages")
    first = section("The greeting").split("\n\n")[0]
    expected = {field.encode_name for field in fields(Greeting).fields}
    assert set(named(first)) - {"hello"} == expected


def test_every_error_code_is_described() -> None:
    raised: set[str] = set()
    pattern = r"(?:RequestError|TakeRejected|InvalidRequest|encode_error)\(\s*\"(\w+)\""
    for folder in ("server", "protocol", "learn"):
        for path in (ROOT / "kwsd" / folder).glob("*.py"):
            raised |= set(re.findall(pattern, path.read_text()))
    described = {code for cell in rows("Error codes") for code in re.findall(r"`(\w+)`", cell)}
    assert described == raised | {"line_too_long"}


def test_the_schema_file_is_what_the_declaration_gives() -> None:
    text = (ROOT / "docs" / "protocol.schema.json").read_text()
    assert text == schema.to_text(), "python -m kwsd.protocol.schema > docs/protocol.schema.json"


def test_every_definition_that_the_schema_refers_to_is_there() -> None:
    whole = schema.schema()
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            found.update(v for k, v in value.items() if k in ("$ref", "x-reply"))
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(whole)
    assert found <= {f"#/$defs/{name}" for name in whole["$defs"]}
    for name, kind in COMMANDS.items():
        definition = whole["$defs"][kind.__name__]
        assert definition["x-privileged"] is kind.privileged
        assert definition["properties"]["type"]["enum"] == [name]
