"""Home Assistant's own `wyoming` integration, for the wake service and for the satellite."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from bridge_process import free_port
from conftest import FIRST_STAGE_ALONE, RATE, ROOT, Start, hiss, say
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.server import AsyncEventHandler, AsyncTcpServer
from wyoming.tts import Synthesize
from wyoming_service import Service

from kwsd.audio.high_pass import HighPass

PYTHON = Path(os.environ.get("HOME_ASSISTANT_PYTHON") or ROOT / ".venv/home-assistant/bin/python")
"""Where `./dev test --peers` has installed it."""
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="./dev test --peers installs it")
SELF = {"attribution": Attribution(name="tests", url=""), "installed": True}
MADE: dict[str, Any] = {**SELF, "description": None, "version": None}
WAKE_WORD_COOLDOWN_S = 6.0
"""Seconds after a wake in which Home Assistant takes no other of the same phrase, and one more."""
ANSWER = say("I do not know", "en-gb")
"""What the text-to-speech says, whatever it is asked for."""


class Speech:
    """Speech-to-text that understands the same each time, and text-to-speech, on one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard: list[bytes] = []
        """What each command was, 16-bit PCM."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = AsyncTcpServer("127.0.0.1", self.port)
        self._task = self._loop.create_task(server.run(lambda *args: Spoken(self, *args)))
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def close(self) -> None:
        """Serve nobody any more."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)


class Spoken(AsyncEventHandler):
    """One client of it."""

    def __init__(self, speech: Speech, *args: Any) -> None:
        super().__init__(*args)
        self._speech = speech
        self._pcm = b""

    async def handle_event(self, event: Event) -> bool:
        """Answer an event."""
        if Describe.is_type(event.type):
            model = AsrModel(name="m", languages=["en"], **MADE)
            voice = TtsVoice(name="v", languages=["en"], **MADE)
            asr = AsrProgram(name="asr", models=[model], **MADE)
            tts = TtsProgram(name="tts", voices=[voice], **MADE)
            await self.write_event(Info(asr=[asr], tts=[tts]).event())
        elif Transcribe.is_type(event.type):
            self._pcm = b""
        elif AudioChunk.is_type(event.type):
            self._pcm += AudioChunk.from_event(event).audio
        elif AudioStop.is_type(event.type):
            self._speech.heard.append(self._pcm)
            await self.write_event(Transcript(text="turn on the moon").event())
        elif Synthesize.is_type(event.type):
            await self.write_event(AudioStart(RATE, 2, 1).event())
            pcm = ANSWER.astype("<i2").tobytes()
            await self.write_event(AudioChunk(RATE, 2, 1, pcm).event())
            await self.write_event(AudioStop().event())
        return True


class HomeAssistant:
    """It, in a process of its own."""

    def __init__(self, folder: Path, *ports: int) -> None:
        folder.mkdir()
        self._log = folder / "log"
        command = [
            str(PYTHON),
            str(Path(__file__).with_name("wyoming_home_assistant.py")),
            str(folder),
        ]
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(free_port()), *map(str, ports)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                cwd=folder,
            )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self._lines.put(json.loads(line))

    def next(self, key: str, value: object = None, timeout_s: float = 60) -> dict[str, Any]:
        """Return the next line that has a key, with a value where one is given."""
        deadline = time.monotonic() + timeout_s
        seen: list[dict[str, Any]] = []
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                text = f"{seen}\n{self._log.read_text()[-4000:]}"
                raise AssertionError(f"nothing with {key} {value}: {text}") from None
            seen.append(line)
            if key in line and value in (None, line[key]):
                return line

    def ask(self, **command: Any) -> None:
        """Let it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def speech() -> Iterator[Speech]:
    """Speech services."""
    speech = Speech()
    yield speech
    speech.close()


def test_home_assistant_hears_by_the_wake_service(tmp_path: Path) -> None:
    service = Service(tmp_path)
    home = HomeAssistant(tmp_path / "home", service.port)
    try:
        assert home.next("entry")["entry"] == "kwsd"
        (entity,) = [name for name in home.next("states")["states"] if name.startswith("wake_word")]
        home.ask(do="words", entity=entity)
        words = home.next("words")["words"]
        assert words["smart_mirror"] == "smart mirror"
        pcm = tmp_path / "pcm"
        parts = [hiss(1.0), say("alexa"), hiss(1.0), say("computer"), hiss(1.0)]
        pcm.write_bytes(np.concatenate(parts).astype("<i2").tobytes())
        for word in ("computer", "alexa"):
            home.ask(do="wake", entity=entity, file=str(pcm), word=word)
            assert home.next("detected")["detected"] == word
    finally:
        home.close()
        service.close()


def test_home_assistant_answers_a_command_of_the_satellite(
    start: Start, tmp_path: Path, speech: Speech
) -> None:
    config = tmp_path / "kwsd" / "kwsd.yaml"
    config.parent.mkdir()
    config.write_text(f"{FIRST_STAGE_ALONE}words: {{computer: }}\nlookback_s: 60\n")
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    played = tmp_path / "played"
    play = f"cat >{played}.part; mv {played}.part {played}"
    options = ["--satellite", "--allow", "127.0.0.1", "--play", play, "--name", "Den"]
    service = Service(tmp_path, "", *options)
    service.said("woken by")
    home = HomeAssistant(tmp_path / "home", speech.port, service.port)
    ends = threading.Event()

    def room() -> None:
        """Be quiet in real time, once the word was said."""
        while not ends.wait(0.1):
            daemon.hear(hiss(0.1))

    quiet = threading.Thread(target=room, daemon=True)
    try:
        home.next("entry", "Den")
        home.next("states")
        service.said("what follows a wake word goes to 127.0.0.1")
        command = say("turn on the moon", "en-gb")
        for turn in (1, 2):
            if turn == 2:  # until then it takes the word for the same one, from another room
                time.sleep(WAKE_WORD_COOLDOWN_S)
            daemon.hear(np.concatenate([hiss(2.0), say("computer"), hiss(0.2), command]))
            if turn == 1:
                quiet.start()
            home.next("event", "stt-start")
            text = home.next("event", "stt-end")["data"]["stt_output"]["text"]
            assert text == "turn on the moon"
            home.next("event", "tts-end")
            deadline = time.monotonic() + 30
            while not played.exists():
                assert time.monotonic() < deadline, service.log.read_text()
                time.sleep(0.05)
            assert len(played.read_bytes()) > 44 + len(ANSWER)
            played.unlink()
            pcm = np.frombuffer(speech.heard[-1], "<i2").astype(float)
            assert len(pcm) > 0.9 * len(command)
            heard = HighPass().step(command).astype(float)  # as the daemon hears it
            at = int(np.abs(np.correlate(pcm, heard, "valid")).argmax())
            alike = np.corrcoef(pcm[at : at + len(heard)], heard)[0, 1]
            assert alike > 0.8, "the whole command, from its first sound on"
    finally:
        ends.set()
        home.close()
        service.close()
