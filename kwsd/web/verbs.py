"""Verbs of kwsd that the page runs, each in a process of its own.

What they load, models above all, is gone when they end, so the page stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kwsd.protocol.errors import RequestError


class Verbs:
    """Runs verbs that report as JSON, with the daemon and the configuration of the page."""

    def __init__(self, options: Sequence[str | Path]) -> None:
        """`options` lead each verb to that daemon and that configuration."""
        self._options = [str(option) for option in options]

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
            lines = err.decode(errors="replace").strip().splitlines() or ["it has failed"]
            raise RequestError("failed", lines[-1].removeprefix("kwsd: "))
        return [msgspec.json.decode(line) for line in out.splitlines()]
