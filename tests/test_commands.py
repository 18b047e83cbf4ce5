"""The command table: what it declares holds on the wire, for every field of every request."""

from __future__ import annotations

from typing import get_args

import pytest
from declared import changed, example, inside, line, without, wrong_requests
from msgspec.inspect import StructType, type_info

from kwsd.protocol.commands import COMMANDS, Command
from kwsd.protocol.parsing import InvalidRequest, parse_request
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import Request, reply_type, type_of
from kwsd.validation import dotted

EVERYBODY = {
    "config",
    "subscribe",
    "status",
    "speakers",
    "words",
    "words.detector",
    "calibration",
}
"""What everybody may ask for, who can connect."""
CHANGES_STATE = {
    "enroll.commit",
    "speakers.delete",
    "words.put",
    "words.delete",
    "words.enable",
    "words.disable",
    "calibration.put",
    "calibration.undo",
    "clips.keep",
}


def declaration(kind: type[Command]) -> StructType:
    """Return the description of a request."""
    described = type_info(kind)
    assert isinstance(described, StructType)
    return described


def refusal(body: object) -> str:
    """Return the message of the answer to a bad request."""
    answer = parse_request(line(body))
    assert isinstance(answer, InvalidRequest), body
    assert (answer.code, answer.id, answer.fatal) == ("bad_request", "mine", False)
    return answer.message


def test_every_request_is_in_the_table() -> None:
    assert set(COMMANDS.values()) == set(get_args(Command)) == set(Request.__subclasses__())


def test_a_request_is_privileged_unless_it_says_otherwise() -> None:
    assert Request.privileged is True
    assert {name for name, kind in COMMANDS.items() if not kind.privileged} == EVERYBODY


def test_a_request_changes_no_state_unless_it_says_so() -> None:
    assert Request.changes_state is False
    assert {name for name, kind in COMMANDS.items() if kind.changes_state} == CHANGES_STATE


def test_no_reply_hides_the_fields_of_the_envelope() -> None:
    for kind in COMMANDS.values():
        reply = reply_type(kind)
        assert issubclass(reply, Reply)
        assert not {"type", "id", "ok"} & set(reply.__struct_fields__)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_of_every_request_is_read(name: str) -> None:
    request = parse_request(line({"id": "mine", **example(declaration(COMMANDS[name]))}))
    assert isinstance(request, COMMANDS[name])
    assert (type_of(request), request.id) == (name, "mine")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_field_of_any_wrong_type_is_named(name: str) -> None:
    for path, wrong, body in wrong_requests(COMMANDS[name]):
        message = refusal(body)
        assert message.startswith(f"{name}: {dotted(path)}"), (path, wrong)
        assert " is not " in message


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_field_is_named(name: str) -> None:
    kind = declaration(COMMANDS[name])
    body = {"id": "mine", **example(kind)}
    for path, _, required in inside(kind):
        if required:
            assert refusal(without(body, path)) == f"{name} needs {dotted(path)}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_field_that_is_null_is_missing(name: str) -> None:
    kind = declaration(COMMANDS[name])
    body = {"id": "mine", **example(kind)}
    for path, _, required in inside(kind):
        if len(path) > 1:
            continue
        if required:
            assert refusal(changed(body, path, None)) == f"{name} needs {dotted(path)}"
        else:
            request = parse_request(line(changed(body, path, None)))
            assert request == parse_request(line(without(body, path)))
            assert isinstance(request, COMMANDS[name])
