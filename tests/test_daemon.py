"""The daemon as a process: what applications see, signals, systemd, and the socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, RawClient, Start, hiss, say

from kwsd.client.client import connect
from kwsd.config import Config, SocketConfig
from kwsd.events import Event, MicrophoneChange, Wake
from kwsd.protocol.commands import Reload, Status, Subscribe
from kwsd.protocol.data import ActiveWordInfo
from kwsd.protocol.errors import DaemonError
from kwsd.server.daemon import Daemon, RunOptions


def status_of(pid: int, key: str) -> int:
    """Return a number of `/proc/PID/status`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise AssertionError(key)


def words_of(events: list[Event]) -> list[str]:
    """Return the words of wakes."""
    return [event.word for event in events if isinstance(event, Wake)]


def test_a_recording_goes_the_whole_way_to_a_subscriber(start: Start, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client", wrapper=["env"])
    with daemon.connect() as client:
        assert client.greeting.words == ["computer"]
        assert (client.greeting.protocol, client.greeting.sample_rate) == (2, 16000)
        events = list(client.events())
    assert daemon.wait() == 0
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0], MicrophoneChange)
    wakes = [e for e in events if isinstance(e, Wake)]
    assert [e.word for e in wakes] == ["computer", "computer"]
    for wake in wakes:
        assert wake.score >= wake.threshold
        assert wake.latency_ms is not None
        assert wake.speaker is None
        assert 0 < wake.end - wake.start < 2 * RATE
        assert wake.time is not None
        assert abs(wake.time - time.time()) < 60


def test_the_fields_of_a_wake_on_the_wire(
    start: Start, scene_wav: Path, raw_client: RawClient, tmp_path: Path
) -> None:
    default = tmp_path / "kwsd" / "kwsd.yaml"
    default.parent.mkdir()
    default.touch()
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()
    client = raw_client(daemon.socket)
    client.sendall(b'{"type":"subscribe","id":"s"}\n')
    with client.makefile("rb") as lines:
        *bodies, last = [json.loads(line) for line in lines]
    assert last == {"type": "end"}
    assert bodies[0] == {"type": "reply", "id": "s", "ok": True}
    assert [body["seq"] for body in bodies[1:]] == list(range(1, len(bodies)))
    assert bodies[1]["type"] == "microphone"
    wakes = [body for body in bodies if body["type"] == "wake"]
    assert [wake["word"] for wake in wakes] == ["computer", "computer"]
    fields = {"score", "stages", "threshold", "start", "end", "time", "speaker", "latency_ms"}
    loudness = {"level_dbfs", "snr_db"}
    for wake in wakes:
        assert set(wake) == {"seq", "type", "word", *fields, *loudness}
        assert wake["speaker"] is None


def test_standard_input_of_any_rate(start: Start, scene: np.ndarray) -> None:
    import soxr

    stereo = np.repeat(soxr.resample(scene, RATE, 48000)[:, None], 2, axis=1)
    options = ["--source", "-", "--rate", "48000", "--channels", "2", "--wait-for-client"]
    daemon = start(*options, stdin=subprocess.PIPE)
    with daemon.connect() as client:
        events = client.events(types=["wake"])
        assert daemon.process.stdin is not None
        daemon.process.stdin.write(stereo.astype("<i2").tobytes())
        daemon.process.stdin.close()
        daemon.process.stdin = None
        assert words_of(list(events)) == ["computer", "computer"]
    assert daemon.wait() == 0


def test_a_subscriber_that_never_reads_is_dropped_and_slows_nobody(
    start: Start, tmp_path: Path, raw_client: RawClient
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "socket: {backlog_bytes: 4096}\nchecker: off\nwords: {computer: {refractory_s: 0}}\n"
    )
    wav = tmp_path / "many.wav"
    soundfile.write(wav, np.tile(np.concatenate([say("computer"), hiss(0.8)]), 30), RATE)
    daemon = start("--config", str(config), "--source", str(wav), "--wait-for-client")
    with daemon.connect() as good:
        deaf = raw_client(daemon.socket)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        flood = b'{"type":"status","id":1}\n' * 600  # fills the socket; replies do not count
        good.request(Subscribe(types=["wake"]))  # the recording begins
        deaf.sendall(b'{"type":"subscribe","types":["wake","rejected"]}\n' + flood)
        events = list(good.events(types=["wake"]))
    assert daemon.wait(60) == 0
    assert len(events) == 30
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert "dropping client pid" in daemon.log.read_text()


@pytest.mark.timing
def test_sigterm_ends_it_in_under_a_second_also_while_busy(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        client.request(Subscribe())
        time.sleep(0.5)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert time.monotonic() - began < 1.0
    assert not daemon.socket.exists()


@pytest.mark.timing
def test_a_second_interrupt_exits_at_once(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--wait-for-client")
    daemon.connect().close()
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait(2) in (0, 130)


@pytest.mark.timing
def test_reload_applies_words_and_thresholds_without_losing_audio(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("words: {computer: {threshold: 0.9}}\n")
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    with daemon.connect() as client:
        before = client.request(Status())
        id = before.words["computer"].id
        assert id
        rate = before.words["computer"].rate
        assert before.words == {"computer": ActiveWordInfo(0.9, "configured", id, rate)}
        assert rate
        assert (rate.asked, before.false_accepts_per_hour) == (None, rate.held)
        config.write_text("words: {alexa: , computer: {threshold: 0.4}}\n")
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while list((after := client.request(Status())).words) != ["alexa", "computer"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rate = after.words["computer"].rate
        assert after.words["computer"] == ActiveWordInfo(0.4, "configured", id, rate)
        sum_held = sum(word.rate.held for word in after.words.values() if word.rate)
        assert after.false_accepts_per_hour == pytest.approx(sum_held, abs=1e-3)
        config.write_text("words: {hal: }\n")
        with pytest.raises(DaemonError, match="no model of 'hal'"):
            client.request(Reload())
        config.write_text("nonsense: 1\n")
        with pytest.raises(DaemonError, match="line 1: unknown key 'nonsense'"):
            client.request(Reload())
        time.sleep(0.3)
        last = client.request(Status())
        assert list(last.words) == ["alexa", "computer"]
        heard_s = last.audio_s - before.audio_s
        assert abs(heard_s - (last.uptime_s - before.uptime_s)) < 0.5
        assert last.microphone.state == "ok"


def test_changes_are_applied_one_at_a_time(
    tmp_path: Path, scene_wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying: list[Config] = []

    async def apply(self: Daemon, config: Config) -> None:
        assert not applying
        applying.append(config)
        await asyncio.sleep(0.01)
        applying.pop()

    async def reload_twice_while_the_state_changes() -> None:
        config = Config(state=str(tmp_path), socket=SocketConfig(path=str(tmp_path / "k.sock")))
        daemon = Daemon(RunOptions(config, source=str(scene_wav)))
        await asyncio.gather(daemon.reload(), daemon._apply_state(), daemon.reload())

    monkeypatch.setattr(Daemon, "_apply", apply)
    asyncio.run(reload_twice_while_the_state_changes())


def test_the_socket_is_never_taken_from_a_live_daemon_and_a_stale_one_is_replaced(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    one = start("--source", str(endless), "--realtime")
    one.connect().close()
    assert one.socket.stat().st_mode & 0o777 == 0o660
    two = start("--source", str(endless), "--realtime")
    assert two.wait() == 69  # it may be free a moment later, unlike a configuration
    assert "already served by a running kwsd" in two.log.read_text()
    one.process.kill()
    one.wait()
    assert one.socket.exists()
    three = start("--source", str(endless), "--realtime")
    three.connect().close()


def test_paths_that_cannot_be_a_socket(start: Start, tmp_path: Path, scene_wav: Path) -> None:
    (tmp_path / "k.sock").write_text("a file of somebody's")
    daemon = start("--source", str(scene_wav))
    assert daemon.wait() == 78
    assert "exists and is no socket" in daemon.log.read_text()
    assert (tmp_path / "k.sock").read_text() == "a file of somebody's"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    assert start("--source", str(scene_wav), folder=long).wait() == 78
    assert "and the path of a socket at most 107; choose" in (long / "log").read_text()


@pytest.fixture
def notify(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(10)
    return sock


@pytest.mark.timing
def test_systemd_gets_ready_status_stopping_and_an_honest_watchdog(
    start: Start, tmp_path: Path, endless: Path, notify: socket.socket
) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    daemon = start("--source", str(endless), "--realtime", env=env)
    heard: list[bytes] = []
    deadline = time.monotonic() + 10
    while heard.count(b"WATCHDOG=1") < 4 and time.monotonic() < deadline:
        heard += notify.recv(4096).split(b"\n")
    assert b"READY=1" in heard
    assert any(h.startswith(b"STATUS=listening for computer on") for h in heard)
    assert heard.index(b"READY=1") < heard.index(b"WATCHDOG=1")
    daemon.process.send_signal(signal.SIGHUP)
    while not any(h.startswith(b"RELOADING=1") for h in heard):
        heard += notify.recv(4096).split(b"\n")
    daemon.process.send_signal(signal.SIGTERM)
    while b"STOPPING=1" not in heard:
        heard += notify.recv(4096).split(b"\n")
    assert daemon.wait() == 0
    notify.close()


@pytest.mark.timing
def test_the_watchdog_is_fed_while_no_client_has_come(
    start: Start, tmp_path: Path, endless: Path, notify: socket.socket
) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    start("--source", str(endless), "--wait-for-client", env=env)
    heard: list[bytes] = []
    while heard.count(b"WATCHDOG=1") < 6:
        heard += notify.recv(4096).split(b"\n")
    notify.close()


@pytest.mark.timing
def test_a_call_that_hangs_is_a_lost_microphone_and_then_the_end(
    start: Start, tmp_path: Path, notify: socket.socket
) -> None:
    hang = tmp_path / "hang"
    config = tmp_path / "kwsd.yaml"
    config.write_text("microphone: {stall_s: 0.5}\n")
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(hang)]
    daemon = start("--config", str(config), env=env, program=program)
    with daemon.connect() as client:
        events = client.events(types=["microphone"])
        while client.request(Status()).microphone.state != "ok":
            time.sleep(0.05)
        hang.touch()
        states: list[MicrophoneChange] = []
        with contextlib.suppress(DaemonError):  # the daemon goes
            states.extend(event for event in events if isinstance(event, MicrophoneChange))
    assert [event.state for event in states][-1] == "lost"
    assert "has not come back for 0.5 s" in states[-1].detail
    assert daemon.wait(10) == 70
    log = daemon.log.read_text()
    assert "stall_s is 0.5 s: systemd's watchdog would end kwsd before" in log
    assert "write at most 0.2" in log
    assert "microphone lost: a call into the sound library has not come back" in log
    assert "hangs for good, and only a new process helps: exiting with status 70" in log
    sent = []
    notify.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += notify.recv(4096).split(b"\n")
    lost = next(n for n, field in enumerate(sent) if field.startswith(b"STATUS=microphone lost"))
    assert sent[lost - 1] == b"WATCHDOG=1"  # systemd waits from here on
    assert b"WATCHDOG=1" not in sent[lost:]
    notify.close()


@pytest.mark.timing
def test_a_call_that_comes_back_is_forgiven_and_one_that_hangs_holds_up_no_stop(
    start: Start, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    config = tmp_path / "kwsd.yaml"
    config.write_text("microphone: {stall_s: 0.6}\n")
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(hang)]
    daemon = start("--config", str(config), program=program)
    with daemon.connect() as client:
        for state, hangs in (("ok", False), ("lost", True), ("ok", False)):
            if hangs:
                hang.touch()
            else:
                hang.unlink(missing_ok=True)
            while client.request(Status()).microphone.state != state:
                time.sleep(0.02)
        hang.touch()
        time.sleep(0.2)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert time.monotonic() - began < 2.0


@pytest.mark.timing
def test_no_watchdog_when_the_audio_stands_still(
    start: Start, tmp_path: Path, notify: socket.socket
) -> None:
    """A pipe that delivers nothing stands for a microphone that hangs.

    The event loop lives, and must not report that all is well.
    """
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    daemon = start("--source", "-", env=env, stdin=subprocess.PIPE)
    assert daemon.process.stdin is not None
    with daemon.connect() as client:
        daemon.process.stdin.write(np.zeros(2 * RATE, "<i2").tobytes())
        daemon.process.stdin.flush()
        time.sleep(1.0)
        notify.setblocking(False)
        try:
            while True:
                notify.recv(4096)
        except BlockingIOError:
            pass
        assert client.request(Status()).audio_s >= 1.6  # all but what it takes at once
        notify.settimeout(1.5)
        with pytest.raises(TimeoutError):
            notify.recv(4096)
    notify.close()


@pytest.mark.slow
def test_it_runs_without_torch_and_without_growing(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    daemon = start("--source", str(endless), "--wait-for-client", wrapper=["env"])
    with daemon.connect() as client:
        events = client.events()
        for _ in range(10):
            next(events)
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        first = status_of(daemon.process.pid, "VmRSS")
        for _ in range(60):
            next(events)
        assert status_of(daemon.process.pid, "VmRSS") < first + 8192
        assert status_of(daemon.process.pid, "Threads") <= 4
    assert "torch" not in maps
    assert "onnxruntime" in maps


def test_importing_the_daemon_loads_no_torch() -> None:
    modules = "kwsd.cli.main, kwsd.server.daemon, kwsd.client.enroll, kwsd.cli.doctor"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_client_too_many_is_refused(start: Start, tmp_path: Path, endless: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("socket: {max_clients: 2}\n")
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    with daemon.connect(), daemon.connect(), pytest.raises(DaemonError, match="no more may be"):
        connect(daemon.socket)
