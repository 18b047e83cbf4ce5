"""A sound server that moves the stream to another source is noticed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from kwsd.server.sound_server import MoveWatch

PACTL = """#!/bin/sh
# Stands in for pactl: the lists lie in files, and each line of a pipe is a change.
case "$*" in
subscribe) exec cat {folder}/changes ;;
"--format=json list source-outputs") exec cat {folder}/outputs ;;
"--format=json list sources") exec cat {folder}/sources ;;
*) exit 1 ;;
esac
"""
SOURCES = [{"index": 4, "name": "usb"}, {"index": 7, "name": "webcam", "mute": False}]


def record(folder: Path, source: int) -> None:
    """Let this process, beside another, record the source."""
    outputs = [
        {"source": 4, "properties": {"application.process.id": "1"}},
        {"source": source, "properties": {"application.process.id": str(os.getpid())}},
    ]
    (folder / "outputs").write_text(json.dumps(outputs))


@pytest.fixture
def pactl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound server that the test plays."""
    tool = tmp_path / "pactl"
    tool.write_text(PACTL.format(folder=tmp_path))
    tool.chmod(0o755)
    (tmp_path / "sources").write_text(json.dumps(SOURCES))
    os.mkfifo(tmp_path / "changes")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PULSE_SERVER", "unix:/nowhere")
    record(tmp_path, 4)
    return tmp_path


async def play(folder: Path) -> list[str]:
    """Return the moves that are noticed while the sound server changes this and that."""
    moves: list[str] = []
    watch = MoveWatch(moves.append)
    task = asyncio.get_running_loop().create_task(watch.watch())
    watch.look()
    changes = await asyncio.to_thread((folder / "changes").open, "w")
    with changes:
        for source, line in (
            (4, "Event 'new' on client #3"),
            (4, "Event 'change' on source-output #2"),
            (7, "Event 'change' on source-output #2"),
            (4, "Event 'change' on source-output #2"),
        ):
            await asyncio.sleep(0.1)
            record(folder, source)
            print(line, file=changes, flush=True)
            await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return moves


def test_moves_are_reported_by_name_and_other_changes_are_not(pactl: Path) -> None:
    assert asyncio.run(play(pactl)) == ["webcam", "usb"]


def test_without_a_sound_server_nothing_runs(pactl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULSE_SERVER")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pactl))
    (pactl / "pactl").write_text(f"#!/bin/sh\ntouch {pactl}/ran\n")

    async def look() -> None:
        watch = MoveWatch(lambda _: None)
        task = asyncio.get_running_loop().create_task(watch.watch())
        watch.look()
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()

    asyncio.run(look())
    assert not (pactl / "ran").exists()
