"""Notifications to systemd (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


class Notifier:
    """Sends datagrams to `$NOTIFY_SOCKET`; does nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        pid = os.environ.get("WATCHDOG_PID")
        ours = pid is None or pid == str(os.getpid())
        interval_us = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(interval_us) / 1e6 if interval_us.isdigit() and ours else None
        """Longest time between two WATCHDOG=1, in seconds, or None."""

    def send(self, **fields: str | int) -> None:
        """Send `fields`, a line each."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        message = "\n".join(f"{key}={value}" for key, value in fields.items()).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.sendto(message, address)
        except OSError as error:
            log.warning("systemd could not be notified: %s", error)

    def reloading(self) -> None:
        """Announce a reload."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
