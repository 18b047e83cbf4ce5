"""One side of a connection as bytes to messages and back, with no I/O. docs/protocol.md is the
spec.

Rules:
- A message is one JSON object on one line of UTF-8, at most `MAX_LINE` bytes with its newline
  (`MAX_SHORT_LINE` from a client that is not privileged).
- A client sends requests; the server sends a greeting, then replies, errors, levels, audio, scores
  and events, and an end where there is one.
- Unknown fields are ignored. An unknown type and a missing or ill-typed field are answered with an
  error, and the connection goes on.
- A line that is no JSON object is malformed. After `MAX_MALFORMED` of them, or after one line that
  is too long, the connection ends.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Generic, Literal, Protocol, TypeVar, cast

import msgspec
from msgspec import Struct

from kwsd.events import EVENT_TYPES, Event, to_dict
from kwsd.protocol.commands import PROTOCOL, Command
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.protocol.live import LIVE_TYPES, LiveMessage
from kwsd.protocol.parsing import Id, InvalidRequest, parse_request
from kwsd.protocol.replies import EncodedReply, Reply
from kwsd.protocol.request import Request, reply_type, type_of

MAX_LINE = 1 << 20
"""Longest line that a server accepts, in bytes with its newline: a take of `MAX_AUDIO_S`."""
MAX_SHORT_LINE = 1 << 14
"""Longest line that a server accepts of a client that is not privileged, which sends no takes."""
MAX_REPLY_LINE = 1 << 22
"""Longest line that a client accepts, in bytes with its newline."""
MAX_MALFORMED = 5
Role = Literal["client", "server"]
R = TypeVar("R", bound=Reply)
M = TypeVar("M")


class Requester(Protocol):
    """Whoever answers requests: a client of the daemon, or the state handlers over a folder."""

    def request(self, command: Request[R]) -> R:
        """Return the reply. Raises RequestError."""
        ...


class Greeting(Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of the server."""

    protocol: int
    version: str = ""
    words: list[str] = []
    sample_rate: int = 0


class Level(Struct, frozen=True, tag="level"):
    """The level of the audio while a take is recorded."""

    level_dbfs: float


class End(Struct, frozen=True, tag="end"):
    """The recording that the daemon listens to has ended: no event follows."""


class Received(Struct, frozen=True):
    """A reply that a client has received."""

    id: Id
    reply: Reply | RequestError


class _Envelope(Struct, frozen=True):
    """The fields by which a client distinguishes the messages of a server."""

    type: str = ""
    id: Id = None


class _Error(Struct, frozen=True):
    code: str = "internal"
    message: str = ""


FromClient = Command | InvalidRequest
"""What a server receives."""
FromServer = Greeting | Received | Level | LiveMessage | End | Event
"""What a client receives."""

_encoder = msgspec.json.Encoder()


@functools.cache
def _event_decoder() -> msgspec.json.Decoder[Event]:
    """Return the decoder of events, which only a client builds."""
    return msgspec.json.Decoder(Event)


@functools.cache
def _live_decoder() -> msgspec.json.Decoder[LiveMessage]:
    """Return the decoder of audio and scores, which only a client builds."""
    return msgspec.json.Decoder(LiveMessage)


class Lines:
    """Cuts a byte stream into lines, one when it is asked for."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """Longest line with its newline."""
        self._rest = bytearray()
        self._end: int | None = None
        """Where the first line in `_rest` ends; None where it is not complete."""
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        self._rest += data
        if self._end is None:
            self._search()

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and are not taken."""
        return len(self._rest)

    @property
    def complete(self) -> bool:
        """Whether the next line is there to its end."""
        return self._end is not None

    @property
    def length(self) -> int:
        """Length of the next line, with its newline, as far as it is known."""
        return len(self._rest) if self._end is None else self._end + 1

    @property
    def too_long(self) -> bool:
        """Whether the next line is too long; the stream cannot be resumed then."""
        return self.length > self.max_bytes or (self._end is None and self.length == self.max_bytes)

    def take(self) -> bytes | None:
        """Return the next line without its newline, or None where none is complete."""
        if self._end is None:
            return None
        line = bytes(self._rest[: self._end])
        del self._rest[: self._end + 1]
        self._searched = 0
        self._search()
        return line

    def drop(self) -> None:
        """Drop what has arrived."""
        self._rest.clear()
        self._end = None
        self._searched = 0

    def _search(self) -> None:
        found = self._rest.find(b"\n", self._searched)
        self._end = found if found >= 0 else None
        self._searched = len(self._rest)


class Connection(Generic[M]):
    """One side of a connection, of either role; `client()` and `server()` make one.

    A client sends requests and receives the greeting, replies, levels and events. A server
    receives requests and numbers the events of its subscriber. What has arrived is read by
    `receive`, all of it at once, or by `feed` and `next`, a message at a time.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.ended = False
        """Whether the peer broke the rules; nothing more is read from it."""
        self.error: DaemonError | None = None
        """For a client, what ended it."""
        self.lines = Lines(MAX_LINE if role == "server" else MAX_REPLY_LINE)
        self._malformed = 0
        self._seq = 0
        self._ids = itertools.count(1)
        self._waiting: dict[Id, type[Reply]] = {}

    @classmethod
    def client(cls) -> Connection[FromServer]:
        """Return the client's side of a connection."""
        return Connection("client")

    @classmethod
    def server(cls) -> Connection[FromClient]:
        """Return the server's side of a connection."""
        return Connection("server")

    def receive(self, data: bytes) -> list[M]:
        """Return the messages that `data` completes.

        A server gets an InvalidRequest for what is wrong; after a fatal one, everything is ignored.
        A client gets `error` raised where no message comes before it.
        """
        self.feed(data)
        received: list[M] = []
        while (message := self.next()) is not None:
            received.append(message)
        if self.error is not None and not received:
            raise self.error
        return received

    def feed(self, data: bytes) -> None:
        """Add what has arrived; after the end it is dropped."""
        if not self.ended:
            self.lines.feed(data)

    def next(self) -> M | None:
        """Return the next message that has arrived, or None.

        What ends the connection sets `ended`, and a client's `error`.
        """
        parse = self._from_client if self.role == "server" else self._from_server
        while not self.ended:
            line = None if self.lines.too_long else self.lines.take()
            if line is None and not self.lines.too_long:
                return None
            try:
                message = cast("M | None", parse(line))
            except DaemonError as error:
                self.ended = True
                self.error = error
                message = None
            if self.ended:
                self.lines.drop()
            if message is not None:
                return message
        return None

    def request(self, command: Request[R]) -> tuple[int, bytes]:
        """Return the new id and the line of a request that a client makes.

        Raises DaemonError where the line is too long, or a number is none: JSON has no word for it,
        and null would mean another request.
        """
        if not _is_finite(command):
            text = f"{type_of(command)}: a number is not finite; give one that is"
            raise DaemonError("bad_request", f"{text}: {command}")
        id = next(self._ids)
        line = _encoder.encode(msgspec.structs.replace(command, id=id)) + b"\n"
        if len(line) > MAX_LINE:
            text = f"{type_of(command)}: the request has {len(line)} bytes, at most {MAX_LINE} fit"
            raise DaemonError("line_too_long", f"{text}; send less at once")
        self._waiting[id] = reply_type(cast("type[Command]", type(command)))
        return id, line

    def number(self, event: bytes) -> bytes:
        """Return an encoded event with the next `seq` of a server's subscriber in front."""
        self._seq += 1
        return with_seq(event, self._seq)

    def _from_client(self, line: bytes | None) -> FromClient | None:
        if line is None:
            self.ended = True
            text = f"a line may have at most {self.lines.max_bytes} bytes; the connection ends"
            return InvalidRequest("line_too_long", text, fatal=True)
        if not line.strip():
            return None
        message = parse_request(line)
        if isinstance(message, InvalidRequest) and message.code == "malformed":
            self._malformed += 1
            if self._malformed >= MAX_MALFORMED:
                self.ended = True
                text = f"{message.message}; the connection ends"
                return InvalidRequest(message.code, text, fatal=True)
        return message

    def _from_server(self, line: bytes | None) -> FromServer | None:
        if line is None:
            raise DaemonError("protocol", f"the daemon sent a line of over {MAX_REPLY_LINE} bytes")
        try:
            return self._parse_message(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"what the daemon sent cannot be read ({error}); restart it after an upgrade"
            raise DaemonError("protocol", text) from error

    def _parse_message(self, line: bytes) -> FromServer | None:
        envelope = msgspec.json.decode(line, type=_Envelope)
        match envelope.type:
            case "hello":
                return _greeting(line)
            case "level":
                return msgspec.json.decode(line, type=Level)
            case "end":
                return End()
            case "reply":
                kind = self._waiting.pop(envelope.id, None)
                if kind is None:
                    return None
                return Received(envelope.id, msgspec.json.decode(line, type=kind))
            case "error":
                self._waiting.pop(envelope.id, None)
                error = msgspec.json.decode(line, type=_Error)
                return Received(envelope.id, DaemonError(error.code, error.message))
            case kind if kind in EVENT_TYPES or kind in LIVE_TYPES:
                try:
                    return (_event_decoder if kind in EVENT_TYPES else _live_decoder)().decode(line)
                except msgspec.ValidationError:
                    return None  # a later daemon of this protocol may know more reasons and states
        return None


def _greeting(line: bytes) -> Greeting:
    """Return the greeting. Raises DaemonError where it is of another protocol."""
    greeting = msgspec.json.decode(line, type=Greeting)
    if greeting.protocol != PROTOCOL:
        raise DaemonError(
            "protocol",
            f"the daemon speaks protocol {greeting.protocol}, this client speaks {PROTOCOL}; "
            "use the daemon and the client of one release of kwsd",
        )
    return greeting


def _is_finite(value: object) -> bool:
    """Return whether all numbers in a request or a part of it are finite."""
    if isinstance(value, Struct):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def encode_greeting(version: str, words: list[str], sample_rate: int) -> bytes:
    """Return the server's first line."""
    greeting = Greeting(protocol=PROTOCOL, version=version, words=words, sample_rate=sample_rate)
    return _encoder.encode(greeting) + b"\n"


def encode_reply(id: Id, reply: Reply) -> bytes:
    """Return a reply as a line. Raises RequestError where it is too long for one."""
    head = _encoder.encode({"type": "reply", "id": id, "ok": True})
    body = reply.json if isinstance(reply, EncodedReply) else _encoder.encode(reply)
    line = (head if body == b"{}" else head[:-1] + b"," + body[1:]) + b"\n"
    if len(line) > MAX_REPLY_LINE:
        text = f"the reply has {len(line)} bytes, and at most {MAX_REPLY_LINE} fit a line"
        raise RequestError("reply_too_long", text)
    return line


def encode_error(code: str, message: str, id: Id = None) -> bytes:
    """Return an error as a line."""
    readable = message.encode(errors="backslashreplace").decode()  # a lone surrogate is not
    body = {"type": "error", "id": id, "ok": False, "code": code, "message": readable}
    return _encoder.encode(body) + b"\n"


def encode_level(level_dbfs: float) -> bytes:
    """Return a level as a line."""
    return _encoder.encode(Level(level_dbfs)) + b"\n"


def encode_end() -> bytes:
    """Return the line that ends the events of a recording."""
    return _encoder.encode(End()) + b"\n"


def encode_event(event: Event, *, details: bool = False) -> bytes:
    """Return an event as a line that is not numbered yet; see `to_dict` for `details`."""
    return _encoder.encode(to_dict(event, details=details)) + b"\n"


def with_seq(event: bytes, seq: int) -> bytes:
    """Return an encoded event with `seq` in front: encoded once, numbered for each subscriber."""
    return b'{"seq":%d,' % seq + event[1:]
