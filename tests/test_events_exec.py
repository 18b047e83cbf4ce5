"""`kwsd events --exec`: a command for each event, a few at once, none for ever, failures told."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import forked
import pytest
from conftest import RATE, Daemon, Start
from test_cli_help import run

from kwsd.cli import event_commands
from kwsd.cli.event_commands import MAX_RUNNING, EventCommands
from kwsd.events import Wake

WAKE = Wake(word="hey_$(touch hacked)", score=0.9, threshold=0.5, start=0, end=RATE)


def test_each_event_is_the_standard_input_of_a_command(
    start: Start, scene_wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()
    out = tmp_path / "out"
    command = f'cat >> {out}; echo "$KWSD_SOCKET" >> {out}'
    at = ["--socket", str(daemon.socket)]
    code, printed, said = run(capsys, "events", "--types", "wake", "--exec", command, *at)
    assert (code, printed, said) == (0, "", "")
    lines = out.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(one["type"], one["word"]) for one in found] == [("wake", "computer")] * 2
    assert [one for one in lines if not one.startswith("{")] == [str(daemon.socket)] * 2


def test_failures_are_reported_and_the_exit_status_says_so(
    start: Start, scene_wav: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()
    at = ["--socket", str(daemon.socket), "--types", "wake", "--count", "1"]
    code, printed, said = run(capfd, "events", "--exec", "echo yes; exit 3", *at)
    assert (code, printed) == (1, "yes\n")
    assert "kwsd: --exec: it failed with exit status 3: echo yes; exit 3 (for wake:" in said
    code, _, said = run(capfd, "events", "--exec", " ", *at)
    assert (code, "name a command" in said) == (64, True)


def test_only_a_few_run_at_once_and_none_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(event_commands, "TIMEOUT_S", 0.5)
    marks = tmp_path / "marks"
    marks.mkdir()
    command = f"sleep 60 & echo $! > {marks}/$$; wait"
    with EventCommands(command, tmp_path / "k.sock") as commands:
        for _ in range(MAX_RUNNING + 2):
            commands.start(WAKE)
    said = capsys.readouterr().err
    assert said.count("not started, since 4 still run") == 2
    assert said.count("ended, since it has run for 0.5 s") == MAX_RUNNING
    assert commands.failed
    children = [int(path.read_text()) for path in marks.iterdir()]
    assert len(children) == MAX_RUNNING
    deadline = time.monotonic() + 20
    while any(map(lives, children)):  # with all that they have started
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_place_is_free_again_after_each(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with EventCommands(f"cat >> {out}", tmp_path / "k.sock") as commands:
        for n in range(20):
            commands.start(WAKE)
            deadline = time.monotonic() + 20
            while not out.exists() or out.read_text().count("\n") <= n:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            while commands._waiters:
                time.sleep(0.001)
    assert not commands.failed


def test_what_is_in_an_event_is_no_command_and_need_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EventCommands("true", tmp_path / "k.sock") as commands:
        commands.start(WAKE)
    with EventCommands("kill -TERM $$", tmp_path / "k.sock") as killed:
        killed.start(WAKE)
    assert not commands.failed
    assert "it was ended by SIGTERM: kill -TERM $$" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_ends_what_runs(
    start: Start, talkative: Path, tmp_path: Path, number: int, status: int
) -> None:
    daemon: Daemon = start("--source", str(talkative), "--wait-for-client", "--realtime")
    daemon.connect().close()
    mark = tmp_path / "mark"
    command = ["-m", "kwsd", "events", "--types", "wake", "--socket", str(daemon.socket)]
    child = forked.Process(
        [*command, "--exec", f"echo $$ > {mark}; exec sleep 60"], stderr=forked.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode == status, said
    assert "--exec" not in said
    assert not lives(int(mark.read_text()))
    assert threading.active_count() < 10
