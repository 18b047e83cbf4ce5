"""Hostile clients against a daemon that is listening: what do they cost everybody else?

    python tests/load.py --clients 60 --seconds 60

feeds a daemon words in real time, first alone and then beside clients that each send lines of a
megabyte as fast as they can, and prints what it measured as JSON. `test_load.py` runs it small.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from conftest import RATE, hiss, say

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.bench.daemon import Collector, MeasuredDaemon, measured
from kwsd.client.client import connect
from kwsd.protocol import commands
from kwsd.protocol.errors import DaemonError

MEGABYTE = 1 << 20
PERIOD_S = 2.4
"""One word in so many seconds, a whole number of chunks."""


def _padded(head: bytes, filling: bytes, tail: bytes) -> bytes:
    """Return a line of a megabyte."""
    room = MEGABYTE - len(head) - len(tail) - 1
    return (
        head
        + (filling * (room // len(filling) + 1))[: room // len(filling) * len(filling)]
        + (tail + b"\n")
    )


def _take() -> bytes:
    """Return an enrollment's take of 20 s, the longest good request that there is."""
    noise = np.random.default_rng(0).normal(0, 2000, 20 * RATE).astype("<i2")
    body = {"type": "enroll.next", "id": 2, "audio": base64.b64encode(noise.tobytes()).decode()}
    return b'{"type":"enroll.begin","id":1,"name":"load"}\n' + json.dumps(body).encode() + b"\n"


LINES: dict[str, Callable[[], bytes]] = {
    "take": _take,
    "text": lambda: _padded(b'{"type":"status","id":1,"x":"', b"a", b'"}'),
    "values": lambda: _padded(b'{"type":"subscribe","id":1,"words":[', b"[],", b"[]]}"),
    "keys": lambda: _padded(b'{"type":"statu","id":1', b',"abcdef":1.5', b"}"),
    "escapes": lambda: _padded(b'{"type":"status","id":1,"x":"', b"\\u00e9", b'"}'),
    "ids": lambda: (
        b'{"type":"clips.label","id":1,"clips":["' + b'","'.join([b"a" * 100] * 9000) + b'"]}\n'
    ),
    "word": lambda: _padded(b'{"type":"words.put","id":1,"file":"', b"QUJD", b'"}'),
    "endless": lambda: b"x" * MEGABYTE,
    "junk": lambda: b"x" * (MEGABYTE - 2) + b"\n",
    "state": lambda: b'{"type":"words"}\n{"type":"calibration"}\n{"type":"peaks"}\n' * 20_000,
    "reload": lambda: b'{"type":"reload"}\n' * 60_000,
    "short": lambda: b'{"type":"status","id":1}\n{"type":"dance"}\n' * 20_000,
    "unread": lambda: b'{"type":"subscribe"}\n' + b'{"type":"status","id":1}\n' * 40_000,
}
"""What each client sends over and over; the names are those of the report."""


class Flood:
    """One client that sends a line as fast as it can, and connects again when it is thrown out."""

    def __init__(self, path: Path, kind: str, selector: selectors.BaseSelector) -> None:
        self.kind = kind
        self.sent_bytes = 0
        self.connections = 0
        self._path = path
        self._line = memoryview(LINES[kind]())
        self._rest = self._line
        self._selector = selector
        self._sock: socket.socket | None = None

    def connect(self) -> None:
        """Connect, where it is not connected."""
        if self._sock is not None:
            return
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            return
        self._sock = sock
        self.connections += 1
        self._rest = self._line
        reading = 0 if self.kind == "unread" else selectors.EVENT_READ
        self._selector.register(sock, selectors.EVENT_WRITE | reading, self)

    def step(self, ready: int) -> None:
        """Write and read what goes."""
        assert self._sock is not None
        try:
            if ready & selectors.EVENT_READ and not self._sock.recv(1 << 18):
                raise ConnectionResetError
            if ready & selectors.EVENT_WRITE:
                sent = self._sock.send(self._rest)
                self.sent_bytes += sent
                self._rest = self._rest[sent:] or self._line
        except BlockingIOError:
            pass
        except OSError:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None


def flood(path: Path, clients: int, seconds: float, kinds: list[str]) -> dict[str, object]:
    """Run the clients for so long, and return what each kind has sent."""
    ends = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        floods = [Flood(path, kinds[n % len(kinds)], selector) for n in range(clients)]
        while time.monotonic() < ends:
            for one in floods:
                one.connect()
            for key, ready in selector.select(0.1):
                key.data.step(ready)
    return {
        "sent_mib": round(sum(one.sent_bytes for one in floods) / MEGABYTE, 1),
        "connections": sum(one.connections for one in floods),
        "sent_mib_by_kind": {
            kind: round(sum(o.sent_bytes for o in floods if o.kind == kind) / MEGABYTE, 1)
            for kind in kinds
        },
    }


@contextlib.contextmanager
def flooding(
    path: Path, clients: int, seconds: float, kinds: Sequence[str] = tuple(LINES)
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the clients in a process of their own, for as long as the context lasts at most."""
    command = [sys.executable, __file__, "--flood", str(path), "--kinds", *kinds]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Speech(threading.Thread):
    """Feeds a daemon a word every `PERIOD_S`, in real time."""

    def __init__(self, daemon: MeasuredDaemon) -> None:
        super().__init__(daemon=True)
        period = np.concatenate([hiss(0.8), say("computer")])
        room = round(PERIOD_S * RATE) - len(period)
        self._period = np.concatenate([period, hiss(room / RATE)])[: round(PERIOD_S * RATE)]
        self._daemon = daemon
        self._ending = threading.Event()
        self.began = time.monotonic()

    def run(self) -> None:
        """Write blocks when they are due."""
        at = 0
        with contextlib.suppress(OSError, ValueError):
            while not self._ending.is_set():
                begin = at * CHUNK_SAMPLES % len(self._period)
                self._daemon.feed(self._period[begin : begin + CHUNK_SAMPLES])
                at += 1
                time.sleep(max(0.0, self.due(at * CHUNK_SAMPLES) - time.monotonic()))

    def due(self, sample: int) -> float:
        """Return when a sample was spoken, whether or not the daemon had room for it."""
        return self.began + sample / RATE

    def end(self) -> None:
        """Stop speaking."""
        self._ending.set()
        self.join(5)


class Asking(threading.Thread):
    """Asks for the status four times a second, each time as another client."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.took_s: list[float] = []
        self.failed = 0
        self._path = path
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._ending.wait(0.25):
            began = time.monotonic()
            try:
                with connect(self._path) as client:
                    client.request(commands.Status())
                self.took_s.append(time.monotonic() - began)
            except DaemonError:
                self.failed += 1

    def end(self) -> None:
        """Stop asking."""
        self._ending.set()
        self.join(10)


def measure(clients: int, seconds: float, kinds: Sequence[str] = tuple(LINES)) -> dict[str, object]:
    """Return what the clients did to the wakes, the status, the memory and the end."""
    report: dict[str, object] = {"clients": clients, "seconds": seconds}
    with measured() as (daemon, _), Collector(daemon.path) as wakes:
        report["before_mib"] = round(daemon.memory().resident_mib, 1)
        speech = Speech(daemon)
        speech.start()
        time.sleep(max(seconds / 3, 3 * PERIOD_S))
        quiet = len(wakes.arrived)
        with flooding(daemon.path, clients, seconds, kinds) as process:
            asking = Asking(daemon.path)
            asking.start()
            out, _ = process.communicate(timeout=seconds + 60)
            asking.end()
        loaded = len(wakes.arrived)
        report["flood"] = json.loads(out)
        with flooding(daemon.path, clients, 60, kinds):
            time.sleep(2.0)
            began = time.monotonic()
            daemon.process.terminate()
            memory = daemon.memory()
            daemon.process.wait(30)
            report["sigterm_s"] = round(time.monotonic() - began, 2)
        report["exit_status"] = daemon.process.returncode
        speech.end()
    delays = [arrived - speech.due(wake.end) for arrived, wake in wakes.arrived]
    usual = float(np.median(delays[:quiet]))
    report["wakes"] = {
        "alone": quiet,
        "under_load": loaded - quiet,
        "spoken_under_load": seconds / PERIOD_S,
        "delay_alone_ms": [round(1000 * d) for d in np.quantile(delays[:quiet], [0, 0.5, 1])],
        "late_median_ms": round(1000 * float(np.median(delays[quiet:loaded]) - usual)),
        "late_most_ms": round(1000 * (max(delays[quiet:loaded]) - usual)),
    }
    report["status_ms"] = {
        "asked": len(asking.took_s),
        "failed": asking.failed,
        "median": round(1000 * float(np.median(asking.took_s))),
        "most": round(1000 * max(asking.took_s)),
    }
    report["peak_mib"] = round(memory.peak_mib, 1)
    return report


def main() -> None:
    """Parse the arguments, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--kinds", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--flood", type=Path, metavar="SOCKET", help="only send, to this daemon")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if arguments.flood:
        report = flood(arguments.flood, arguments.clients, arguments.seconds, arguments.kinds)
    else:
        report = measure(arguments.clients, arguments.seconds, arguments.kinds)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
