"""The words of the page: listed, heard, added take by take, changed and removed."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.protocol.data import MAX_TAKES, all_together
from kwsd.web.answers import Text, answer, json_body
from kwsd.web.guided import Guided
from kwsd.web.sound import ranged, wav

RECORD_S = 20.0
"""Time in which a take begins and ends."""
MAKE_S = 1800.0
"""Longest time in which a word is made."""
KIND = "word"
Number = Annotated[int, Meta(ge=1, le=MAX_TAKES)]


class _Begin(msgspec.Struct):
    word: Text
    is_new: bool


class _Record(msgspec.Struct):
    instead_of: Number | None = None


class _Trim(msgspec.Struct):
    number: Number
    span: tuple[float, float] | None = None


class _Drop(msgspec.Struct):
    number: Number


class _Make(msgspec.Struct):
    rate: Text | None = None


class Words:
    """Answers requests about words with what the daemon and the verbs say."""

    def __init__(self, link: DaemonLink, guided: Guided) -> None:
        self._link = link
        self._guided = guided
        self.routes = [
            Route("/api/words", self._list),
            Route("/api/words/{word}/remove", self._remove, methods=["POST"]),
            Route("/api/words/{word}/takes", self._takes),
            Route("/api/words/{word}/takes/{take}/audio.wav", self._take_audio),
            Route("/api/draft", self._begin, methods=["POST"]),
            Route("/api/draft/record", self._record, methods=["POST"]),
            Route("/api/draft/upload", self._upload, methods=["POST"]),
            Route("/api/draft/trim", self._trim, methods=["POST"]),
            Route("/api/draft/drop", self._drop, methods=["POST"]),
            Route("/api/draft/make", self._make, methods=["POST"]),
            Route("/api/draft/keep", self._keep, methods=["POST"]),
            Route("/api/draft/takes/{take}/audio.wav", self._draft_audio),
        ]

    async def _list(self, _: Request) -> Response:
        """Return the words, as `kwsd word list --json` does."""
        found = await self._link.request(commands.Words())
        in_force = (await self._link.request(commands.GetCalibration())).words
        together = all_together(word.rate for word in in_force.values())
        more = {"in_force": in_force, "false_accepts_per_hour": together}
        return answer({**msgspec.to_builtins(found), **more})

    async def _remove(self, request: Request) -> Response:
        name = request.path_params["word"]
        return answer(await self._link.request(commands.WordsDelete(name=name)))

    async def _takes(self, request: Request) -> Response:
        return answer(await self._link.request(commands.Takes(word=request.path_params["word"])))

    async def _take_audio(self, request: Request) -> Response:
        """Return the sound of a kept take, or the range of its bytes that was asked for."""
        named = request.path_params
        command = commands.TakesGet(word=named["word"], take=named["take"])
        found = await self._link.request(command)
        return ranged(request, wav(found.pcm, found.sample_rate))

    async def _begin(self, request: Request) -> Response:
        """Begin with a new word, or with the takes of one."""
        said = await json_body(request, _Begin)
        verb = ("word", "add", "--steps") if said.is_new else ("word", "edit")
        what = f"the word {said.word!r} is being made"
        return await self._guided.begin(request, KIND, what, *verb, arguments=[said.word])

    async def _record(self, request: Request) -> Response:
        """Record a take through the daemon's microphone, and answer with the state with it."""
        said = await json_body(request, _Record)
        heard = self._link.request_apart(commands.RecordTake(timeout_s=RECORD_S), RECORD_S + 5)
        found = await self._guided.record(request, KIND, heard)
        audio = base64.b64encode(found.pcm).decode()
        step = {"do": "take", "audio": audio, "instead_of": said.instead_of}
        return await self._guided.change(request, KIND, "checking", step)

    async def _upload(self, request: Request) -> Response:
        """Take a recording as a take."""
        return await self._guided.upload(request, KIND, {"do": "take"})

    async def _trim(self, request: Request) -> Response:
        said = await json_body(request, _Trim)
        step = {"do": "trim", "number": said.number, "span": said.span}
        return await self._guided.change(request, KIND, "checking", step)

    async def _drop(self, request: Request) -> Response:
        said = await json_body(request, _Drop)
        step = {"do": "drop", "number": said.number}
        return await self._guided.change(request, KIND, "checking", step)

    async def _make(self, request: Request) -> Response:
        """Make the word of its takes; the state has a report then."""
        said = await json_body(request, _Make)
        step = {"do": "make", "rate": said.rate}
        return await self._guided.change(request, KIND, "making", step, MAKE_S)

    async def _keep(self, request: Request) -> Response:
        return await self._guided.change(request, KIND, "keeping", {"do": "keep"})

    async def _draft_audio(self, request: Request) -> Response:
        """Return the sound of a take of the word that is being made."""
        step = {"do": "audio", "take": request.path_params["take"]}
        found = await self._guided.step(request, KIND, "playing", step)
        return ranged(request, wav(base64.b64decode(found["audio"]), found["sample_rate"]))
