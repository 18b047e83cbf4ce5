"""A real daemon under measurement: `kwsd run --source -` in a process of its own, fed through a pipe, heard through its socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.files import RATE, read_all
from kwsd.bench import scenes
from kwsd.bench.peers import BLOCK_SAMPLES, KWSD_WORDS
from kwsd.client.client import Connection, connect
from kwsd.detect.detector import PATIENCE
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import Enrolment
from kwsd.model import bundle
from kwsd.state.voiceprints import VoiceprintStore

READY_TIMEOUT_S = 60.0


class MeasuredDaemon:
    """Its pipe, its socket, and what `/proc` says of it."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, ready_s: float, ready_cpu_s: float) -> None:
        self.process, self.path = process, path
        self.ready_s, self.ready_cpu_s = ready_s, ready_cpu_s
        self.sent = 0

    def feed(self, samples: np.ndarray) -> None:
        """int16 `[sample]` into its standard input, as fast as it takes them, in blocks as a microphone gives them."""
        assert self.process.stdin
        data = samples.astype("<i2").tobytes()
        for at in range(0, len(data), 2 * BLOCK_SAMPLES):
            self.process.stdin.write(data[at : at + 2 * BLOCK_SAMPLES])
            self.process.stdin.flush()
        self.sent += len(samples)

    def caught_up(self, client: Connection, timeout_s: float = 600.0) -> dict[str, Any]:
        """Wait until it has heard all that was sent, but for what it takes at once; its status then."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = client.request("status")
            if status["audio_s"] * RATE > self.sent - PATIENCE * BLOCK_SAMPLES - RATE // 10 or time.monotonic() > deadline:
                return status
            time.sleep(0.2)

    def cpu_s(self) -> float:
        """CPU seconds of all its threads, to the nanosecond where the kernel says so."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return total / 1e9

    def memory_mib(self) -> tuple[float, float]:
        """Resident now, and at the most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.startswith(("VmRSS", "VmHWM"))}
        return sizes["VmRSS"] / 1024, sizes["VmHWM"] / 1024

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@contextmanager
def measured(*arguments: str, words: tuple[str, ...] = KWSD_WORDS) -> Iterator[tuple[MeasuredDaemon, Connection]]:
    """A daemon that listens for `words` with one enrolled speaker, and a subscriber to it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _enrol(home / "state")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(home / "notify"))
            notify.settimeout(READY_TIMEOUT_S)
            command = [sys.executable, "-m", "kwsd", "run", "--source", "-", "--words", ",".join(words), "--socket", str(home / "k.sock"),
                       "--state", str(home / "state"), *arguments]  # fmt: skip
            environment = {**os.environ, "NOTIFY_SOCKET": str(home / "notify"), "XDG_CONFIG_HOME": folder}
            began = time.monotonic()
            with (home / "log").open("wb") as log:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, env=environment)
            daemon = MeasuredDaemon(process, home / "k.sock", 0.0, 0.0)
            try:
                try:
                    while b"READY=1" not in notify.recv(4096):
                        pass
                except TimeoutError:
                    raise RuntimeError(f"the daemon did not become ready: {(home / 'log').read_text(encoding='utf-8')}") from None
                daemon.ready_s, daemon.ready_cpu_s = time.monotonic() - began, daemon.cpu_s()
                with connect(daemon.path) as client:
                    yield daemon, client
            finally:
                assert process.stdin
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _enrol(state: Path) -> None:
    models = bundle.load()
    session = Enrolment("ann", Embedder(models))
    talk = read_all(scenes.HERE / "television.ogg")
    for n in range(3):
        session.add(talk[n * 2 * RATE : (n + 1) * 2 * RATE])
    VoiceprintStore(state, models.encoder_id).save(session.finish())


class Collector:
    """Reads a subscriber's events on a thread of its own, with the time at which each line arrived."""

    def __init__(self, path: Path) -> None:
        self.arrived: list[tuple[float, dict[str, Any]]] = []
        self._connection = connect(path)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Collector:
        self._connection.request("subscribe", types=["wake"])
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        for body in self._connection:
            self.arrived.append((time.monotonic(), body))
