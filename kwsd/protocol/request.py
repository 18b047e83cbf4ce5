"""What a request is, and the bounds of its fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, cast, get_args

from msgspec import Meta, Struct

from kwsd.protocol.replies import Reply

MAX_AUDIO_S = 20.0
"""Longest stretch of audio in one message, in seconds: its base64 must fit a line."""

EventType = Literal["wake", "rejected", "microphone", "lag"]
MAX_PAUSE_S = 604_800.0
"""Longest pause that outlives its connection, in seconds: a week."""
MAX_STREAM_S = 3600.0
"""Longest stream, in seconds."""
MAX_EMBEDDING = 1024
"""Numbers of a voice."""
MAX_IDS = 10_000
"""Clips that one request may name."""

Name = Annotated[str, Meta(max_length=256)]
Cursor = Annotated[str, Meta(max_length=256)]
"""The `next` of a page, which asks for the page after it."""
Holder = Annotated[str, Meta(max_length=64)]
"""Who asks for a pause."""
ClipIds = Annotated[list[Name], Meta(max_length=MAX_IDS)]
Sample = Annotated[int, Meta(ge=0, le=2**53)]
Timeout = Annotated[float, Meta(ge=1, le=60)]
RequestId = Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=-(2**53), le=2**53)]
R = TypeVar("R", bound=Reply)


class Request(Struct, Generic[R], frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A request whose reply is an `R`."""

    privileged: ClassVar[bool] = True
    """Whether only root, the daemon's user and the admin group may make it."""
    group_key: ClassVar[str | None] = None
    """Key of `socket` in the configuration that names a group whose members may make it too."""
    changes_state: ClassVar[bool] = False
    """Whether the detector must be configured again after it."""
    id: RequestId | None = None
    """Repeated by the reply; the client sets it."""


def reply_type(kind: type[Request[Any]]) -> type[Reply]:
    """Return the type of the reply to requests of type `kind`."""
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    return cast("type[Reply]", get_args(base)[0])


def type_of(request: Request[Any] | type[Request[Any]]) -> str:
    """Return the `type` that a request, or a type of requests, has on the wire."""
    return cast(str, request.__struct_config__.tag)
