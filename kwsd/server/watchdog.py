"""The watch over the listener, for systemd and for whoever hears the events.

WATCHDOG=1 is sent only when the listener's heartbeats have risen since the last time. A listener
that hangs in a call is reported as a lost microphone, with the last WATCHDOG=1, and ends the
process where it does not come back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from kwsd.events import MicrophoneChange
from kwsd.server.disk import Disk
from kwsd.server.hang_watch import HangWatch, Motion
from kwsd.server.listener import Listener
from kwsd.systemd import Notifier

log = logging.getLogger(__name__)
WATCH_S = 1.0
"""Longest time between two looks at the listener: each wakes a machine that may be idle."""
FAILURE = 70
"""Exit status after an internal error (sysexits.h)."""


class Watchdog:
    """Watches a listener, on the event loop."""

    def __init__(
        self,
        listener: Listener,
        notifier: Notifier,
        disk: Disk,
        publish: Callable[[MicrophoneChange], None],
    ) -> None:
        self._listener = listener
        self._notifier = notifier
        self._disk = disk
        self._publish = publish

    async def watch(self, stall_s: Callable[[], float]) -> None:
        """Watch for as long as the task lives; `stall_s` returns the configured one."""
        watch = HangWatch(self._notifier.watchdog_s)
        before = Motion.MOVING
        seen = -1
        interval_s = (self._notifier.watchdog_s or 0.0) / 3
        due = 0.0
        if stall_s() > (longest := 2 * interval_s) and interval_s:
            log.warning(
                "microphone.stall_s is %g s: systemd's watchdog would end kwsd before a call that "
                "hangs is reported; write at most %g",
                stall_s(),
                longest,
            )
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if interval_s and now >= due and self._listener.heartbeats != seen:
                seen = self._listener.heartbeats
                due = now + interval_s
                self._notifier.send(WATCHDOG=1)
            motion = watch.look(self._listener.moves, now, stall_s())
            if self._listener.live and motion is not before:
                before = motion
                if interval_s and motion is Motion.HUNG:
                    # The last one. The watchdog ends what does not end by itself after the grace.
                    seen = self._listener.heartbeats
                    self._notifier.send(WATCHDOG=1)
                self._hangs(motion, stall_s())
            await asyncio.sleep(min(stall_s() / 3, interval_s or WATCH_S, WATCH_S))

    def _hangs(self, motion: Motion, stall_s: float) -> None:
        if motion is Motion.HUNG:
            text = f"a call into the sound library has not come back for {stall_s:g} s"
            log.error("microphone lost: %s", text)
            self._listener.stats.microphone = "lost"
            self._publish(MicrophoneChange(state="lost", detail=text))
        elif motion is Motion.GIVEN_UP:
            text = "the sound library hangs for good, and only a new process helps: exiting"
            log.critical("%s with status %d", text, FAILURE)
            self._notifier.send(STATUS=text)
            self._disk.flush(1.0)
            logging.shutdown()
            os._exit(FAILURE)
