"""A bridge in a process of its own, as systemd would run it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import forked
import numpy as np
from conftest import Daemon, Start, hiss


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Fed(Daemon):
    """A daemon that hears hiss for ever, and what a test writes into it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--source", "-", stdin=forked.PIPE)
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._hissing = threading.Thread(target=self._hiss)
        self._hissing.start()
        self.connect().close()

    def hear(self, samples: np.ndarray) -> None:
        """Write int16 samples into its standard input."""
        with self._writing:
            super().hear(samples)

    def _hiss(self) -> None:
        with contextlib.suppress(OSError):  # it has gone
            while not self._over.wait(0.1):
                self.hear(hiss(0.1))

    def kill(self) -> None:
        """End it, whatever it does."""
        self._over.set()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._hissing.join()
        super().kill()


def fed(start: Start, folder: Path) -> Fed:
    """Return a daemon that hears what a test writes into it."""
    daemon = Fed(folder)
    start.daemons.append(daemon)
    return daemon


class BridgeProcess:
    """`kwsd VERB` with a configuration of its own, beside the daemon of the folder."""

    python: Sequence[str] = ("-m", "kwsd")
    """The arguments of Python before those of `kwsd`."""

    def __init__(self, folder: Path, verb: str, config: str = "", *arguments: str) -> None:
        self.folder = folder
        self.log = folder / f"{verb}.log"
        self.config = folder / f"{verb}.yaml"
        self.config.write_text(f"checker: off\n{config}")
        self._verb = verb
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        where = ["--config", str(self.config), "--socket", str(self.folder / "k.sock")]
        command = [*self.python, self._verb, *where, *self._arguments]
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = self.folder / f"{self._verb}.notify"
        notify.unlink(missing_ok=True)
        self.ready.bind(str(notify))
        self.ready.settimeout(60)
        env = {"PATH": "/usr/bin", "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "1000000"}
        with self.log.open("ab") as log:
            self.process = forked.Process(command, stdout=log, stderr=log, env=env)
        try:
            assert self.ready.recv(4096).startswith(b"READY=1")
        except TimeoutError:
            raise AssertionError(self.log.read_text()) from None

    def stop(self) -> int:
        """Return the exit status, once it has ended by SIGTERM."""
        self.process.terminate()
        self.ready.close()
        return self.process.wait(30)

    def crash(self) -> None:
        """End it, whatever it does."""
        self.ready.close()
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it; its log must show no fault."""
        self.crash()
        log = self.log.read_text()
        assert "Traceback" not in log, log

    def memory_mib(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def said(self, text: str, timeout_s: float = 30) -> None:
        """Wait until its log has a text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
