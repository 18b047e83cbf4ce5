"""`kwsd wyoming` in a process of its own, for tests that are its clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from bridge_process import BridgeProcess, free_port
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

T = TypeVar("T")


class Service(BridgeProcess):
    """`kwsd wyoming`, on a port of its own."""

    def __init__(self, folder: Path, config: str = "", *arguments: str) -> None:
        self.port = free_port()
        uri = f"tcp://127.0.0.1:{self.port}"
        super().__init__(folder, "wyoming", config, "--uri", uri, *arguments)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncTcpClient]:
        """Connect the library's client."""
        async with AsyncTcpClient("127.0.0.1", self.port) as client:
            yield client


def run(steps: Coroutine[Any, Any, T]) -> T:
    """Run steps that take a minute at most."""
    return asyncio.run(asyncio.wait_for(steps, 60))


async def read(client: AsyncTcpClient) -> Event:
    """Return the next event, within 20 s."""
    event = await asyncio.wait_for(client.read_event(), 20)
    assert event is not None, "the connection has ended"
    return event


async def throw(port: int, data: bytes) -> None:
    """Send bytes to a port, and read what comes until the service hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(OSError):  # it has hung up
            writer.write(data)
            writer.write_eof()
            while await reader.read(1 << 16):
                pass
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
