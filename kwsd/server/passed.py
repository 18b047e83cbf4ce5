"""Files that clients pass as descriptors (`SCM_RIGHTS`) are written here.

A pipe that nobody reads, or a file on a disk that hangs, blocks nobody: each is written on a thread
of its own, few at a time, which gives up after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import threading
from concurrent.futures import Future

from kwsd.protocol.errors import RequestError

MAX_WRITING = 4
"""Descriptors that are written at the same time."""
TIMEOUT_S = 10.0
"""Longest time that writing may take."""


class PassedFiles:
    """Writes to passed descriptors."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(MAX_WRITING)

    async def write(self, fd: int, data: bytes) -> None:
        """Write `data` to `fd` and close it, whatever happens. Raises RequestError.

        Where the caller is canceled, the thread gives up, and closes it.
        """
        if not self._free.acquire(blocking=False):
            os.close(fd)
            text = f"{MAX_WRITING} passed descriptors are being written, and no more can be"
            raise RequestError("busy", f"{text}; read what comes out of them")
        written: Future[None] = Future()
        given_up = threading.Event()
        loop = asyncio.get_running_loop()

        def write() -> None:
            failure: OSError | None = None
            try:
                _write(fd, data, given_up)
            except OSError as error:
                failure = error
            self._free.release()  # before: whoever sees the end may pass another
            os.close(fd)
            with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody waits
                loop.call_soon_threadsafe(finish, failure)

        def finish(error: OSError | None) -> None:
            if written.set_running_or_notify_cancel():
                written.set_exception(error) if error else written.set_result(None)

        try:
            # No thread of the executor: those are waited for when the process ends.
            threading.Thread(target=write, name="passed", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            os.close(fd)
            raise RequestError("busy", f"the passed descriptor: {error}; try again") from error
        try:
            await asyncio.wait_for(asyncio.wrap_future(written), TIMEOUT_S)
        except TimeoutError:
            text = f"the passed descriptor has not taken {len(data)} bytes within {TIMEOUT_S:g} s"
            raise RequestError("not_written", f"{text}; read what comes out of it") from None
        except OSError as error:
            text = f"the passed descriptor could not be written ({error.strerror})"
            raise RequestError("not_written", text) from error
        finally:
            given_up.set()


def _write(fd: int, data: bytes, given_up: threading.Event) -> None:
    """Write `data` to `fd`; to all but files no more at once than fits, unless it is given up.

    Raises OSError.
    """
    at_once = len(data)
    poller = select.poll()
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        at_once = select.PIPE_BUF
        poller.register(fd, select.POLLOUT)
    at = 0
    while at < len(data):
        if at_once == select.PIPE_BUF:
            while not poller.poll(100):
                if given_up.is_set():
                    return
        if given_up.is_set():
            return
        at += os.write(fd, memoryview(data)[at : at + at_once])
