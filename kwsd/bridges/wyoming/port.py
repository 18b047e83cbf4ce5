"""The port of a service: who is let in, who is noticed to be gone, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, Protocol, TypeVar

from kwsd.bridge_config import SatelliteConfig, WyomingConfig
from kwsd.bridges.wyoming.frames import MAX_LINE

LINGER_S = 1.0
"""Longest time for what was written last to be read."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A client that has lost its power is noticed after two minutes."""
SILENT_S = 60.0
"""A client that has sent nothing for so long makes room where others find no place."""
C = TypeVar("C", bound="Client")
Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client(Protocol):
    """Somebody who is connected."""

    heard_at: float
    """When a frame came last, by the monotonic clock."""


class Places(Generic[C]):
    """The clients of a service: no more than it has places for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._tasks: dict[C, asyncio.Task[None]] = {}

    @contextlib.contextmanager
    def taken(self, client: C) -> Iterator[bool]:
        """Give a client a place for as long as it is entered; yield whether there was one.

        The client that has been silent for longest makes room, if it has been for a while.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self.most:
            silent = min(self._tasks, key=lambda client: client.heard_at)
            if time.monotonic() - silent.heard_at < SILENT_S:
                yield False
                return
            self.dismiss(silent)
        self._tasks[client] = task
        try:
            yield True
        finally:
            self._tasks.pop(client, None)

    def dismiss(self, client: C) -> None:
        """End the connection of a client."""
        if task := self._tasks.pop(client, None):
            task.cancel()


@contextlib.asynccontextmanager
async def listening(
    config: WyomingConfig | SatelliteConfig, key: str, accept: Accept
) -> AsyncIterator[None]:
    """Listen for as long as it is entered; `accept` is called with each connection.

    `key` names the section of the configuration. Raises OSError where the port cannot be had.
    """
    host, port = config.address()
    hosts = ["::", "0.0.0.0"] if host == "::" else [host]
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            keep_alive(writer)
            await accept(reader, writer)
        except asyncio.CancelledError:  # it made room, or the service stops
            pass
        finally:
            tasks.discard(task)
            await close(writer)

    try:
        server = await asyncio.start_server(accepted, hosts, port, limit=MAX_LINE)
    except OSError as error:
        why = f"{key}.uri: {config.uri} cannot be had ({error.strerror or error})"
        raise OSError(f"{why}; stop what uses the port, or set another: ss -ltnp") from error
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Let the kernel look whether the other end is there."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what it leaves unread is dropped soon."""
    try:
        writer.close()
        async with asyncio.timeout(LINGER_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
