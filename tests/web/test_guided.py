"""What a browser is guided through ends when nobody goes on, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kwsd.protocol.errors import RequestError
from kwsd.web import guided
from kwsd.web.guided import Guided
from kwsd.web.sessions import Sessions
from kwsd.web.verbs import Verbs

ECHO = """
import json, os, sys
print(json.dumps({"path": None, "kept": False}), flush=True)
for line in sys.stdin:
    step = json.loads(line)
    if step["do"] == "die":
        sys.exit("kwsd: it was hit by a bus")
    if step["do"] == "refuse":
        print(json.dumps({"error": {"code": "silent", "message": step["path"] + ": is silent"}}))
    elif step["do"] == "sleep":
        continue
    else:
        path = step.get("path")
        size = path and len(open(path, "rb").read())
        print(json.dumps({"path": path, "size": size, "kept": step["do"] == "keep"}))
    sys.stdout.flush()
"""
"""A verb that does steps, and needs no models."""


class Site:
    """The parts of a page that guide, with a verb that only echoes."""

    def __init__(self) -> None:
        self.sessions = Sessions(3600)
        self.verbs = Verbs([])
        self.guided = Guided(self.verbs, self.sessions)
        self.secrets = [self.sessions.redeem(self.sessions.token(), "") for _ in range(2)]

    def request(
        self, body: Sequence[bytes | None] = (b"",), query: str = "", who: int = 0
    ) -> Request:
        """Return a request of a session; a part of None never comes."""
        parts = iter(body)

        async def receive() -> dict[str, Any]:
            part = next(parts, b"")
            if part is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": part, "more_body": part != b""}

        scope = {
            "type": "http",
            "method": "POST",
            "headers": [],
            "query_string": query.encode(),
            "session_secret": self.secrets[who],
        }
        return Request(scope, receive)

    async def begin(self, who: int = 0) -> None:
        await self.guided.begin(self.request(who=who), "word", "x is made", "word", arguments=[])

    async def step(self, do: str, who: int = 0, seconds: float = 30.0, **more: object) -> Any:
        request = self.request(who=who)
        return await self.guided.step(request, "word", "checking", {"do": do, **more}, seconds)

    async def upload(self, body: Sequence[bytes | None], do: str = "take") -> Any:
        request = self.request(body, "name=take.wav")
        return decoded(await self.guided.upload(request, "word", {"do": do}))

    async def now(self, who: int = 0) -> Any:
        return decoded(await self.guided.routes[0].endpoint(self.request(who=who)))


def decoded(response: Response) -> Any:
    return msgspec.json.decode(response.body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    start = asyncio.create_subprocess_exec

    async def echo(*_: str, **options: Any) -> asyncio.subprocess.Process:
        return await start(sys.executable, "-c", ECHO, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", echo)
    monkeypatch.setattr(guided, "WATCH_S", 0.02)
    return Site()


def open_memory() -> list[str]:
    """Return the files of memory that this process holds."""
    links = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was that of the folder
            links.append(str(one.readlink()))
    return [link for link in links if "memfd:upload" in link]


async def ended(site: Site) -> None:
    """Wait until nothing is guided, and its process is gone."""
    async with asyncio.timeout(30):
        while await site.now() is not None:
            await asyncio.sleep(0.01)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


def refusal(code: str) -> Any:
    """Expect a RequestError of this code."""
    return pytest.raises(RequestError, check=lambda error: error.code == code)


def test_one_at_a_time_and_for_its_own_session(site: Site) -> None:
    async def run() -> None:
        await site.begin()
        with refusal("busy"):
            await site.begin(1)
        with refusal("no_session"):
            await site.step("look", 1)
        found = await site.now()
        assert found == {
            "kind": "word",
            "what": "x is made",
            "own": True,
            "doing": None,
            "state": {"path": None, "kept": False},
        }
        (leave,) = [one for one in site.guided.routes if one.path == "/api/guided/leave"]
        await leave.endpoint(site.request(who=1))
        other = await site.now(1)
        assert (other["own"], other["state"]) == (False, None)
        request = site.request()
        state = await site.guided.change(request, "word", "keeping", {"do": "keep"})
        assert decoded(state)["kept"]
        assert await site.now() is None
        await site.begin(1)
        await leave.endpoint(site.request(who=1))
        assert await site.now() is None

    asyncio.run(run())


@pytest.mark.parametrize("begun", [False, True])
def test_it_can_be_ended_at_any_time(
    site: Site, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Also while its process starts, and while it answers."""
    start = asyncio.create_subprocess_exec
    processes = []

    async def kept(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        processes.append(await start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", kept)

    async def run() -> None:
        if begun:
            await site.begin()
        waiting = asyncio.ensure_future(site.step("sleep") if begun else site.begin())
        while not (await site.now() or {}).get("doing"):
            await asyncio.sleep(0)
        await site.guided.close()
        with refusal("no_session"):
            await waiting
        assert await site.now() is None
        (process,) = processes
        assert process.returncode is not None
        await site.begin()

    asyncio.run(run())


def test_it_ends_when_nobody_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        await site.begin()
        monkeypatch.setattr(guided, "IDLE_S", 0.2)
        await ended(site)
        with refusal("no_session"):
            await site.step("look")

    asyncio.run(run())


def test_it_ends_with_its_session_and_is_no_use_of_it(site: Site) -> None:
    async def run() -> None:
        await site.begin()
        used = [one.used for one in site.sessions._sessions.values()]
        await asyncio.sleep(0.2)
        assert [one.used for one in site.sessions._sessions.values()] == used
        site.sessions.end(site.secrets[0])
        await ended(site)

    asyncio.run(run())


def test_a_verb_that_fails_says_why(site: Site) -> None:
    async def run() -> None:
        await site.begin()
        with refusal("silent"):
            await site.step("refuse", path="x")
        with pytest.raises(RequestError, match=r"^it was hit by a bus$"):
            await site.step("die")
        assert await site.now() is None
        await site.begin()
        with refusal("timeout"):
            await site.step("sleep", seconds=0.1)
        assert await site.now() is None

    asyncio.run(run())


def test_an_upload_is_in_memory_alone_and_bounded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided, "MAX_UPLOAD", 1000)

    async def run() -> None:
        with refusal("no_session"):
            await site.upload([b"x"])
        await site.begin()
        found = await site.upload([b"abc", b"def"])
        assert (found["size"], open_memory()) == (6, [])
        with pytest.raises(HTTPException, match="413"):
            await site.upload([b"x" * 600, b"x" * 600])
        with pytest.raises(RequestError, match=r"^take\.wav: is silent$"):
            await site.upload([b"x"], "refuse")
        assert open_memory() == []
        slow = asyncio.ensure_future(site.upload([b"x", None]))
        await asyncio.sleep(0)
        with refusal("busy"):
            await site.upload([b"x"])
        slow.cancel()
        await asyncio.wait([slow])
        monkeypatch.setattr(guided, "UPLOAD_S", 0.05)
        with pytest.raises(HTTPException, match="408"):
            await site.upload([b"x", None])
        assert (await site.upload([b"x"]))["size"] == 1
        assert open_memory() == []
        await site.guided.close()

    asyncio.run(run())


def test_a_recording_is_stopped_and_ends_with_what_it_is_for(site: Site) -> None:
    async def run() -> None:
        with refusal("no_session"):
            await site.guided.record(site.request(), "word", asyncio.sleep(9))
        await site.begin()
        assert (
            await site.guided.record(site.request(), "word", asyncio.sleep(0, "heard")) == "heard"
        )
        for end in ("/api/guided/stop", "/api/guided/end"):
            recording = asyncio.ensure_future(
                site.guided.record(site.request(), "word", asyncio.sleep(60))
            )
            await asyncio.sleep(0.05)
            with refusal("busy"):
                await site.guided.record(site.request(), "word", asyncio.sleep(60))
            assert (await site.now())["doing"] == "recording"
            (route,) = [one for one in site.guided.routes if one.path == end]
            await route.endpoint(site.request())
            with refusal("stopped"):
                await recording
        assert await site.now() is None

    asyncio.run(run())
