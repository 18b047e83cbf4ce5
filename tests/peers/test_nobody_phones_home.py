"""Each bridge speaks to the daemon and to whom its owner has named, and to nobody else: by strace.

The daemon and the verbs are in `test_privacy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import syscalls
from bridge_process import Fed, fed, free_port
from conftest import RATE, ROOT, Start, hiss, say
from mosquitto import Mosquitto, ear
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.ping import Ping
from wyoming.satellite import RunSatellite
from wyoming.wake import Detection
from wyoming_service import read, run

REFUSAL = syscalls.refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=f"no program can be traced: {REFUSAL}")
HOSTS = {"/etc/hosts", "/etc/resolv.conf", "/etc/host.conf"}
"""What a look-up of a broker's name reads, even where it is an address."""
ONE = np.concatenate([hiss(1.5), say("computer"), hiss(1.5)])


class Traced:
    """`kwsd VERB` beside the daemon of a folder, by strace, with an empty home in it."""

    def __init__(self, folder: Path, verb: str, *arguments: str) -> None:
        self._log = folder / "strace"
        self.output = folder / "output"
        self.home = folder / "home"
        runtime = folder / "run"
        for one in (self.home, runtime):
            one.mkdir()
        config = folder / "bridge.yaml"
        config.write_text("checker: off\n")
        where = ["--config", str(config)] if verb != "events" else []
        command = [sys.executable, "-m", "kwsd", verb, *where, "--socket", str(folder / "k.sock")]
        env = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "RUNTIME_DIRECTORY": str(runtime),
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*syscalls.command(self._log), *command, *arguments],
                stdout=output,
                stderr=output,
                env=env,
                cwd="/",
            )

    @property
    def pid(self) -> int:
        """The process of kwsd, which is strace's child."""
        strace = self.process.pid
        return int(Path(f"/proc/{strace}/task/{strace}/children").read_text().split()[0])

    def said(self, text: str) -> str:
        """Return its output, once it has a text."""
        deadline = time.monotonic() + 60
        while text not in (said := self.output.read_text()):
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        return said

    def has_loaded(self, library: str) -> bool:
        """Return whether a library is mapped into it."""
        return library in Path(f"/proc/{self.pid}/maps").read_text()

    def stop(self) -> syscalls.Observed:
        """Return what it did, once it has ended by SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        self.process.wait(30)
        assert "Traceback" not in self.output.read_text(), self.output.read_text()
        assert list(self.home.iterdir()) == []
        return syscalls.observed(self._log)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.wait(30)


Trace = Callable[..., Traced]


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    """Start one process, and end it where it still runs."""
    started: list[Traced] = []

    def start(verb: str, *arguments: str) -> Traced:
        started.append(Traced(tmp_path, verb, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def daemon(start: Start, tmp_path: Path) -> Fed:
    """A daemon that hears what a test writes into it."""
    return fed(start, tmp_path)


def test_mqtt_speaks_to_its_broker(daemon: Fed, trace: Trace, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    given = ("--host", "127.0.0.1", "--port", str(broker.port), "--name", "kitchen")
    bridge = trace("mqtt", *given)

    async def steps() -> None:
        async with ear(broker.port) as one:
            await one.until("kitchen/status", lambda heard: heard.payload == "online")
            daemon.hear(ONE)
            await one.until("/wake")

    try:
        run(steps())
        assert not bridge.has_loaded("onnxruntime")
        seen = bridge.stop()
    finally:
        broker.kill()
    assert seen.reached == {f"127.0.0.1 port {broker.port}"}
    assert seen.bound <= {"0.0.0.0 port 0"}, "its own end of the connection"
    assert seen.looked_up <= HOSTS
    assert seen.outside(tmp_path) == set()


def test_metrics_answers_and_asks_nobody(daemon: Fed, trace: Trace, tmp_path: Path) -> None:
    port = free_port()
    textfile = tmp_path / "run" / "kwsd.prom"
    exporter = trace(
        "metrics", "--listen", f"127.0.0.1:{port}", "--textfile", str(textfile), "--interval", "1s"
    )
    exporter.said("connected to kwsd")
    deadline = time.monotonic() + 60
    while 'kwsd_wakes_total{word="computer"} 1.0' not in get(port, "/metrics").decode():
        assert time.monotonic() < deadline
        daemon.hear(ONE)
        time.sleep(1)
    while not textfile.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not exporter.has_loaded("onnxruntime")
    seen = exporter.stop()
    assert (seen.reached, seen.bound) == (set(), {f"127.0.0.1 port {port}"})
    assert seen.looked_up == set()
    assert seen.outside(tmp_path / "run", daemon.socket) == set()


def get(port: int, path: str, cookie: str = "", method: str = "GET") -> bytes:
    """Return the body of a page."""
    origin = f"http://127.0.0.1:{port}"
    headers = {"Cookie": cookie, "Origin": origin} if cookie else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return body


def test_the_page_answers_and_asks_nobody(daemon: Fed, trace: Trace, tmp_path: Path) -> None:
    port = free_port()
    page = trace("web", "--listen", f"127.0.0.1:{port}")
    text = page.said("connected to kwsd")
    (link,) = [line for line in text.splitlines() if line.startswith("http://")]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", link.partition(str(port))[2])
        cookie = str(connection.getresponse().headers["Set-Cookie"]).partition(";")[0]
        connection.close()
        connection.request("GET", "/api/live", headers={"Cookie": cookie})
        events = connection.getresponse()
        daemon.hear(ONE)
        while b'"wake"' not in events.readline():
            pass
    assert b"<script" in get(port, "/", cookie)
    assert b"daemon" in get(port, "/api/doctor", cookie, "POST")
    seen = page.stop()
    assert (seen.reached, seen.bound) == (set(), {f"127.0.0.1 port {port}"})
    assert seen.looked_up == set()


async def connected(port: int, service: Traced) -> AsyncTcpClient:
    """Return a client, as soon as the service listens."""
    client = AsyncTcpClient("127.0.0.1", port)
    while True:
        try:
            await client.connect()
            return client
        except OSError:
            assert service.process.poll() is None, service.output.read_text()
            await asyncio.sleep(0.1)


def test_the_wake_service_answers_and_asks_nobody(trace: Trace, tmp_path: Path) -> None:
    port = free_port()
    service = trace("wyoming", "--uri", f"tcp://127.0.0.1:{port}")  # without a daemon

    async def steps() -> None:
        client = await connected(port, service)
        await client.write_event(AudioStart(RATE, 2, 1).event())
        for at in range(0, len(ONE), 1280):
            samples = ONE[at : at + 1280].astype("<i2").tobytes()
            await client.write_event(AudioChunk(RATE, 2, 1, samples).event())
        assert Detection.from_event(await read(client)).name == "computer"
        await client.disconnect()

    run(steps())
    seen = service.stop()
    assert (seen.reached, seen.bound) == (set(), {f"127.0.0.1 port {port}"})
    assert seen.looked_up == set()
    assert seen.outside(tmp_path / "run", tmp_path / "k.sock") == set()


def test_the_satellite_sends_to_whom_has_come_and_connects_to_nobody(
    daemon: Fed, trace: Trace, tmp_path: Path
) -> None:
    port = free_port()
    given = ("--satellite", "--uri", f"tcp://127.0.0.1:{port}", "--allow", "127.0.0.1")
    satellite = trace("wyoming", *given)
    satellite.said("woken by")

    async def steps() -> None:
        client = await connected(port, satellite)
        for event in (RunSatellite(), Ping("is it there?")):
            await client.write_event(event.event())
        await read(client)
        daemon.hear(ONE)
        kinds = [(await read(client)).type for _ in range(6)]
        assert kinds[:3] == ["detection", "run-pipeline", "audio-start"]
        assert kinds[3:] == ["audio-chunk"] * 3
        await client.write_event(Transcript("").event())
        await client.disconnect()

    run(steps())
    seen = satellite.stop()
    assert (seen.reached, seen.bound) == (set(), {f"127.0.0.1 port {port}"})
    assert seen.looked_up == set()
    assert seen.outside(tmp_path / "run", daemon.socket) == set()


def test_events_and_their_programs_reach_nobody(daemon: Fed, trace: Trace, tmp_path: Path) -> None:
    out = tmp_path / "run" / "wake"
    events = trace("events", "--types", "wake", "--reconnect", "--exec", f"cat > {out}")
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text()):
        assert time.monotonic() < deadline, events.output.read_text()
        daemon.hear(ONE)
        time.sleep(1)
    seen = events.stop()
    assert (seen.reached, seen.bound, seen.looked_up) == (set(), set(), set())
    assert seen.families == {"AF_UNIX"}
    assert seen.outside(tmp_path / "run", daemon.socket) == set()
