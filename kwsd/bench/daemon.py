"""A real daemon under measurement.

It is `kwsd run --source -` in a process of its own, fed through a pipe; its events arrive through
its socket.
"""

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
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.audio.pcm import to_bytes
from kwsd.bench import scenes
from kwsd.bench.engines import KWSD_WORDS
from kwsd.client.client import Client, connect
from kwsd.detect.detector import MAX_CHUNKS_PER_CALL
from kwsd.detect.embedder import Embedder
from kwsd.events import Wake
from kwsd.learn.enrollment import Enrollment
from kwsd.model import bundle
from kwsd.protocol import commands
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.replies import StatusReply
from kwsd.state.voiceprints import VoiceprintStore

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.2


class Memory(NamedTuple):
    """Resident memory of a process, in MiB."""

    resident_mib: float
    """Now."""
    peak_mib: float
    """The most since its start."""


class MeasuredDaemon:
    """A running daemon: its pipe, its socket, and what `/proc` says about it."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self.path = path
        """The daemon's socket."""
        self.ready_s = 0.0
        """Seconds from the start of the process until it was ready."""
        self.ready_cpu_s = 0.0
        """CPU seconds until then."""
        self.sent = 0
        """Samples that were fed."""

    def feed(self, samples: np.ndarray) -> None:
        """Write int16 `[sample]` to its standard input as fast as it reads.

        They are written in blocks of 80 ms, as a microphone gives them.
        """
        assert self.process.stdin
        data = to_bytes(samples)
        for at in range(0, len(data), 2 * CHUNK_SAMPLES):
            self.process.stdin.write(data[at : at + 2 * CHUNK_SAMPLES])
            self.process.stdin.flush()
        self.sent += len(samples)

    def wait_until_heard(self, client: Client, timeout_s: float = 600.0) -> StatusReply:
        """Wait until it has heard everything that was fed; return its status then.

        The samples of one call of the detector may still be outstanding. The wait ends after
        `timeout_s` in any case. Raises DaemonError.
        """
        outstanding = MAX_CHUNKS_PER_CALL * CHUNK_SAMPLES + SAMPLE_RATE // 10
        deadline = time.monotonic() + timeout_s
        while True:
            status = client.request(commands.Status())
            if status.audio_s * SAMPLE_RATE > self.sent - outstanding:
                return status
            if time.monotonic() > deadline:
                return status
            time.sleep(POLL_S)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its threads, in the kernel's nanoseconds."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return total / 1e9

    def memory(self) -> Memory:
        """Return its resident memory, now and at most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        resident, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return Memory(resident, peak)

    def descriptors(self) -> int:
        """Return how many file descriptors it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@contextmanager
def measured(
    words: tuple[str, ...] = KWSD_WORDS,
) -> Iterator[tuple[MeasuredDaemon, Client]]:
    """Run a daemon that listens for `words` with one enrolled speaker; yield it and a client.

    Raises RuntimeError where it does not become ready within a minute.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _enroll(home / "state")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(home / "notify"))
            notify.settimeout(READY_TIMEOUT_S)
            began = time.monotonic()
            process = _start(home, words)
            daemon = MeasuredDaemon(process, home / "k.sock")
            try:
                try:
                    while b"READY=1" not in notify.recv(4096):
                        pass
                except TimeoutError:
                    log = (home / "log").read_text(encoding="utf-8")
                    raise RuntimeError(f"the daemon did not become ready: {log}") from None
                daemon.ready_s = time.monotonic() - began
                daemon.ready_cpu_s = daemon.cpu_s()
                with connect(daemon.path) as client:
                    yield daemon, client
            finally:
                _stop(process)


def _start(home: Path, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start a daemon with its socket, state, configuration and log in the folder `home`."""
    command = [sys.executable, "-m", "kwsd", "run", "--source", "-", "--words", ",".join(words)]
    command += ["--socket", str(home / "k.sock"), "--state", str(home / "state")]
    where = {"NOTIFY_SOCKET": str(home / "notify"), "XDG_CONFIG_HOME": str(home)}
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **where},
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the daemon's audio, and kill the daemon if that does not end it."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _enroll(state: Path) -> None:
    """Enroll one speaker in the state directory, from three takes of 2 s."""
    models = bundle.load()
    enrollment = Enrollment("ann", Embedder(models))
    talk = scenes.television()
    length = 2 * SAMPLE_RATE
    for n in range(3):
        enrollment.add(HighPass().step(talk[n * length : (n + 1) * length]))
    VoiceprintStore(state, models.encoder_id).save(enrollment.finish()[0])


class Collector:
    """Collects a daemon's wakes on a thread of its own, with the time at which each arrived."""

    def __init__(self, path: Path) -> None:
        """`path` is the daemon's socket. Raises DaemonError."""
        self.arrived: list[tuple[float, Wake]] = []
        """Monotonic seconds, and the wake."""
        self._client = connect(path)
        self._events = self._client.events(types=["wake"])
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        with contextlib.suppress(DaemonError):  # the daemon has ended
            for event in self._events:
                if isinstance(event, Wake):
                    self.arrived.append((time.monotonic(), event))
