"""The clips of the page: listed, heard, labeled, deleted, and whether more are kept."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.protocol.data import ClipLabel
from kwsd.protocol.replies import ClipsGetReply
from kwsd.protocol.request import ClipIds
from kwsd.web.answers import answer, json_body
from kwsd.web.sound import ranged, wav

LIST_S = 30.0
"""Longest time in which thousands of clips are listed, labeled or deleted."""


class _Label(msgspec.Struct):
    """What a person says of clips."""

    clips: ClipIds
    label: ClipLabel | None


class _Delete(msgspec.Struct):
    clips: ClipIds


class _Keep(msgspec.Struct):
    enabled: bool | None


class Clips:
    """Answers requests about clips with what the daemon says."""

    def __init__(self, link: DaemonLink) -> None:
        self._link = link
        self.routes = [
            Route("/api/clips", self._list),
            Route("/api/clips/label", self._label, methods=["POST"]),
            Route("/api/clips/delete", self._delete, methods=["POST"]),
            Route("/api/clips/keep", self._keep, methods=["POST"]),
            Route("/api/clips/{clip}/audio.wav", self._audio),
            Route("/api/clips/{clip}", self._get),
        ]

    async def _list(self, _: Request) -> Response:
        return answer(await self._link.request(commands.Clips(), LIST_S))

    async def _get(self, request: Request) -> Response:
        """Return a clip with the scores of its chunks."""
        return answer((await self._find(request)).clip)

    async def _audio(self, request: Request) -> Response:
        """Return the sound of a clip, or the range of its bytes that was asked for."""
        found = await self._find(request)
        return ranged(request, wav(found.pcm, found.sample_rate))

    async def _find(self, request: Request) -> ClipsGetReply:
        return await self._link.request(commands.ClipsGet(clip=request.path_params["clip"]))

    async def _label(self, request: Request) -> Response:
        said = await json_body(request, _Label)
        command = commands.ClipsLabel(clips=said.clips, label=said.label)
        return answer(await self._link.request(command, LIST_S))

    async def _delete(self, request: Request) -> Response:
        said = await json_body(request, _Delete)
        return answer(await self._link.request(commands.ClipsClear(clips=said.clips), LIST_S))

    async def _keep(self, request: Request) -> Response:
        said = await json_body(request, _Keep)
        return answer(await self._link.request(commands.ClipsKeep(enabled=said.enabled)))
