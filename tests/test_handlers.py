"""Requests to the running daemon: look-back, enrollment, and every kind of bad request."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
import wave
from pathlib import Path

import forked
import msgspec
import numpy as np
import pytest
import soundfile
from conftest import RATE, RawClient, Start, open_to_others, say

from kwsd.audio import pcm
from kwsd.audio.high_pass import HighPass
from kwsd.cli import main as cli
from kwsd.events import Event, SpeakerMatch, Wake
from kwsd.protocol.commands import (
    Audio,
    ClipsClear,
    EnrollBegin,
    EnrollCommit,
    EnrollNext,
    Reload,
    Speakers,
    SpeakersDelete,
    Status,
    Subscribe,
)
from kwsd.protocol.errors import DaemonError


def speaker_of(event: Event) -> SpeakerMatch:
    """Return who spoke."""
    assert isinstance(event, Wake)
    assert event.speaker is not None
    return event.speaker


def test_look_back_as_pcm_and_into_a_passed_descriptor(
    start: Start, tmp_path: Path, scene: np.ndarray
) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("checker: off\nmicrophone: {stall_s: 0.5}\n")
    daemon = start("--source", "-", "--config", str(config), stdin=forked.PIPE)
    with daemon.connect() as client:
        wakes = client.events(types=["wake"])
        daemon.hear(scene)
        wake = next(wakes)
        assert isinstance(wake, Wake)
        reply = client.request(Audio(start=wake.start, end=wake.end))
        assert reply.pcm is not None
        samples = pcm.from_bytes(reply.pcm)
        assert np.array_equal(samples, HighPass().step(scene)[wake.start : wake.end])
        with (tmp_path / "wake.wav").open("wb") as out:
            reply = client.request(Audio(start=wake.start, end=wake.end), fd=out.fileno())
            assert (reply.pcm, reply.written) == (None, "wav")
        with wave.open(str(tmp_path / "wake.wav")) as wav:
            assert (wav.getframerate(), wav.getnchannels()) == (16000, 1)
            assert wav.readframes(1 << 20) == samples.astype("<i2").tobytes()
        while client.request(Status()).look_back.end < len(scene):
            time.sleep(0.02)
        begin, end = len(scene) - 10 * RATE, len(scene)
        edges = client.request(Audio(start=0, end=end + 9))
        assert (edges.start, edges.end, len(edges.pcm or b"")) == (begin, end, 20 * RATE)
        with pytest.raises(DaemonError, match=r"were asked for; .* are kept"):
            client.request(Audio(start=10**9, end=10**9 + 5))
        with pytest.raises(DaemonError, match="by at most 20 s"):
            client.request(Audio(start=0, end=10**9))


def test_a_descriptor_of_a_refused_request_is_not_of_the_next(
    start: Start, tmp_path: Path, endless: Path, raw_client: RawClient
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as other:
        while other.request(Status()).look_back.end < 9:
            time.sleep(0.02)
    client = raw_client(daemon.socket)
    with (tmp_path / "first.wav").open("wb") as first, client.makefile("rb") as lines:
        socket.send_fds(client, [b'{"type":"audio","start":0,"id":1}\n'], [first.fileno()])
        assert json.loads(lines.readline())["code"] == "bad_request"
        client.sendall(b'{"type":"audio","start":0,"end":9,"id":2}\n')
        reply = json.loads(lines.readline())
    assert (reply["id"], reply.get("written")) == (2, None)
    assert len(base64.b64decode(reply["pcm"])) == 18
    assert (tmp_path / "first.wav").stat().st_size == 0


def test_enrollment_through_the_socket_and_who_spoke(
    start: Start, tmp_path: Path, scene_wav: Path
) -> None:
    takes = []
    sentences = ("computer", "computer, turn on the light", "the weather is nice today", "a")
    for n, sentence in enumerate(sentences):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(sentence), RATE)
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()
    command = ["-m", "kwsd", "enroll", "ann", "--socket", str(daemon.socket)]
    done = forked.run([*command, "--wav", *map(str, takes)])
    assert done.returncode == 0, done.stderr
    assert "ann is enrolled, from 3 takes" in done.stdout
    assert "left out" in done.stderr
    with daemon.connect() as client:
        assert [one.name for one in client.request(Speakers()).speakers] == ["ann"]
        found = [speaker_of(wake) for wake in client.events(types=["wake"])]
    assert [one.name for one in found] == ["ann", None]
    assert found[0].score > found[1].score
    again = start("--source", str(scene_wav), "--wait-for-client")
    with again.connect() as client:
        assert client.request(Status()).speakers == ["ann"]
        client.request(SpeakersDelete(name="ann"))
        assert client.request(Status()).speakers == []
        with pytest.raises(DaemonError, match="no speaker is called 'ann'"):
            client.request(SpeakersDelete(name="ann"))


def test_a_stranger_is_a_stranger_everywhere(
    start: Start, tmp_path: Path, scene_wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    takes = []
    for n, sentence in enumerate(("computer", "computer, turn on the light", "the weather today")):
        takes.append(str(tmp_path / f"{n}.wav"))
        soundfile.write(takes[-1], say(sentence), RATE)
    for name in ("ann", "bob"):  # bob sounds like ann, so that there is a runner-up
        assert cli.main(["enroll", name, "--state", str(tmp_path / "state"), "--wav", *takes]) == 0
    config = tmp_path / "kwsd.yaml"
    # Two voices of one synthesizer are more alike than two people.
    config.write_text("clips: on\nspeaker: {threshold: 0.98}\n")
    source = ["--source", str(scene_wav), "--wait-for-client"]
    daemon = start(*source, "--config", str(config), "--print", "--json")
    with daemon.connect() as client, daemon.connect() as admin, daemon.connect() as other:
        detailed = admin.events(types=["wake"], details=True)
        listening = client.events(types=["wake"])
        other.request(Subscribe())
        plain = [speaker_of(wake) for wake in listening]
        more = [speaker_of(wake) for wake in detailed]
    assert daemon.wait() == 0
    assert [(one.verified, one.name is None) for one in plain] == [(True, False), (False, True)]
    assert plain == [one.without_details() for one in more]
    for one in more:
        assert one.nearest is not None
        assert one.runner_up is not None
        assert {one.nearest.name, one.runner_up.name} == {"ann", "bob"}
        assert one.nearest.score == one.score >= one.runner_up.score
    printed = [json.loads(x) for x in daemon.log.read_text().splitlines() if x.startswith("{")]
    assert [x["speaker"]["name"] for x in printed if x["type"] == "wake"] == [plain[0].name, None]
    clips = sorted((daemon.state / "clips").glob("*.json"))
    stored = [json.loads(clip.read_text())["speaker"] for clip in clips]
    assert stored == [msgspec.to_builtins(one) for one in plain]
    capsys.readouterr()
    detect = ["detect", "--config", str(config), "--state", str(daemon.state), str(scene_wav)]
    assert cli.main(detect) == 0
    assert cli.main([*detect, "--details"]) == 0
    found = [json.loads(line)["speaker"] for line in capsys.readouterr().out.splitlines()]
    assert [one for one in found if one] == [msgspec.to_builtins(one) for one in [*plain, *more]]


def test_bad_requests_are_answered_and_the_daemon_lives_on(
    start: Start, endless: Path, raw_client: RawClient
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as good:
        one = raw_client(daemon.socket)
        one.sendall(b'{"type":"dance","id":4}\nnot json\n{"type":"status","id":5}\n')
        with one.makefile("rb") as lines:
            replies = [json.loads(lines.readline()) for _ in range(3)]
        assert [(r["type"], r.get("id"), r.get("code")) for r in replies] == [
            ("error", 4, "unknown_type"),
            ("error", None, "malformed"),
            ("reply", 5, None),
        ]
        half = raw_client(daemon.socket)
        half.sendall(b'{"type":"sta')
        half.close()
        binary = raw_client(daemon.socket)
        binary.sendall(os.urandom(50).replace(b"\n", b"x") + b"\n")
        assert b"malformed" in binary.recv(1000)
        huge = raw_client(daemon.socket)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            huge.sendall(b"x" * (100 * 65536))
        # The fifth malformed line ends it, maybe before the last is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(6):
                binary.sendall(b"junk\n")
        answer = b""
        while data := binary.recv(65536):
            answer += data
        assert b"the connection ends" in answer
        with pytest.raises(DaemonError, match=r"enroll.begin comes first"):
            good.request(EnrollNext())
        with pytest.raises(DaemonError, match="cannot be a speaker's name"):
            good.request(EnrollBegin(name="../../etc/passwd"))
        good.request(EnrollBegin(name="ann"))
        with pytest.raises(DaemonError, match="whole int16 samples"):
            good.request(EnrollNext(audio=b"odd"))
        with pytest.raises(DaemonError, match="'hal' is not listened for"):
            good.request(EnrollNext(word="hal"))
        with pytest.raises(DaemonError, match="'hal' is not listened for"):
            good.request(Subscribe(words=["hal"]))
        with pytest.raises(DaemonError, match=r"at least 2 are needed"):
            good.request(EnrollCommit())
        while good.request(Status()).audio_s == 0:
            time.sleep(0.02)
        assert good.request(Status()).microphone.state == "ok"


def test_audio_that_is_not_base64_is_refused(
    start: Start, endless: Path, raw_client: RawClient
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    client = raw_client(daemon.socket)
    client.sendall(b'{"type":"enroll.begin","name":"ann"}\n')
    client.sendall(b'{"type":"enroll.next","id":7,"audio":"%%%"}\n')
    with client.makefile("rb") as lines:
        assert json.loads(lines.readline())["ok"]
        answer = json.loads(lines.readline())
    assert (answer["id"], answer["code"]) == (7, "bad_request")
    assert "not base64" in answer["message"]


def test_clips_are_not_cleared_without_saying_which(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        for request in (ClipsClear(), ClipsClear(clips=["a"], all=True)):
            with pytest.raises(DaemonError, match=r"needs either clips, .* or all: true") as caught:
                client.request(request)
            assert caught.value.code == "bad_request"
        assert client.request(ClipsClear(all=True)).deleted == 0
        with pytest.raises(DaemonError, match="there is no clip 'a'"):
            client.request(ClipsClear(clips=["a"]))


def test_a_full_disk_is_an_answer_and_the_voiceprint_before_it_stays(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    sentences = ("computer", "the weather is nice", "turn on the light")
    takes = [pcm.to_bytes(say(sentence)) for sentence in sentences]
    with daemon.connect() as client:

        def enroll() -> None:
            client.request(EnrollBegin(name="ann"))
            for take in takes:
                client.request(EnrollNext(audio=take))
            client.request(EnrollCommit())

        enroll()
        before = (daemon.state / "ann-49915e.voiceprint").read_bytes()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DaemonError, match=r"could not be saved .*; nothing was changed"):
            enroll()
        assert (daemon.state / "ann-49915e.voiceprint").read_bytes() == before
        assert client.request(Status()).speakers == ["ann"]


def test_takes_from_a_client_may_have_an_offset(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    take = np.concatenate([say("turn on the light") // 4, np.zeros(RATE, np.int16)])
    with daemon.connect() as client:
        replies = []
        for samples in (take, take + 2300):
            client.request(EnrollBegin(name="ann"))
            replies.append(client.request(EnrollNext(audio=pcm.to_bytes(samples))))
        plain, offset = replies
    assert offset.speech_s == pytest.approx(plain.speech_s, abs=0.05)
    assert offset.speech_dbfs == pytest.approx(plain.speech_dbfs, abs=0.2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_others_may_subscribe_but_not_enroll(start: Start, tmp_path: Path, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    open_to_others(tmp_path)
    daemon.socket.chmod(0o666)
    program = f"""
import json, os, socket
s = socket.socket(socket.AF_UNIX)
os.setgid(65534)
os.setuid(65534)
s.connect({str(daemon.socket)!r})
f = s.makefile("rwb")
f.readline()
audio = dict(start=0, end=9)
name = dict(name="x")
for kind, more in (
    ("subscribe", {{}}),
    ("subscribe", dict(details=True)),
    ("status", {{}}),
    ("audio", audio),
    ("enroll.begin", name),
    ("reload", {{}}),
    ("speakers.delete", name),
    ("takes", dict(word="x")),
    ("takes.get", dict(word="x", take="y")),
    ("takes.put", dict(word="x", audio="")),
    ("takes.clear", dict(word="x")),
):
    f.write(json.dumps(dict(type=kind, id=kind, **more)).encode() + b"\\n")
    f.flush()
    while True:
        body = json.loads(f.readline())
        if body.get("id") == kind:
            break
    print(kind, body.get("code", "ok"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == [
        "subscribe ok",
        "subscribe permission_denied",
        "status ok",
        "audio permission_denied",
        "enroll.begin permission_denied",
        "reload permission_denied",
        "speakers.delete permission_denied",
        "takes permission_denied",
        "takes.get permission_denied",
        "takes.put permission_denied",
        "takes.clear permission_denied",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_rights_are_named_with_the_command_that_grants_them(
    start: Start, tmp_path: Path, endless: Path
) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("socket: {admin_group: daemon}")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    daemon.connect().close()
    open_to_others(tmp_path)
    daemon.socket.chmod(0o666)

    def verbs(*each: list[str]) -> list[tuple[int, str]]:
        """Run verbs as the user nobody; return the exit code of each, and what it prints."""
        program = (
            "import os, sys; from kwsd.cli import main as cli\n"
            "os.setgid(65534); os.setuid(65534); sys.stderr = sys.stdout\n"
            f"for argv in {[*each]!r}:\n"
            f"    status = cli.main([*argv, '--socket', {str(daemon.socket)!r}])\n"
            "    print(f'\\0{status}\\0', end='')\n"
        )
        done = forked.run(["-c", program])
        parts = done.stdout.split("\0")
        assert len(parts) == 2 * len(each) + 1, done.stdout + done.stderr
        return [(int(parts[at + 1]), parts[at]) for at in range(0, len(parts) - 1, 2)]

    for status, printed in verbs(
        ["enroll", "ann"],
        ["word", "add", "hey banana", "--record", "3", "--yes"],
        ["word", "add", "hey banana", "--wav", "none.wav", "--yes"],
        ["word", "improve", "hey banana", "--yes"],
        ["calibrate", "--listen", "8h", "--yes"],
        ["calibrate", "--wav", "none.wav", "--yes"],
        ["clips", "clear", "--all"],
    ):
        assert status == 77, printed
        assert "`sudo usermod -aG daemon nobody`, then log in again" in printed
        assert "Please say" not in printed
    config.write_text("socket: {admin_group: nobody-is-in-it}")
    with daemon.connect() as client:
        client.request(Reload())
        assert client.request(Status()).refused is None
    ((status, printed),) = verbs(["enroll", "ann"])  # a socket's keys wait for the next start
    assert (status, "-aG daemon nobody" in printed) == (77, True)
