"""Programs that a bridge starts: shell commands with something on their standard input."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
MAX_RUNNING = 4
"""Commands of `Commands` that run at the same time."""


class Program:
    """A shell command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: str) -> Program:
        """Start a command, in a session of its own, so that all that it starts can be ended.

        Raises OSError.
        """
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        return cls(process)

    async def write(self, data: bytes, timeout_s: float) -> None:
        """Write on its standard input. Raises TimeoutError, and OSError where it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        async with asyncio.timeout(timeout_s):
            await self._process.stdin.drain()

    async def end(self, timeout_s: float) -> int:
        """Close its standard input, and return its exit status. Raises TimeoutError."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    def kill(self) -> None:
        """Kill it, with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill what still runs of it, and wait for its end."""
        self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Commands:
    """Starts one command again and again: a few at once, none for ever."""

    def __init__(self, name: str, command: str | None, longest_s: float) -> None:
        """`name` is what the log calls it; without a `command`, nothing is started."""
        self._name = name
        self._command = command
        self._longest_s = longest_s
        self._tasks: dict[asyncio.Task[None], bool] = {}
        self._failing = Seldom(log)

    @property
    def rings(self) -> bool:
        """Whether a command runs that makes a sound until it is stopped."""
        return any(self._tasks.values())

    def start(self, line: bytes, *, rings: bool = False) -> None:
        """Start it with a line on its standard input."""
        if self._command is None:
            return
        if len(self._tasks) >= MAX_RUNNING:
            self._failing("%s: not started, since %d still run", self._name, MAX_RUNNING)
            return
        task = asyncio.create_task(self._run(self._command, line))
        self._tasks[task] = rings
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    def stop(self, *, all: bool = False) -> None:
        """End those that ring, or all."""
        for task, rings in self._tasks.items():
            if rings or all:
                task.cancel()

    async def _run(self, command: str, line: bytes) -> None:
        program = None
        try:
            program = await Program.start(command)
            async with asyncio.timeout(self._longest_s):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    await program.write(line, self._longest_s)  # it may want to read nothing
                status = await program.end(self._longest_s)
            if status:
                self._failing("%s: %s", self._name, how(status))
        except TimeoutError:
            self._failing("%s: ended, since it has run for %g s", self._name, self._longest_s)
        except OSError as error:
            self._failing("%s: it cannot be started (%s)", self._name, error.strerror)
        finally:
            if program is not None:
                await program.close()


def how(status: int) -> str:
    """Return how a command has ended."""
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it failed with exit status {status}"
