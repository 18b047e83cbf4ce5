"""JSON answers, and bodies of requests within bounds."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kwsd.protocol.errors import RequestError

T = TypeVar("T")
Text = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")]
"""Text that may become an argument of a verb."""
MAX_JSON = 1 << 18
"""Bytes of a body of JSON: the ids of ten thousand clips."""
BODY_S = 20.0
"""Longest time in which a body comes."""
STATUS = {
    "permission_denied": 403,
    "no_clip": 404,
    "no_take": 404,
    "no_speaker": 404,
    "no_session": 409,
    "unknown_word": 404,
    "unreachable": 503,
    "closed": 503,
    "timeout": 504,
    "busy": 503,
    "internal": 502,
    "protocol": 502,
}
"""The HTTP status of an error's code; any other is 422: the daemon has refused it."""

_encoder = msgspec.json.Encoder()


def answer(value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(_encoder.encode(value), status, media_type="application/json")


async def refused(_: Request, error: Exception) -> Response:
    """Return why the daemon has refused what the page asked for, or is away."""
    assert isinstance(error, RequestError)
    body = {"code": error.code, "message": str(error)}
    return answer(body, STATUS.get(error.code, 422))


async def failed(_: Request, error: Exception) -> Response:
    """Return why a request is none of this page's."""
    assert isinstance(error, HTTPException)
    body = {"code": "bad_request", "message": error.detail}
    response = answer(body, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def body(request: Request, most: int, seconds: float = BODY_S) -> bytes:
    """Return the body of a request. Raises HTTPException where it is too long, or too slow."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise HTTPException(413, f"at most {most:,} bytes can be sent at once")
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise HTTPException(413, f"at most {most:,} bytes can be sent at once")
    except TimeoutError:
        raise HTTPException(408, f"the request did not come within {seconds:g} s") from None
    return bytes(data)


async def json_body(request: Request, kind: type[T]) -> T:
    """Return the body of a request, JSON of a `kind`. Raises HTTPException."""
    data = await body(request, MAX_JSON)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise HTTPException(400, str(error)) from None
    except RecursionError:
        raise HTTPException(400, "the JSON is nested too deeply") from None
