"""The ages of clips, by a steady clock that no jump of the wall clock moves.

A machine without a battery-backed clock starts in the past and jumps ahead once it has a network,
and any clock may be set wrong for a while. So the steady clock counts the time since boot. What
passed while the machine was off only the wall clock knows: the steady clock follows it by up to
`BELIEVED_S` a boot at once, and further once it has kept pace with the time since boot for as long.
It never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.protocol.data import ClipInfo
from kwsd.state.store import write_atomically

BELIEVED_S = 86400.0
STEP_S = 60.0
"""A wall clock that departs by more from the time since boot has jumped."""
MAX_BYTES = 16 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UPTIME = Path("/proc/uptime")


class Moment(NamedTuple):
    """A moment by the clocks of the machine."""

    boot: str
    """Which boot of the machine it is in."""
    uptime: float
    """Seconds since that boot, suspended or not."""
    wall: float
    """Seconds since the epoch."""


def present() -> Moment:
    """Return the present moment."""
    try:
        boot = BOOT_ID.read_text().strip()
        uptime = float(UPTIME.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # no /proc, or one that is cut down
        boot = ""
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Moment(boot, uptime, time.time())


class _File(Struct):
    """The JSON of the ages."""

    now: float
    """The steady clock, seconds."""
    boot: str
    uptime: float
    booted: float = 0.0
    """The steady clock when this boot was noticed; times after it are of this boot."""
    lag: float = 0.0
    """How far the wall clock is ahead of the steady one."""
    pace: float = 0.0
    """Seconds for which the wall clock has kept pace with the time since boot."""
    credit: float = BELIEVED_S
    """How far the steady clock may still follow the wall clock at once."""
    clips: dict[str, float] = {}
    """When each clip was recorded, by the steady clock."""


class ClipAges:
    """The file `path`: the steady clock, and when each clip was recorded by it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def update(self, clips: Iterable[ClipInfo], new: str = "") -> dict[str, float]:
        """Return the ages of `clips` in seconds, by their ids, and remember these clips alone.

        `new` is the id of one that was recorded just now. A full disk costs nothing but the memory
        of it.
        """
        clips = list(clips)
        moment = present()
        file = self._read() or _begun([clip for clip in clips if clip.id != new], moment)
        _advance(file, moment)
        for clip in clips:
            recorded = file.now - max(moment.wall - clip.time, 0.0)
            file.clips.setdefault(clip.id, recorded)
        file.clips = {clip.id: file.clips[clip.id] for clip in clips}
        with suppress(OSError):
            if clips:
                write_atomically(self._path, msgspec.json.encode(file))
            else:
                self._path.unlink(missing_ok=True)
        return {id: file.now - recorded for id, recorded in file.clips.items()}

    def recorded(self) -> dict[str, float]:
        """Return when the remembered clips were recorded, by their ids."""
        file = self._read()
        return file.clips if file else {}

    def _read(self) -> _File | None:
        """Return what was written last; None without a file that can be used."""
        with suppress(OSError, Damaged):
            return bounded_json.decode(bounded.read(self._path, MAX_BYTES, links=False), _File)
        return None


def _begun(clips: list[ClipInfo], moment: Moment) -> _File:
    """Return a steady clock that has come as far as the clips show, and no further."""
    shown = [clip.time for clip in clips if clip.time <= moment.wall]
    now = max(shown, default=moment.wall)
    booted = now if clips else now - 1.0  # the first clip is of this boot
    recorded = {clip.id: min(clip.time, now) for clip in clips}
    return _File(now, moment.boot, moment.uptime, booted=booted, clips=recorded)


def _advance(file: _File, moment: Moment) -> None:
    if moment.boot == file.boot:
        passed = max(moment.uptime - file.uptime, 0.0)
    else:
        passed = moment.uptime
        file.booted = file.now
        file.credit = BELIEVED_S
    file.boot = moment.boot
    file.uptime = moment.uptime
    file.now += passed
    lag = moment.wall - file.now
    kept_pace = abs(lag - file.lag) <= STEP_S + passed / 1000
    file.pace = file.pace + passed if kept_pace else 0.0
    file.lag = lag
    if lag <= STEP_S:
        return
    if lag <= file.credit:
        file.credit -= lag
    elif file.pace < BELIEVED_S:
        return
    # The missing time lies before this boot: what was recorded in it moves along.
    for id, recorded in file.clips.items():
        file.clips[id] = recorded + lag if recorded > file.booted else recorded
    file.now += lag
    file.lag = 0.0
