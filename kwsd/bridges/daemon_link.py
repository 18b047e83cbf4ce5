"""The daemon, as a bridge sees it: it may not be there yet, go, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from kwsd.bridges.service import together
from kwsd.client.async_client import AsyncClient, connect_async
from kwsd.client.exchange import RETRY_MAX_S, RETRY_MIN_S
from kwsd.client.streams import AsyncStream
from kwsd.events import Event
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import EventType, Request

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)
REQUEST_S = 5.0
"""Longest time that a request takes, unless it says otherwise."""


async def _stay(client: AsyncClient) -> None:
    """Do nothing while the daemon is there."""


def _ignore(what: Event | str) -> None:
    """Do nothing with an event, or with a reason."""


class DaemonLink:
    """One connection to the daemon, which is made again as often as it takes."""

    def __init__(self, path: Path | None, types: Sequence[EventType] = ()) -> None:
        """`path` is its socket; None is the usual one. Events of these `types` are heard."""
        self._path = path
        self._types = types
        self._client: AsyncClient | None = None
        self._said = ""

    @property
    def is_there(self) -> bool:
        """Whether the daemon is there."""
        return self._client is not None

    async def request(self, command: Request[R], timeout_s: float = REQUEST_S) -> R:
        """Return the daemon's reply. Raises DaemonError, also where it is away."""
        if self._client is None:
            raise _away()
        async with _answered_within(timeout_s):
            return await self._client.request(command)

    async def request_apart(self, command: Request[R], timeout_s: float) -> R:
        """Return the reply to a request that takes a while, by a connection of its own.

        No other request waits for it, and it ends with the task. Raises DaemonError.
        """
        if self._client is None:
            raise _away()
        async with _answered_within(timeout_s), await connect_async(self._path) as client:
            return await client.request(command)

    async def stream(self, start: int, *, silence_s: float, max_s: float) -> AsyncStream:
        """Return a stream of the audio from a sample on, as `Client.stream` does.

        Raises DaemonError, also where the daemon is away.
        """
        if self._client is None:
            raise _away()
        async with _answered_within(REQUEST_S):
            return await self._client.stream(start, silence_s=silence_s, max_s=max_s)

    async def run(
        self,
        came: Callable[[AsyncClient], Awaitable[None]] = _stay,
        heard: Callable[[Event], None] = _ignore,
        went: Callable[[], None] = lambda: None,
        could_not: Callable[[str], None] = _ignore,
    ) -> NoReturn:
        """Stay connected for as long as the task lives.

        Each time that the daemon is there, `came` is called, and may go on for as long as it is; a
        DaemonError of it ends the connection. `heard` is called with each event, and `went` when
        the daemon is lost. `could_not` is called with why it cannot be reached; that is logged once
        for each reason.
        """
        pause_s = RETRY_MIN_S
        while True:
            try:
                async with await connect_async(self._path) as client:
                    pause_s = RETRY_MIN_S
                    self._client = client
                    self._say(f"connected to kwsd {client.greeting.version} at {client.path}")
                    await self._stay_connected(client, came, heard)
            except DaemonError as error:
                self._say(f"{error}; trying again until it is there")
                if self._client is None:
                    could_not(str(error))
            finally:
                if self._client is not None:
                    self._client = None
                    went()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _stay_connected(
        self,
        client: AsyncClient,
        came: Callable[[AsyncClient], Awaitable[None]],
        heard: Callable[[Event], None],
    ) -> None:
        """Stay until something fails. Raises DaemonError, and what `came` raises."""

        async def listen() -> None:
            async for event in client.events(types=list(self._types)):
                heard(event)
            raise DaemonError("closed", "the recording that the daemon listens to has ended")

        async def begin() -> None:
            await came(client)

        await together(listen(), begin())

    def _say(self, text: str) -> None:
        if text != self._said:
            log.info("%s", text)
        self._said = text


def _away() -> DaemonError:
    return DaemonError("unreachable", "the daemon is away")


@contextlib.asynccontextmanager
async def _answered_within(timeout_s: float) -> AsyncIterator[None]:
    """Wait no longer for an answer. Raises DaemonError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        text = f"the daemon has not answered within {timeout_s:g} s"
        raise DaemonError("timeout", text) from None
