"""The protocol as bytes to messages and back, with no I/O. The spec is docs/protocol.md.

Rules:
- A message is one JSON object on one line of UTF-8, at most `MAX_LINE` bytes with its newline.
- What a client sends are requests: `type` and, so that the reply can be told, `id` (text or a number).
- Unknown fields are ignored. An unknown type, a missing or ill-typed field is an error reply; the connection goes on.
- A line that is no JSON object is a malformed line; after `MAX_MALFORMED` of them, or one that is too long, the connection ends.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from kwsd.protocol.errors import RequestError as RequestError

PROTOCOL = 1
MAX_LINE = 1 << 20
MAX_MALFORMED = 5
EVENT_TYPES = ("wake", "rejected", "microphone")

Body = dict[str, Any]


class Ask(Protocol):
    """Whoever answers requests about what is kept: a connection to the daemon, or a `Keeping` of its own."""

    def request(self, type: str, **fields: Any) -> Body:
        """Raises RequestError."""
        ...


@dataclass(frozen=True)
class Request:
    type: str
    id: str | int | None
    body: Body


@dataclass(frozen=True)
class Bad:
    """A line that is answered with an error."""

    code: str
    message: str
    id: str | int | None = None
    fatal: bool = False
    """The connection ends after the answer."""


# type -> {field: (accepted types, required)}; what is checked here need not be checked again.
_NUMBER = (int, float)
REQUESTS: dict[str, dict[str, tuple[tuple[type, ...], bool]]] = {
    "subscribe": {"types": ((list,), False), "words": ((list,), False)},
    "status": {},
    "audio": {"start": ((int,), True), "end": ((int,), True)},
    "enroll.begin": {"name": ((str,), True)},
    "enroll.next": {"kind": ((str,), False), "word": ((str,), False), "timeout_s": (_NUMBER, False), "audio": ((str,), False)},
    "enroll.commit": {},
    "enroll.abort": {},
    "take": {"timeout_s": (_NUMBER, False)},
    "speakers": {},
    "speakers.delete": {"name": ((str,), True)},
    "speakers.trials": {},
    "words": {},
    "words.get": {"name": ((str,), True)},
    "words.put": {"file": ((str,), True)},
    "words.delete": {"name": ((str,), True)},
    "calibration": {},
    "calibration.put": {"words": ((dict,), False), "speaker": ((dict,), False)},
    "calibration.undo": {},
    "peaks": {"since": (_NUMBER, False)},
    "clips": {},
    "clips.get": {"name": ((str,), True)},
    "clips.label": {"names": ((list,), True), "label": ((str,), False)},
    "clips.clear": {"names": ((list,), False)},
    "reload": {},
}


def encode(body: Body) -> bytes:
    """One message as a line."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def pcm(samples: np.ndarray) -> str:
    """int16 `[sample]` as messages carry it: base64 of little-endian PCM."""
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


def with_seq(line: bytes, seq: int) -> bytes:
    """An encoded event with a subscriber's own `seq` put in front: encoded once, numbered for each."""
    return b'{"seq":%d,' % seq + line[1:]


def reply(request: Request, body: Body) -> bytes:
    return encode({"type": "reply", "id": request.id, "ok": True, **body})


def error(code: str, message: str, id: str | int | None = None) -> bytes:
    return encode({"type": "error", "id": id, "ok": False, "code": code, "message": message})


@dataclass
class LineReader:
    """Cuts a byte stream into requests. Holds at most one incomplete line."""

    parse: Callable[[bytes], Request | Bad] = field(default=lambda line: parse_request(line))
    _rest: bytearray = field(default_factory=bytearray)
    _malformed: int = 0
    _ended: bool = False

    def feed(self, data: bytes) -> list[Request | Bad]:
        """The messages that `data` completes. After a fatal one, everything is ignored."""
        out: list[Request | Bad] = []
        if self._ended:
            return out
        self._rest += data
        while not self._ended and (at := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:at])
            del self._rest[: at + 1]
            if at >= MAX_LINE:
                return [*out, self._too_long()]
            if line.strip():
                out.append(self._count(self.parse(line)))
        if len(self._rest) >= MAX_LINE and not self._ended:
            out.append(self._too_long())
        return out

    def _too_long(self) -> Bad:
        self._ended = True
        self._rest.clear()
        return Bad("too_long", f"a line may have at most {MAX_LINE} bytes; the connection ends", fatal=True)

    def _count(self, message: Request | Bad) -> Request | Bad:
        if not isinstance(message, Bad) or message.code != "malformed":
            return message
        self._malformed += 1
        self._ended = self._malformed >= MAX_MALFORMED
        return Bad(message.code, message.message + ("; the connection ends" if self._ended else ""), fatal=self._ended)


def parse_request(line: bytes) -> Request | Bad:
    """A request in one line, its fields checked, or what is wrong with it."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return Bad("malformed", "not a line of JSON in UTF-8")
    if not isinstance(body, dict):
        return Bad("malformed", "not a JSON object")
    id = body.get("id")
    if id is not None and (isinstance(id, bool) or not isinstance(id, str | int)):
        return Bad("bad_request", "id must be text or a whole number")
    kind = body.get("type")
    if not isinstance(kind, str) or kind not in REQUESTS:
        return Bad("unknown_type", f"unknown request type {str(kind)[:60]!r}; there are {', '.join(REQUESTS)}", id)
    for name, (accepted, required) in REQUESTS[kind].items():
        value = body.get(name)
        if value is None:
            if required:
                return Bad("bad_request", f"{kind} needs {name}", id)
        elif isinstance(value, bool) or not isinstance(value, accepted):
            return Bad("bad_request", f"{kind}: {name} must be {' or '.join(t.__name__ for t in accepted)}", id)
        elif isinstance(value, list) and not all(isinstance(v, str) for v in value):
            return Bad("bad_request", f"{kind}: {name} must be a list of texts", id)
    if kind == "subscribe" and (unknown := [t for t in body.get("types") or [] if t not in EVENT_TYPES]):
        return Bad("bad_request", f"subscribe: no events of type {unknown[0][:60]!r}; there are {', '.join(EVENT_TYPES)}", id)
    return Request(kind, id, {k: v for k, v in body.items() if k in REQUESTS[kind] and v is not None})
