"""The process of the page: its port, its connections within bounds, its link to the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kwsd.bridge_config import WebConfig
from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.service import Service
from kwsd.config import Config, ConfigError
from kwsd.protocol.request import EventType
from kwsd.web import app, links
from kwsd.web.clips import Clips
from kwsd.web.doctor import Doctor
from kwsd.web.guided import Guided
from kwsd.web.improving import Improving
from kwsd.web.live import Live
from kwsd.web.people import People
from kwsd.web.sessions import Sessions
from kwsd.web.thresholds import Thresholds
from kwsd.web.verbs import Verbs
from kwsd.web.words import Words

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 64
"""Connections at the same time, of all browsers; others are answered 503."""
HEAD_S = 10.0
"""Longest time from the connection, or the end of a response, to the end of the next head."""
MAX_HEAD = 1 << 14
"""Bytes of the head of a request."""
STOP_S = 1
BEAT_S = 10.0


class _Connection(H11Protocol):
    """A connection that is closed where its next request takes too long to begin."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """Count the time while no request is answered; more bytes do not begin it again."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        elif not is_answering and self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_S, self._too_slow)

    def _too_slow(self) -> None:
        if not self.transport.is_closing() and self.conn.our_state is not h11.ERROR:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server without its signals, which are `Service`'s, and without its ticks."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def main_loop(self) -> None:
        """Wait until it is to stop."""
        await self.stopping.wait()


class PageServer:
    """The page, for as long as its process lives."""

    def __init__(
        self, config: Config, socket_path: Path | None, config_path: Path | None = None
    ) -> None:
        """`socket_path` is the daemon's, and `config_path` that of the configuration; None is the
        usual one. Raises ConfigError."""
        self._config: WebConfig = config.web
        self._sessions = Sessions(self._config.session_h * 3600)
        self._link = DaemonLink(socket_path, get_args(EventType))
        self._live = Live(self._link)
        where: list[str | Path] = ["--socket", socket_path] if socket_path else []
        where += ["--config", config_path] if config_path else []
        verbs = Verbs(where)
        self._guided = Guided(verbs, self._sessions)
        self._parts: list[app.Part] = [
            Clips(self._link),
            Improving(self._link, verbs),
            Thresholds(self._link),
            Doctor(self._link, verbs),
            self._guided,
            Words(self._link, self._guided),
            People(self._link, self._guided),
        ]
        self._scheme = "https" if self._config.tls_cert else "http"
        _check_tls(self._config)

    async def serve(self, service: Service) -> None:
        """Serve for as long as the task lives. Raises ConfigError, or OSError for the port."""
        with contextlib.closing(self._bound()) as sock:
            port: int = sock.getsockname()[1]
            host = _host(self._config, sock)
            address = f"{self._scheme}://{host}:{port}/"

            def new_link() -> str:
                return f"{address}?token={self._sessions.token()}"

            async with links.served(new_link):
                server = _Server(self._settings(port))
                serving = asyncio.ensure_future(server.serve([sock]))
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._live.run())
                        group.create_task(service.watch(lambda: self._beat(sock)))
                        _say(address if _is_journal() else new_link())
                        service.ready(address)
                        await asyncio.shield(serving)
                finally:
                    self._live.close()
                    await self._guided.close()
                    server.stopping.set()
                    await serving

    def _settings(self, port: int) -> uvicorn.Config:
        settings = uvicorn.Config(
            app.build(self._config, port, self._sessions, self._live, self._parts),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would have the tokens
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_S,
            h11_max_incomplete_event_size=MAX_HEAD,
            ssl_certfile=self._config.tls_cert,
            ssl_keyfile=self._config.tls_key,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # others fill the log
        return settings

    def _bound(self) -> socket.socket:
        """Return a socket that is bound to the address. Raises OSError."""
        host, port = self._config.address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With the protocol named, asyncio turns Nagle's delays off for its connections.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((host, port))
            sock.listen(128)
        except OSError as error:
            sock.close()
            why = f"web.listen: {self._config.listen} cannot be had ({error.strerror or error})"
            raise OSError(f"{why}; stop what uses the port, or set another: ss -ltnp") from error
        return sock

    async def _beat(self, sock: socket.socket) -> None:
        """Return when the page has answered a request of its own."""
        host, port = sock.getsockname()[:2]
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        tls = ssl._create_unverified_context() if self._config.tls_cert else None  # itself
        async with asyncio.timeout(BEAT_S):
            reader, writer = await asyncio.open_connection(here, port, ssl=tls)
            writer.write(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()


def _check_tls(config: WebConfig) -> None:
    """Raise ConfigError where the certificate or its key cannot be used."""
    if config.tls_cert is None or config.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or getattr(error, "reason", None) or error
        text = f"web.tls_cert: {config.tls_cert} with the key {config.tls_key}: {why}"
        raise ConfigError(text) from error


def _host(config: WebConfig, sock: socket.socket) -> str:
    """Return how a browser reaches the page: by a name, or by an address of this machine."""
    if config.names:
        return config.names[0]
    host: str = sock.getsockname()[0]
    if host in ("0.0.0.0", "::"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("192.0.2.1", 9))  # sends nothing: it asks for the way there
            return str(one.getsockname()[0])
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _say(url: str) -> None:
    """Print the first line: where the page is."""
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


def _is_journal() -> bool:
    """Return whether standard output is the journal, where a token would lie for ever."""
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
