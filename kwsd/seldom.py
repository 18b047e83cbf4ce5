"""Log lines that a stranger can cause: one a minute, however often it happens."""

from __future__ import annotations

import logging
import time

EVERY_S = 60.0


class Seldom:
    """Logs a warning of one kind at most once a minute, and how many were left out."""

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self._next = 0.0
        self._left_out = 0

    def __call__(
        self, message: str, *arguments: object, exc_info: bool | BaseException = False
    ) -> None:
        """Log `message`, unless one was logged within the last minute."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        if self._left_out:
            message += f" (and {self._left_out} more of this kind before it)"
        self._log.log(self._level, message, *arguments, exc_info=exc_info)
        self._next = now + EVERY_S
        self._left_out = 0
