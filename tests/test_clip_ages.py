"""The ages of clips: jumps of the wall clock neither delete a clip nor change their order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kwsd.config import ClipsConfig
from kwsd.protocol.data import Clip
from kwsd.state import clip_ages
from kwsd.state.clip_ages import ClipAges, Moment, present
from kwsd.state.clips import ClipStore

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY
LIMITS = ClipsConfig(enabled=True, max_count=3, max_age_days=30)


class Machine:
    """A machine whose clocks the test sets."""

    def __init__(self) -> None:
        self.boot = 1
        self.uptime = 100.0
        self.wall = NOW

    def moment(self) -> Moment:
        return Moment(str(self.boot), self.uptime, self.wall)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.uptime += seconds
        self.wall += seconds

    def reboot(self, off: float, wall: float | None = None) -> None:
        """Start again after `off` seconds, or with the wall clock at `wall`."""
        self.boot += 1
        self.uptime = 20.0
        self.wall = self.wall + off + 20.0 if wall is None else wall


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clip_ages, "present", machine.moment)
    return machine


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return ClipStore(tmp_path, lambda: LIMITS)


def record(store: ClipStore, machine: Machine) -> str:
    """Keep a clip of this moment; return its id."""
    clip = Clip(
        id="",
        word="computer",
        model="m",
        kind="wake",
        time=machine.wall,
        score=0.9,
        threshold=0.5,
        start=0,
        end=9,
    )
    return store.add(clip, np.zeros(10, np.int16)).id


def left(store: ClipStore) -> list[str]:
    """Return the ids of the clips that are left after the age was looked at."""
    store.make_room()
    return [clip.id for clip in store.listed()]


def test_time_that_passes_makes_them_old(store: ClipStore, machine: Machine) -> None:
    first = record(store, machine)
    machine.run(29 * DAY)
    second = record(store, machine)
    assert left(store) == [first, second]
    machine.run(1.5 * DAY)
    assert left(store) == [second]
    machine.run(30 * DAY)
    assert left(store) == []
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY, 20 * YEAR, -50 * YEAR])
def test_a_jump_and_back_loses_nothing_and_keeps_the_order(
    store: ClipStore, machine: Machine, jump: float
) -> None:
    first = record(store, machine)
    machine.wall += jump
    machine.run(HOUR)
    assert left(store) == [first]
    second = record(store, machine)
    machine.run(HOUR)
    machine.wall -= jump
    third = record(store, machine)
    assert left(store) == [first, second, third]
    fourth = record(store, machine)  # three may stay: the first that was recorded goes
    assert left(store) == [second, third, fourth]
    machine.run(31 * DAY)
    assert left(store) == []


def test_a_clock_that_starts_in_the_past_and_is_set_later(
    store: ClipStore, machine: Machine
) -> None:
    first = record(store, machine)
    machine.reboot(0, wall=0.0)  # 1970, off for two hours
    second = record(store, machine)
    machine.run(60)
    machine.wall = NOW + 2 * HOUR
    third = record(store, machine)
    assert left(store) == [first, second, third]
    machine.run(DAY)
    assert left(store) == [first, second, third]


def test_time_off_counts_at_once_up_to_a_day_and_later_beyond(
    store: ClipStore, machine: Machine
) -> None:
    record(store, machine)
    for _ in range(31):  # a kiosk that is off at night, with a clock that stops meanwhile
        machine.reboot(0)
        machine.run(60)
        machine.wall += 16 * HOUR
        machine.run(8 * HOUR)
        store.make_room()
    assert left(store) == []
    second = record(store, machine)
    machine.reboot(60 * DAY)
    assert left(store) == [second]  # such a clock may be wrong
    for _ in range(25):
        machine.run(HOUR)
        store.make_room()
    assert left(store) == []  # it has kept pace for a day


def test_clips_of_before_are_dated_by_their_times(
    store: ClipStore, machine: Machine, tmp_path: Path
) -> None:
    first = record(store, machine)
    machine.run(20 * DAY)
    second = record(store, machine)
    (store.folder / "ages").unlink()
    machine.wall += YEAR  # it was set wrong meanwhile
    assert left(store) == [first, second]
    machine.wall -= YEAR
    machine.run(11 * DAY)
    assert left(store) == [second]


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"now":1}', bytes(100)])
def test_a_damaged_file_begins_again(store: ClipStore, machine: Machine, data: bytes) -> None:
    only = record(store, machine)
    (store.folder / "ages").write_bytes(data)
    assert left(store) == [only]
    assert ClipAges(store.folder / "ages").recorded() == {only: NOW}


def test_a_pipe_in_its_place_hangs_nobody(store: ClipStore, machine: Machine) -> None:
    only = record(store, machine)
    (store.folder / "ages").unlink()
    os.mkfifo(store.folder / "ages")
    assert left(store) == [only]


def test_the_time_since_boot_is_that_of_the_machine() -> None:
    before = present()
    after = present()
    assert before.boot == after.boot
    assert 0 <= after.uptime - before.uptime < 60


@pytest.fixture
def faked() -> Callable[[str, str], str]:
    """Run a program whose wall clock is set otherwise; return what it prints."""
    if not shutil.which("faketime"):
        pytest.skip("no faketime")

    def run(offset: str, program: str) -> str:
        command = ["faketime", "-f", offset, sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_under_a_clock_that_is_faked(faked: Callable[[str, str], str], tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
import numpy as np
from kwsd.config import ClipsConfig
from kwsd.protocol.data import Clip
from kwsd.state.clips import ClipStore
store = ClipStore(Path({str(tmp_path)!r}), lambda: ClipsConfig(enabled=True, max_age_days=30))
store.add(Clip(id="", word="w", model="m", kind="wake", time=time.time(), score=1.0, threshold=0.5,
               start=0, end=9), np.zeros(10, np.int16))
print(time.strftime("%Y"), *[clip.id for clip in store.listed()])
"""
    ids: list[str] = []
    years = []
    for offset in ("+0", "+3y", "-20y", "+0"):
        year, *now = faked(offset, program).split()
        assert now[:-1] == ids
        ids = now
        years.append(int(year))
    assert years[1] == years[0] + 3
    assert years[2] == years[0] - 20
