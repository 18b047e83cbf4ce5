"""The way of live lines, audio and scores, from the listener's thread to one client.

What a client leaves unread is bounded: whoever sends looks at `is_full` before each line, and holds
the audio back or leaves scores out. The event loop is never held up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kwsd.protocol.live import LiveMessage, StreamEnd, encode_live
from kwsd.server.hub import Subscriber

MAX_UNREAD_BYTES = 1 << 18
"""Live lines that a client may leave unread: six seconds of audio."""


class Channel:
    """Carries the live lines of one client, in order, and nothing before `open`."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.ended: Callable[[], None] = lambda: None
        """Called on the event loop when the end was sent."""
        self._subscriber = subscriber
        self._loop = asyncio.get_running_loop()
        self._held: list[tuple[bytes, bool]] | None = []
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether the client has left so much unread that the next line must wait."""
        return self._subscriber.live_bytes - self._subscriber.live_sent > MAX_UNREAD_BYTES

    def send(self, message: LiveMessage) -> None:
        """Send a message from the listener's thread. A `StreamEnd` closes the channel."""
        line = encode_live(message)
        is_end = isinstance(message, StreamEnd)
        if not is_end:
            self._subscriber.live_bytes += len(line)
        with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody listens
            self._loop.call_soon_threadsafe(self._arrived, line, is_end)

    def open(self) -> None:
        """Let the messages pass, those first that came meanwhile: the reply is sent."""
        held, self._held = self._held or [], None
        for line, is_end in held:
            self._pass(line, is_end)

    def close(self) -> None:
        """Drop what comes from now on."""
        self._closed = True

    def _arrived(self, line: bytes, is_end: bool) -> None:
        if self._held is None or self._closed:
            self._pass(line, is_end)
        else:
            self._held.append((line, is_end))

    def _pass(self, line: bytes, is_end: bool) -> None:
        if is_end:
            if not self._closed:
                self._subscriber.send(line)
                self.close()
                self.ended()
        elif self._closed:
            self._subscriber.live_sent += len(line)  # it waits for nothing any more
        else:
            self._subscriber.send_live(line)
