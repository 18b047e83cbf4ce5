"""Added words that are made again with their labeled clips, by the verb in a process of its own.

The word as it was is held until the next one is improved, and can be had back.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.protocol.errors import RequestError
from kwsd.web.answers import answer
from kwsd.web.verbs import Verbs

IMPROVE_S = 1800.0
"""Longest time in which a word is made again."""
PUT_S = 30.0


class Improving:
    """Answers requests about words that learn from clips."""

    def __init__(self, link: DaemonLink, verbs: Verbs) -> None:
        self._link = link
        self._verbs = verbs
        self._before: tuple[str, bytes] | None = None
        self.routes = [
            Route("/api/words/{word}/improve", self._improve, methods=["POST"]),
            Route("/api/words/{word}/undo", self._undo, methods=["POST"]),
        ]

    async def _improve(self, request: Request) -> Response:
        """Make a word again with its labeled clips, and return it before and after."""
        name = request.path_params["word"]
        with self._verbs.large(f"{name!r} is being improved"):
            before = await self._link.request(commands.WordsGet(name=name))
            [found] = await self._verbs.run(
                *("word", "improve", "--yes"), arguments=[name], seconds=IMPROVE_S
            )
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
