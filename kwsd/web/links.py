"""Links to the page for those who may have one: a Unix socket that the file system guards.

Whoever can open it gets a link for each line that they send. For the system's unit it lies in
`/run/kwsd-web`, which is for root, the page's own user and the group `kwsd-admin`: those who may
make the daemon's privileged requests themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from kwsd.config import ConfigError, runtime_directory, user_directory, why_too_long, why_unsafe

NAME = "link.sock"
ANSWER_S = 5.0
MAX_LINE = 1024
SYSTEM = Path("/run/kwsd-web")


class NoPage(OSError):
    """No page runs that would give a link; the message says how to start one."""


def folder() -> Path:
    """Return the folder of the socket of this user's page."""
    if "RUNTIME_DIRECTORY" in os.environ:
        return runtime_directory()
    return SYSTEM if os.geteuid() == 0 else _own()


def _own() -> Path:
    return user_directory().with_name(user_directory().name.replace("kwsd", "kwsd-web", 1))


@contextlib.asynccontextmanager
async def served(new_link: Callable[[], str]) -> AsyncIterator[None]:
    """Answer each line on the socket with a new link. Raises ConfigError or OSError."""
    path = folder() / NAME
    if why := why_too_long(path):
        raise ConfigError(why)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if why := why_unsafe(path.parent):
        raise ConfigError(f"{why}; remove it, or set XDG_RUNTIME_DIR")
    if await _is_served(path):
        raise OSError(f"a page runs already: `kwsd web link` gives a link to it ({path})")
    path.unlink(missing_ok=True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while await reader.readline():
                    writer.write(new_link().encode() + b"\n")
                    await writer.drain()
        writer.close()

    mask = os.umask(0o117)
    try:
        server = await asyncio.start_unix_server(answer, path, limit=MAX_LINE)
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _is_served(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def ask() -> str:
    """Return a new link to the page that runs: this user's own, else the system's.

    Raises NoPage, or PermissionError.
    """
    own = _own() / NAME
    path = own if not why_unsafe(own.parent) and own.exists() else SYSTEM / NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_S)
            sock.connect(str(path))
            sock.sendall(b"link\n")
            line = sock.makefile("rb").readline(MAX_LINE)
    except PermissionError:
        add = "`sudo usermod -aG kwsd-admin $USER`"
        text = f"{path}: links are for root and the group kwsd-admin; {add}, then log in again"
        raise PermissionError(text) from None
    except OSError as error:
        start = "start it with `kwsd web`, or `sudo systemctl start kwsd-web`"
        raise NoPage(f"{path}: no page runs ({error.strerror or error}); {start}") from None
    if not line.endswith(b"\n"):
        raise NoPage(f"{path}: the page does not answer; restart it")
    return line.decode().strip()
