"""One line of a client as a request, or what is wrong with it.

What a line may cost is bounded before it is decoded: how deep it nests, and how many values it has.
A megabyte of audio is one value; a megabyte of brackets would hold everything up.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import msgspec
from msgspec import Struct

from kwsd.protocol.commands import COMMANDS, Command
from kwsd.protocol.request import RequestId

Id = str | int | None
NOT_JSON = "not a line of JSON in UTF-8"
MAX_DEPTH = 32
"""Levels of lists and objects in a line."""
MAX_VALUES = 1 << 14
"""Values in a line, counted by the commas and brackets in it."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class InvalidRequest(Struct, frozen=True):
    """A line that a server answers with an error."""

    code: str
    message: str
    id: Id = None
    fatal: bool = False
    """Whether the connection ends after the answer."""
    type: str = ""
    """The type of the request, where it has a known one."""


@functools.cache
def _command_decoder() -> msgspec.json.Decoder[Command]:
    """Return the decoder of requests, which only a server builds."""
    return msgspec.json.Decoder(Command)


def parse_request(line: bytes) -> Command | InvalidRequest:
    """Return the request in one line, its fields checked, or what is wrong with it.

    A field that is null counts as missing. Of a key that appears twice the last value counts; where
    any does not fit, that it does is what is wrong.
    """
    if excess := _excess(line):
        return InvalidRequest("malformed", excess)
    try:
        # Decoded first: msgspec skips unknown fields, whatever bytes are in them.
        return _command_decoder().decode(line.decode())
    except msgspec.ValidationError as error:
        fault = error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return InvalidRequest("malformed", NOT_JSON)
    twice: list[str] = []
    try:
        body = json.loads(line, object_pairs_hook=functools.partial(_object, twice))
    except (ValueError, RecursionError):  # also for a number of thousands of digits
        return InvalidRequest("malformed", NOT_JSON)
    if not isinstance(body, dict):
        return InvalidRequest("malformed", "not a JSON object")
    given = {key: value for key, value in body.items() if value is not None}
    if len(given) < len(body):
        try:
            return msgspec.convert(given, Command)
        except msgspec.ValidationError as error:
            fault = error
    return _explained(given, fault, twice)


def _object(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, and add the keys that it has twice to `twice`."""
    body: dict[str, Any] = {}
    for key, value in pairs:
        if key in body:
            twice.append(key)
        body[key] = value
    return body


def _explained(
    body: dict[str, Any], error: msgspec.ValidationError, twice: list[str]
) -> InvalidRequest:
    """Return what is wrong with a request whose plain data is `body`.

    Of the keys that it has `twice`, `body` has the last value, and the first may be what is wrong.
    What words it is imported here: half a megabyte that only a wrong line needs.
    """
    import difflib

    from kwsd import validation

    id = body.get("id")
    try:
        msgspec.convert(id, RequestId | None)
    except msgspec.ValidationError:
        text = "id must be text or a whole number, of at most 256 characters or 53 bits"
        return InvalidRequest("bad_request", text)
    if isinstance(id, str) and not _is_text(id):
        return InvalidRequest("bad_request", "id must be text that UTF-8 can encode")
    if twice:
        text = f"the key {twice[0][:60]!r} appears twice; write it once"
        return InvalidRequest("bad_request", text, id)
    name = body.get("type")
    if name is None:
        return InvalidRequest("unknown_type", "the request has no type", id)
    if not isinstance(name, str) or name not in COMMANDS:
        near = difflib.get_close_matches(str(name)[:60], COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        text = f"unknown request type {str(name)[:60]!r}; {hint}"
        return InvalidRequest("unknown_type", text, id)
    fault = validation.explain(error, COMMANDS[name], body)
    if fault.name:
        missing = validation.dotted((*fault.path, fault.name))
        return InvalidRequest("bad_request", f"{name} needs {missing}", id, type=name)
    where = validation.dotted(fault.path)
    found = repr(validation.value_at(body, fault.path))
    found = found if len(found) <= 60 else found[:57] + "…"
    text = f"{name}: {where}: {found} {fault.problem}"
    return InvalidRequest("bad_request", text, id, type=name)


def _excess(line: bytes) -> str:
    """Return what `line` has too much of, or nothing.

    Commas and brackets inside texts count as values, too: no text of a request has many.
    """
    openings = line.count(b"[") + line.count(b"{")
    if openings + line.count(b",") > MAX_VALUES:
        return f"a line of JSON may have at most {MAX_VALUES} values"
    if openings > MAX_DEPTH and _too_deep(line):
        return f"a line of JSON may nest at most {MAX_DEPTH} levels"
    return ""


def _too_deep(line: bytes) -> bool:
    """Return whether `line` nests more than `MAX_DEPTH` levels; the innermost are taken off first.

    Brackets that do not match count as too deep: that is no JSON either.
    """
    brackets = _TEXT.sub(b"", line).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def _is_text(text: str) -> bool:
    """Return whether UTF-8 can encode `text`: a lone surrogate cannot be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
