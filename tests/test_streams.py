"""Streams and running scores of a daemon: clients, rights, pauses, lost microphones, the wire."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import grp
import json
import os
import pwd
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
from conftest import RATE, Daemon, RawClient, Start, hiss, open_to_others, say
from test_listener import wait_for

import kwsd
from kwsd.audio import pcm
from kwsd.audio.high_pass import HighPass
from kwsd.client.client import Client, connect
from kwsd.events import Wake
from kwsd.protocol.commands import Pause, RecordTake, Resume, Scores, Status, StreamStop
from kwsd.protocol.commands import Stream as StreamRequest
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.live import RunningScores, StreamAudio
from kwsd.server.streams import MAX_LIVE


class Room:
    """What a daemon hears through its pipe: what is said, and hiss when nothing is; five times as
    fast as a room."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.written: list[np.ndarray] = []
        self._said: deque[np.ndarray] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak)

    def say(self, *parts: np.ndarray) -> None:
        """Say something, after what is being said."""
        said = np.concatenate(parts)
        self._said.extend(np.array_split(said, max(len(said) // 1600, 1)))

    def heard(self, start: int, end: int) -> np.ndarray:
        """Return the samples that the daemon has heard."""
        return np.asarray(HighPass().step(np.concatenate(self.written))[start:end], np.int16)

    def __enter__(self) -> Room:
        self.daemon.connect().close()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _speak(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            while not self._ended.wait(0.02):
                block = self._said.popleft() if self._said else hiss(0.1, seed=len(self.written))
                self.written.append(block)
                self.daemon.hear(block)


@pytest.fixture
def room(start: Start) -> Iterator[Room]:
    """A room in which a daemon listens."""
    with Room(start("--source", "-", stdin=forked.PIPE)) as room:
        yield room


@pytest.fixture
def listening(start: Start, tmp_path: Path) -> Daemon:
    """A daemon that listens to a microphone of the tests."""
    program = [str(Path(__file__).with_name("hung_microphone.py")), str(tmp_path / "hang")]
    daemon = start(program=program)
    with daemon.connect() as client:
        wait_for(lambda: client.request(Status()).microphone.state == "ok", 20)
    return daemon


def joined(messages: list[StreamAudio]) -> np.ndarray:
    """Return the samples of consecutive messages."""
    return pcm.from_bytes(b"".join(one.pcm for one in messages))


def streams(client: Client) -> int:
    """Return how many streams there are, all of this user's."""
    status = client.request(Status())
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert status.stream_users == ({me: status.streams} if status.streams else {})
    assert status.users == {me: status.clients}
    return status.streams


def test_a_command_is_streamed_from_the_end_of_its_wake(room: Room) -> None:
    """Requests and events share one connection; what was said before the request comes too."""
    with room.daemon.connect() as daemon:
        wakes = daemon.events(types=["wake"])
        room.say(hiss(1), say("computer"), say("turn on the light in the kitchen"))
        wake = next(wakes)
        wait_for(lambda: daemon.request(Status()).look_back.end > wake.end + RATE)
        with daemon.stream(wake.end) as stream:
            assert stream.start == wake.end
            assert streams(daemon) == 1
            messages = list(stream)
        assert stream.end is not None
        assert stream.end.reason == "silence"
        assert np.array_equal(joined(messages), room.heard(wake.end, stream.end.end))
        assert [one.index for one in messages] == list(range(stream.end.messages))
        assert streams(daemon) == 0
        room.say(hiss(2), say("computer"))
        assert isinstance(next(wakes), Wake)  # the iteration goes on


def test_the_same_with_asyncio(room: Room) -> None:
    async def main() -> None:
        async with await kwsd.connect_async(room.daemon.socket) as daemon:
            room.say(hiss(1), say("turn on the light"))
            async with await daemon.stream(0) as stream:
                messages = [one async for one in stream]
            assert stream.end is not None
            assert stream.end.reason == "silence"
            assert np.array_equal(joined(messages), room.heard(stream.start, stream.end.end))
            async with await daemon.stream(pre_roll_s=0.5, silence_s=0) as early:
                async for _ in early:
                    break
            assert early.end is not None
            assert early.end.reason == "stopped"
            scores = daemon.scores()
            assert isinstance(await anext(scores), RunningScores)
            await scores.aclose()
            assert (await daemon.request(Status())).streams == 0

    asyncio.run(main())


def test_a_stream_that_is_left_early_is_stopped(room: Room) -> None:
    with room.daemon.connect() as daemon, room.daemon.connect() as other:
        with daemon.stream(silence_s=0) as stream:
            for _ in stream:
                break
        assert stream.end is not None
        assert stream.end.reason == "stopped"
        assert streams(daemon) == 0
        assert not daemon.request(StreamStop(stream=stream.number)).stopped
        failed = daemon.stream(silence_s=0)
        with contextlib.suppress(ZeroDivisionError), failed:
            for message in failed:
                assert message.index / 0
        assert failed.end is not None
        assert failed.end.reason == "stopped"
        again = other.stream(silence_s=0, max_s=600)
        assert not daemon.request(StreamStop(stream=again.number)).stopped  # it is not its own
        assert streams(daemon) == 1
        other.close()
        wait_for(lambda: streams(daemon) == 0)


def test_a_lost_microphone_ends_it_and_it_can_be_asked_for_again(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    config.write_text("checker: off\nmicrophone: {stall_s: 0.5}\n")
    piped = start("--source", "-", stdin=forked.PIPE)
    with piped.connect() as daemon:
        piped.hear(hiss(1, 100))
        stream = daemon.stream(0, silence_s=0)
        messages = list(stream)  # nothing more comes into the pipe
        assert stream.end is not None
        assert (stream.end.reason, stream.end.end) == ("lost", RATE)
        assert len(joined(messages)) == RATE
        late = daemon.stream(RATE // 2, silence_s=0)
        assert len(joined(list(late))) == RATE // 2  # what is there, and the end
        assert late.end is not None
        assert late.end.reason == "lost"
        piped.hear(hiss(0.5))
        wait_for(lambda: daemon.request(Status()).microphone.state == "ok")
        begun = daemon.stream(0, silence_s=0, max_s=0.1)
        assert begun.start > RATE  # the look-back begins after the gap, and so does the stream


def test_a_pause_ends_it_and_refuses_another(listening: Daemon) -> None:
    with listening.connect() as daemon, listening.connect() as other:
        stream = daemon.stream(silence_s=0)
        messages = iter(stream)
        next(messages)
        other.request(Pause(holder="a"))
        before = [one.start for one in messages]
        assert stream.end is not None
        assert stream.end.reason == "paused"
        assert stream.end.end == other.request(Status()).look_back.end
        assert before == sorted(before)
        with pytest.raises(DaemonError, match="the microphone is paused by a") as caught:
            daemon.stream()
        assert caught.value.code == "paused"
        other.request(Resume(holder="a"))
        resumed = daemon.stream(silence_s=0, max_s=0.2)
        assert len(joined(list(resumed))) == RATE // 5
        assert resumed.end is not None
        assert resumed.end.reason == "length"


def test_a_recording_ends_it(start: Start, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    with daemon.connect() as client, daemon.connect() as other:
        stream = client.stream(0, silence_s=0, max_s=600)
        other.events()
        messages = list(stream)
        assert stream.end is not None
        assert stream.end.reason == "recording_ended"
        assert messages[0].start == 0
        assert sum(len(one.pcm) // 2 for one in messages) == stream.end.end > 12 * RATE
    assert daemon.wait() == 0


def test_a_client_that_never_reads_slows_nobody_and_costs_what_is_said(
    start: Start, tmp_path: Path, raw_client: RawClient
) -> None:
    part = np.concatenate([hiss(1), say("computer"), hiss(1)])
    talk = np.tile(part, 27 * RATE // len(part))
    soundfile.write(tmp_path / "talk.wav", talk, RATE)
    daemon = start("--source", str(tmp_path / "talk.wav"), "--wait-for-client")
    daemon.connect().close()
    slow = raw_client(daemon.socket)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b'{"type":"stream","id":1,"start":0,"silence_s":0,"max_s":600}\n')
    with daemon.connect() as client:
        wakes = list(client.events(types=["wake"]))  # up to the end of the recording
    assert len(wakes) > 0.9 * len(talk) / len(part)
    with slow.makefile("rb") as lines:
        received = [json.loads(line) for line in lines]
    assert received[0]["type"] == "reply"
    assert received[-1]["type"] == "stream.end"
    assert received[-1]["reason"] == "slow"
    sizes = [len(base64.b64decode(one["pcm"])) for one in received[1:-1]]
    assert sum(sizes) < 30 * 2 * RATE
    assert [one["index"] for one in received[1:-1]] == list(range(len(sizes)))


def test_there_are_so_many_and_those_of_who_has_gone_end(room: Room, raw_client: RawClient) -> None:
    client = raw_client(room.daemon.socket)
    with client.makefile("rb") as lines, room.daemon.connect() as other:

        def answer() -> Any:
            while (line := json.loads(lines.readline()))["type"] == "stream":
                pass
            return line

        for n in range(MAX_LIVE):
            client.sendall(b'{"type":"stream","id":%d,"silence_s":0,"max_s":600}\n' % n)
            assert answer()["ok"]
        client.sendall(b'{"type":"stream","id":99}\n')
        refused = answer()
        assert (refused["code"], refused["id"]) == ("busy", 99)
        with pytest.raises(DaemonError, match="16 streams and running scores go to clients"):
            next(other.scores())
        assert streams(other) == MAX_LIVE
    client.close()
    with room.daemon.connect() as other:
        wait_for(lambda: streams(other) == 0)
        other.request(Scores())


def test_clients_that_go_while_they_ask_leave_nothing(room: Room, raw_client: RawClient) -> None:
    for line in [b'{"type":"stream","max_s":600}\n', b'{"type":"scores"}\n'] * 20:
        gone = raw_client(room.daemon.socket)
        gone.sendall(line)
        gone.close()
    with room.daemon.connect() as client:
        wait_for(lambda: streams(client) == 0)
        for _ in range(MAX_LIVE):
            client.request(StreamRequest(max_s=600, silence_s=0))


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'{"type":"stream","start":0,"pre_roll_s":1}', "bad_request", "leave one of them out"),
        (b'{"type":"stream","start":9999999}', "gone", "has not come yet; the next one is"),
        (b'{"type":"stream","start":-1}', "bad_request", "start: -1 is not"),
        (b'{"type":"stream","max_s":0}', "bad_request", "max_s: 0 is not a number above 0"),
        (b'{"type":"stream","max_s":1e9}', "bad_request", "max_s"),
        (b'{"type":"stream","silence_s":-1}', "bad_request", "silence_s: -1 is not"),
        (b'{"type":"stream","pre_roll_s":301}', "bad_request", "pre_roll_s: 301 is not"),
        (b'{"type":"stream.stop"}', "bad_request", "stream.stop needs stream"),
        (b'{"type":"scores","interval_s":0.01}', "bad_request", "interval_s: 0.01 is not"),
        (b'{"type":"take","start":9999999}', "gone", "take: sample 9999999 has not come yet"),
    ],
)
def test_requests_that_make_no_sense(
    line: bytes, code: str, message: str, waiting: Daemon, raw_client: RawClient
) -> None:
    client = raw_client(waiting.socket)
    client.sendall(line + b"\n")
    with client.makefile("rb") as lines:
        answer = json.loads(lines.readline())
    assert (answer["type"], answer["code"]) == ("error", code)
    assert message in answer["message"]
    with connect(waiting.socket) as asking:
        assert streams(asking) == 0


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for all cases of a test, which listens to a pipe without anything in it."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), "--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    yield daemon
    daemon.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_group_may_stream_another_may_pause_and_neither_may_anything_else(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    groups = "{stream_group: daemon, pause_group: games, admin_group: bin}"
    config.write_text(f"checker: off\nsocket: {groups}\n")
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    open_to_others(tmp_path)
    daemon.socket.chmod(0o666)
    program = (
        "import os, sys, kwsd; from kwsd import commands as c\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(65534)\n"
        "client = kwsd.connect(sys.argv[1])\n"
        "asked = [c.Stream(), c.StreamStop(stream=1), c.Scores(), c.Audio(start=0, end=1)]\n"
        "asked += [c.RecordTake(timeout_s=1), c.Pause(holder='a'), c.Resume(holder='a')]\n"
        "for request in asked:\n"
        "    try:\n"
        "        client.request(request); print('done')\n"
        "    except kwsd.DaemonError as error:\n"
        "        print(error.code, error)\n"
        "print(client.request(c.Status()).pause_refused)\n"
    )

    def answers(group: str) -> list[str]:
        gid = str(grp.getgrnam(group).gr_gid)
        done = forked.run(["-c", program, str(daemon.socket), gid])
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    allowed = answers("daemon")
    assert allowed[:2] == ["done", "done"]
    assert [line.split()[0] for line in allowed[2:7]] == ["permission_denied"] * 5
    pausing = answers("games")
    assert [line.split()[0] for line in pausing[:5]] == ["permission_denied"] * 5
    assert pausing[5:] == ["done", "done", "None"]
    refused = answers("nogroup")
    assert [line.split()[0] for line in refused[:7]] == ["permission_denied"] * 7
    assert refused[5] == f"permission_denied pause is {refused[7]}"
    assert "members of the group daemon and the group bin; `sudo usermod -aG daemon " in refused[0]
    assert "members of the group bin; `sudo usermod -aG bin " in refused[2]
    members = answers("bin")
    assert members[:3] == ["done", "done", "done"]


def test_a_take_begins_with_what_was_said_already(room: Room) -> None:
    with room.daemon.connect() as client:
        wakes = client.events(types=["wake"])
        room.say(hiss(1), say("computer"), hiss(0.3), say("turn on the light"))
        wake = next(wakes)
        wait_for(lambda: client.request(Status()).look_back.end > wake.end + 2 * RATE)
        take = pcm.from_bytes(client.request(RecordTake(start=wake.end)).pcm)
    part = room.heard(wake.end + RATE, wake.end + RATE * 5 // 4)  # said before the request
    assert part.tobytes() in take.tobytes()


def test_running_scores_have_both_stages_levels_and_the_gate(room: Room) -> None:
    with room.daemon.connect() as client, room.daemon.connect() as other:
        found = client.scores()
        first = next(found)
        room.say(hiss(6, 30), say("computer"), hiss(2, 30))
        messages = [first, *(next(found) for _ in range(120))]
        ends = np.array([one.end for one in messages])
        assert set(np.diff(ends)) == {1280}
        noisy = messages[60]
        assert noisy.words["computer"].score <= noisy.words["computer"].threshold
        assert noisy.level_dbfs == pytest.approx(20 * np.log10(30 / 32768), abs=0.5)
        loud = max(messages, key=lambda one: one.words["computer"].score)
        assert loud.gate
        assert not all(one.gate for one in messages)
        assert all(one.words["computer"].score == 0 for one in messages if not one.gate)
        assert loud.words["computer"].score > loud.words["computer"].threshold
        assert loud.words["computer"].streaming == loud.words["computer"].score
        assert loud.words["computer"].checker is None  # there is none in this daemon
        assert loud.noise_dbfs == pytest.approx(20 * np.log10(30 / 32768), abs=1)
        found.close()  # type: ignore[attr-defined]
        assert client.request(Status()).version  # no scores are in the way
        slower = other.scores(interval_s=0.5)
        times = [next(slower).end for _ in range(3)]
        assert np.diff(times).tolist() == [6 * 1280, 6 * 1280]


def test_the_wire(room: Room, raw_client: RawClient) -> None:
    client = raw_client(room.daemon.socket)
    client.sendall(b'{"type":"scores","id":"s","interval_s":0.5}\n')
    client.sendall(b'{"type":"stream","id":1,"max_s":0.2,"silence_s":0}\n')
    client.shutdown(socket.SHUT_WR)  # as a shell does it
    with client.makefile("rb") as lines:
        found: list[dict[str, Any]] = []
        while {one["type"] for one in found} != {"reply", "stream", "stream.end", "scores"}:
            found.append(json.loads(lines.readline()))
    assert found[0] == {"type": "reply", "id": "s", "ok": True, "interval_s": 0.48}
    reply, *audio, end = [one for one in found[1:] if one["type"] != "scores"]
    start = reply["start"]
    assert reply == {
        "type": "reply", "id": 1, "ok": True, "stream": 2, "start": start, "sample_rate": 16000
    }  # fmt: skip
    assert [(one["index"], one["start"] - start) for one in audio] == [(0, 0), (1, 1280), (2, 2560)]
    assert [len(base64.b64decode(one["pcm"])) for one in audio] == [2560, 2560, 1280]
    assert end == {
        "type": "stream.end", "stream": 2, "messages": 3, "end": start + 3200, "reason": "length"
    }  # fmt: skip


def test_a_daemon_that_stops_ends_the_connection(listening: Daemon) -> None:
    with listening.connect() as client:
        stream = client.stream(silence_s=0)
        listening.process.send_signal(signal.SIGTERM)
        with pytest.raises(DaemonError) as caught:
            for _ in stream:
                pass
        assert caught.value.code == "closed"
        assert listening.wait() == 0
