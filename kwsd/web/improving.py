"""Added words that are made again with their labeled clips, by the verb in a process of its own.

The models are loaded there, so the page stays small. The word as it was is held until the next one
is improved, and can be had back.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.protocol.errors import RequestError
from kwsd.web.answers import answer

IMPROVE_S = 1800.0
"""Longest time in which a word is made again."""
PUT_S = 30.0


class Improving:
    """Answers requests about words that learn from clips."""

    def __init__(self, link: DaemonLink, options: Sequence[str | Path]) -> None:
        """`options` lead the verb to the daemon and the configuration of the page."""
        self._link = link
        self._options = [str(option) for option in options]
        self._busy = asyncio.Lock()
        self._before: tuple[str, bytes] | None = None
        self.routes = [
            Route("/api/words", self._words),
            Route("/api/words/{word}/improve", self._improve, methods=["POST"]),
            Route("/api/words/{word}/undo", self._undo, methods=["POST"]),
        ]

    async def _words(self, _: Request) -> Response:
        """Return the words, of which the added ones can be improved."""
        return answer(await self._link.request(commands.Words()))

    async def _improve(self, request: Request) -> Response:
        """Make a word again with its labeled clips, and return it before and after."""
        if self._busy.locked():
            raise RequestError("busy", "a word is being made; wait until it is done")
        async with self._busy:
            name = request.path_params["word"]
            before = await self._link.request(commands.WordsGet(name=name))
            found = await self._run("word", "improve", "--yes", "--json", "--", name)
            self._before = before.name, before.file
            return answer(found)

    async def _undo(self, request: Request) -> Response:
        """Put the word back that was improved last."""
        if self._before is None or self._before[0] != request.path_params["word"]:
            text = f"nothing is kept of {request.path_params['word']!r} as it was before"
            raise RequestError("unknown_word", text)
        reply = await self._link.request(commands.WordsPut(file=self._before[1]), PUT_S)
        self._before = None
        return answer(reply)

    async def _run(self, verb: str, action: str, *arguments: str) -> Any:
        """Return the JSON that a verb of kwsd prints. Raises RequestError with its message."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kwsd", verb, action, *self._options, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(IMPROVE_S):
                out, err = await process.communicate()
        except TimeoutError:
            text = f"the word was not made within {IMPROVE_S:g} s"
            raise RequestError("timeout", text) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            lines = err.decode(errors="replace").strip().splitlines() or ["it has failed"]
            raise RequestError("bad_word", lines[-1].removeprefix("kwsd: "))
        return msgspec.json.decode(out)
