"""The people of the page: who is enrolled, enrolling and deleting them, and who speaks now."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.web.answers import Text, answer, json_body
from kwsd.web.guided import Guided

HEAR_S = 15.0
"""Time in which somebody says something."""
KIND = "person"


class _Begin(msgspec.Struct):
    name: Text
    reference: Text = ""
    word: Text | None = None


class _Delete(msgspec.Struct):
    name: Text
    reference: Text | None = None


class People:
    """Answers requests about people with what the daemon and the verbs say."""

    def __init__(self, link: DaemonLink, guided: Guided) -> None:
        self._link = link
        self._guided = guided
        self.routes = [
            Route("/api/people", self._list),
            Route("/api/people/delete", self._delete, methods=["POST"]),
            Route("/api/people/hear", self._hear, methods=["POST"]),
            Route("/api/enrollment", self._begin, methods=["POST"]),
            Route("/api/enrollment/record", self._record, methods=["POST"]),
            Route("/api/enrollment/upload", self._upload, methods=["POST"]),
            Route("/api/enrollment/commit", self._commit, methods=["POST"]),
        ]

    async def _list(self, _: Request) -> Response:
        return answer(await self._link.request(commands.Speakers()))

    async def _delete(self, request: Request) -> Response:
        said = await json_body(request, _Delete)
        command = commands.SpeakersDelete(name=said.name, reference=said.reference)
        return answer(await self._link.request(command))

    async def _hear(self, _: Request) -> Response:
        """Return whose voice it is that says something now."""
        command = commands.SpeakersHear(timeout_s=HEAR_S)
        return answer(await self._link.request_apart(command, HEAR_S + 15))

    async def _begin(self, request: Request) -> Response:
        """Begin to enroll somebody, once more or for the first time."""
        said = await json_body(request, _Begin)
        options = [f"--reference={said.reference}"]
        options += [f"--word={said.word}"] if said.word else []
        what = f"{said.name!r} is being enrolled"
        verb = ("enroll", "--steps", *options)
        return await self._guided.begin(request, KIND, what, *verb, arguments=[said.name])

    async def _record(self, request: Request) -> Response:
        """Record the phrase that is asked for."""
        return await self._guided.change(request, KIND, "recording", {"do": "record"})

    async def _upload(self, request: Request) -> Response:
        """Take a recording as a take."""
        return await self._guided.upload(request, KIND, {"do": "take"})

    async def _commit(self, request: Request) -> Response:
        """Store the voiceprint."""
        return await self._guided.change(request, KIND, "keeping", {"do": "commit"})
