"""The verbs where a daemon runs: what it does and hears, and what is in force there."""

from __future__ import annotations

import json
import os
import pwd
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import numpy as np
import pytest
from conftest import Daemon, Start, hiss, say
from test_cli import own_folders, run

from kwsd.cli import checks
from kwsd.protocol.commands import CalibrationPut, GetCalibration, Reload, Status
from kwsd.protocol.data import SpeakerThreshold, WordThreshold
from kwsd.protocol.errors import DaemonError

__all__ = ["own_folders"]  # a fixture that every test here uses


def test_verbs_of_a_running_daemon(capsys: pytest.CaptureFixture[str], start: Start) -> None:
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    socket = ["--socket", daemon.socket]
    status, out, _ = run(capsys, "status", *socket, "--json")
    assert status == 0
    assert list(json.loads(out)["words"]) == ["computer"]
    status, out, _ = run(capsys, "status", *socket)
    assert "listens for computer (threshold 0." in out
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert f"no speaker is enrolled; 1 client(s) ({me})\n" in out
    assert run(capsys, "reload", *socket) == (0, "", "")
    assert json.loads(run(capsys, "reload", *socket, "--json")[1]) == {"reloaded": True}
    command = ["-m", "kwsd", "events", *map(str, socket), "--types", "wake", "--json"]
    kept = forked.Process(command, stdout=forked.PIPE, text=True)
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(0.2):
            daemon.hear(np.concatenate([hiss(1.5), say("computer")]))
        assert daemon.process.stdin is not None
        daemon.process.stdin.close()

    with ThreadPoolExecutor(1) as threads:
        talking = threads.submit(talk)
        assert kept.stdout is not None
        lines = [kept.stdout.readline()]
        status, out, _ = run(capsys, "events", *socket, "--types", "wake", "--count", "1")
        ended.set()
        talking.result()
    assert status == 0
    assert out.startswith("wake: “computer”, score 0.")
    lines += kept.communicate(timeout=60)[0].splitlines()
    assert kept.returncode == 0
    assert len(lines) >= 2
    assert [(e["type"], e["word"], e["seq"]) for e in map(json.loads, lines)] == [
        ("wake", "computer", n) for n in range(1, len(lines) + 1)
    ]


def test_what_is_in_force_has_sources(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: Start, scene_wav: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("vad: off\nwords:\n  alexa: {threshold: strict}\n  computer:\n")
    at = ["--source", str(scene_wav), "--wait-for-client", "--config", str(config)]
    daemon = start(*at)
    daemon.connect().close()
    socket = ["--socket", daemon.socket]
    status, out, _ = run(capsys, "config", "show", *socket)
    assert status == 0
    assert out.startswith(f"# in force in the daemon at {daemon.socket}\n")
    lines = [line.strip() for line in out.splitlines()]
    assert f"enabled: false  # {config}, line 1" in lines
    assert f'state: "{daemon.state}"  # command line' in lines
    assert "lookback_s: 10.0  # default" in lines
    body = json.loads(run(capsys, "config", "show", *socket, "--json")[1])
    sources = body["sources"]
    assert body["daemon"] == str(daemon.socket)
    for word in ("computer", "alexa"):
        assert 0.01 < body["words"][word]["threshold"] < 1
    assert sources["words.alexa.threshold"] == f"{config}, line 3"
    assert sources["words.computer.threshold"] == "model"
    assert sources["words.computer.refractory_s"] == "default"
    assert sources["speaker.threshold"] == "model"
    calibrated = CalibrationPut(
        words={"computer": _threshold(daemon, 0.77)},
        speaker=SpeakerThreshold(threshold=0.66, false_accept_rate=0.01, time=1),
    )
    config.write_text("clips: on\nwords:\n  computer:\n")
    with daemon.connect() as client:
        client.request(calibrated)
        client.request(Reload())
    body = json.loads(run(capsys, "config", "show", *socket, "--json")[1])
    assert body["words"] == {"computer": {"threshold": 0.77, "refractory_s": 2.0, "enabled": True}}
    assert body["sources"]["words.computer.threshold"] == "calibrated"
    assert (body["speaker"]["threshold"], body["sources"]["speaker.threshold"]) == (
        0.66,
        "calibrated",
    )
    assert body["sources"]["clips.enabled"] == f"{config}, line 1"
    daemon.kill()
    # Without a daemon: what one that is started now would do.
    options = ["--config", config, "--state", daemon.state]
    local = json.loads(run(capsys, "config", "show", *options, "--json")[1])
    assert local["daemon"] is None
    assert local["words"] == body["words"]
    assert local["sources"]["state"] == "command line"


def _threshold(daemon: Daemon, value: float) -> WordThreshold:
    """Return a calibrated threshold of the model that a daemon has of "computer"."""
    with daemon.connect() as client:
        model = client.request(GetCalibration()).words["computer"].model
    return WordThreshold(threshold=value, model=model, rate=1, hours=1, time=1)


def test_doctor_judges_the_daemon_that_runs(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    scene_wav: Path,
) -> None:
    used = tmp_path / "used.yaml"
    used.write_text("words: {alexa: }\nsocket: {admin_group: nobody-is-in-it}\n")
    own = tmp_path / "own" / "kwsd" / "kwsd.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("wrods: 3")
    at = ["--source", str(scene_wav), "--wait-for-client", "--config", str(used)]
    daemon = start(*at)
    daemon.connect().close()
    _, out, _ = run(capsys, "doctor", "--socket", daemon.socket, "--json")
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert findings["configuration"]["ok"]
    assert findings["configuration"]["detail"].startswith(str(used))
    assert f"it does not read {own}" in findings["configuration"]["detail"]
    assert findings["voiceprints"]["detail"] == f"0 in {daemon.state}"
    assert str(daemon.socket) in findings["daemon"]["detail"]
    assert findings["rights"]["detail"] == "you may make every request"
    assert findings["groups"]["fix"] == "sudo groupadd --system nobody-is-in-it"
    daemon.kill()
    _, out, _ = run(capsys, "doctor", "--socket", daemon.socket, "--json")
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert "unknown key 'wrods'" in findings["configuration"]["detail"]
    assert "; a daemon that you start now uses it" in findings["voiceprints"]["detail"]


@pytest.mark.parametrize(
    ("states", "bad"),
    [
        ({}, []),
        ({"": ("active", "enabled")}, []),
        ({"": ("failed", "enabled")}, ["journalctl -u kwsd -n 50"]),
        ({"--user": ("failed", "enabled")}, ["journalctl --user -u kwsd -n 50"]),
        ({"--user": ("inactive", "enabled")}, ["systemctl --user start kwsd"]),
        ({"kwsd-mqtt.service": ("active", "enabled")}, []),
        ({"kwsd-mqtt.service": ("inactive", "disabled")}, []),
        ({"kwsd-mqtt.service": ("failed", "enabled")}, ["journalctl -u kwsd-mqtt -n 50"]),
        (
            {"--user kwsd-metrics.service": ("activating", "enabled")},
            ["journalctl --user -u kwsd-metrics -n 50"],
        ),
        ({"": ("inactive", "disabled"), "--user": ("active", "enabled")}, []),
        (
            {"": ("active", "enabled"), "--user": ("active", "enabled")},
            ["systemctl --user disable --now kwsd   (or: sudo systemctl disable --now kwsd)"],
        ),
    ],
)
def test_doctor_asks_both_managers(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, tuple[str, str]], bad: list[str]
) -> None:
    def systemctl(verb: str, *more: str) -> str:
        *which, unit = more
        key = " ".join([*which, *([] if unit == "kwsd.service" else [unit])])
        active, enabled = states.get(key, ("inactive", "not-found"))
        return active if verb == "is-active" else enabled

    monkeypatch.setattr(checks, "_systemctl", systemctl)
    monkeypatch.setattr(checks, "_has_systemd", lambda: True)
    assert [finding.fix for finding in checks._services(None) if not finding.ok] == bad


def test_the_demo_says_when_it_has_ended(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene_wav: Path,
) -> None:
    monkeypatch.setattr("kwsd.cli.demo.source", lambda: str(scene_wav))
    where = ["--socket", tmp_path / "k.sock", "--state", tmp_path / "state"]
    status, out, _ = run(capsys, "run", "--source", "auto", *where)
    assert status == 0
    first, *events, last = out.splitlines()
    assert first.startswith("This machine has no microphone.")
    assert sum(line.startswith("wake: “computer”") for line in events) == 2
    assert last.startswith("The recording has ended, and so has the demo. Plug a microphone in")


def test_the_log_level_is_configured_and_reloaded(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("checker: off\nlog_level: error\n")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    with daemon.connect() as client:
        client.request(Reload())
        assert daemon.log.read_text() == ""
        config.write_text("checker: off\nlog_level: debug\n")
        client.request(Reload())
        client.request(Status())
        log = daemon.log.read_text()
        assert "INFO kwsd.server.daemon: reloaded: computer" in log
        assert re.search(r"DEBUG kwsd.server.handlers: client pid \d+ uid \d+ asks for status", log)
        config.write_text("checker: off\nlog_level: loud\n")
        with pytest.raises(DaemonError, match="log_level: 'loud' is not 'debug', 'error', 'info'"):
            client.request(Reload())
