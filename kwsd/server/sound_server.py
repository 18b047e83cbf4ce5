"""Whether a sound server has moved the microphone's stream to another source.

PulseAudio and PipeWire give a program the sound of another microphone without saying so. Their tool
`pactl` knows; where it is not installed, or no sound server runs, nothing is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from msgspec import Struct, field

log = logging.getLogger(__name__)
ANSWER_S = 5.0
"""Longest time for an answer of `pactl`."""
SETTLE_S = 0.2
"""A move comes as several changes."""


class _SourceOutput(Struct):
    """A stream that records, as `pactl` lists it."""

    source: int
    properties: dict[str, str] = field(default_factory=dict)


class _Source(Struct):
    """A microphone, as `pactl` lists it."""

    index: int
    name: str


class MoveWatch:
    """Watches which source this process records."""

    def __init__(self, moved: Callable[[str], None]) -> None:
        """`moved` gets the name of the new source."""
        self._moved = moved
        self._source: str | None = None
        self._asked = asyncio.Event()

    def look(self) -> None:
        """Look again: the microphone was opened."""
        self._asked.set()

    async def watch(self) -> None:
        """Watch for as long as the task lives."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if _pactl_answers():
                with contextlib.suppress(OSError, TimeoutError, ValueError):
                    await self._follow()

    async def _follow(self) -> None:
        """Look whenever a stream that records has changed, until the sound server ends."""
        async with _running("subscribe") as process:
            assert process.stdout is not None
            await self._compare()
            while line := await process.stdout.readline():
                if b"source-output" in line:
                    await asyncio.sleep(SETTLE_S)
                    await self._compare()
            # It has gone with the server. To kill it now would race with asyncio for its status.
            await asyncio.wait_for(process.wait(), ANSWER_S)

    async def _compare(self) -> None:
        source = await _recorded()
        if source is None or source == self._source:
            return
        before = self._source
        self._source = source
        if before is not None:
            self._moved(source)


def _pactl_answers() -> bool:
    """Return whether `pactl` is there, and a sound server, which it would start otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    socket = runtime and (Path(runtime) / "pulse" / "native").exists()
    return bool((socket or "PULSE_SERVER" in os.environ) and shutil.which("pactl"))


async def _recorded() -> str | None:
    """Return the name of the source that this process records, or None where there is none."""
    outputs = msgspec.json.decode(await _listed("source-outputs"), type=list[_SourceOutput])
    pid = str(os.getpid())
    ours = [one.source for one in outputs if one.properties.get("application.process.id") == pid]
    if not ours:
        return None
    sources = msgspec.json.decode(await _listed("sources"), type=list[_Source])
    return next((source.name for source in sources if source.index == ours[0]), None)


async def _listed(kind: str) -> bytes:
    async with _running("--format=json", "list", kind) as process:
        out, _ = await asyncio.wait_for(process.communicate(), ANSWER_S)
        return out


@contextlib.asynccontextmanager
async def _running(*arguments: str) -> AsyncIterator[Process]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        "pactl", *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=environment
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
