"""Verbs of kwsd that the page runs, each in a process of its own.

What they load, models above all, is gone when they end, so the page stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kwsd.protocol.errors import RequestError

MAX_ANSWER = 2 << 20
"""Bytes of a line that a verb answers with: the longest take, 20 s, in base64."""


class Talk:
    """A verb that does steps: it answers each, a line of JSON, by another."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._errors = deque[bytes](maxlen=8)
        self._reading = asyncio.Lock()
        self._draining = asyncio.ensure_future(self._drain())

    async def ask(self, step: object, seconds: float) -> Any:
        """Return the answer to a step. Raises RequestError."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(step) + b"\n")
        with contextlib.suppress(OSError):  # it has ended, which `answer` finds
            await self._process.stdin.drain()
        return await self.answer(seconds)

    async def answer(self, seconds: float) -> Any:
        """Return the next line that it writes. Raises RequestError, also where it has ended."""
        assert self._process.stdout is not None
        try:
            async with self._reading, asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            text = f"the verb has not answered within {seconds:g} s"
            raise RequestError("timeout", text) from None
        if not line:
            await self._draining
            await self._process.wait()
            raise RequestError("failed", _why(b"".join(self._errors)))
        return msgspec.json.decode(line)

    async def close(self) -> None:
        """End it, whatever it does. Who waits for its answer is told that it has ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        async with self._reading:
            while await process.stdout.read(MAX_ANSWER):
                pass
        await process.wait()
        await self._draining

    async def _drain(self) -> None:
        """Read what it says beside its answers, so that it can go on."""
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):  # a line without an end
            async for line in self._process.stderr:
                self._errors.append(line)


class Verbs:
    """Runs verbs that report as JSON, with the daemon and the configuration of the page."""

    def __init__(self, options: Sequence[str | Path]) -> None:
        """`options` lead each verb to that daemon and that configuration."""
        self._options = [str(option) for option in options]
        self._large = ""

    @contextlib.contextmanager
    def large(self, what: str) -> Iterator[None]:
        """Do something that loads models, of which there is memory for one at a time.

        Raises RequestError where something else is done; `what` says what, for others that come.
        """
        if self._large:
            raise RequestError("busy", f"{self._large}; wait until that is done, or end it")
        self._large = what
        try:
            yield
        finally:
            self._large = ""

    async def talk(self, *verb: str, arguments: Sequence[str]) -> Talk:
        """Return a verb that does steps, which has just begun; see `run` for its `arguments`."""
        return Talk(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "kwsd", *verb, *self._options, "--", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_ANSWER,
            )
        )

    async def run(
        self, *verb: str, arguments: Sequence[str] = (), seconds: float, fine: Sequence[int] = (0,)
    ) -> list[Any]:
        """Return what a verb prints with `--json`, a value for each line.

        `arguments` may come from anybody: none of them is taken for an option. An exit status that
        is not `fine` raises RequestError with the verb's message, and so does a verb that takes
        longer than `seconds`.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kwsd", *verb, *self._options, "--json"),
            *(("--", *arguments) if arguments else ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds):
                out, err = await process.communicate()
        except TimeoutError:
            text = f"`kwsd {' '.join(verb)}` was not done within {seconds:g} s"
            raise RequestError("timeout", text) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode not in fine:
            raise RequestError("failed", _why(err))
        return [msgspec.json.decode(line) for line in out.splitlines()]


def _why(said: bytes) -> str:
    """Return why a verb has failed, by what it says on standard error."""
    lines = said.decode(errors="replace").strip().splitlines() or ["it has failed"]
    return lines[-1].removeprefix("kwsd: ")
