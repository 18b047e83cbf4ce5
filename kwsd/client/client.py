"""The client: what an application uses to hear of wakes.

    with kwsd.connect() as daemon:
        for event in daemon.events(types=["wake"]):
            print(event["word"])

`connect()` blocks; `connect_async()` is the same for asyncio. Standard library only; neither loads numpy or a model.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from kwsd.protocol.errors import DaemonError

Body = dict[str, Any]
LINE_LIMIT = 1 << 22


def find_socket() -> Path:
    """`$KWSD_SOCKET`, else the user's own daemon's socket where there is one, else the system's."""
    if named := os.environ.get("KWSD_SOCKET"):
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = Path(runtime) / "kwsd" / "kwsd.sock" if runtime else Path(f"/tmp/kwsd-{os.geteuid()}/kwsd.sock")
    return own if own.exists() else Path("/run/kwsd/kwsd.sock")


def _unreachable(path: Path, error: OSError) -> DaemonError:
    why = {
        FileNotFoundError: "no daemon runs there; start it with `kwsd run` or `systemctl start kwsd`",
        ConnectionRefusedError: "the daemon that made it is gone; start it again",
        TimeoutError: "something holds it, and does not answer; restart the daemon",
        PermissionError: "you may not connect; join the group that the socket belongs to, then log in again",
    }.get(type(error), str(error))
    return DaemonError("unreachable", f"{path}: {why}")


class Connection:
    """A connection to the daemon, blocking. `hello` is its greeting. Use it as a context manager."""

    def __init__(self, path: Path | str | None = None, timeout_s: float | None = 90.0) -> None:
        """Raises DaemonError where no daemon answers."""
        self.path = Path(path) if path is not None else find_socket()
        self._ids, self._waiting = itertools.count(1), deque[Body]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._timeout = timeout_s
        try:
            self._socket.settimeout(10.0)
            self._socket.connect(str(self.path))
            self._lines = self._socket.makefile("rb")
            self.hello = self._read()
        except OSError as error:
            self._socket.close()
            raise _unreachable(self.path, error) from error
        if self.hello.get("type") != "hello":
            self.close()
            raise DaemonError(str(self.hello.get("code", "protocol")), str(self.hello.get("message", f"{self.path}: no kwsd answers there")))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; who waits for an event on another thread sees the end of them."""
        with contextlib.suppress(OSError):  # the daemon may have hung up first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> Body:
        line = self._lines.readline(LINE_LIMIT)
        if not line.endswith(b"\n"):
            raise DaemonError("closed", "the daemon has closed the connection")
        body = json.loads(line)
        return body if isinstance(body, dict) else {}

    def request(self, type: str, *, fd: int | None = None, on_level: Any = None, **fields: Any) -> Body:
        """Send a request and wait for its reply; events that come meanwhile are kept for `events`.

        `fd` is passed along; `on_level` is called with each level in dBFS while a take is recorded. Raises DaemonError."""
        id = next(self._ids)
        line = json.dumps({"type": type, "id": id, **fields}).encode() + b"\n"
        self._socket.settimeout(self._timeout)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        try:
            sent = self._socket.sendmsg([line], rights)
            self._socket.sendall(line[sent:])
            while True:
                body = self._read()
                if body.get("type") == "level":
                    if on_level:
                        on_level(body["level_dbfs"])
                elif body.get("type") in ("reply", "error") and body.get("id") in (id, None):
                    if body.get("ok"):
                        return body
                    raise DaemonError(str(body.get("code")), str(body.get("message")))
                else:
                    self._waiting.append(body)
        except TimeoutError as error:
            raise DaemonError("timeout", f"the daemon has not answered {type} within {self._timeout:g} s") from error
        except OSError as error:
            raise DaemonError("closed", f"the daemon has closed the connection ({error.strerror})") from error

    def events(self, types: list[str] | None = None, words: list[str] | None = None) -> Iterator[Body]:
        """Subscribe now; the events as they come, for ever; ends when the daemon does. Raises DaemonError."""
        wanted: Body = {k: v for k, v in (("types", types), ("words", words)) if v is not None}
        self.request("subscribe", **wanted)
        return self._events()

    def _events(self) -> Iterator[Body]:
        self._socket.settimeout(None)
        while True:
            if self._waiting:
                yield self._waiting.popleft()
                continue
            try:
                body = self._read()
            except (DaemonError, OSError):
                return
            yield body

    def __iter__(self) -> Iterator[Body]:
        return self.events()


def connect(path: Path | str | None = None) -> Connection:
    """Connect to the daemon; `path` of its socket where it is not the usual one. Raises DaemonError."""
    return Connection(path)


class AsyncConnection:
    """A connection to the daemon for asyncio: `async with await connect_async() as daemon: async for event in daemon: …`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Body) -> None:
        self._reader, self._writer, self.hello = reader, writer, hello
        self._ids, self._waiting = itertools.count(1), deque[Body]()

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def request(self, type: str, **fields: Any) -> Body:
        """Send a request and wait for its reply. Raises DaemonError."""
        id = next(self._ids)
        self._writer.write(json.dumps({"type": type, "id": id, **fields}).encode() + b"\n")
        await self._writer.drain()
        while True:
            body = await _read_async(self._reader)
            if body.get("type") in ("reply", "error") and body.get("id") in (id, None):
                if body.get("ok"):
                    return body
                raise DaemonError(str(body.get("code")), str(body.get("message")))
            self._waiting.append(body)

    async def events(self, types: list[str] | None = None, words: list[str] | None = None) -> AsyncIterator[Body]:
        """Subscribe, and yield events as they come; ends when the daemon does."""
        wanted = {k: v for k, v in (("types", types), ("words", words)) if v is not None}
        await self.request("subscribe", **wanted)
        while True:
            if self._waiting:
                yield self._waiting.popleft()
                continue
            try:
                body = await _read_async(self._reader)
            except (DaemonError, OSError):
                return
            yield body

    def __aiter__(self) -> AsyncIterator[Body]:
        return self.events()


async def _read_async(reader: asyncio.StreamReader) -> Body:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise DaemonError("closed", "the daemon has closed the connection")
    body = json.loads(line)
    return body if isinstance(body, dict) else {}


async def connect_async(path: Path | str | None = None) -> AsyncConnection:
    """Connect to the daemon. Raises DaemonError."""
    where = Path(path) if path is not None else find_socket()
    try:
        reader, writer = await asyncio.open_unix_connection(str(where), limit=LINE_LIMIT)
        return AsyncConnection(reader, writer, await _read_async(reader))
    except OSError as error:
        raise _unreachable(where, error) from error
