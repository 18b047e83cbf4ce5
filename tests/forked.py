"""Python processes that are forked from one that has imported kwsd, instead of started.

Imports are most of what a start of kwsd costs, and the tests start hundreds. The arguments, the
environment, the standard streams, signals and the exit status are those of a process of its own.
What imports do to its memory, threads and descriptors is not, and neither is how Python itself
ends: tests of those start Python.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, Any

import kept

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "run"]

Stream = int | IO[Any] | None
MAX_REQUEST = 1 << 17
"""Bytes of the arguments and the environment of a process."""


class Process:
    """`python ARGUMENTS…`, forked: what subprocess.Popen has, as far as the tests use it.

    The arguments are those of Python: `-m MODULE …`, `-c PROGRAM …` or `SCRIPT …`. The streams are
    as Popen takes them.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        mode = "" if text else "b"
        with contextlib.ExitStack() as stack:
            self.stdin, reading = self._stream(stdin, "w" + mode, 0, stack)
            self.stdout, writing = self._stream(stdout, "r" + mode, 1, stack)
            self.stderr, complaining = self._stream(
                writing if stderr == STDOUT else stderr, "r" + mode, 2, stack
            )
            self._status, reporting = os.pipe()
            stack.callback(os.close, reporting)
            request = {"arguments": self.args, "env": dict(os.environ if env is None else env)}
            body = json.dumps({**request, "cwd": os.getcwd()}).encode()  # noqa: PTH109
            socket.send_fds(_server(), [body], [reading, writing, complaining, reporting])
        self.pid = self._number()

    @staticmethod
    def _stream(
        given: Stream, mode: str, default: int, stack: contextlib.ExitStack
    ) -> tuple[IO[Any] | None, int]:
        """Return our end of a stream, where it is a pipe, and the descriptor of the process."""
        if given == PIPE:
            reading, writing = os.pipe()
            ours, theirs = (writing, reading) if mode[0] == "w" else (reading, writing)
            stack.callback(os.close, theirs)
            return os.fdopen(ours, mode), theirs
        if given == DEVNULL:
            null = os.open(os.devnull, os.O_RDWR)
            stack.callback(os.close, null)
            return None, null
        if given is None:
            return None, default
        return None, given if isinstance(given, int) else given.fileno()

    def _number(self) -> int:
        """Return the next number that the server reports: the process id, and then the status."""
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(self._status, 1)
            assert data, "the server of forked processes has died"
            line += data
        return int(line)

    def poll(self) -> int | None:
        """Return the exit status if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; minus a signal's number for one that a signal has ended.

        Raises subprocess.TimeoutExpired.
        """
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._status, select.POLLIN)
            if not waiting.poll(None if timeout is None else 1000 * timeout):
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = self._number()
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Close standard input, and return what it writes into its pipes until it ends."""
        if self.stdin:
            self.stdin.close()
        with ThreadPoolExecutor(2) as threads:
            out, err = [
                threads.submit(pipe.read) if pipe else None for pipe in (self.stdout, self.stderr)
            ]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            read = (out and out.result(), err and err.result())
        for pipe in (self.stdout, self.stderr):
            if pipe:
                pipe.close()
        return read

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(arguments: Sequence[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS…` to its end; return its status and what it writes."""
    process = Process(arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


_servers: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


def _server() -> socket.socket:
    """Return the socket to the server, which starts when it is first needed."""
    if not _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, __file__, str(fd)]
            _servers.append((subprocess.Popen(command, stdin=DEVNULL, pass_fds=[fd]), ours))
    return _servers[0][1]


def close() -> None:
    """End the server, if there is one."""
    while _servers:
        process, requests = _servers.pop()
        requests.close()
        process.wait()


def _serve(requests: socket.socket) -> dict[str, Any]:
    """Fork a process for each request, and report its id and its status; return, in the process,
    the request."""
    running: dict[int, tuple[int, int]] = {}
    polled = select.poll()
    polled.register(requests, select.POLLIN)
    while True:
        for ready, _ in polled.poll():
            if ready in running:
                polled.unregister(ready)
                pid, report = running.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                    os.write(report, b"%d\n" % status)
                os.close(report)
                os.close(ready)
                continue
            body, fds, _, _ = socket.recv_fds(requests, MAX_REQUEST, 4)
            if not body:
                sys.exit()
            # A fork forgets the signals that wait for Python; blocked ones wait for the kernel.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            pid = os.fork()
            if not pid:
                requests.close()
                for n, fd in enumerate(fds[:3]):
                    os.dup2(fd, n)
                for fd in (*fds, *running, *(report for _, report in running.values())):
                    os.close(fd)
                request: dict[str, Any] = json.loads(body)
                return request
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            for fd in fds[:3]:
                os.close(fd)
            os.write(fds[3], b"%d\n" % pid)
            ended = os.pidfd_open(pid)
            running[ended] = (pid, fds[3])
            polled.register(ended, select.POLLIN)


def _become(request: dict[str, Any]) -> None:
    """Be the process that a request asks for, until its end."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    at_once = "PYTHONUNBUFFERED" in os.environ
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=at_once or os.isatty(1))
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    status = 0
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        _run(request["arguments"], request["cwd"])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:
        traceback.print_exc()
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    # Python would take itself apart, and copy on the way most of what it shares with the server.
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(arguments: list[str], folder: str) -> None:
    """Run what Python would run for these arguments."""
    first, *more = arguments
    if first == "-m":
        sys.path[0] = folder
        sys.argv = ["", *more[1:]]
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *more[1:]]
        exec(compile(more[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(first).parent)
        sys.argv = [first, *more]
        runpy.run_path(first, run_name="__main__")


def _import_all() -> None:
    """Import kwsd, but for what a device does without, and the page where its library is not."""
    import soundfile
    import soxr

    import kwsd

    assert soundfile
    assert soxr
    without = ["kwsd.training", "kwsd.bench", "kwsd.__main__"]
    if importlib.util.find_spec("starlette") is None:  # as in `./dev test --core`
        without.append("kwsd.web")
    for found in pkgutil.iter_modules(kwsd.__path__, "kwsd."):
        if found.name not in without:
            module = importlib.import_module(found.name)
            for inner in pkgutil.iter_modules(getattr(module, "__path__", []), f"{found.name}."):
                if inner.name != "kwsd.bridges.ovos":  # runs in Open Voice OS, by its own Python
                    importlib.import_module(inner.name)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    _import_all()
    kept.load()
    gc.freeze()  # so that no collection touches, and copies, what all share
    with contextlib.suppress(KeyboardInterrupt):  # the tests were interrupted, and it with them
        _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
