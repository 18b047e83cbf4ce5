"""The client: what an application uses to hear of wakes.

    with kwsd.connect() as daemon:
        for event in daemon.events(types=["wake"]):
            print(event.word)

`connect()` blocks; `connect_async()` is the same for asyncio. Neither loads numpy or a model. A
daemon that goes is a DaemonError; `events(reconnect=True)` waits until it is back.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from msgspec import Struct

from kwsd.config import user_directory, why_unsafe
from kwsd.events import Event, Wake
from kwsd.protocol.commands import EventType, Request, Subscribe, type_of
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.protocol.messages import Connection, End, FromServer, Greeting, Level, Received
from kwsd.protocol.paging import following, joined
from kwsd.protocol.parsing import Id
from kwsd.protocol.replies import Reply

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)
READ_BYTES = 1 << 16
GREETING_TIMEOUT_S = 10.0
RETRY_MIN_S = 0.25
"""First pause before a daemon that was lost is tried again; pauses double."""
RETRY_MAX_S = 5.0


def find_socket() -> Path:
    """Return the daemon's socket.

    It is `$KWSD_SOCKET`, else that of the user's own daemon where there is one, else the system's.
    """
    if named := os.environ.get("KWSD_SOCKET"):
        return Path(named)
    folder = user_directory()
    own = folder / "kwsd.sock"
    # In a folder of somebody else's, something else than the user's daemon may answer.
    return own if not why_unsafe(folder) and own.exists() else Path("/run/kwsd/kwsd.sock")


def _unreachable(path: Path, error: OSError) -> DaemonError:
    why = {
        FileNotFoundError: (
            "no daemon runs there; start it with `kwsd run` or `systemctl start kwsd`"
        ),
        ConnectionRefusedError: (
            "the daemon that made it is gone; start it again"
            if isinstance(error, ConnectionRefusedError) and path.is_socket()
            else "is not a socket; name the daemon's socket"
        ),
        TimeoutError: "something holds it, and does not answer; restart the daemon",
        PermissionError: (
            "you may not connect; join the socket's group (`sudo usermod -aG kwsd $USER`), "
            "then log in again"
        ),
    }.get(type(error), str(error))
    return DaemonError("unreachable", f"{path}: {why}")


class _Exchange:
    """Requests and their replies, with no I/O: what both clients share."""

    def __init__(self) -> None:
        self.greeting: Greeting | None = None
        self.events: deque[Event] = deque()
        self.levels: deque[float] = deque()
        self.ended = False
        """Whether the recording that the daemon listens to has ended."""
        self._connection: Connection[FromServer] = Connection.client()
        self._replies: dict[Id, Reply | RequestError] = {}

    def send(self, command: Request[R]) -> tuple[int, bytes]:
        """Return the id and the line of a request. Raises DaemonError where it is too long."""
        return self._connection.request(command)

    def check(self) -> None:
        """Raise the DaemonError that ended the connection: no more can come."""
        if self._connection.error is not None:
            raise self._connection.error

    def receive(self, data: bytes) -> None:
        """Process what the daemon sent. Raises DaemonError."""
        if not data:
            raise DaemonError("closed", "the daemon has closed the connection")
        for message in self._connection.receive(data):
            match message:
                case Greeting():
                    self.greeting = message
                case Received():
                    self._replies[message.id] = message.reply
                case Level():
                    self.levels.append(message.level_dbfs)
                case End():
                    self.ended = True
                case _:
                    self.events.append(message)

    def greeted(self, path: Path) -> Greeting | None:
        """Return the greeting, once it is there. Raises DaemonError for another first message."""
        if self.greeting is None and (refusal := self._replies.get(None)):
            assert isinstance(refusal, RequestError)
            raise refusal
        if self.greeting is None and (self.events or self.levels):
            raise DaemonError("protocol", f"{path}: something other than kwsd answers there")
        return self.greeting

    def reply(self, id: int) -> Reply | None:
        """Return the reply to the request `id`, once it is there. Raises DaemonError."""
        found = self._replies.pop(id, None) or self._replies.pop(None, None)
        if isinstance(found, RequestError):
            raise found
        return found


class Gap(Struct, frozen=True, tag="gap"):
    """A time in which events were missed, between the loss of the daemon and its return."""

    seconds: float
    """How long nobody listened."""
    last_seq: int | None
    """The `seq` of the last event before it; None where there was none."""
    next_seq: int = 1
    """The `seq` of the first event after it: numbers begin again."""


class _Return:
    """The way back to a daemon that was lost: how long to wait, and what was missed."""

    def __init__(self, error: DaemonError, last_seq: int | None) -> None:
        log.warning("%s; trying to reach it again", error)
        self._lost_at = time.monotonic()
        self._last_seq = last_seq
        self._pause_s = RETRY_MIN_S

    def pause_s(self) -> float:
        """Return how long to wait before the next try."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, RETRY_MAX_S)
        return pause_s

    def gap(self) -> Gap:
        """Return what was missed, now that events come again."""
        return Gap(round(time.monotonic() - self._lost_at, 3), self._last_seq)


def _is_lost(error: DaemonError) -> bool:
    """Return whether the daemon may be back soon."""
    return error.code in ("closed", "unreachable", "timeout", "busy")


class Client:
    """A connection to the daemon, blocking. Use it as a context manager."""

    def __init__(self, path: Path | str | None = None, timeout_s: float | None = 90.0) -> None:
        """`timeout_s` is how long a reply may take. Raises DaemonError where no daemon answers."""
        self.path = Path(path) if path is not None else find_socket()
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._connect()

    def _connect(self) -> None:
        self._exchange = _Exchange()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(GREETING_TIMEOUT_S)
            self._socket.connect(str(self.path))
            while (greeting := self._exchange.greeted(self.path)) is None:
                self._receive()
        except OSError as error:
            self._socket.close()
            raise _unreachable(self.path, error) from error
        except DaemonError:
            self._socket.close()
            raise
        self.greeting = greeting
        """The daemon's versions, words and sample rate."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a thread that waits for an event sees the end of them."""
        self._closed.set()
        with contextlib.suppress(OSError):  # the daemon may have hung up first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def request(
        self,
        command: Request[R],
        *,
        fd: int | None = None,
        on_level: Callable[[float], None] | None = None,
    ) -> R:
        """Send a request and return its reply, with all its pages; events that arrive meanwhile
        are kept.

        `fd` is passed along; `on_level` is called with each level, in dBFS, while a take is
        recorded. Raises DaemonError.
        """
        pages = [self._request(command, fd, on_level)]
        while after := following(command, pages[-1]):
            pages.append(self._request(after))
        return joined(pages)

    def _request(
        self,
        command: Request[R],
        fd: int | None = None,
        on_level: Callable[[float], None] | None = None,
    ) -> R:
        id, line = self._exchange.send(command)
        self._socket.settimeout(self._timeout_s)
        rights = []
        if fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            sent = self._socket.sendmsg([line], rights)
            if sent < len(line):  # else the daemon may have answered, and gone
                self._socket.sendall(line[sent:])
            while (reply := self._exchange.reply(id)) is None:
                self._receive()
                while self._exchange.levels:
                    level = self._exchange.levels.popleft()
                    if on_level:
                        on_level(level)
        except TimeoutError as error:
            text = f"the daemon has not answered {type_of(command)} within {self._timeout_s:g} s"
            raise DaemonError("timeout", text) from error
        except OSError as error:
            raise _closed(error) from error
        return cast(R, reply)

    @overload
    def events(
        self,
        types: Sequence[Literal["wake"]],
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Wake]: ...
    @overload
    def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Event]: ...
    def events(
        self,
        types: Sequence[EventType] | None = None,
        words: Sequence[str] | None = None,
        *,
        details: bool = False,
        reconnect: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Iterator[Event]:
        """Subscribe now, and return the events as they come.

        Only events of these types, and of these words; with `details`, which is for privileged
        users, they name the nearest speaker and the runner-up too. They end with the recording that
        the daemon listens to, or when the client is closed. Raises DaemonError, also during the
        iteration, where the daemon goes, or sends what cannot be read. With `reconnect`, the client
        waits for a daemon that goes to come back, subscribes again, and calls `on_gap` with what
        was missed.
        """
        subscription = _subscription(types, words, details)
        self.request(subscription)
        return self._events(subscription, reconnect, on_gap)

    def _events(
        self, subscription: Subscribe, reconnect: bool, on_gap: Callable[[Gap], None] | None
    ) -> Iterator[Event]:
        seq = None
        while True:
            try:
                for event in self._events_of_connection():
                    seq = event.seq
                    yield event
                return
            except DaemonError as error:
                if self._closed.is_set():
                    return
                if not (reconnect and _is_lost(error)):
                    raise
                back = _Return(error, seq)
            while not self._returned(subscription):
                if self._closed.wait(back.pause_s()):
                    return
            if self._closed.is_set():  # while it connected
                self._socket.close()
                return
            seq = None
            if on_gap:
                on_gap(back.gap())

    def _events_of_connection(self) -> Iterator[Event]:
        """Yield events until the recording has ended. Raises DaemonError where the daemon goes."""
        self._socket.settimeout(None)
        while True:
            while self._exchange.events:
                yield self._exchange.events.popleft()
            if self._exchange.ended:
                return
            try:
                self._receive()
            except OSError as error:
                raise _closed(error) from error

    def _returned(self, subscription: Subscribe) -> bool:
        """Connect and subscribe again; return whether the daemon is back. Raises DaemonError."""
        self._socket.close()
        try:
            self._connect()
            self._request(subscription)
        except DaemonError as error:
            if not _is_lost(error):
                raise
            return False
        return True

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def _receive(self) -> None:
        self._exchange.check()
        self._exchange.receive(self._socket.recv(READ_BYTES))


def connect(path: Path | str | None = None) -> Client:
    """Connect to the daemon, at `path` or its usual socket. Raises DaemonError."""
    return Client(path)


class AsyncClient:
    """A connection to the daemon for asyncio; `connect_async` makes one.

    async with await connect_async() as daemon:
        async for event in daemon:
            ...
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.greeting: Greeting
        """The daemon's versions, words and sample rate."""
        self._closed = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._exchange: _Exchange

    async def connect(self) -> None:
        """Connect, or connect again. Raises DaemonError."""
        import asyncio  # takes longer than all the rest, and only this client needs it

        self._exchange = _Exchange()
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(str(self.path))
        except OSError as error:
            raise _unreachable(self.path, error) from error
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                while (greeting := self._exchange.greeted(self.path)) is None:
                    await self._receive()
        except OSError as error:
            self._writer.close()
            raise _unreachable(self.path, error) from error
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
        id, line = self._exchange.send(command)
        try:
            self._writer.write(line)
            await self._writer.drain()
            while (reply := self._exchange.reply(id)) is None:
                await self._receive()
                self._exchange.levels.clear()
        except OSError as error:
            raise _closed(error) from error
        return cast(R, reply)

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

        subscription = _subscription(types, words, details)
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
                if not (reconnect and _is_lost(error)):
                    raise
                back = _Return(error, seq)
            while not await self._returned(subscription):
                await asyncio.sleep(back.pause_s())
                if self._closed:
                    return
            seq = None
            if on_gap:
                on_gap(back.gap())

    async def _events_of_connection(self) -> AsyncIterator[Event]:
        while True:
            while self._exchange.events:
                yield self._exchange.events.popleft()
            if self._exchange.ended:
                return
            try:
                await self._receive()
            except OSError as error:
                raise _closed(error) from error

    async def _returned(self, subscription: Subscribe) -> bool:
        self._writer.close()
        try:
            await self.connect()
            await self._request(subscription)
        except DaemonError as error:
            if not _is_lost(error):
                raise
            return False
        return True

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def _receive(self) -> None:
        self._exchange.check()
        self._exchange.receive(await self._reader.read(READ_BYTES))


async def connect_async(path: Path | str | None = None) -> AsyncClient:
    """Connect to the daemon, at `path` or its usual socket. Raises DaemonError."""
    client = AsyncClient(Path(path) if path is not None else find_socket())
    await client.connect()
    return client


def _closed(error: OSError) -> DaemonError:
    return DaemonError("closed", f"the daemon has closed the connection ({error.strerror})")


def _subscription(
    types: Sequence[EventType] | None, words: Sequence[str] | None, details: bool
) -> Subscribe:
    return Subscribe(
        types=None if types is None else list(types),
        words=None if words is None else list(words),
        details=details,
    )
