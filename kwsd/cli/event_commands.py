"""The command of `kwsd events --exec`: started for each event, a few at once, none for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from kwsd.cli.output import event_sentence, show
from kwsd.events import Event, to_dict

MAX_RUNNING = 4
"""Commands that run at the same time; for an event that comes meanwhile none is started."""
TIMEOUT_S = 10.0
"""Longest time that a command runs."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


class EventCommands:
    """Starts a shell command for each event, which it has as one line of JSON on its standard
    input. Use it as a context manager, which waits for those that run, and ends them at ^C and at
    SIGTERM; the process then ends by it.
    """

    def __init__(self, command: str, socket: Path, *, details: bool = False) -> None:
        """`socket` is what the command has as `$KWSD_SOCKET`; `details` as in `to_dict`."""
        self.failed = False
        """Whether one has failed."""
        self._command = command
        self._env = {**os.environ, "KWSD_SOCKET": str(socket.absolute())}
        self._details = details
        self._free = threading.Semaphore(MAX_RUNNING)
        self._waiters: set[threading.Thread] = set()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._interrupted = False
        self._before: Any = None  # what SIGTERM did

    def start(self, event: Event) -> None:
        """Start the command for an event; report where it cannot be."""
        if not self._free.acquire(blocking=False):
            self._report(event, f"not started, since {MAX_RUNNING} still run")
            return
        # A thread of its own is never interrupted half-way, with a process that nobody knows of.
        waiter = threading.Thread(target=self._run, args=(event,), daemon=True)
        with self._lock:
            self._waiters.add(waiter)
        waiter.start()

    def __enter__(self) -> EventCommands:
        self._before = signal.signal(signal.SIGTERM, _terminated)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        with self._lock:
            self._interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            waiters = list(self._waiters)
            if self._interrupted:
                for process in self._processes:
                    _end(process)
        for waiter in waiters:
            if waiter.is_alive():  # one that has not begun yet starts nothing
                waiter.join()
        signal.signal(signal.SIGTERM, self._before)
        if kind is _Terminated:
            signal.raise_signal(signal.SIGTERM)

    def _run(self, event: Event) -> None:
        try:
            with self._lock:
                if self._interrupted:
                    return
                process = subprocess.Popen(
                    ["/bin/sh", "-c", self._command],
                    stdin=subprocess.PIPE,
                    env=self._env,
                    start_new_session=True,  # so that all that it has started can be ended
                )
                self._processes.add(process)
            self._wait(process, event)
        except OSError as error:
            self._report(event, f"it cannot be started ({error.strerror})")
        finally:
            with self._lock:
                self._waiters.discard(threading.current_thread())
            self._free.release()

    def _wait(self, process: subprocess.Popen[bytes], event: Event) -> None:
        line = msgspec.json.encode(to_dict(event, details=self._details)) + b"\n"
        try:
            process.communicate(line, timeout=TIMEOUT_S)
            if process.returncode and not self._interrupted:
                self._report(event, _how(process.returncode))
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            self._report(event, f"ended, since it has run for {TIMEOUT_S:g} s")
        finally:
            with self._lock:
                self._processes.discard(process)

    def _report(self, event: Event, why: str) -> None:
        self.failed = True
        show(f"kwsd: --exec: {why}: {self._command} (for {event_sentence(event)})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _how(status: int) -> str:
    """Return how a command has ended."""
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it failed with exit status {status}"
