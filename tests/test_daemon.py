"""The daemon as a process: what apps see, signals, systemd, and every kind of bad client."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, Daemon, hiss, say

from kwsd.client.client import connect
from kwsd.protocol.errors import DaemonError

Start = Callable[..., Daemon]


def status_of(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise AssertionError(key)


def test_a_recording_goes_the_whole_way_to_a_subscriber(start: Start, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    with daemon.connect() as client:
        assert client.hello["words"] == ["computer"]
        assert (client.hello["protocol"], client.hello["sample_rate"]) == (1, 16000)
        events = list(client.events())
    assert daemon.wait() == 0
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "microphone"
    wakes = [e for e in events if e["type"] == "wake"]
    assert [e["word"] for e in wakes] == ["computer", "computer"]
    for wake in wakes:
        assert {"score", "threshold", "start", "end", "time", "speaker", "latency_ms"} <= set(wake)
        assert wake["speaker"] is None
        assert 0 < wake["end"] - wake["start"] < 2 * RATE
        assert abs(wake["time"] - time.time()) < 60


def test_standard_input_of_any_rate(start: Start, scene: np.ndarray) -> None:
    import soxr

    pcm = np.repeat(soxr.resample(scene, RATE, 48000)[:, None], 2, axis=1).astype("<i2").tobytes()
    daemon = start("--source", "-", "--rate", "48000", "--channels", "2", "--wait-for-client", stdin=subprocess.PIPE)
    with daemon.connect() as client:
        events = client.events(types=["wake"])
        assert daemon.process.stdin is not None
        daemon.process.stdin.write(pcm)
        daemon.process.stdin.close()
        daemon.process.stdin = None
        assert [e["word"] for e in events] == ["computer", "computer"]
    assert daemon.wait() == 0


def test_a_subscriber_that_never_reads_is_dropped_and_slows_nobody(start: Start, tmp_path: Path, raw_client: Callable[[Path], socket.socket]) -> None:
    config = tmp_path / "small.yaml"
    config.write_text("socket: {backlog_bytes: 65536}\nwords: {computer: {refractory_s: 0}}\n")
    wav = tmp_path / "many.wav"
    soundfile.write(wav, np.tile(np.concatenate([say("computer"), hiss(0.8)]), 150), RATE)
    daemon = start("--config", str(config), "--source", str(wav), "--wait-for-client")
    with daemon.connect() as good:
        deaf = raw_client(daemon.socket)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        flood = b'{"type":"status","id":1}\n' * 400
        good.request("subscribe", types=["wake"])  # the recording begins
        deaf.sendall(b'{"type":"subscribe","types":["wake","rejected"]}\n' + flood)
        events = list(good.events(types=["wake"]))
    assert daemon.wait(60) == 0
    assert len(events) == 150
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert "dropping client pid" in daemon.log.read_text()


def test_sigterm_ends_it_in_under_a_second_also_while_busy(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        client.request("subscribe")
        time.sleep(0.5)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert time.monotonic() - began < 1.0
    assert not daemon.socket.exists()


def test_a_second_interrupt_exits_at_once(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--wait-for-client")
    daemon.connect().close()
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait(2) in (0, 130)


def test_reload_takes_up_words_and_thresholds_without_losing_audio(start: Start, tmp_path: Path, endless: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("words: {computer: {threshold: 0.9}}\n")
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    with daemon.connect() as client:
        before = client.request("status")
        assert before["words"] == {"computer": {"threshold": 0.9, "origin": "configured"}}
        config.write_text("words: {alexa: , computer: {threshold: 0.4}}\n")
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while list((after := client.request("status"))["words"]) != ["alexa", "computer"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert after["words"]["computer"] == {"threshold": 0.4, "origin": "configured"}
        config.write_text("words: {hal: }\n")
        with pytest.raises(DaemonError, match="no model of 'hal'"):
            client.request("reload")
        config.write_text("nonsense: 1\n")
        with pytest.raises(DaemonError, match="line 1: unknown key 'nonsense'"):
            client.request("reload")
        time.sleep(0.3)
        last = client.request("status")
        assert list(last["words"]) == ["alexa", "computer"]
        assert abs((last["audio_s"] - before["audio_s"]) - (last["uptime_s"] - before["uptime_s"])) < 0.5
        assert last["microphone"]["state"] == "ok"


def test_look_back_as_pcm_and_into_a_passed_descriptor(start: Start, tmp_path: Path, scene: np.ndarray, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client", "--realtime")
    with daemon.connect() as client:
        wake = next(client.events(types=["wake"]))
        reply = client.request("audio", start=wake["start"], end=wake["end"])
        pcm = np.frombuffer(base64.b64decode(reply["pcm"]), "<i2")
        assert np.array_equal(pcm, scene[wake["start"] : wake["end"]])
        with (tmp_path / "wake.wav").open("wb") as out:
            client.request("audio", start=wake["start"], end=wake["end"], fd=out.fileno())
        with wave.open(str(tmp_path / "wake.wav")) as wav:
            assert (wav.getframerate(), wav.getnchannels()) == (16000, 1)
            assert wav.readframes(1 << 20) == pcm.tobytes()
        with pytest.raises(DaemonError, match=r"were asked for; .* are kept"):
            client.request("audio", start=10**9, end=10**9 + 5)
        with pytest.raises(DaemonError, match="by at most 20 s"):
            client.request("audio", start=0, end=10**9)


def test_enrolment_through_the_socket_and_who_spoke(start: Start, tmp_path: Path, scene_wav: Path) -> None:
    takes = []
    for n, sentence in enumerate(("computer", "computer, turn on the light", "the weather is nice today", "a")):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(sentence), RATE)
    daemon = start("--source", str(scene_wav), "--wait-for-client", "--realtime")
    daemon.connect().close()
    command = [sys.executable, "-m", "kwsd", "enroll", "ann", "--socket", str(daemon.socket), "--wav", *map(str, takes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ann is enrolled, from 3 takes" in done.stdout
    assert "left out" in done.stderr
    with daemon.connect() as client:
        assert [s["name"] for s in client.request("speakers")["speakers"]] == ["ann"]
        wakes = list(client.events(types=["wake"]))
    assert [w["speaker"]["name"] for w in wakes] == ["ann", "ann"]
    assert wakes[0]["speaker"]["score"] > wakes[1]["speaker"]["score"]
    again = start("--source", str(scene_wav), "--wait-for-client")
    with again.connect() as client:
        assert client.request("status")["speakers"] == ["ann"]
        client.request("speakers.delete", name="ann")
        assert client.request("status")["speakers"] == []
        with pytest.raises(DaemonError, match="no speaker is called 'ann'"):
            client.request("speakers.delete", name="ann")


def test_guided_enrolment_from_the_stream(start: Start, tmp_path: Path) -> None:
    free = "the weather is nice today, and I like to speak for some while about nothing at all"
    parts = [hiss(2.0)]
    for _ in range(5):
        parts += [say("computer"), hiss(3.0)]
    for _ in range(2):
        parts += [say(free), hiss(4.0)]
    soundfile.write(tmp_path / "session.wav", np.concatenate([*parts, hiss(30)]), RATE)
    daemon = start("--source", str(tmp_path / "session.wav"), "--wait-for-client", "--realtime")
    command = [sys.executable, "-m", "kwsd", "enroll", "ann", "--socket", str(daemon.socket)]
    daemon.connect().close()
    guide = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1.0)
    with daemon.connect() as client:
        client.request("subscribe")
        told, _ = guide.communicate(timeout=90)
    assert guide.returncode == 0, told
    assert "[1/7] Please say “computer”." in told
    assert told.count("good:") == 7
    assert "ann is enrolled, from 7 takes." in told
    assert (daemon.state / "ann.voiceprint").exists()


def test_bad_requests_are_answered_and_the_daemon_lives_on(start: Start, endless: Path, raw_client: Callable[[Path], socket.socket]) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as good:
        one = raw_client(daemon.socket)
        one.sendall(b'{"type":"dance","id":4}\nnot json\n{"type":"status","id":5}\n')
        lines = one.makefile("rb")
        replies = [json.loads(lines.readline()) for _ in range(3)]
        assert [(r["type"], r.get("id"), r.get("code")) for r in replies] == [("error", 4, "unknown_type"), ("error", None, "malformed"), ("reply", 5, None)]
        half = raw_client(daemon.socket)
        half.sendall(b'{"type":"sta')
        half.close()
        binary = raw_client(daemon.socket)
        binary.sendall(os.urandom(50).replace(b"\n", b"x") + b"\n")
        assert b"malformed" in binary.recv(1000)
        huge = raw_client(daemon.socket)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            huge.sendall(b"x" * (100 * 65536))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the fifth malformed line ends it, maybe before the last is sent
            for _ in range(6):
                binary.sendall(b"junk\n")
        answer = b""
        while data := binary.recv(65536):
            answer += data
        assert b"the connection ends" in answer
        with pytest.raises(DaemonError, match=r"enroll.begin comes first"):
            good.request("enroll.next")
        with pytest.raises(DaemonError, match="cannot be a speaker's name"):
            good.request("enroll.begin", name="../../etc/passwd")
        good.request("enroll.begin", name="ann")
        with pytest.raises(DaemonError, match="not base64"):
            good.request("enroll.next", audio="%%%")
        with pytest.raises(DaemonError, match="'hal' is not listened for"):
            good.request("enroll.next", word="hal")
        with pytest.raises(DaemonError, match="'hal' is not listened for"):
            good.request("subscribe", words=["hal"])
        with pytest.raises(DaemonError, match=r"at least 3 are needed"):
            good.request("enroll.commit")
        assert good.request("status")["microphone"]["state"] == "ok"


def test_a_full_disk_is_an_answer_and_the_voiceprint_before_it_stays(start: Start, tmp_path: Path, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    takes = [base64.b64encode(say(s).astype("<i2").tobytes()).decode() for s in ("computer", "the weather is nice", "turn on the light")]
    import resource

    with daemon.connect() as client:

        def enrol() -> None:
            client.request("enroll.begin", name="ann")
            for take in takes:
                client.request("enroll.next", audio=take)
            client.request("enroll.commit")

        enrol()
        before = (daemon.state / "ann.voiceprint").read_bytes()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DaemonError, match=r"could not be saved .*; nothing was changed"):
            enrol()
        assert (daemon.state / "ann.voiceprint").read_bytes() == before
        assert client.request("status")["speakers"] == ["ann"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be played by root")
def test_strangers_may_subscribe_but_not_enrol(start: Start, tmp_path: Path, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    for folder in [tmp_path, *tmp_path.parents[:3]]:
        folder.chmod(0o755)
    daemon.socket.chmod(0o666)
    program = f"""
import json, os, socket
s = socket.socket(socket.AF_UNIX); os.setgid(65534); os.setuid(65534); s.connect({str(daemon.socket)!r})
f = s.makefile("rwb"); f.readline()
audio, name = dict(start=0, end=9), dict(name="x")
for kind, more in (("subscribe", {{}}), ("status", {{}}), ("audio", audio), ("enroll.begin", name), ("reload", {{}}), ("speakers.delete", name)):
    f.write(json.dumps(dict(type=kind, id=kind, **more)).encode() + b"\\n"); f.flush()
    while True:
        body = json.loads(f.readline())
        if body.get("id") == kind: break
    print(kind, body.get("code", "ok"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        "subscribe ok", "status ok", "audio permission_denied", "enroll.begin permission_denied", "reload permission_denied",
        "speakers.delete permission_denied",
    ]  # fmt: skip


def test_the_socket_is_never_taken_from_a_live_daemon_and_a_stale_one_is_replaced(start: Start, tmp_path: Path, endless: Path) -> None:
    one = start("--source", str(endless), "--realtime")
    one.connect().close()
    assert one.socket.stat().st_mode & 0o777 == 0o660
    two = start("--source", str(endless), "--realtime")
    assert two.wait() == 78
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
    assert "Linux takes 107" in (long / "log").read_text()


@pytest.fixture
def notify(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(10)
    return sock


def test_systemd_hears_ready_status_stopping_and_an_honest_watchdog(start: Start, tmp_path: Path, endless: Path, notify: socket.socket) -> None:
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


def test_no_watchdog_when_the_audio_stands_still(start: Start, tmp_path: Path, notify: socket.socket) -> None:
    """A pipe that delivers nothing stands for a hung microphone: the event loop lives, and must not say that all is well."""
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
        assert client.request("status")["audio_s"] >= 1.6  # all but what it takes at once
        notify.settimeout(1.5)
        with pytest.raises(TimeoutError):
            notify.recv(4096)
    notify.close()


def test_it_runs_without_torch_and_without_growing(start: Start, tmp_path: Path, endless: Path) -> None:
    daemon = start("--source", str(endless), "--wait-for-client")
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
    program = "import sys, kwsd.cli.main, kwsd.server.daemon, kwsd.client.enroll, kwsd.cli.doctor; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"


def test_too_many_clients_are_told_so(start: Start, tmp_path: Path, endless: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("socket: {max_clients: 2}\n")
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    with daemon.connect(), daemon.connect(), pytest.raises(DaemonError, match="no more may be"):
        connect(daemon.socket)
