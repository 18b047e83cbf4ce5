"""The Unix socket: who may bind it, who has connected, what they ask. Runs on the event loop only.

A request is answered in turn by `dispatch`, which the daemon supplies; connections do not wait for each other.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kwsd.config import ConfigError
from kwsd.config import Socket as SocketConfig
from kwsd.protocol import messages as protocol
from kwsd.protocol.messages import Bad, LineReader, Request, RequestError
from kwsd.server.hub import Hub, Outlet

log = logging.getLogger(__name__)
PATH_MAX_BYTES = 107
READ_BYTES = 1 << 16
MAX_FDS = 4
MAX_WAITING = 32
"""Requests of one client that may wait for their answers; while so many do, nothing more is read from it."""


@dataclass(frozen=True)
class Peer:
    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        return cls(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))))

    def privileged(self, admin_group: str | None) -> bool:
        """Root, the daemon's own user, and members of the group may enrol, delete, reload and fetch audio."""
        if self.uid in (0, os.geteuid()):
            return True
        if admin_group is None:
            return False
        try:
            group = grp.getgrnam(admin_group)
            user = pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return group.gr_gid in (self.gid, user.pw_gid) or user.pw_name in group.gr_mem


@dataclass(eq=False)
class Connection:
    """One client."""

    outlet: Outlet
    peer: Peer
    fds: list[int] = field(default_factory=list)
    """Descriptors the client has passed and no request has used yet."""
    session: Any = None
    """The enrolment that this client has begun."""

    def take_fd(self) -> int | None:
        return self.fds.pop(0) if self.fds else None


Dispatch = Callable[[Connection, Request], Coroutine[Any, Any, protocol.Body]]
T = TypeVar("T")


@contextmanager
def bound(path: Path, config: SocketConfig) -> Iterator[socket.socket]:
    """A listening socket at `path`, 0660. A stale one is replaced, a live one never. Raises ConfigError."""
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise ConfigError(f"socket.path: {path} has {len(os.fsencode(path))} bytes, Linux takes {PATH_MAX_BYTES}; choose a shorter one")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"socket.path: {path.parent} cannot be used ({error.strerror}); set socket.path, or --socket, to a folder of yours") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{path} is already served by a running kwsd; stop that one, or choose another --socket") from None
        _clear(path)
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))
        mask = os.umask(0o117)
        try:
            sock.bind(str(path))
        except OSError as error:
            raise ConfigError(f"socket.path: {path} cannot be bound ({error.strerror})") from error
        finally:
            os.umask(mask)
        stack.callback(path.unlink, missing_ok=True)
        if config.group is not None:
            try:
                os.chown(path, -1, grp.getgrnam(config.group).gr_gid)
            except (KeyError, OSError) as error:
                raise ConfigError(f"socket.group: {path} cannot be given to the group {config.group!r} ({error})") from error
        sock.listen(64)
        yield sock


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves; refuse anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} exists and is no socket; remove it, or choose another --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.info("removing a stale socket: %s", path)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot tell whether it is served ({error}); remove it, or choose another --socket") from error
        else:
            raise ConfigError(f"{path} is already served by another program; stop that one, or choose another --socket")


@asynccontextmanager
async def serving(path: Path, config: SocketConfig, hub: Hub, hello: Callable[[], protocol.Body], dispatch: Dispatch) -> AsyncIterator[None]:
    """Accept clients for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    clients: set[asyncio.Task[None]] = set()
    with bound(path, config) as sock:

        def accept() -> None:
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    log.error("out of file descriptors; a client has to wait")
                    loop.remove_reader(sock)
                    loop.call_later(0.5, loop.add_reader, sock, accept)
                return
            if len(clients) >= config.max_clients:
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.send(protocol.error("busy", f"{len(clients)} clients are connected, and no more may be"))
                client.close()
                return
            task = loop.create_task(_serve(client, config, hub, hello, dispatch))
            clients.add(task)
            task.add_done_callback(clients.discard)

        loop.add_reader(sock, accept)
        try:
            yield
        finally:
            loop.remove_reader(sock)
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _serve(client: socket.socket, config: SocketConfig, hub: Hub, hello: Callable[[], protocol.Body], dispatch: Dispatch) -> None:
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    peer = Peer.of(client)
    outlet = Outlet(client, f"client pid {peer.pid} uid {peer.uid}", config.backlog_bytes, closed.set)
    connection = Connection(outlet, peer)
    reader = LineReader()
    waiting: asyncio.Queue[Request | Bad] = asyncio.Queue()

    def read() -> None:
        try:
            data, fds, _, _ = _receive(client)
        except BlockingIOError:
            return
        except OSError:
            outlet.close()
            return
        connection.fds += fds
        while len(connection.fds) > MAX_FDS:
            os.close(connection.fds.pop())
        if not data:
            outlet.close()
            return
        for message in reader.feed(data):
            waiting.put_nowait(message)
        if waiting.qsize() >= MAX_WAITING:
            loop.remove_reader(client)

    hub.outlets.add(outlet)
    outlet.send(protocol.encode(hello()))
    try:
        loop.add_reader(client, read)
        while message := await _unless(closed, waiting.get()):
            if isinstance(message, Bad):
                outlet.send(protocol.error(message.code, message.message, message.id))
                if message.fatal:
                    outlet.finish()
                    break
            elif line := await _unless(closed, _answer(connection, message, dispatch)):
                outlet.send(line)
            if waiting.empty() and not closed.is_set():
                loop.add_reader(client, read)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(closed.wait(), 2.0)
    finally:
        hub.outlets.discard(outlet)
        outlet.close()
        for fd in connection.fds:
            os.close(fd)


async def _unless(closed: asyncio.Event, wanted: Coroutine[Any, Any, T]) -> T | None:
    """What `wanted` gives, or None once the connection is closed; then `wanted` is cancelled."""
    task, end = asyncio.ensure_future(wanted), asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        end.cancel()


async def _answer(connection: Connection, request: Request, dispatch: Dispatch) -> bytes:
    try:
        return protocol.reply(request, await dispatch(connection, request))
    except RequestError as error:
        return protocol.error(error.code, str(error), request.id)
    except Exception:
        log.exception("the request %s failed", request.type)
        return protocol.error("internal", f"{request.type} failed in the daemon; its log says why", request.id)


def _receive(sock: socket.socket) -> tuple[bytes, list[int], int, Any]:
    """Data and passed descriptors, which are closed on exec."""
    fds = array.array("i")
    data, ancillary, flags, address = sock.recvmsg(READ_BYTES, socket.CMSG_SPACE(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, list(fds), flags, address
