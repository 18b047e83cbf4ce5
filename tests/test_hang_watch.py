"""A listener that hangs in a call is noticed; one that was stopped, or is slow, is not blamed."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

from kwsd.server.hang_watch import GRACE_S, HangWatch, Motion
from kwsd.server.watchdog import Watchdog

MOVING, HUNG, GIVEN_UP = Motion


def looks(watch: HangWatch, moves: list[int], step_s: float = 0.5) -> list[Motion]:
    """Return what looks at these counts show, one every `step_s`."""
    return [watch.look(count, n * step_s, 3.0) for n, count in enumerate(moves)]


def test_standing_still_is_hung_and_then_given_up() -> None:
    found = looks(HangWatch(), [1] * 40)
    assert found.index(HUNG) == 6  # 3 s
    assert found.index(GIVEN_UP) == 6 + 2 * GRACE_S
    assert set(found[26:]) == {GIVEN_UP}


def test_it_is_given_up_before_a_watchdog_that_began_with_the_report_comes() -> None:
    found = looks(HangWatch(watchdog_s=10.0), [1] * 40)
    assert found.index(GIVEN_UP) == 6 + 2 * 7
    assert looks(HangWatch(watchdog_s=60.0), [1] * 40).index(GIVEN_UP) == 6 + 2 * GRACE_S


def test_a_call_that_comes_back_is_forgiven() -> None:
    watch = HangWatch()
    assert looks(watch, [1] * 20)[-1] is HUNG
    assert watch.look(2, 10.5, 3.0) is MOVING
    assert watch.look(2, 11.0, 3.0) is MOVING


def test_a_process_that_was_stopped_does_not_hang() -> None:
    watch = HangWatch()
    assert watch.look(1, 0.0, 3.0) is MOVING
    assert watch.look(1, 3600.0, 3.0) is MOVING
    assert watch.look(2, 3600.5, 3.0) is MOVING


def test_the_last_watchdog_comes_with_the_report() -> None:
    """So systemd waits from then on, and the exit, which says why, comes before its kill."""
    sent: list[str] = []
    notifier = SimpleNamespace(watchdog_s=30.0, send=lambda **fields: sent.extend(fields))
    listener = SimpleNamespace(live=True, moves=1, heartbeats=1, stats=SimpleNamespace())
    stubs: Any = (listener, notifier, None, lambda change: sent.append(change.state))

    async def watch() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(Watchdog(*stubs).watch(lambda: 0.5), 1.0)

    asyncio.run(watch())
    assert sent == ["WATCHDOG", "WATCHDOG", "lost"]
