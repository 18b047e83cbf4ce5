"""The state directory, and the folder of the socket: whose they are, and what a crash leaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from conftest import Start

from kwsd.cli import main as cli
from kwsd.client.exchange import find_socket
from kwsd.config import ConfigError, SocketConfig, why_unsafe
from kwsd.protocol.commands import Status
from kwsd.server.unix_socket import bound
from kwsd.state import folder
from kwsd.state.folder import claimed
from kwsd.state.store import write_atomically


def test_what_a_crash_left_behind_is_deleted(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    kept = [tmp_path / "ann.voiceprint", clips / "a.json", clips / "a.wav", tmp_path / "x.partial"]
    orphans = [tmp_path / ".ann.voiceprint.partial", clips / ".b.json.partial", clips / "b.wav"]
    for path in (*kept, *orphans):
        path.touch()
    assert sorted(folder.tidy(tmp_path)) == sorted(orphans)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert folder.tidy(tmp_path / "missing") == []


def test_the_daemon_deletes_it_at_its_start_and_says_so(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    daemon.kill()
    clips = daemon.state / "clips"
    clips.mkdir(parents=True)
    takes = daemon.state / "takes" / "hey_banana-9f80e5"
    takes.mkdir(parents=True)
    orphans = [
        clips / "20260101-000000-computer.wav",
        daemon.state / ".bob.voiceprint.partial",
        takes / f"{'0' * 16}.flac",
    ]
    for path in orphans:
        path.touch()
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        client.request(Status())
    daemon.process.terminate()
    assert daemon.wait() == 0
    assert not any(path.exists() for path in orphans)
    for path in orphans:
        assert f"{path} was left behind by a crash" in daemon.log.read_text()


@pytest.mark.parametrize("link", ["state", "clips", "takes"])
def test_a_link_is_refused_by_name(
    tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str], scene_wav: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "song.wav").touch()
    state = tmp_path / "state"
    linked = state
    if link != "state":
        state.mkdir()
        linked = state / link
    linked.symlink_to(elsewhere)
    at = ["--state", str(state)]
    for verb in (
        ["run", "--source", str(scene_wav), "--socket", str(tmp_path / "k.sock")],
        ["clips", "clear", "--all"],
        ["detect", str(scene_wav)],
        ["enroll", "ann", "--wav", str(scene_wav)],
        ["word", "list"],
        ["speakers"],
    ):
        assert cli.main([*verb, *at]) == cli.CONFIGURATION, verb
        assert f"{linked} is a symbolic link to {elsewhere}" in capsys.readouterr().err
    assert (elsewhere / "song.wav").exists()


def test_a_link_in_place_of_a_partial_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / ".ann.voiceprint.partial").symlink_to(victim)
    write_atomically(state / "ann.voiceprint", b"new")
    assert victim.read_text() == "precious"
    assert (state / "ann.voiceprint").read_bytes() == b"new"


def test_the_folder_of_the_socket_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KWSD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    own = tmp_path / "kwsd"
    path = own / "kwsd.sock"
    assert why_unsafe(own) is None  # nobody made it yet
    with bound(path, SocketConfig()):
        assert find_socket() == path
    own.chmod(0o777)
    path.touch()
    assert find_socket() == Path("/run/kwsd/kwsd.sock")
    path.unlink()
    with pytest.raises(ConfigError, match=r"others may write into .*kwsd \(mode 777\)"):
        bound(path, SocketConfig()).__enter__()
    own.chmod(0o700)
    monkeypatch.setattr("kwsd.config.os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match=r"belongs to another user \(uid \d+\)"):
        bound(path, SocketConfig()).__enter__()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (own / "kwsd.sock.lock").unlink()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"is not a folder"):
        bound(path, SocketConfig()).__enter__()


def test_a_group_that_is_not_there(tmp_path: Path, start: Start, endless: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("vad: on\nsocket:\n  group: nobody-is-in-it\n")
    daemon = start("--source", str(endless), "--config", str(config))
    assert daemon.wait() == cli.CONFIGURATION  # not open to another group instead
    log = daemon.log.read_text()
    assert f"{config}, line 3: socket.group: 'nobody-is-in-it'" in log
    assert "`sudo groupadd --system nobody-is-in-it`" in log
    config.write_text("socket:\n  admin_group: nobody-is-in-it\n")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    daemon.connect().close()
    assert "socket.admin_group: 'nobody-is-in-it'" in daemon.log.read_text()


def test_a_socket_in_use_is_tried_again_and_a_wrong_path_is_not(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OSError, match="already served by another program"):
            bound(path, SocketConfig()).__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        bound(tmp_path / "file" / "k.sock", SocketConfig()).__enter__()


def test_a_second_daemon_leaves_the_first_ones_files_alone(tmp_path: Path) -> None:
    with claimed(tmp_path) as first:
        with claimed(tmp_path) as second:
            assert (first, second) == (True, False)
        with claimed(tmp_path / "none") as third:
            assert third
    with claimed(tmp_path) as again:
        assert again
