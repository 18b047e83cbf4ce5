"""The example programs, run as they are."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import wave
from pathlib import Path

import forked
import numpy as np
import pytest
from conftest import RATE, Start, hiss, say
from test_streams import Room

from kwsd.audio.high_pass import HighPass

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
LISTENER = """
import sys
data = sys.stdin.buffer.read()
open(sys.argv[1], "wb").write(data)
print("turn on", "the light")
"""
"""A speech-to-text program that keeps what it has heard, and understands the same each time."""


@pytest.mark.parametrize("raw", [False, True])
def test_the_command_reaches_a_speech_to_text_program(
    raw: bool, start: Start, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    program = [sys.executable, "-c", LISTENER, str(heard)]
    options = ["--raw"] if raw else []
    with Room(start("--source", "-", stdin=forked.PIPE)) as room:
        arguments = ["--socket", str(room.daemon.socket), "--count", "1", *options, *program]
        example = forked.Process(
            [str(EXAMPLES / "transcribe.py"), *arguments], stdout=forked.PIPE, text=True
        )
        command = say("turn on the light in the kitchen")
        while example.poll() is None:
            room.say(hiss(1), say("computer"), command, hiss(2))
            with_time(example, 2.0)
        printed, _ = example.communicate()
        written = HighPass().step(np.concatenate(room.written))
    assert example.returncode == 0
    answer = json.loads(printed)
    assert answer == {"word": "computer", "speaker": None, "text": "turn on the light"}
    data = heard.read_bytes()
    if not raw:
        with wave.open(io.BytesIO(data)) as wav:
            assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (RATE, 1, 2)
            data = wav.readframes(1 << 24)
    assert len(data) > 2 * RATE
    assert data in written.astype("<i2").tobytes()  # what was said, without a gap


def with_time(process: forked.Process, seconds: float) -> None:
    """Give a process some time to end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    missing = forked.run([str(EXAMPLES / "transcribe.py"), "--socket", str(tmp_path / "no"), "cat"])
    assert missing.returncode == 1
    assert "no daemon runs there" in missing.stderr
    nothing = forked.run([str(EXAMPLES / "transcribe.py")])
    assert nothing.returncode == 2
    assert "name a speech-to-text program" in nothing.stderr
