"""The satellite that people have on their devices, `wyoming-satellite` 1.0.0, asks `kwsd wyoming`
for its wake word; the test is its server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bridge_process import free_port
from conftest import ROOT, hiss, say
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming_service import Service, read, run

PYTHON = Path(
    os.environ.get("WYOMING_SATELLITE_PYTHON", ROOT / ".venv/wyoming-satellite/bin/python")
)
MICROPHONE = """
import sys, time
sound = open(sys.argv[1], "rb").read()
began, sent = time.monotonic(), 0
while True:
    for at in range(0, len(sound), 2048):
        sys.stdout.buffer.write(sound[at : at + 2048])
        sys.stdout.buffer.flush()
        sent += 2048
        time.sleep(max(began + sent / 32000 - time.monotonic(), 0))
"""
"""A program that says what is in a file, again and again, as fast as it is spoken."""


@pytest.fixture
def satellite(tmp_path: Path) -> Iterator[int]:
    """The port of a satellite whose wake service is `kwsd wyoming`, and at which "computer" is said
    every four seconds."""
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is missing: ./dev test --peers installs it")
    sound = np.concatenate([hiss(2.0), say("alexa"), hiss(1.0), say("computer"), hiss(0.5)])
    (tmp_path / "microphone.raw").write_bytes(sound.astype("<i2").tobytes())
    (tmp_path / "microphone.py").write_text(MICROPHONE)
    service = Service(tmp_path)
    port = free_port()
    command = [str(PYTHON), "-m", "wyoming_satellite", "--name", "kitchen", "--no-zeroconf"]
    command += ["--uri", f"tcp://127.0.0.1:{port}"]
    command += ["--wake-uri", f"tcp://127.0.0.1:{service.port}", "--wake-word-name", "computer"]
    microphone = f"{sys.executable} {tmp_path}/microphone.py {tmp_path}/microphone.raw"
    command += ["--mic-command", microphone, "--debug"]
    log = tmp_path / "satellite.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    yield port
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    assert "Traceback" not in log.read_text(), log.read_text()
    service.close()


async def connected(port: int) -> AsyncTcpClient:
    """Return a connection to the satellite, once it is there."""
    while True:
        client = AsyncTcpClient("127.0.0.1", port)
        try:
            await client.connect()
        except ConnectionError:
            await asyncio.sleep(0.1)
        else:
            return client


async def until(client: AsyncTcpClient, kind: str) -> tuple[Event, list[str]]:
    """Return the next event of a kind, and the types of those that came before it."""
    before = []
    while (event := await read(client)).type != kind:
        before.append(event.type)
    return event, before


def test_the_satellite_wakes_on_our_word_again_and_again(satellite: int) -> None:
    async def steps() -> None:
        client = await connected(satellite)
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, "info"))[0])
        assert info.satellite is not None
        await client.write_event(Event("run-satellite"))
        for _ in range(2):
            pipeline, before = await until(client, "run-pipeline")
            assert "audio-chunk" not in before, "nothing is sent before the word"
            assert pipeline.data["start_stage"] == "asr"
            chunk = AudioChunk.from_event((await until(client, "audio-chunk"))[0])
            assert (chunk.rate, chunk.width, chunk.channels) == (16000, 2, 1)
            await client.write_event(Transcript("turn on the light").event())
            await asyncio.sleep(0.5)  # what was on its way
            with contextlib.suppress(TimeoutError):
                while (await asyncio.wait_for(client.read_event(), 0.3)) is not None:
                    pass
        await client.disconnect()

    run(steps())
