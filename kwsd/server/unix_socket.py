"""The Unix socket: who may bind it, who has connected, what they ask. Runs on the event loop only.

A client's requests are answered in turn by `dispatch`; clients do not wait for each other.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kwsd.config import ConfigError, SocketConfig, user_directory, why_unsafe
from kwsd.learn.enrollment import Enrollment
from kwsd.protocol.commands import Audio, Command, type_of
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import FromClient, encode_error, encode_reply
from kwsd.protocol.parsing import InvalidRequest
from kwsd.protocol.replies import Reply
from kwsd.server.hub import Hub, Subscriber

log = logging.getLogger(__name__)
T = TypeVar("T")
PATH_MAX_BYTES = 107
"""Longest path of a socket that Linux accepts."""
READ_BYTES = 1 << 16
MAX_FDS = 4
"""Descriptors that a client may pass without using them."""
MAX_WAITING = 32
"""Requests of one client that may wait for their replies; nothing more is read from it then."""


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a socket, as the kernel names it."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Return the peer of a connected socket (`SO_PEERCRED`)."""
        size = struct.calcsize("3i")
        return cls(
            *struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        )

    def privileged(self, admin_group: str | None) -> bool:
        """Return whether it is root, the daemon's own user, or a member of the group."""
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

    def refusal(self, admin_group: str | None) -> str | None:
        """Return why privileged requests are refused, and the fix; None where they are not."""
        if self.privileged(admin_group):
            return None
        if admin_group is None:
            fix = "set socket.admin_group in the daemon's configuration to a group of yours"
            return f"for root and the daemon's user alone; {fix}, or use sudo"
        who = f"for root, the daemon's user and the members of the group {admin_group}"
        add = f"`sudo usermod -aG {admin_group} {user_name(self.uid)}`"
        if no_group := missing_group(admin_group):
            return f"{who}, but {no_group}; then {add}, and log in again"
        return f"{who}; {add}, then log in again"


def missing_group(group: str) -> str | None:
    """Return that a group does not exist, and the command that creates it, or None."""
    try:
        grp.getgrnam(group)
    except KeyError:
        return f"there is no such group: `sudo groupadd --system {group}`"
    return None


@dataclass(eq=False)
class ClientSession:
    """One connected client."""

    subscriber: Subscriber
    peer: Peer
    fds: list[int] = field(default_factory=list)
    """Descriptors that the client has passed and no request has used yet."""
    enrollment: Enrollment | None = None
    """The enrollment that this client has begun."""

    def take_fd(self) -> int | None:
        """Return the oldest passed descriptor, which the caller closes."""
        return self.fds.pop(0) if self.fds else None


Dispatch = Callable[[ClientSession, Command], Awaitable[Reply]]


@contextmanager
def bound(path: Path, config: SocketConfig) -> Iterator[socket.socket]:
    """Listen at `path`, mode 0660; a stale socket is replaced, a live one never.

    Raises ConfigError, and OSError where the path is in use, or cannot be used for the moment.
    """
    length = len(os.fsencode(path))
    if length > PATH_MAX_BYTES:
        text = f"socket.path: {path} has {length} bytes, Linux takes {PATH_MAX_BYTES}"
        raise ConfigError(f"{text}; choose a shorter one")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, _locked(path))
        _clear(path)
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        mask = os.umask(0o117)
        try:
            sock.bind(str(path))
        except OSError as error:
            text = f"socket.path: {path} cannot be bound ({error.strerror})"
            raise _refusal(error)(text) from error
        finally:
            os.umask(mask)
        stack.callback(path.unlink, missing_ok=True)
        if config.group is not None:
            _give(path, config.group)
        sock.listen(max(64, config.max_clients))
        yield sock


def _refusal(error: OSError) -> type[ConfigError | OSError]:
    """Return the type of error for a path that cannot be used.

    It is OSError where the same path may be usable soon, as on a disk that is full.
    """
    soon = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
    return OSError if error.errno in soon else ConfigError


def _give(path: Path, group: str) -> None:
    """Give a socket to a group. Raises ConfigError."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise ConfigError(f"socket.group: {group!r}: {missing_group(group)}") from None
    except OSError as error:
        user = user_name(os.geteuid())
        text = f"socket.group: {path} cannot be given to the group {group!r} ({error.strerror})"
        fix = f"`sudo usermod -aG {group} {user}` makes the daemon's user a member"
        raise ConfigError(f"{text}; {fix}") from error


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that says the socket is served.

    Raises ConfigError or OSError.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.parent == user_directory() and (why := why_unsafe(path.parent)):
            fix = "remove it, or set XDG_RUNTIME_DIR or socket.path"
            raise ConfigError(f"socket.path: {why}; {fix}")
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        text = f"socket.path: {path.parent} cannot be used ({error.strerror})"
        fix = "set socket.path, or --socket, to a folder of yours"
        raise _refusal(error)(f"{text}; {fix}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        text = f"{path} is already served by a running kwsd"
        raise OSError(f"{text}; stop that one, or choose another --socket") from None
    return lock


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves. Raises ConfigError or OSError for anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            text = f"{path} exists and is no socket; remove it, or choose another --socket"
            raise ConfigError(text)
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
            text = f"{path}: cannot tell whether it is served ({error})"
            raise ConfigError(f"{text}; remove it, or choose another --socket") from error
        else:
            text = f"{path} is already served by another program"
            raise OSError(f"{text}; stop that one, or choose another --socket")


@asynccontextmanager
async def serving(
    path: Path,
    config: SocketConfig,
    hub: Hub,
    greeting: Callable[[], bytes],
    dispatch: Dispatch,
) -> AsyncIterator[None]:
    """Accept clients for as long as the context lasts. Raises ConfigError or OSError."""
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
                _refuse(client, len(clients))
                return
            session = _serve(client, config, hub, greeting, dispatch)
            task = loop.create_task(session)
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


def _refuse(client: socket.socket, clients: int) -> None:
    client.setblocking(False)
    with contextlib.suppress(OSError):
        text = f"{clients} clients are connected, and no more may be"
        client.send(encode_error("busy", text))
    client.close()


async def _serve(
    client: socket.socket,
    config: SocketConfig,
    hub: Hub,
    greeting: Callable[[], bytes],
    dispatch: Dispatch,
) -> None:
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    peer = Peer.of(client)
    name = f"client pid {peer.pid} uid {peer.uid}"
    subscriber = Subscriber(client, name, config.backlog_bytes, closed.set)
    session = ClientSession(subscriber, peer)
    waiting: asyncio.Queue[FromClient] = asyncio.Queue()

    def read() -> None:
        try:
            data, fds = _receive(client)
        except BlockingIOError:
            return
        except OSError:
            subscriber.close()
            return
        session.fds += fds
        while len(session.fds) > MAX_FDS:
            os.close(session.fds.pop())
        if not data:
            subscriber.close()
            return
        for message in subscriber.connection.receive(data):
            waiting.put_nowait(message)
        if waiting.qsize() >= MAX_WAITING:
            loop.remove_reader(client)

    hub.subscribers.add(subscriber)
    subscriber.send(greeting())
    try:
        loop.add_reader(client, read)
        while message := await _unless(closed, waiting.get()):
            if isinstance(message, InvalidRequest):
                if message.type == type_of(Audio) and (fd := session.take_fd()) is not None:
                    os.close(fd)  # it came with this request, not with the next one
                subscriber.send(encode_error(message.code, message.message, message.id))
                if message.fatal:
                    subscriber.finish()
                    break
            elif line := await _unless(closed, _answer(session, message, dispatch)):
                subscriber.send(line)
            if waiting.empty() and not closed.is_set():
                loop.add_reader(client, read)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(closed.wait(), 2.0)
    finally:
        hub.subscribers.discard(subscriber)
        subscriber.close()
        for fd in session.fds:
            os.close(fd)


async def _unless(closed: asyncio.Event, wanted: Coroutine[Any, Any, T]) -> T | None:
    """Return what `wanted` gives, or None once the client is gone; `wanted` is then cancelled."""
    task = asyncio.ensure_future(wanted)
    end = asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        end.cancel()


async def _answer(session: ClientSession, command: Command, dispatch: Dispatch) -> bytes:
    try:
        return encode_reply(command.id, await dispatch(session, command))
    except RequestError as error:
        return encode_error(error.code, str(error), command.id)
    except Exception:
        log.exception("the request %s failed", type_of(command))
        text = f"{type_of(command)} failed in the daemon; its log says why"
        return encode_error("internal", text, command.id)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return data and passed descriptors, which are closed on exec."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
    data, ancillary, _, _ = sock.recvmsg(READ_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, list(fds)
