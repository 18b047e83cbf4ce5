"""The paths of the page, behind the gate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from kwsd.bridge_config import WebConfig
from kwsd.protocol.errors import RequestError
from kwsd.web.answers import failed, refused
from kwsd.web.gate import Gate
from kwsd.web.live import Live
from kwsd.web.sessions import Sessions
from kwsd.web.static_files import StaticFiles

Endpoint = Callable[[Request], Awaitable[Response]]


class Part(Protocol):
    """A part of the page with its paths."""

    routes: list[Route]


def build(
    config: WebConfig, port: int, sessions: Sessions, live: Live, parts: Sequence[Part]
) -> Gate:
    """Return the application (ASGI), whose `parts` bring their own paths."""
    files = StaticFiles()

    async def watch(request: Request) -> Response:
        """Stream what is heard, for as long as the page is open and its session lasts."""
        secret: str = request.scope["session_secret"]
        stream = live.stream(lambda: sessions.admits(secret))
        return StreamingResponse(stream, media_type="text/event-stream")

    async def session(request: Request) -> Response:
        """Say that there is a session, or end that of the browser that asks."""
        if request.method != "DELETE":
            return Response(status_code=204)
        sessions.end(request.scope["session_secret"])
        response = Response(status_code=204)
        response.delete_cookie(gate.cookie, httponly=True, samesite="strict")
        return response

    routes = [
        *(Route(path, files.answer) for path in files.files),
        Route("/api/live", watch),
        Route("/api/session", session, methods=["GET", "DELETE"]),
        *(route for part in parts for route in part.routes),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={RequestError: refused, HTTPException: failed},
    )
    app.router.redirect_slashes = False
    gate = Gate(app, sessions, config, port)
    return gate
