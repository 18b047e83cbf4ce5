"""What requests ask of the listener: a few at the same time, and none waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kwsd.protocol.errors import RequestError
from kwsd.server.listener import Listener

T = TypeVar("T")
MAX_CALLS = 4
"""Calls of the listener that requests make at the same time."""
STALLED_S = 10.0
"""Longest time that a request waits for the listener."""


class Calls:
    """Calls of the listener, from the event loop."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._calling = asyncio.Semaphore(MAX_CALLS)

    async def run(self, do: Callable[[], T]) -> T:
        """Return what `do` gives on the listener's thread. Raises RequestError where it hangs."""
        try:
            async with asyncio.timeout(STALLED_S), self._calling:
                return await asyncio.wrap_future(self._listener.call(do))
        except TimeoutError:
            raise stalled("nothing was done; try again when it is back") from None


def stalled(effect: str) -> RequestError:
    """Return the error of a request that the listener holds up; `effect`: what becomes of it."""
    text = f"the source of the audio has stalled for {STALLED_S:g} s"
    return RequestError("stalled", f"{text}; {effect}")
