"""The gate before every path: where a request came from, and whose it is.

In this order: the Host (a name that somebody else's DNS leads here is refused), the Origin (what
another site's page sends is refused), the token of a link, the session. What is refused uses no
token up. Every response has the headers that keep the page to itself.
"""

from __future__ import annotations

import base64
import hashlib
import html
import ipaddress
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response

from kwsd.bridge_config import WebConfig
from kwsd.web.sessions import Sessions, TooManyTries, WrongToken

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SAFE = ("GET", "HEAD")
"""Methods that change nothing."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
"""Of every response that does not set them itself."""
STYLE = (
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:18vh auto 0;padding:0 1.5rem;"
    "color-scheme:light dark}h1{font-size:1.3rem}code{font-size:1.05em}"
)
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PLAIN_CSP = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; frame-ancestors 'none'"
"""Of the pages for those who may not see anything else: one style, nothing besides."""
LINK_HELP = "<p>On the machine where it runs, <code>kwsd web link</code> prints a link.</p>"


class Gate:
    """Lets those requests through to the app that a session of this page has made."""

    def __init__(self, app: App, sessions: Sessions, config: WebConfig, port: int) -> None:
        """`port` tells the cookies of several pages apart."""
        self._app = app
        self._sessions = sessions
        self._names = {"localhost", *(name.lower().rstrip(".") for name in config.names)}
        self._here_only = config.is_loopback()
        self.cookie = f"kwsd-{port}"
        """Name of the session's cookie."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
            await send(message)

        refusal = self.refusal(scope["method"], scope["scheme"], headers)
        response = refusal or self._token_answer(scope, headers)
        if response is None:
            secret = self.secret(headers)
            if self._sessions.admits(secret):
                scope["session_secret"] = secret
                await self._app(scope, receive, send_with_headers)
                return
            response = page(401, "This page is private", LINK_HELP)
        await response(scope, receive, send_with_headers)

    def secret(self, headers: Headers) -> str:
        """Return the secret of the session that a request claims to be of, or nothing."""
        return cookie_parser(headers.get("cookie", "")).get(self.cookie, "")

    def refusal(self, method: str, scheme: str, headers: Headers) -> Response | None:
        """Return what answers a request that comes from somewhere else than the page."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_good(host):
            shown = html.escape(host[:80])
            fix = f"<p>To reach it by this name, add it to <code>web.names</code>: {shown}</p>"
            return page(421, "The page is not known by this name", fix)
        if "content-length" in headers and "transfer-encoding" in headers:
            response = page(400, "This request has two lengths", "")  # a proxy may see two requests
            response.headers["connection"] = "close"
            return response
        origins = headers.getlist("origin")
        own = f"{scheme}://{host}".lower()
        if any(origin.lower() != own for origin in origins) or (
            method not in SAFE and len(origins) != 1
        ):
            return page(403, "This request comes from another site", "")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            headers.get("sec-fetch-mode") != "navigate"
            or headers.get("sec-fetch-dest", "document") != "document"  # a frame, which nobody sees
            or method not in SAFE
        ):
            return page(403, "This request comes from another site", "")
        return None

    def _is_good(self, host: str) -> bool:
        """Return whether a Host can only mean this machine.

        An address can: what attacks by DNS needs a name. Any port is good: a tunnel has its own.
        """
        name = _name_of(host)
        if name is None or name in self._names:
            return name is not None
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._here_only

    def _token_answer(self, scope: MutableMapping[str, Any], headers: Headers) -> Response | None:
        """Return what answers a link: a session, where its token is good."""
        if scope["path"] != "/" or scope["method"] != "GET" or not scope["query_string"]:
            return None
        tokens = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("token")
        if not tokens:
            return None
        client = scope.get("client")
        try:
            secret = self._sessions.redeem(tokens[-1], _network(client[0] if client else ""))
        except WrongToken:
            if self._sessions.admits(self.secret(headers)):
                return entered()  # the link of this very session, opened again
            return page(401, "This link was used, or is too old", LINK_HELP)
        except TooManyTries as error:
            wait_s = math.ceil(error.wait_s)
            text = f"<p>Try again in {wait_s} s.</p>"
            response = page(429, "Too many wrong links", text)
            response.headers["retry-after"] = str(wait_s)
            return response
        response = entered()
        response.set_cookie(
            self.cookie,
            secret,
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return response


def page(status: int, title: str, body: str) -> Response:
    """Return a short page of HTML."""
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>kwsd</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{title}</h1>{body}</html>"
    )
    return HTMLResponse(text, status, {"content-security-policy": PLAIN_CSP})


def entered() -> Response:
    """Return a page that leads to the page.

    It is no redirect: a browser that followed a link of another site would send no cookie of the
    same site along, and the token would stay in its history.
    """
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>kwsd</title>"
        "<meta http-equiv=refresh content='0;url=/'><p><a href='/'>kwsd</a></html>"
    )
    return HTMLResponse(text, 200, {"content-security-policy": PLAIN_CSP})


def _name_of(host: str) -> str | None:
    """Return the name or the address of a Host header without its port, or None."""
    name, _, port = host.rpartition(":")
    if host.endswith("]") or not name:
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1]
    return None if ":" in name else name.lower().rstrip(".")


def _network(address: str) -> str:
    """Return what counts as one address: of IPv6 its network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
