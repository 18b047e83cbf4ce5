"""The clients: who has connected, and what they ask. Runs on the event loop only.

Promises:
- The requests of one client are answered in turn by `dispatch`; clients do not wait for each other.
- No client holds the others up. In one turn of the loop, one read, one request and one write are
  done for it; while a request waits, little more is read.
- What a client may make the daemon hold is bounded: a line of `MAX_SHORT_LINE` bytes for everybody,
  and for privileged clients a longer one, while few others have one. Descriptors that it passes are
  closed with the requests that they came with.
- Places are kept for root and for the daemon's own user, and whoever connects and says nothing
  makes room for whoever comes later.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kwsd.bounded import file as bounded
from kwsd.config import SocketConfig
from kwsd.learn.enrollment import Enrollment
from kwsd.protocol.commands import Audio, Command
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import (
    MAX_LINE,
    MAX_SHORT_LINE,
    encode_error,
    encode_reply,
)
from kwsd.protocol.parsing import InvalidRequest
from kwsd.protocol.replies import Reply
from kwsd.protocol.request import type_of
from kwsd.seldom import Seldom
from kwsd.server.hub import Hub, Subscriber
from kwsd.server.unix_socket import Peer, bound

log = logging.getLogger(__name__)
_failing = Seldom(log, logging.ERROR)
_refusing = Seldom(log)
READ_BYTES = 1 << 16
"""Bytes that are read from one client in one turn of the loop, at most."""
MAX_FDS = 4
"""Descriptors that a client may pass without using them."""
OWN_FDS = 64
"""Descriptors that the daemon itself needs: libraries, the microphone, files, and the socket."""
STARVED = (*bounded.STARVED, errno.ENOBUFS)
"""Errors of accept(2) that last: out of descriptors, or of memory."""
RETRY_S = 0.5
"""Seconds before a client is accepted again after descriptors have run out."""
MAX_LONG_LINES = 4
"""Lines over `MAX_SHORT_LINE` that are read or answered at the same time."""
LONG_LINE_S = 5.0
"""Longest time from the beginning of a long line to its end."""
KEPT_PLACES = 4
"""Places of `max_clients` that only root and the daemon's own user may take."""
SILENT_S = 10.0
"""Who has said nothing for so long makes room for others."""
LINGER_S = 2.0
"""Longest time that a last line waits for a client to read it."""
HANG_UP_CHECK_S = 1.0


@dataclass(eq=False)
class ClientSession:
    """One connected client."""

    subscriber: Subscriber
    peer: Peer
    fds: list[int] = field(default_factory=list)
    """Descriptors that the client has passed and no request has used yet."""
    enrollment: Enrollment | None = None
    """The enrollment that this client has begun."""
    has_live: bool = False
    """Whether it has asked for a stream or for scores, which may still come."""

    def take_fd(self) -> int | None:
        """Return the oldest passed descriptor, which the caller closes."""
        return self.fds.pop(0) if self.fds else None

    def close_fds(self) -> None:
        """Close the passed descriptors that no request has used."""
        while self.fds:
            os.close(self.fds.pop())


Dispatch = Callable[[ClientSession, Command], Awaitable[Reply]]
Gone = Callable[[ClientSession], None]
"""Is told which client has gone."""


def _nothing(session: ClientSession) -> None:
    """Do nothing for a client that has gone."""


class Clients:
    """All clients of a socket."""

    def __init__(
        self,
        config: SocketConfig,
        hub: Hub,
        greeting: Callable[[], bytes],
        dispatch: Dispatch,
        gone: Gone = _nothing,
    ) -> None:
        self.config = config
        self.hub = hub
        self.greeting = greeting
        self.dispatch = dispatch
        self.gone = gone
        self.long_lines = asyncio.Semaphore(MAX_LONG_LINES)
        self._connected: dict[_Client, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of connected clients, and of clients that have just left."""

    def admit(self, sock: socket.socket) -> None:
        """Serve the client at the other end of `sock`, or refuse it where there is no place."""
        sock.setblocking(False)
        peer = Peer.of(sock)
        places = self.config.max_clients
        if not peer.is_own():
            places -= min(KEPT_PLACES, places // 2)
        if len(self._connected) >= places and not self._make_room():
            text = f"{len(self._connected)} clients are connected, and no more may be"
            _refusing("refusing a client of uid %d: %s (socket.max_clients)", peer.uid, text)
            with contextlib.suppress(OSError):
                sock.send(encode_error("busy", text))
            sock.close()
            return
        client = _Client(self, sock, peer)
        task = asyncio.get_running_loop().create_task(client.serve())
        self._connected[client] = task
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def left(self, client: _Client) -> None:
        """Forget a client whose socket is closed, and end what is done for it."""
        self.hub.subscribers.discard(client.subscriber)
        if task := self._connected.pop(client, None):
            task.cancel()

    async def watch(self) -> None:
        """Close the clients that have hung up while nothing is read from them, for ever."""
        while True:
            await asyncio.sleep(HANG_UP_CHECK_S)
            for client in list(self._connected):
                client.check_hang_up()

    async def close(self) -> None:
        """Close all clients, and wait until nothing is done for them."""
        for client in list(self._connected):
            client.subscriber.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _failing("serving a client failed", exc_info=error)

    def _make_room(self) -> bool:
        """Drop the client that has been silent for longest; return whether there was one."""
        silent = min(self._connected, key=lambda one: one.silent_since, default=None)
        if silent is None or silent.silent_since > time.monotonic() - SILENT_S:
            return False
        silent.subscriber.drop("it has asked for nothing, and others want its place")
        return True


def descriptors(max_clients: int) -> int:
    """Return how many descriptors a daemon of so many clients may need."""
    return OWN_FDS + max_clients * (1 + MAX_FDS)


@asynccontextmanager
async def serving(
    path: Path,
    config: SocketConfig,
    hub: Hub,
    greeting: Callable[[], bytes],
    dispatch: Dispatch,
    gone: Gone = _nothing,
) -> AsyncIterator[None]:
    """Accept clients for as long as the context lasts. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    clients = Clients(config, hub, greeting, dispatch, gone)
    retry: asyncio.TimerHandle | None = None
    with bound(path, config) as sock:

        def accept() -> None:
            nonlocal retry
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in STARVED:  # the client would be announced again at once
                    if retry is None:
                        log.error("no client can be accepted for now: %s", error.strerror)
                    loop.remove_reader(sock)
                    retry = loop.call_later(RETRY_S, loop.add_reader, sock, accept)
                return
            if retry is not None:
                log.info("clients are accepted again")
                retry = None
            clients.admit(client)

        watch = loop.create_task(clients.watch())
        loop.add_reader(sock, accept)
        try:
            yield
        finally:
            if retry is not None:
                retry.cancel()
            loop.remove_reader(sock)
            watch.cancel()
            await clients.close()


class _Client:
    """One client: reads its lines and answers them in turn."""

    def __init__(self, clients: Clients, sock: socket.socket, peer: Peer) -> None:
        self.silent_since = time.monotonic()
        """When it connected, while it has asked for nothing; then never."""
        name = f"client pid {peer.pid} uid {peer.uid}"
        backlog_bytes = clients.config.backlog_bytes
        self.subscriber = Subscriber(sock, name, backlog_bytes, self._left, peer.uid)
        self._clients = clients
        self._sock = sock
        self._session = ClientSession(self.subscriber, peer)
        self._lines = self.subscriber.connection.lines
        self._lines.max_bytes = MAX_SHORT_LINE
        self._arrived = asyncio.Event()
        self._reading = False
        self._ended = False
        """Whether it has sent its last byte; it may still read."""
        self._open = True

    async def serve(self) -> None:
        """Answer its requests, until it hangs up."""
        self._clients.hub.subscribers.add(self.subscriber)
        self.subscriber.send(self._clients.greeting())
        try:
            while await self._line():
                if self._lines.too_long and self._may_send_long_lines():
                    await self._answer_long_line()
                else:
                    await self._answer()
                await self.subscriber.replied()
                await asyncio.sleep(0)  # the others' turn
            if self.subscriber.connection.ended:
                self.subscriber.finish()
                await asyncio.sleep(LINGER_S)
            elif self.subscriber.filter is not None or self._session.has_live:
                await asyncio.Event().wait()  # it reads on until it hangs up
        finally:
            self.subscriber.close()
            self._session.close_fds()
            self._clients.gone(self._session)

    def check_hang_up(self) -> None:
        """Close the socket if the other end is, where `_read` is not called for it."""
        if self._reading or not self._open:
            return
        poller = select.poll()
        poller.register(self._sock, 0)
        if poller.poll(0):
            self.subscriber.close()

    def _left(self) -> None:
        self._open = False
        self._clients.left(self)

    def _may_send_long_lines(self) -> bool:
        return self._session.peer.privileged((self._clients.config.admin_group,))

    async def _line(self) -> bool:
        """Wait for a line, or for one that is too long; return whether there is one."""
        while not (self._lines.complete or self._lines.too_long):
            if self._ended or self.subscriber.connection.ended:
                return False
            self._arrived.clear()
            self._read_on()
            await self._arrived.wait()
        return True

    async def _answer_long_line(self) -> None:
        async with self._clients.long_lines:
            self._lines.max_bytes = MAX_LINE
            try:
                async with asyncio.timeout(LONG_LINE_S):
                    there = await self._line()
            except TimeoutError:
                self.subscriber.drop(f"it has not ended a long line within {LONG_LINE_S:g} s")
                return
            if there:
                await self._answer()

    async def _answer(self) -> None:
        """Answer the next line."""
        message = self.subscriber.connection.next()
        self._lines.max_bytes = MAX_SHORT_LINE
        self._read_on()  # to notice that it hangs up
        if isinstance(message, InvalidRequest):
            if message.type == type_of(Audio) and (fd := self._session.take_fd()) is not None:
                os.close(fd)  # it came with this request, not with the next one
            self._send(encode_error(message.code, message.message, message.id))
        elif message is not None:
            self.silent_since = float("inf")
            self._send(await self._reply(message))
        if not self._lines.waiting:
            self._session.close_fds()

    def _send(self, line: bytes) -> None:
        self.subscriber.send(line)
        self._clients.hub.trim()

    async def _reply(self, command: Command) -> bytes:
        try:
            return encode_reply(command.id, await self._clients.dispatch(self._session, command))
        except RequestError as error:
            return encode_error(error.code, str(error), command.id)
        except Exception:
            _failing("the request %s failed", type_of(command), exc_info=True)
            text = f"{type_of(command)} failed in the daemon; its log says why"
            return encode_error("internal", text, command.id)

    def _read_on(self) -> None:
        """Read while there is room for more."""
        wanted = self._open and not self._ended and self._lines.waiting < self._lines.max_bytes
        if wanted and not self._reading:
            asyncio.get_running_loop().add_reader(self._sock, self._read)
        elif not wanted and self._reading and self._open:
            asyncio.get_running_loop().remove_reader(self._sock)
        self._reading = wanted

    def _read(self) -> None:
        room = self._lines.max_bytes - self._lines.waiting
        try:
            data, fds = _receive(self._sock, min(READ_BYTES, room))
        except BlockingIOError:
            return
        except OSError:
            self.subscriber.close()
            return
        self._session.fds += fds
        while len(self._session.fds) > MAX_FDS:
            os.close(self._session.fds.pop())
        self._ended = not data
        self.subscriber.connection.feed(data)
        self._arrived.set()
        self._read_on()
        if self._ended:
            self.check_hang_up()


def _receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Return data and passed descriptors, which are closed on exec. Raises OSError."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
    data, ancillary, _, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, list(fds)
