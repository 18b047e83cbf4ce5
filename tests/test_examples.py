"""The example programs, run as they are."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import subprocess
import sys
import threading
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


class Assistant(threading.Thread):
    """A WebSocket that takes one message, sends one of its own before, and says farewell."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._server.getsockname()[1]}"
        self.messages: list[bytes] = []

    def run(self) -> None:
        """Take one client (RFC 6455)."""
        peer, _ = self._server.accept()
        with self._server, peer, peer.makefile("rb") as read:
            head = b"".join(iter(read.readline, b"\r\n"))
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
            assert key is not None
            accept = base64.b64encode(hashlib.sha1(key[1] + WEBSOCKET).digest())
            answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            peer.sendall(answer + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x02{}")
            for kind in (0x81, 0x88):
                begin, length = read.read(2)
                assert (begin, length & 0x80) == (kind, 0x80)
                mask, data = read.read(4), read.read(length & 0x7F)
                self.messages.append(bytes(b ^ mask[n % 4] for n, b in enumerate(data)))


WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def test_a_wake_starts_linux_voice_assistant(start: Start) -> None:
    assistant = Assistant()
    assistant.start()
    with Room(start("--source", "-", stdin=forked.PIPE)) as room:
        arguments = ["--socket", str(room.daemon.socket), "--count", "1", "--url", assistant.url]
        example = forked.Process(
            [str(EXAMPLES / "linux_voice_assistant.py"), *arguments], stdout=forked.PIPE, text=True
        )
        while example.poll() is None:
            room.say(hiss(1), say("computer"), hiss(3))
            with_time(example, 2.0)
        printed, _ = example.communicate()
    assert printed == "computer: the assistant listens\n"
    assistant.join(10)
    assert json.loads(assistant.messages[0]) == {"command": "start_listening"}
    assert assistant.messages[1] == b"\x03\xe8", "a farewell"
