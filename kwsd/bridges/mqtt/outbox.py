"""What is to be published: wakes while they are fresh, and what the broker retains, as it changes.

A message stays until the broker has it, so one whose connection was lost is sent again. Events do
not wait for what is retained.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MAX_EVENTS = 64
"""Events that wait; the oldest are dropped."""


class Message(NamedTuple):
    """One message for the broker."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False
    until: float | None = None
    """`time.monotonic()` after which nobody wants it; None for what is retained."""
    sent: Callable[[], None] | None = None
    """Called when the broker has it."""

    def left_s(self) -> float | None:
        """Return for how much longer it is wanted."""
        return None if self.until is None else self.until - time.monotonic()


class Outbox:
    """The messages that wait."""

    def __init__(self) -> None:
        self.dropped = 0
        """Events that were too old, or too many."""
        self._events: deque[Message] = deque()
        self._kept: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._came = asyncio.Event()
        self._changed = asyncio.Event()

    def put(self, message: Message) -> None:
        """Publish an event as soon as possible."""
        if len(self._events) >= MAX_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._events.append(message)
        self._came.set()

    def keep(self, topic: str, payload: str) -> None:
        """Let the broker retain a payload, unless it has it already; the last goes last."""
        self._kept.pop(topic, None)
        self._kept[topic] = payload
        self._changed.set()

    def resend(self) -> None:
        """Publish again what is retained: the broker, or somebody else, may have lost it."""
        self._known.clear()
        self._changed.set()

    def dismiss(self) -> None:
        """Drop the events that are too old."""
        fresh = [one for one in self._events if (one.left_s() or 0) > 0]
        self.dropped += len(self._events) - len(fresh)
        self._events = deque(fresh)

    async def event(self) -> Message:
        """Return the next event; it stays until it is `done`."""
        while True:
            self.dismiss()
            if self._events:
                return self._events[0]
            self._came.clear()
            await self._came.wait()

    async def difference(self) -> Message:
        """Return what the broker is to retain and does not yet; it stays until it is `done`."""
        while True:
            for topic, payload in self._kept.items():
                if self._known.get(topic) != payload:
                    return Message(topic, payload, retain=True)
            self._changed.clear()
            await self._changed.wait()

    def done(self, message: Message) -> None:
        """Forget a message: the broker has it."""
        if message.retain:
            self._known[message.topic] = message.payload
            return
        if self._events and self._events[0] is message:
            self._events.popleft()
        if message.sent:
            message.sent()
