"""The client of the daemon for asyncio; all is as with `kwsd.client.client`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from kwsd.client.exchange import (
    GREETING_TIMEOUT_S,
    READ_BYTES,
    Exchange,
    Gap,
    Reconnection,
    closed_error,
    find_socket,
    is_lost,
    subscription_to,
    unreachable,
)
from kwsd.client.streams import AsyncStream
from kwsd.events import Event, Wake
from kwsd.protocol import commands
from kwsd.protocol.commands import Subscribe
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.live import RunningScores
from kwsd.protocol.messages import Greeting
from kwsd.protocol.paging import following, joined
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import EventType, Request

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)


class AsyncClient:
    """A connection to the daemon for asyncio; `connect_async` makes one.

    async with await connect_async() as daemon:
        async for event in daemon:
            ...

    Requests may be made while another task waits for events, and given up (cancelled).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.greeting: Greeting
        """The daemon's versions, words and sample rate."""
        self._closed = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._exchange: Exchange
        self._is_reading = False
        self._waiting: list[asyncio.Future[None]] = []

    async def connect(self) -> None:
        """Connect, or connect again. Raises DaemonError."""
        import asyncio  # takes longer than all the rest, and only this client needs it

        self._exchange = Exchange()
        self._is_reading = False
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(str(self.path))
        except OSError as error:
            raise unreachable(self.path, error) from error
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                while (greeting := self._exchange.greeted(self.path)) is None:
                    await self._receive()
        except OSError as error:
            self._writer.close()
            raise unreachable(self.path, error) from error
        except BaseException:
            self._writer.close()
            raise
        self.greeting = greeting

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        self._writer.close()

    async def request(self, command: Request[R]) -> R:
        """Send a request and return its reply, with all its pages. Raises DaemonError."""
        pages = [await self._request(command)]
        while after := following(command, pages[-1]):
            pages.append(await self._request(after))
        return joined(pages)

    async def _request(self, command: Request[R]) -> R:
        import asyncio

        exchange = self._exchange
        id, line = exchange.send(command)
        try:
            self._writer.write(line)
            await self._writer.drain()
            while (reply := exchange.reply(id)) is None:
                await self._receive()
                exchange.levels.clear()
        except OSError as error:
            raise closed_error(error) from error
        except asyncio.CancelledError:
            exchange.forget(id)
            raise
        return cast(R, reply)

    async def stream(
        self,
        start: int | None = None,
        *,
        pre_roll_s: float | None = None,
        silence_s: float = 0.8,
        max_s: float = 15.0,
    ) -> AsyncStream:
        """Return a stream of the audio; all is as with `Client.stream`."""
        command = commands.Stream(
            start=start, pre_roll_s=pre_roll_s, silence_s=silence_s, max_s=max_s
        )
        reply = await self.request(command)
        return AsyncStream(self._exchange, reply, self._receive_live, self._stop_stream)

    async def scores(self, interval_s: float = 0.08) -> AsyncGenerator[RunningScores, None]:
        """Ask for the running scores, and yield them as they come; `aclose` ends them.

        Raises DaemonError.
        """
        await self.request(commands.Scores(interval_s=interval_s))
        exchange = self._exchange
        try:
            while True:
                while exchange.scores:
                    yield exchange.scores.popleft()
                await self._receive_live()
        except GeneratorExit:
            with contextlib.suppress(DaemonError, OSError):  # it may be closed
                await self.request(commands.ScoresStop())
            raise

    async def _stop_stream(self, number: int) -> None:
        await self.request(commands.StreamStop(stream=number))

    async def _receive_live(self) -> None:
        """Wait for more from the daemon. Raises DaemonError."""
        try:
            await self._receive()
        except OSError as error:
            raise closed_error(error) from error

    @overload
    def events(
        self,
        types: Sequence[Literal["wake"]],
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncIterator[Wake]: ...
    @overload
    def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncIterator[Event]: ...
    async def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncIterator[Event]:
        """Subscribe, and yield the events as they come; all is as with `Client.events`."""
        import asyncio

        subscription = subscription_to(types, words, details)
        await self.request(subscription)
        seq = None
        while True:
            try:
                async for event in self._events_of_connection():
                    seq = event.seq
                    yield event
                return
            except DaemonError as error:
                if self._closed:
                    return
                if not (reconnect and is_lost(error)):
                    raise
                back = Reconnection(error, seq)
            while not await self._returned(subscription):
                await asyncio.sleep(back.pause_s())
                if self._closed:
                    return
            if self._closed:  # while it connected
                self._writer.close()
                return
            seq = None
            if on_gap:
                on_gap(back.gap())

    async def _events_of_connection(self) -> AsyncIterator[Event]:
        exchange = self._exchange
        while True:
            while exchange.events:
                yield exchange.events.popleft()
            if exchange.ended:
                return
            try:
                await self._receive()
            except OSError as error:
                raise closed_error(error) from error

    async def _returned(self, subscription: Subscribe) -> bool:
        self._writer.close()
        try:
            await self.connect()
            await self._request(subscription)
        except DaemonError as error:
            if not is_lost(error):
                raise
            return False
        return True

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def _receive(self) -> None:
        """Wait until one of the tasks that wait here has read more, which may be for any of them.

        The caller has just found that what it waits for is not there.
        """
        import asyncio

        if self._is_reading:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(arrived)
            await arrived
            return
        self._is_reading = True
        try:
            self._exchange.check()
            self._exchange.receive(await self._reader.read(READ_BYTES))
        finally:
            self._is_reading = False
            waiting, self._waiting = self._waiting, []
            for arrived in waiting:
                if not arrived.done():
                    arrived.set_result(None)


async def connect_async(path: Path | str | None = None) -> AsyncClient:
    """Connect to the daemon, at `path` or its usual socket. Raises DaemonError."""
    client = AsyncClient(Path(path) if path is not None else find_socket())
    await client.connect()
    return client
