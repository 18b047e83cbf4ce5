"""Hostile clients beside a subscriber: a small load in the core tests, the whole one as `slow`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from load import LINES, flooding, measure

from kwsd.protocol.commands import Status, Subscribe

MOST_MIB = 250


def peak_mib(pid: int) -> float:
    """Return the most resident memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


@pytest.mark.slow
def test_one_hostile_client_of_each_kind(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime", wrapper=["env"])
    with daemon.connect() as client, daemon.connect() as asking:
        client.request(Subscribe(types=["wake"]))
        with flooding(daemon.socket, len(LINES), 3.0) as process:
            while (status := asking.request(Status())).microphone.state != "ok":
                time.sleep(0.05)  # nothing has been heard yet
            heard = status.audio_s
            while process.poll() is None:
                assert asking.request(Status()).microphone.state == "ok"
                time.sleep(0.05)
            assert process.stdout is not None
            report = json.load(process.stdout)
        assert asking.request(Status()).audio_s > heard
        assert report["connections"] >= len(LINES)
        assert report["sent_mib"] > 1
        assert next(client.events(types=["wake"])).word == "computer"
        with flooding(daemon.socket, len(LINES), 30.0):
            time.sleep(0.5)
            assert peak_mib(daemon.process.pid) < MOST_MIB
            daemon.process.terminate()
            assert daemon.wait(5) == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.timing
def test_sixty_hostile_clients() -> None:
    report: Any = measure(60, 30.0)
    wakes = report["wakes"]
    assert wakes["under_load"] >= int(wakes["spoken_under_load"]), report
    assert wakes["late_most_ms"] < 200, report
    assert report["status_ms"]["most"] < 1000, report
    assert report["status_ms"]["failed"] == 0, report
    assert report["peak_mib"] < MOST_MIB, report
    assert report["sigterm_s"] < 5, report
    assert report["exit_status"] == 0, report
