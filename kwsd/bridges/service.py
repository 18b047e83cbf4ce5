"""The life of a bridge's process: signals, and what systemd is told.

SIGTERM and SIGINT stop it; a second SIGINT exits at once. WATCHDOG=1 is sent when the bridge has
done something, never by a timer alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from kwsd.systemd import Notifier

INTERRUPTED = 130
"""The shell's code for ^C."""


class Service:
    """What a bridge says of itself while it runs."""

    def __init__(self) -> None:
        self._notifier = Notifier()
        self._stop = asyncio.Event()

    def ready(self, status: str) -> None:
        """Report that the bridge serves, and what."""
        self._notifier.send(READY=1, STATUS=status)

    def status(self, status: str) -> None:
        """Report what the bridge does now."""
        self._notifier.send(STATUS=status)

    async def watch(self, beat: Callable[[], Awaitable[object]]) -> None:
        """Tell systemd that the bridge moves, each time that `beat` has come back; while it does
        not, nothing is told. Returns at once where systemd does not watch."""
        if self._notifier.watchdog_s is None:
            return
        while True:
            await beat()
            self._notifier.send(WATCHDOG=1)
            await asyncio.sleep(self._notifier.watchdog_s / 3)

    async def run(self, serve: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
        """Run `serve` until it returns or the process is told to stop."""
        with self._signals():
            serving = asyncio.ensure_future(serve(self))
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            self._notifier.send(STOPPING=1)
            stopping.cancel()
            if not serving.done():
                serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        self._notifier.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if self._stop.is_set():
                os._exit(INTERRUPTED)
            self._stop.set()

        handlers = {signal.SIGTERM: self._stop.set, signal.SIGINT: interrupt}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all `parts` until one of them fails, or all have returned; cancel the others.

    Unlike a TaskGroup, of which Python before 3.13 forgets that it was cancelled where a part fails
    at the same moment, it always heeds that. Raises what a part raises."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def run(serve: Callable[[Service], Coroutine[Any, Any, None]]) -> int:
    """Run a bridge until it is told to stop; return the exit status. Raises what `serve` raises."""

    async def live() -> None:
        await Service().run(serve)

    asyncio.run(live())
    return 0
