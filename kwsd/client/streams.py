"""Streams of audio from the daemon, as both clients give them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from kwsd.client.exchange import Exchange
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.live import StreamAudio, StreamEnd
from kwsd.protocol.replies import StreamReply


class _Received:
    """What has come of one stream."""

    def __init__(self, exchange: Exchange, reply: StreamReply) -> None:
        self.number = reply.stream
        """Its number."""
        self.start = reply.start
        """Its first sample: later than the one that was asked for where that is no longer kept."""
        self.end: StreamEnd | None = None
        """How it has ended; None before."""
        self._exchange = exchange

    def _next(self) -> StreamAudio | None:
        """Return the next message that has come; None where there is none, or after the end."""
        message = self._exchange.next_of(self.number)
        if isinstance(message, StreamEnd):
            self.end = message
            self._exchange.forget_stream(self.number)
            return None
        return message


class Stream(_Received):
    """A stream of audio, blocking: iterate over its messages, up to its end.

    Use it as a context manager, so that a stream that is left early is stopped.
    """

    def __init__(
        self,
        exchange: Exchange,
        reply: StreamReply,
        receive: Callable[[], None],
        stop: Callable[[int], None],
    ) -> None:
        """`receive` waits for more from the daemon; `stop` ends the stream with a number."""
        super().__init__(exchange, reply)
        self._receive = receive
        self._stop = stop

    def __iter__(self) -> Iterator[StreamAudio]:
        """Yield the messages as they come. Raises DaemonError."""
        while True:
            while (message := self._next()) is not None:
                yield message
            if self.end is not None:
                return
            self._receive()

    def stop(self) -> None:
        """End it; what has come meanwhile can still be read. Raises DaemonError."""
        if self.end is None:
            self._stop(self.number)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        # After another error, the connection may be what has failed.
        with contextlib.suppress(*(() if kind is None else (DaemonError, OSError))):
            self.stop()
            for _ in self:
                pass


class AsyncStream(_Received):
    """A stream of audio for asyncio; all is as with `Stream`."""

    def __init__(
        self,
        exchange: Exchange,
        reply: StreamReply,
        receive: Callable[[], Awaitable[None]],
        stop: Callable[[int], Awaitable[None]],
    ) -> None:
        super().__init__(exchange, reply)
        self._receive = receive
        self._stop = stop

    async def __aiter__(self) -> AsyncIterator[StreamAudio]:
        """Yield the messages as they come. Raises DaemonError."""
        while True:
            while (message := self._next()) is not None:
                yield message
            if self.end is not None:
                return
            await self._receive()

    async def stop(self) -> None:
        """End it; what has come meanwhile can still be read. Raises DaemonError."""
        if self.end is None:
            await self._stop(self.number)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        with contextlib.suppress(*(() if kind is None else (DaemonError, OSError))):
            await self.stop()
            async for _ in self:
                pass
