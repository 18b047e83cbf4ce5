"""The one thread of the daemon that touches the disk: everything on it happens in turn."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_WAITING = 32
"""Writes that may wait for a slow disk without anybody waiting for them; more are dropped."""


class Disk:
    """Runs functions on a thread of its own, one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "disk")
        self._waiting = 0
        self._failed: dict[str, str] = {}

    def __enter__(self) -> Disk:
        # The thread is there from the start, not hours later: threads are counted when it grows.
        self.run(lambda: None)
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown(wait=True)

    def flush(self, timeout_s: float) -> None:
        """Wait until what was asked so far is done, but no longer than `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            self.run(lambda: None).result(timeout_s)

    def run(self, do: Callable[[], T]) -> Future[T]:
        """Run `do` after what was asked before."""
        return self._thread.submit(do)

    def write(self, what: str, do: Callable[[], object]) -> None:
        """Run `do` without anybody waiting for it.

        Where it fails (a full disk, say) or the disk is too slow, `what` is lost. The log says so
        once, and once more when it works again.
        """
        if self._waiting >= MAX_WAITING:
            self._report(what, "the disk is too slow")
            return
        self._waiting += 1

        def done(future: Future[object]) -> None:
            self._waiting -= 1
            error = future.exception()
            self._report(what, str(error) or type(error).__name__ if error else None)

        self._thread.submit(do).add_done_callback(done)

    def _report(self, what: str, why: str | None) -> None:
        """Log a failure unless it is known already, and its end."""
        if why is None:
            if self._failed.pop(what, None) is not None:
                log.info("%s can be kept again", what)
        elif what not in self._failed:
            self._failed[what] = why
            log.error("%s could not be kept: %s", what, why)
