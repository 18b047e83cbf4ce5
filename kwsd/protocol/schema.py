"""The JSON Schema of the protocol, made from the declaration.

`docs/protocol.schema.json` is its output: `python -m kwsd.protocol.schema` prints it.
"""

from __future__ import annotations

import json
import sys
from typing import Any, get_args

from kwsd import validation
from kwsd.events import Event
from kwsd.protocol.commands import COMMANDS, PROTOCOL
from kwsd.protocol.live import LiveMessage
from kwsd.protocol.messages import End, Greeting, Level
from kwsd.protocol.request import reply_type

DRAFT = "https://json-schema.org/draft/2020-12/schema"
ID: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
ENVELOPES: dict[str, dict[str, Any]] = {
    "Reply": {
        "title": "Reply",
        "description": "A reply; its other fields are those that `x-reply` of the request names.",
        "type": "object",
        "properties": {"type": {"const": "reply"}, "id": ID, "ok": {"const": True}},
        "required": ["type", "id", "ok"],
    },
    "Error": {
        "title": "Error",
        "description": "The answer to a request that cannot be met.",
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "id": ID,
            "ok": {"const": False},
            "code": {"type": "string"},
            "message": {"type": "string"},
        },
        "required": ["type", "id", "ok", "code", "message"],
    },
}
"""What the server writes around the fields of replies, and errors."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of every line of the protocol.

    A request's definition says beside its fields whether it is privileged (`x-privileged`) and
    where the fields of its reply are defined (`x-reply`).
    """
    requests = list(COMMANDS.values())
    replies = list(dict.fromkeys(reply_type(kind) for kind in requests))
    from_server = [Greeting, Level, *get_args(LiveMessage), End, *get_args(Event)]
    _, definitions = validation.json_schema([*requests, *replies, *from_server])
    for kind in requests:
        definition = definitions[kind.__name__]
        definition["x-privileged"] = kind.privileged
        definition["x-reply"] = _ref(reply_type(kind).__name__)
    groups = {
        "ClientMessage": [kind.__name__ for kind in requests],
        "ServerMessage": [*(kind.__name__ for kind in from_server), *ENVELOPES],
    }
    unions = {
        name: {"anyOf": [{"$ref": _ref(one)} for one in members]}
        for name, members in groups.items()
    }
    return {
        "$schema": DRAFT,
        "title": f"Protocol {PROTOCOL} of kwsd",
        "anyOf": [{"$ref": _ref(name)} for name in unions],
        "$defs": {**unions, **ENVELOPES, **dict(sorted(definitions.items()))},
    }


def to_text() -> str:
    """Return the schema as the file `docs/protocol.schema.json` has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _ref(name: str) -> str:
    return f"#/$defs/{name}"


if __name__ == "__main__":
    sys.stdout.write(to_text())
