"""Notifications to systemd (sd_notify(3)). Sending never blocks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque

from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
DATAGRAMS = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
MAX_UNSENT = 16
"""Messages that wait while systemd reads none; the oldest are dropped."""
RETRY_S = 0.5


class Notifier:
    """Sends datagrams to `$NOTIFY_SOCKET`; does nothing where there is none.

    It takes what systemd has set out of the environment, since nothing that this process starts may
    speak for it: `systemctl` would, and systemd logs each attempt.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # One for all messages: a daemon that is out of descriptors must still say that it lives.
        self._socket = socket.socket(socket.AF_UNIX, DATAGRAMS) if address else None
        pid = os.environ.pop("WATCHDOG_PID", None)
        ours = pid is None or pid == str(os.getpid())
        interval_us = os.environ.pop("WATCHDOG_USEC", "")
        self.watchdog_s = int(interval_us) / 1e6 if interval_us.isdigit() and ours else None
        """Longest time between two WATCHDOG=1, in seconds, or None."""
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._retrying = False
        self._failing = Seldom(log)

    def send(self, **fields: str | int) -> None:
        """Send `fields`, a line each; later, while the queue of the socket is full.

        A WATCHDOG=1 that is late would not be true, and is dropped.
        """
        if self._socket is None:
            return
        self._unsent.append("\n".join(f"{key}={value}" for key, value in fields.items()).encode())
        self._send_unsent()
        if self._unsent and "WATCHDOG" in fields:
            self._unsent.pop()

    def close(self) -> None:
        """Send nothing from now on."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def reloading(self) -> None:
        """Announce a reload."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def _send_unsent(self) -> None:
        if self._socket is None:
            return
        try:
            while self._unsent:
                self._socket.sendto(self._unsent[0], self._address)
                self._unsent.popleft()
        except BlockingIOError:
            self._failing("systemd reads no notifications; %d wait", len(self._unsent))
            self._retry_later()
        except OSError as error:
            self._failing("systemd could not be notified: %s", error)
            self._unsent.clear()

    def _retry_later(self) -> None:
        if self._retrying:
            return
        self._retrying = True
        asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._send_unsent()
