"""kwsd writes only where it says, speaks to Unix sockets alone, and looks up no name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import syscalls
from conftest import ROOT, Start

from kwsd.model import bundle as bundles
from kwsd.model.bundle import ENCODER
from kwsd.ort import onnxruntime
from kwsd.protocol.commands import Status

REFUSAL = syscalls.refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=f"no program can be traced: {REFUSAL}")
TELEMETRY_SINCE = (1, 32)
"""Version of onnxruntime whose wheels for Linux have telemetry."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder that the user names."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user with this home and nothing else."""
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def traced(home: Path, *arguments: str) -> syscalls.Observed:
    """Run Python with `arguments` for the user with this home, and return what it did."""
    log = home.parent / "strace"
    command = [*syscalls.command(log), sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home), cwd="/")
    assert done.returncode == 0, done.stderr
    return syscalls.observed(log)


def test_detect_and_embed_touch_only_what_they_are_told_to(
    home: Path, out: Path, scene_wav: Path
) -> None:
    trace = out / "trace.npz"
    (out / "state").mkdir()
    verbs = [
        ["detect", "--trace", str(trace), "--state", str(out / "state"), str(scene_wav)],
        ["embed", "--out", str(out / "voices.npz"), str(scene_wav)],
    ]
    for verb in verbs:
        found = traced(home, "-m", "kwsd", *verb)
        assert found.outside(out) == set()
        assert found.families == set()
        assert found.looked_up == set()
    assert str(trace) in found.written or trace.exists()
    assert list(home.iterdir()) == []


def test_the_daemon_writes_its_state_and_speaks_to_its_socket_alone(
    home: Path, out: Path, scene_wav: Path, start: Start
) -> None:
    log = home.parent / "strace"
    config = out / "kwsd.yaml"
    config.write_text("clips: on\n")
    daemon = start(
        *("--config", str(config), "--source", str(scene_wav), "--wait-for-client"),
        folder=out,
        env=environment(home),
        wrapper=syscalls.command(log),
        alone=True,
    )
    with daemon.connect() as client:
        events = client.events(types=["wake"])
        with daemon.connect() as other:
            other.request(Status())
        assert len(list(events)) == 2
    assert daemon.wait() == 0, daemon.log.read_text()
    found = syscalls.observed(log)
    assert found.outside(out) == set()
    assert found.families == {"AF_UNIX"}
    assert found.looked_up == set()
    assert list(home.iterdir()) == []
    assert str(daemon.socket) in found.connected
    assert len(list((daemon.state / "clips").glob("*.wav"))) == 2
    assert any(path.endswith(".wav.partial") or path.endswith(".wav") for path in found.written)


SPY = """
import os, pathlib, socket, sys
home = pathlib.Path.home()
os.close(os.open(home / "device", os.O_WRONLY | os.O_CREAT))
os.mkdir(home / "cache")
os.rename(home / "device", home / "cache" / "device")
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
datagrams.sendto(b"x", ("127.0.0.2", 9))
datagrams.sendmsg([b"x"], [], 0, ("127.0.0.3", 9))
try:
    socket.socket(socket.AF_INET6).connect_ex(("::1", 9))
except OSError:
    pass  # a machine without IPv6
socket.socket(socket.AF_INET).connect_ex(("127.0.0.1", 9))
socket.socket(socket.AF_UNIX).connect_ex("/run/spy.sock")
try:
    socket.getaddrinfo("collector.invalid", 443)
except OSError:
    pass
"""


def test_a_spy_is_seen(home: Path, out: Path) -> None:
    found = traced(home, "-c", SPY)
    paths = {str(home / name) for name in ("device", "cache", "cache/device")}
    assert found.outside(out) >= {*paths, "/run/spy.sock"}
    assert {"AF_INET", "AF_UNIX"} <= found.families
    assert {f"127.0.0.{n} port 9" for n in (1, 2, 3)} <= found.reached
    assert ("::1 port 9" in found.reached) == ("AF_INET6" in found.families)
    assert "127.0.0.1 port 0" in found.bound
    assert "/etc/hosts" in found.looked_up or "/etc/resolv.conf" in found.looked_up


def test_the_telemetry_is_seen_where_kwsd_does_not_turn_it_off(home: Path, out: Path) -> None:
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < TELEMETRY_SINCE:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no telemetry")
    model = str(bundles.default_path() / ENCODER)
    load = f"InferenceSession({model!r}, providers=['CPUExecutionProvider'])"
    found = traced(home, "-c", f"import onnxruntime; onnxruntime.{load}")
    assert any(path.startswith(str(home)) for path in found.outside(out))
    assert list(home.iterdir()) != []
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    found = traced(home, "-c", f"from kwsd.ort import onnxruntime; onnxruntime.{load}")
    assert found.outside(out) == set()
    assert list(home.iterdir()) == []
