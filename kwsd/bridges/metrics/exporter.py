"""The exporter: events are counted, and the status is asked for when somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.bridges.metrics.figures import PLAIN, Figures, preferred
from kwsd.bridges.metrics.http import Server
from kwsd.bridges.service import Service
from kwsd.client.async_client import AsyncClient
from kwsd.config import Config
from kwsd.protocol.commands import Status
from kwsd.protocol.errors import DaemonError
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
PAGE = "/metrics"
FRESH_S = 1.0
"""Figures that are no older are given again: the daemon is not asked more often."""
STATUS_S = 2.0
"""Longest time that the daemon has for its status."""
READABLE = 0o644
"""Mode of the text file."""


class Exporter:
    """The figures of one daemon, for whoever looks."""

    def __init__(self, config: Config, socket_path: Path | None) -> None:
        self._config = config.metrics
        self._link = DaemonLink(socket_path, ["wake", "rejected", "microphone", "lag"])
        self._figures = Figures()
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._texts: dict[str, tuple[bytes, str]] = {}
        self._failing = Seldom(log)

    async def serve(self, service: Service) -> None:
        """Serve for as long as the task lives. Raises OSError for what cannot be had."""
        path = Path(self._config.textfile) if self._config.textfile else None
        async with contextlib.AsyncExitStack() as stack:
            address = self._config.address()
            if address:
                server = Server(PAGE, self._page, *address)
                try:
                    await stack.enter_async_context(server.listening())
                except OSError as error:
                    raise OSError(f"metrics.listen: {error}") from error
            if path is not None:
                stack.enter_context(_removed(path))
                await self._write(path)
            page = f"http://{self._config.listen}{PAGE}" if address else None
            where = " and ".join(str(part) for part in (page, path) if part)
            service.ready(where)
            log.info("figures at %s", where)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._link.run(self._came, self._figures.count, self._went))
                group.create_task(service.watch(self._look))
                if path is not None:
                    group.create_task(self._keep_writing(path))

    async def _came(self, client: AsyncClient) -> None:
        self._looked_at = None
        await self._look()

    def _went(self) -> None:
        self._looked_at = None
        self._figures.show(None)

    async def _look(self) -> None:
        """Ask the daemon for its status, unless that was done just now."""
        async with self._looking:
            if self._looked_at and time.monotonic() - self._looked_at < FRESH_S:
                return
            status = None
            if self._link.is_there:
                try:
                    status = await self._link.request(Status(), STATUS_S)
                except DaemonError as error:
                    self._failing("%s", error)
            self._figures.show(status)
            self._looked_at = time.monotonic()
            self._texts.clear()

    async def _page(self, accept: str) -> tuple[bytes, str]:
        """Return the figures in the format that is wanted."""
        await self._look()
        kind = preferred(accept)
        if kind not in self._texts:
            self._texts[kind] = self._figures.text(kind)
        return self._texts[kind]

    async def _write(self, path: Path) -> None:
        """Replace the text file at once. Raises OSError."""
        body, _ = await self._page(PLAIN)
        try:
            _replace(path, body)
        except OSError as error:
            why = f"metrics.textfile: cannot write {path} ({error.strerror})"
            raise OSError(f"{why}; its folder must belong to this user or its group") from error

    async def _keep_writing(self, path: Path) -> None:
        while True:
            await asyncio.sleep(self._config.interval_s)
            try:
                await self._write(path)
            except OSError as error:
                self._failing("%s", error)


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all; a collector reads only what ends with
    its suffix, so not the partial one. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(partial, flags, READABLE), "wb") as out:
            os.fchmod(out.fileno(), READABLE)  # whatever the umask
            out.write(data)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove the file in the end: nobody reads figures that are no longer true."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
