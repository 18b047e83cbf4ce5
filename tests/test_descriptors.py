"""A daemon that is out of file descriptors goes on hearing, and accepts clients again later."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start, say

from kwsd.client.client import connect
from kwsd.config import SocketConfig
from kwsd.protocol.commands import Audio, EnrollBegin, EnrollCommit, EnrollNext, Status
from kwsd.server.clients import descriptors
from kwsd.server.disk import Disk
from kwsd.server.process import allow_descriptors

ROOT = Path(__file__).parent.parent
AT_READY = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
kind = sys.argv.pop(1)
out = Path(sys.argv.pop(1))
from kwsd.systemd import Notifier
from kwsd.cli.main import main

at_ready = set()
send = Notifier.send

def noting(self, **fields):
    if "READY" in fields and not at_ready:
        at_ready.update(sys.modules)
    send(self, **fields)

Notifier.send = noting
if kind == "mic":
    from fake_portaudio import FakePortAudio
    from kwsd.audio import capture, devices
    fake = FakePortAudio()
    fake.rates = {48000}
    for module in (capture, devices):
        module.portaudio = lambda: fake
status = main(sys.argv[1:])
out.write_text(json.dumps(sorted(set(sys.modules) - at_ready)))
sys.exit(status)
"""
"""Runs a daemon, and writes which modules it has imported after READY."""


def enroll(socket_path: Path) -> None:
    """Enroll somebody, and fetch some audio."""
    with connect(socket_path) as client:
        client.request(EnrollBegin(name="ann"))
        for text in ("computer", "computer, turn on the light", "the weather is nice today"):
            client.request(EnrollNext(audio=say(text).astype("<i2").tobytes()))
        client.request(EnrollCommit())


@pytest.mark.parametrize("kind", ["recording", "mic"])
def test_nothing_is_imported_once_it_listens(tmp_path: Path, scene_wav: Path, kind: str) -> None:
    """Wakes, clips, peaks, a voice, a resampled microphone, bad lines: all is there at READY."""
    path = tmp_path / "k.sock"
    config = tmp_path / "kwsd.yaml"
    config.write_text("clips: on\n")
    source = str(scene_wav) if kind == "recording" else "mic"
    out = tmp_path / "modules.json"
    where = ["--socket", str(path), "--state", str(tmp_path / "s"), "--config", str(config)]
    options = ["--source", source, *(["--wait-for-client"] if kind == "recording" else [])]
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", AT_READY, tests, kind, str(out), "run", *where, *options]
    with subprocess.Popen(command) as process, _killed(process):
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.05)
        enroll(path)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(b'{"type":"dance"}\n{"type":"audio","start":"x"}\nno\n')
            lines = raw.makefile("rb")
            assert [lines.readline() for _ in range(4)][-1].startswith(b'{"type":"error"')
            lines.close()
        with connect(path) as client:
            if kind == "recording":
                wakes = list(client.events(types=["wake"]))
                assert len(wakes) == 2
            else:
                while client.request(Status()).audio_s < 1:
                    time.sleep(0.05)
                end = client.request(Status()).look_back.end
                client.request(Audio(start=end - 8000, end=end - 7000))
                process.terminate()
        assert process.wait(20) == 0
    assert json.loads(out.read_text()) == []


@contextlib.contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process, whatever becomes of the test."""
    try:
        yield
    finally:
        process.kill()


def test_out_of_descriptors_it_listens_on_and_accepts_clients_later(
    start: Start, tmp_path: Path, talkative: Path
) -> None:
    config = tmp_path / "kwsd.yaml"
    text = "clips: on\nsocket: {max_clients: 400}\nwords: {computer: {refractory_s: 0}}\n"
    config.write_text(text)
    daemon = start("--config", str(config), "--source", str(talkative), "--realtime")
    with daemon.connect() as client:
        few = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) + 10
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (few, few))
        idle: list[socket.socket] = []
        while not _starved(daemon.log):
            idle.append(socket.socket(socket.AF_UNIX))
            idle[-1].connect(str(daemon.socket))
            assert len(idle) < 100
            time.sleep(0.01)
        cpu = _cpu_s(daemon.process.pid)
        wakes = client.events(types=["wake"])
        next(wakes)  # the listener hears on
        next(wakes)
        assert _cpu_s(daemon.process.pid) - cpu < 2.0  # nothing spins
        for one in idle:
            one.close()
        with connect(daemon.socket) as again:
            assert again.request(Status()).microphone.state == "ok"
    log = daemon.log.read_text()
    assert log.count("no client can be accepted for now: Too many open files") == 1
    assert log.count("a clip could not be kept: ") <= 1
    assert "the listener died" not in log
    daemon.process.terminate()
    assert daemon.wait() == 0


def _starved(log: Path) -> bool:
    return "no client can be accepted for now" in log.read_text()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_write_that_fails_is_reported_once_and_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    def fail() -> None:
        raise OSError(24, "Too many open files")

    with Disk() as disk:
        for do in (fail, fail, fail, lambda: None, lambda: None, fail):
            disk.write("a clip", do)
    assert [record.getMessage() for record in caplog.records] == [
        "a clip could not be kept: [Errno 24] Too many open files",
        "a clip can be kept again",
        "a clip could not be kept: [Errno 24] Too many open files",
    ]


def test_the_limit_is_raised_as_far_as_the_clients_may_need(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [(64, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    allow_descriptors(descriptors(64))
    assert limits[-1] == (descriptors(64), 4096)
    allow_descriptors(descriptors(10))
    assert len(limits) == 2
    assert caplog.text == ""
    allow_descriptors(descriptors(4096))
    assert limits[-1] == (4096, 4096)
    assert "socket.max_clients may need 20544 file descriptors, and 4096 are allowed" in caplog.text


@pytest.mark.parametrize("unit", ["system", "user"])
def test_the_limit_of_the_units_fits_the_most_clients(unit: str) -> None:
    text = (ROOT / "systemd" / unit / "kwsd.service").read_text()
    limit = re.search(r"^LimitNOFILE=(\d+)$", text, re.MULTILINE)
    annotation = SocketConfig.__annotations__["max_clients"]
    most = re.search(r"le=(\d+)", str(annotation))
    assert limit is not None
    assert most is not None
    assert int(limit[1]) >= descriptors(int(most[1]))
