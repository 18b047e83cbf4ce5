"""What the blocks of a source say about it: that it is silent, or that the daemon is behind."""

from __future__ import annotations

from kwsd.audio.channels import ChannelMeter
from kwsd.events import Lag

SILENT_S = 60.0
"""Nothing but zeros for this long is a microphone that is muted or broken."""
BEHIND_S = 0.4
"""Lag from which the daemon is behind: most of what a device's buffer holds."""
CAUGHT_UP_S = 0.1
CAUGHT_UP_FOR_S = 5.0
"""Lag below the one, for as long as the other, ends it."""
UNMUTE = "unmute it: alsamixer, or pactl set-source-mute @DEFAULT_SOURCE@ 0"


def silence(meter: ChannelMeter, channel: int | str, name: str) -> str:
    """Return what is wrong with a source of which `channel` (or `mix`) is all zeros for a minute.

    The text is empty where it is not.
    """
    zeros_s = meter.zeros_s
    heard = range(len(zeros_s)) if channel == "mix" else [int(channel)]
    if any(zeros_s[one] < SILENT_S for one in heard):
        return ""
    if channel == "mix" or len(zeros_s) == 1:
        return f"{name} has delivered nothing but zeros for a minute; {UNMUTE}"
    alive = [one for one, seconds in enumerate(zeros_s) if seconds < SILENT_S]
    if not alive:
        return f"every channel of {name} has been zero for a minute; {UNMUTE}"
    levels = meter.levels_dbfs
    named = ", ".join(f"channel {one} is not ({levels[one]:.0f} dBFS)" for one in alive)
    text = f"channel {channel} of {name} has been zero for a minute, {named}"
    return f"{text}; set microphone.channel to {alive[0]}"


class LagWatch:
    """Says when the daemon falls behind its source, and when it has caught up."""

    def __init__(self) -> None:
        self.lag_s = 0.0
        self._behind = False
        self._below_since: float | None = None

    def step(self, lag_s: float, now: float) -> Lag | None:
        """Take the lag of another block at `now`, in seconds; return an event where it changes."""
        self.lag_s = lag_s
        if not self._behind:
            if lag_s < BEHIND_S:
                return None
            self._behind = True
            self._below_since = None
            return Lag(behind=True, lag_s=round(lag_s, 3))
        if lag_s >= CAUGHT_UP_S:
            self._below_since = None
            return None
        self._below_since = now if self._below_since is None else self._below_since
        if now - self._below_since < CAUGHT_UP_FOR_S:
            return None
        self._behind = False
        return Lag(behind=False, lag_s=round(lag_s, 3))
