"""As much of HTTP as a scrape needs, within bounds: one GET a connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
MAX_HEAD = 1 << 13
"""Bytes of a request's line and headers together."""
MAX_CLIENTS = 16
"""Connections at the same time; more are turned away."""
ANSWER_S = 10.0
"""Longest time for a request to be there, and for its answer to be read."""
LINGER_S = 1.0
"""Longest time for which what comes after a request is taken in."""
MOST_LEFT = 1 << 22
"""Bytes of it at most."""


class Request(NamedTuple):
    """What was asked for."""

    method: str
    path: str
    accept: str


class Refused(ValueError):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class Server:
    """Answers GET and HEAD of one page."""

    def __init__(
        self, path: str, answer: Callable[[str], Awaitable[tuple[bytes, str]]], host: str, port: int
    ) -> None:
        """`answer` returns body and content type for the header `Accept` of a request."""
        self._path = path
        self._answer = answer
        self._where = (host, port)
        self._clients = 0
        self._odd = Seldom(log, logging.INFO)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen. Raises OSError where the port cannot be had."""
        host, port = self._where
        hosts = ["::", "0.0.0.0"] if host == "::" else [host]
        try:
            server = await asyncio.start_server(self._accept, hosts, port, limit=MAX_HEAD)
        except OSError as error:
            why = f"{host}:{port} cannot be had ({error.strerror or error})"
            raise OSError(f"{why}; stop what uses the port, or set another: ss -ltnp") from error
        try:
            yield
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._serve(reader, writer)
                if self._clients <= MAX_CLIENTS:
                    await _linger(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # who hangs up, or does neither write nor read, has no answer
        finally:
            writer.transport.abort()
            self._clients -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._clients > MAX_CLIENTS:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE)
            request = await _read(reader)
            body, kind = await self._page(request)
        except Refused as error:
            self._odd("%s: %s", writer.get_extra_info("peername"), error.status.phrase)
            writer.write(_response(error.status, f"{error.status.phrase}\n".encode()))
            await writer.drain()
            return
        response = _response(HTTPStatus.OK, body, kind, head_only=request.method == "HEAD")
        writer.write(response)
        await writer.drain()

    async def _page(self, request: Request) -> tuple[bytes, str]:
        if request.method not in ("GET", "HEAD"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path != self._path:
            raise Refused(HTTPStatus.NOT_FOUND)
        return await self._answer(request.accept)


async def _read(reader: asyncio.StreamReader) -> Request:
    """Return the request. Raises Refused for what is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[0].isascii():
        raise Refused(HTTPStatus.BAD_REQUEST)
    headers = [line.partition(":") for line in lines]
    accepts = [value.strip() for name, _, value in headers if name.strip().lower() == "accept"]
    return Request(words[0], words[1].partition("?")[0], ",".join(accepts))


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take in what still comes, within bounds: to close before would reset the connection, and the
    answer might be lost (RFC 9112, section 9.6)."""
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            left = MOST_LEFT
            while left > 0 and (part := await reader.read(MAX_HEAD)):
                left -= len(part)


def _response(
    status: HTTPStatus,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    *,
    head_only: bool = False,
) -> bytes:
    allow = ["Allow: GET, HEAD"] if status == HTTPStatus.METHOD_NOT_ALLOWED else []
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *allow,
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else body)
