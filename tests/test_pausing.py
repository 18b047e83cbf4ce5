"""Pauses of a daemon: rights, takes, clients that die, reloads, restarts, and the verbs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
from conftest import RATE, Daemon, RawClient, Start, open_to_others
from test_cli_help import run
from test_listener import wait_for

from kwsd.client.client import Client, connect
from kwsd.events import MicrophoneChange
from kwsd.protocol.commands import (
    Audio,
    EnrollAbort,
    EnrollBegin,
    EnrollNext,
    Pause,
    RecordTake,
    Reload,
    Resume,
    Status,
)
from kwsd.protocol.data import PauseInfo
from kwsd.protocol.errors import DaemonError


@pytest.fixture
def listening(start: Start, tmp_path: Path) -> Daemon:
    """A daemon that listens to a microphone of the tests."""
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(tmp_path / "hang")]
    daemon = start(program=program)
    with daemon.connect() as client:
        wait_for(lambda: state(client) == "ok", 20)
    return daemon


def state(client: Client) -> str:
    """Return the state of the microphone."""
    return client.request(Status()).microphone.state


def holders(client: Client) -> list[str]:
    """Return who has paused."""
    return [pause.holder for pause in client.request(Status()).pauses]


def test_pause_and_resume_are_replies_events_and_the_status(listening: Daemon) -> None:
    with listening.connect() as client, listening.connect() as other:
        events = other.events(types=["microphone"])

        def told() -> tuple[str, tuple[str, ...] | None]:
            event = next(events)
            assert isinstance(event, MicrophoneChange)
            return event.state, event.holders

        assert client.request(Pause(holder="a")).pauses == [PauseInfo("a", None)]
        assert told() == ("paused", ("a",))
        status = client.request(Status())
        assert (status.pauses, status.microphone.levels_dbfs) == ([PauseInfo("a", None)], [])
        assert status.microphone.state == "paused"
        longer = client.request(Pause(holder="b", for_s=60)).pauses
        assert told() == ("paused", ("a", "b"))
        assert [pause.holder for pause in longer] == ["a", "b"]
        assert longer[1].left_s == pytest.approx(60, abs=5)
        done = client.request(Resume(holder="a"))
        assert (done.resumed, [pause.holder for pause in done.pauses]) == (True, ["b"])
        assert told() == ("paused", ("b",))
        later = client.request(Status())
        assert (later.microphone.state, later.audio_s) == ("paused", status.audio_s)
        assert client.request(Resume(holder="b")).pauses == []
        assert told() == ("ok", None)
        assert state(client) == "ok"
        assert not client.request(Resume(holder="b")).resumed


def test_a_pause_on_the_wire(listening: Daemon, raw_client: RawClient) -> None:
    client = raw_client(listening.socket)
    client.sendall(b'{"type":"subscribe","id":0,"types":["microphone"]}\n')
    client.sendall(b'{"type":"pause","id":1,"holder":"a"}\n')
    client.sendall(b'{"type":"resume","id":2,"holder":"a"}\n')
    with client.makefile("rb") as lines:
        found = [json.loads(lines.readline()) for _ in range(5)]
    assert found[1] == {
        "seq": 1, "type": "microphone", "state": "paused", "detail": "by a", "holders": ["a"]
    }  # fmt: skip
    pauses = [{"holder": "a", "left_s": None}]
    assert found[2] == {"type": "reply", "id": 1, "ok": True, "pauses": pauses}
    assert found[3] == {"type": "reply", "id": 2, "ok": True, "resumed": True, "pauses": []}
    assert (found[4]["state"], "holders" in found[4]) == ("ok", False)


@pytest.mark.parametrize("dies", ["closes", "is killed"])
def test_a_pause_ends_with_its_client_unless_it_has_a_time(listening: Daemon, dies: str) -> None:
    program = (
        "import sys, time, kwsd; from kwsd import commands\n"
        "daemon = kwsd.connect(sys.argv[1])\n"
        "daemon.request(commands.Pause(holder='short'))\n"
        "daemon.request(commands.Pause(holder='long', for_s=60))\n"
        "print('paused', flush=True); sys.stdin.read()"
    )
    arguments = ["-c", program, str(listening.socket)]
    child = forked.Process(arguments, stdin=forked.PIPE, stdout=forked.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"paused\n"
    with listening.connect() as client:
        assert holders(client) == ["short", "long"]
        if dies == "closes":
            child.communicate()
        else:
            child.kill()
            child.communicate()
        wait_for(lambda: holders(client) == ["long"])
        assert state(client) == "paused"
        client.request(Resume(holder="long"))
        wait_for(lambda: state(client) == "ok")


def test_a_client_that_goes_while_it_waits_for_its_pause_leaves_none(
    listening: Daemon, raw_client: RawClient
) -> None:
    for _ in range(20):
        gone = raw_client(listening.socket)
        gone.sendall(b'{"type":"pause","holder":"a"}\n')
        gone.close()
    with listening.connect() as client:
        wait_for(lambda: holders(client) == [] and state(client) == "ok")


def test_the_time_runs_out(listening: Daemon) -> None:
    with listening.connect() as client:
        client.request(Pause(holder="a", for_s=0.2))
        assert state(client) == "paused"
        wait_for(lambda: state(client) == "ok")


def test_takes_are_refused_and_ended_and_an_enrollment_goes_on_afterwards(
    listening: Daemon,
) -> None:
    text = "the microphone is paused by a; it returns with `kwsd resume --holder a`"
    with listening.connect() as client, listening.connect() as other:
        client.request(EnrollBegin(name="ann"))
        begun = threading.Event()
        raised: list[DaemonError] = []

        def take() -> None:
            try:
                client.request(
                    EnrollNext(kind="word", timeout_s=60), on_level=lambda _: begun.set()
                )
            except DaemonError as error:
                raised.append(error)

        waiting = threading.Thread(target=take)
        waiting.start()
        assert begun.wait(10)
        other.request(Pause(holder="a"))
        waiting.join(10)
        assert [(error.code, str(error)) for error in raised] == [("paused", text)]
        with pytest.raises(DaemonError, match=text) as caught:
            client.request(EnrollNext())
        assert caught.value.code == "paused"
        with pytest.raises(DaemonError, match=text):
            client.request(RecordTake())
        look_back = client.request(Status()).look_back
        fetched = client.request(Audio(start=look_back.end - 160, end=look_back.end))
        assert fetched.pcm is not None
        assert len(fetched.pcm) == 320
        other.request(Resume(holder="a"))
        with pytest.raises(DaemonError) as caught:
            client.request(EnrollNext(kind="word", timeout_s=1))
        assert caught.value.code == "no_speech"  # the session is still there
        client.request(EnrollAbort())


def test_a_reload_leaves_a_pause_in_force(listening: Daemon, tmp_path: Path) -> None:
    with listening.connect() as client:
        client.request(Pause(holder="a"))
        config = tmp_path / "kwsd" / "kwsd.yaml"
        config.write_text("checker: off\nwords: {alexa: }\nmicrophone: {channel: mix}\n")
        client.request(Reload())
        listening.process.send_signal(signal.SIGHUP)
        status = client.request(Status())
        assert (list(status.words), status.microphone.state) == (["alexa"], "paused")
        client.request(Resume(holder="a"))
        wait_for(lambda: state(client) == "ok")


def test_no_pause_is_kept_across_a_restart(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        client.request(Pause(holder="a", for_s=600))
        assert state(client) == "paused"
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    with start("--source", str(endless), "--realtime").connect() as client:
        wait_for(lambda: state(client) == "ok")
        assert holders(client) == []


def test_a_pause_that_is_reported_feeds_the_watchdog(start: Start, tmp_path: Path) -> None:
    """Also where the source gives nothing; without a pause, that is a daemon that hangs."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(10)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    daemon = start("--source", "-", env=env, stdin=subprocess.PIPE)
    assert daemon.process.stdin is not None
    heard: list[bytes] = []
    with daemon.connect() as client, notify:
        daemon.process.stdin.write(np.zeros(2 * RATE, "<i2").tobytes())
        daemon.process.stdin.flush()
        wait_for(lambda: state(client) == "ok")
        client.request(Pause(holder="the call"))
        while b"STATUS=microphone paused: by the call" not in heard:
            heard += notify.recv(4096).split(b"\n")
        heard.clear()
        while heard.count(b"WATCHDOG=1") < 8:
            heard += notify.recv(4096).split(b"\n")
        client.request(Reload())
        while not any(b"READY=1" in field for field in heard):
            heard += notify.recv(4096).split(b"\n")
        assert b"STATUS=microphone paused: by the call" in heard
        assert holders(client) == ["the call"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"type":"pause"}', "pause needs holder"),
        (b'{"type":"pause","holder":7}', "pause: holder: 7 is not text of at most 64 characters"),
        (b'{"type":"pause","holder":"' + b"x" * 65 + b'"}', "is not text of at most 64 characters"),
        (b'{"type":"pause","holder":"a\\nb"}', "is not a name of printable characters"),
        (b'{"type":"pause","holder":""}', "is not a name of printable characters"),
        (b'{"type":"pause","holder":"a","for_s":0}', "for_s: 0 is not a number above 0 and at"),
        (b'{"type":"pause","holder":"a","for_s":-1}', "for_s: -1 is not a number above 0 and at"),
        (b'{"type":"pause","holder":"a","for_s":1e9}', "is not a number above 0 and at most"),
        (b'{"type":"pause","holder":"a","for_s":1e999}', "for_s"),
        (b'{"type":"pause","holder":"a","for_s":"10m"}', "for_s: '10m' is not a number above 0"),
        (b'{"type":"resume"}', "resume needs holder"),
        (b'{"type":"puase","holder":"a"}', "did you mean 'pause'?"),
    ],
)
def test_requests_that_make_no_sense_pause_nothing(
    line: bytes, message: str, listening_forever: Daemon, raw_client: RawClient
) -> None:
    client = raw_client(listening_forever.socket)
    client.sendall(line + b"\n")
    with client.makefile("rb") as lines:
        answer = json.loads(lines.readline())
    assert answer["type"] == "error"
    assert message in answer["message"]
    with connect(listening_forever.socket) as asking:
        assert holders(asking) == []


@pytest.fixture(scope="module")
def listening_forever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for all cases of a test, which waits for its first subscriber."""
    folder = tmp_path_factory.mktemp("daemon")
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(folder / "hang")]
    daemon = Daemon(folder, program=program)
    daemon.connect().close()
    yield daemon
    daemon.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_others_may_not_pause(listening: Daemon, tmp_path: Path) -> None:
    open_to_others(tmp_path)
    listening.socket.chmod(0o666)
    program = (
        "import os, sys; from kwsd.cli import main as cli\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print([cli.main([verb, '--socket', sys.argv[1]]) for verb in ('pause', 'resume')])"
    )
    done = forked.run(["-c", program, str(listening.socket)])
    assert done.stdout == "[77, 77]\n"
    assert done.stderr.count("kwsd: pause is ") == done.stderr.count("kwsd: resume is ") == 1
    with listening.connect() as client:
        assert state(client) == "ok"


def test_the_verbs(listening: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--socket", str(listening.socket)]
    said = "The microphone is paused by cli for 10 min.\n"
    assert run(capsys, "pause", "--for", "10m", *at) == (0, said, "")
    up, listens = run(capsys, "status", *at)[1].splitlines()[:2]
    assert up.endswith("microphone paused by cli for 10 min: fake mic")
    assert listens.startswith("listens for computer")
    code, found, _ = run(capsys, "doctor", *at)
    assert code == 69
    assert (
        "hears nothing: the microphone is paused by cli for 10 min\n    fix: kwsd resume" in found
    )
    assert "BAD microphone" not in found  # it is left to whoever has it now
    code, _, why = run(capsys, "calibrate", "--listen", "1m", "--yes", *at)
    assert code != 0
    assert "the microphone is paused by cli; it returns with `kwsd resume`" in why
    code, _, why = run(capsys, "enroll", "ann", *at)
    assert (code, why.splitlines()[-1]) == (
        69,
        "kwsd: the microphone is paused by cli; it returns with `kwsd resume`",
    )
    ended = "The pause by cli has ended; the microphone is not paused.\n"
    assert run(capsys, "resume", *at) == (0, ended, "")
    again = "cli has not paused it; the microphone is not paused.\n"
    assert run(capsys, "resume", *at) == (0, again, "")
    code, line, _ = run(capsys, "pause", "--for", "8h", "--holder", "Ann's call", "--json", *at)
    (pause,) = json.loads(line)["pauses"]
    assert (code, pause["holder"]) == (0, "Ann's call")
    assert pause["left_s"] == pytest.approx(28800, abs=5)
    still = "the microphone is still paused by Ann's call for 8 h.\n"
    assert run(capsys, "resume", *at) == (0, f"cli has not paused it; {still}", "")
    code, line, _ = run(capsys, "resume", "--holder", "Ann's call", "--json", *at)
    assert (code, json.loads(line)) == (0, {"resumed": True, "pauses": []})
    assert run(capsys, "pause", "--for", "8d", *at)[::2] == (
        64,
        "kwsd: --for: a pause lasts at most 7d\n",
    )
    assert run(capsys, "pause", "--for", "soon", *at)[0] == 64
    assert run(capsys, "pause", "--for", "1m", "--holder", "", *at)[0] == 65
    with listening.connect() as client:
        wait_for(lambda: state(client) == "ok")


def pausing(daemon: Daemon, *arguments: str) -> forked.Process:
    """Start `kwsd pause` without a time; return it once it has paused."""
    command = ["-m", "kwsd", "pause", "--socket", str(daemon.socket), *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    child = forked.Process(command, stdout=forked.PIPE, stderr=forked.PIPE, text=True, env=env)
    assert child.stdout is not None
    assert child.stderr is not None
    said = child.stdout.readline()
    assert said == "The microphone is paused by cli for as long as it is connected.\n"
    assert "`kwsd resume` ends it" in child.stderr.readline()
    return child


def test_without_a_time_the_verb_stays_until_it_is_stopped(listening: Daemon) -> None:
    child = pausing(listening)
    with listening.connect() as client:
        assert holders(client) == ["cli"]
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        wait_for(lambda: state(client) == "ok")
    child.communicate()


def test_without_a_time_the_verb_ends_with_its_pause(listening: Daemon) -> None:
    child = pausing(listening)
    with listening.connect() as client:
        client.request(Pause(holder="other"))
        client.request(Resume(holder="cli"))
        assert child.wait(10) == 0
        assert holders(client) == ["other"]
    child.communicate()


def test_without_a_time_the_verb_fails_with_the_daemon(listening: Daemon) -> None:
    child = pausing(listening)
    listening.process.send_signal(signal.SIGTERM)
    assert listening.wait() == 0
    _, said = child.communicate(timeout=10)
    assert child.returncode == 69
    assert "the daemon has closed the connection" in said
