"""Whether the listener still moves.

A call into a sound library can hang for ever, where its sound server was restarted. Nothing on the
listener's own thread can notice that.
"""

from __future__ import annotations

from enum import Enum, auto

GRACE_S = 10.0
"""Seconds that a hung call is given to come back, once it was reported."""
WATCHDOG_SHARE = 0.7
"""The same, at most, as a share of a supervisor's watchdog, which would else come first."""
LONGEST_STEP_S = 1.0
"""What one look may add at most: a process that was stopped does not hang."""


class Motion(Enum):
    """What a look at the listener shows."""

    MOVING = auto()
    HUNG = auto()
    GIVEN_UP = auto()
    """It has hung for so long that only a new process helps."""


class HangWatch:
    """Compares a counter of the listener with what it was."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        """`watchdog_s` is the longest time between two WATCHDOG=1, where one is wanted."""
        self._watchdog_s = watchdog_s
        self._moves = -1
        self._looked_at = 0.0
        self._still_s = 0.0

    def look(self, moves: int, now: float, stall_s: float) -> Motion:
        """Return whether the listener moves, from its counter of moves at `now`, in seconds.

        It hangs where nothing has moved for `stall_s`.
        """
        if moves != self._moves:
            self._moves = moves
            self._still_s = 0.0
        else:
            self._still_s += min(now - self._looked_at, LONGEST_STEP_S)
        self._looked_at = now
        grace_s = GRACE_S
        if self._watchdog_s is not None:
            grace_s = min(grace_s, WATCHDOG_SHARE * self._watchdog_s)
        if self._still_s >= stall_s + grace_s:
            return Motion.GIVEN_UP
        return Motion.HUNG if self._still_s >= stall_s else Motion.MOVING
