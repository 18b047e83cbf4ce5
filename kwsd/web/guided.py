"""What a browser is guided through step by step, by a verb in a process of its own.

There is one at a time, of the session that has begun it. What was recorded and uploaded is in the
memory of that process alone, and goes with it: when it is done, at the end of the session, or when
nobody goes on for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.protocol.errors import RequestError
from kwsd.web.answers import answer, body
from kwsd.web.sessions import Sessions, boot_time
from kwsd.web.verbs import Talk, Verbs

T = TypeVar("T")
MAX_UPLOAD = 8 << 20
"""Bytes of an uploaded recording: 20 s in stereo, in 32 bits at 48 kHz."""
UPLOAD_S = 60.0
MAX_NAME = 100
"""Characters of the name of an uploaded recording; the last ones tell more."""
BEGIN_S = 120.0
"""Longest time in which the models are loaded."""
STEP_S = 120.0
IDLE_S = 600.0
"""Time after which something that nobody goes on with ends."""
WATCH_S = 1.0
"""Time between two looks at that, while there is something."""


@dataclass
class _Work:
    """What is guided."""

    kind: str
    what: str
    owner: str
    """The secret of its session."""
    exclusive: contextlib.ExitStack
    """Keeps others from beginning."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    doing: list[str] = field(default_factory=list)
    """What is done at the moment, as `GET /api/guided` says it."""
    used: float = field(default_factory=boot_time)
    state: Any = None
    talk: Talk | None = None
    recording: asyncio.Future[Any] | None = None
    watching: asyncio.Future[None] | None = None
    is_over: bool = False


class Guided:
    """What is guided now, if anything is."""

    def __init__(self, verbs: Verbs, sessions: Sessions) -> None:
        self._verbs = verbs
        self._sessions = sessions
        self._work: _Work | None = None
        self._uploading = False
        self.routes = [
            Route("/api/guided", self._get),
            Route("/api/guided/leave", self._leave, methods=["POST"]),
            Route("/api/guided/end", self._end, methods=["POST"]),
            Route("/api/guided/stop", self._stop, methods=["POST"]),
        ]

    async def begin(
        self, request: Request, kind: str, what: str, *verb: str, arguments: list[str]
    ) -> Response:
        """Begin with a verb, and answer with its state. Raises RequestError.

        `what` says to all browsers what is done.
        """
        exclusive = contextlib.ExitStack()
        exclusive.enter_context(self._verbs.large(what))
        work = _Work(kind, what, request.scope["session_secret"], exclusive)
        self._work = work
        work.watching = asyncio.ensure_future(self._watch(work))
        try:
            with _doing(work, "loading"):
                work.talk = talk = await self._verbs.talk(*verb, arguments=arguments)
                if work.is_over:  # nobody else has closed this
                    await talk.close()
                work.state = await self._answered(work, talk.answer(BEGIN_S))
        except BaseException:
            await self._close(work)
            raise
        return answer(work.state)

    async def step(
        self, request: Request, kind: str, doing: str, step: object, seconds: float = STEP_S
    ) -> Any:
        """Do a step, and return the verb's answer. Raises RequestError, also for another session.

        `doing` says to all browsers what is done meanwhile.
        """
        work = self._own(request, kind)
        with _doing(work, doing):
            async with work.turn:
                if work.talk is None or work.is_over:
                    raise _nothing(kind)
                found = await self._answered(work, work.talk.ask(step, seconds))
        match found:
            case {"error": {"code": code, "message": message}}:
                raise RequestError(code, message)
        return found

    async def _answered(self, work: _Work, answering: Coroutine[Any, Any, Any]) -> Any:
        """Return what a verb answers. Raises RequestError, and ends what has no answer: its next
        one would be to this step."""
        try:
            return await answering
        except BaseException as error:
            was_ended = work.is_over
            await self._close(work)
            if was_ended and isinstance(error, RequestError):
                raise _nothing(work.kind) from None
            raise

    async def change(
        self, request: Request, kind: str, doing: str, step: object, seconds: float = STEP_S
    ) -> Response:
        """Answer with the state after a step; where nothing is left to do, the verb has ended."""
        work = self._own(request, kind)
        work.state = state = await self.step(request, kind, doing, step, seconds)
        if state.get("kept") or state.get("done"):
            await self._close(work)
        return answer(state)

    async def record(self, request: Request, kind: str, heard: Coroutine[Any, Any, T]) -> T:
        """Return what is recorded, unless that is stopped. Raises RequestError."""
        try:
            work = self._own(request, kind)
            if work.recording is not None:
                raise RequestError("busy", "a take is being recorded; stop that first")
        except RequestError:
            heard.close()
            raise
        recording = asyncio.ensure_future(heard)
        work.recording = recording
        try:
            with _doing(work, "recording"):
                await asyncio.wait([recording])
        finally:
            recording.cancel()
            work.recording = None
        if recording.cancelled():
            raise RequestError("stopped", "the recording was stopped")
        return recording.result()

    async def upload(self, request: Request, kind: str, step: dict[str, object]) -> Response:
        """Take the body of a request for a recording, and answer with the state after it.

        It has no name in any folder, so that nothing is left of it whatever happens.
        """
        self._own(request, kind)
        if self._uploading:
            raise RequestError("busy", "a recording is being uploaded; wait until it is there")
        self._uploading = True
        try:
            data = await body(request, MAX_UPLOAD, UPLOAD_S)
            name = request.query_params.get("name", "")[-MAX_NAME:] or "upload"
            with _unnamed(data) as path:
                step = {**step, "path": path, "name": name}
                try:
                    return await self.change(request, kind, "checking", step)
                except RequestError as error:
                    text = str(error).replace(path, name)
                    raise RequestError(error.code, text) from None
        finally:
            self._uploading = False

    async def close(self) -> None:
        """End what is guided, if anything is; nothing of it is kept."""
        if self._work is not None:
            await self._close(self._work)

    async def _close(self, work: _Work) -> None:
        if work.is_over:
            return
        work.is_over = True
        self._work = None
        work.exclusive.close()
        if work.recording is not None:
            work.recording.cancel()
        if work.watching is not None and work.watching is not asyncio.current_task():
            work.watching.cancel()
        if work.talk is not None:
            await work.talk.close()

    def _own(self, request: Request, kind: str) -> _Work:
        """Return what this session guides. Raises RequestError where that is nothing."""
        work = self._work
        if work is None or work.kind != kind or work.owner != request.scope["session_secret"]:
            raise _nothing(kind)
        return work

    async def _get(self, request: Request) -> Response:
        """Return what is guided, to its own session with its state."""
        work = self._work
        if work is None:
            return answer(None)
        is_own = work.owner == request.scope["session_secret"]
        doing = work.doing[-1] if work.doing else None
        found = {"kind": work.kind, "what": work.what, "own": is_own, "doing": doing}
        return answer({**found, "state": work.state if is_own else None})

    async def _leave(self, request: Request) -> Response:
        """End what this session guides, if it does."""
        if self._work is not None and self._work.owner == request.scope["session_secret"]:
            await self._close(self._work)
        return answer(None)

    async def _end(self, _: Request) -> Response:
        """End what is guided, also by another session: whoever has begun it may have left."""
        await self.close()
        return answer(None)

    async def _stop(self, request: Request) -> Response:
        """Stop the take that this session records, if it does."""
        work = self._work
        is_own = work is not None and work.owner == request.scope["session_secret"]
        if is_own and work is not None and work.recording is not None:
            work.recording.cancel()
        return answer(None)

    async def _watch(self, work: _Work) -> None:
        """End it once nobody goes on, or may."""
        while True:
            await asyncio.sleep(WATCH_S)
            is_left = not work.doing and boot_time() - work.used > IDLE_S
            if is_left or not self._sessions.lasts(work.owner):
                await self._close(work)
                return


def _nothing(kind: str) -> RequestError:
    what = {"word": "no word is being made", "person": "nobody is being enrolled"}[kind]
    return RequestError("no_session", f"{what} by this browser; begin again")


@contextlib.contextmanager
def _doing(work: _Work, what: str) -> Iterator[None]:
    """Say what is done meanwhile."""
    work.doing.append(what)
    try:
        yield
    finally:
        work.doing.remove(what)
        work.used = boot_time()


@contextlib.contextmanager
def _unnamed(data: bytes) -> Iterator[str]:
    """Hold bytes in a file of memory, and give the path by which processes of this user open it."""
    descriptor = os.memfd_create("upload", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)
