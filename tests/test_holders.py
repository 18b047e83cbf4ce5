"""Pauses: whose they are, and when they end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kwsd.protocol.commands import Pause, Resume
from kwsd.protocol.data import PauseInfo
from kwsd.protocol.errors import RequestError
from kwsd.server import pauses as module
from kwsd.server.listener import Listener
from kwsd.server.pauses import MAX_HOLDERS, Pauses


class Board:
    """Pauses of a listener that releases at once, or hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        everybody = () if hangs else (*"abcd", "cli", "another", *map("h{}".format, range(99)))
        stats = SimpleNamespace(paused_by=everybody)
        self.listener: Any = SimpleNamespace(paused_by=(), stats=stats)
        self.pauses = Pauses(cast(Listener, self.listener))

    async def pause(self, holder: str, owner: object = None, for_s: float | None = None) -> None:
        """Pause as `owner`."""
        await self.pauses.pause(owner, Pause(holder=holder, for_s=for_s))

    async def resume(self, holder: str) -> bool:
        """Return whether there was a pause to end."""
        return (await self.pauses.resume(None, Resume(holder=holder))).resumed


def test_it_lasts_until_the_last_holder_resumes() -> None:
    async def check() -> None:
        board = Board()
        await board.pause("a")
        await board.pause("b", for_s=60)
        assert board.listener.paused_by == ("a", "b")
        assert board.pauses.infos() == [PauseInfo("a", None), PauseInfo("b", 60.0)]
        assert await board.resume("a")
        assert not await board.resume("a")
        assert board.listener.paused_by == ("b",)
        assert await board.resume("b")
        assert board.listener.paused_by == ()
        assert not board.pauses.any.is_set()

    asyncio.run(check())


def test_without_a_time_it_ends_with_its_owner_and_with_one_it_does_not() -> None:
    async def check() -> None:
        board = Board()
        ours, others = object(), object()
        await board.pause("a", ours)
        await board.pause("b", ours)
        await board.pause("c", others)
        await board.pause("d", ours, for_s=60)
        board.pauses.left(ours)
        assert board.listener.paused_by == ("c", "d")

    asyncio.run(check())


def test_the_last_request_of_a_holder_counts() -> None:
    async def check() -> None:
        board = Board()
        ours, others = object(), object()
        await board.pause("cli", ours)
        await board.pause("cli", others, for_s=60)
        board.pauses.left(ours)
        assert board.listener.paused_by == ("cli",)
        await board.pause("cli", others, for_s=0.01)
        await board.pause("cli", others)
        await asyncio.sleep(0.05)
        assert board.listener.paused_by == ("cli",)  # the timer of the one before is gone
        await board.pause("cli", ours)
        board.pauses.left(others)
        assert board.listener.paused_by == ("cli",)
        board.pauses.left(ours)
        assert board.listener.paused_by == ()

    asyncio.run(check())


def test_the_time_of_a_pause_runs_out() -> None:
    async def check() -> None:
        board = Board()
        await board.pause("a", for_s=0.01)
        async with asyncio.timeout(10):
            while board.listener.paused_by:
                await asyncio.sleep(0.01)
        assert not await board.resume("a")

    asyncio.run(check())


@pytest.mark.parametrize("holder", ["", "  ", "a\nb", "\x1b[2J", "a\u202eb", "\ud800"])
def test_a_holder_has_a_name_that_can_be_printed(holder: str) -> None:
    board = Board()
    with pytest.raises(RequestError, match="is not a name of printable characters") as caught:
        asyncio.run(board.pause(holder))
    assert caught.value.code == "bad_request"
    assert str(caught.value).isprintable()
    assert board.listener.paused_by == ()


def test_holders_are_bounded() -> None:
    async def check() -> None:
        board = Board()
        for number in range(MAX_HOLDERS):
            await board.pause(f"h{number}")
        with pytest.raises(RequestError, match=r"16 holders have paused .*: h0, h1, ") as caught:
            await board.pause("another")
        assert caught.value.code == "busy"
        await board.pause("h3", for_s=60)  # one that is there already is none more
        await board.resume("h0")
        await board.pause("another")
        assert len(board.listener.paused_by) == MAX_HOLDERS

    asyncio.run(check())


def test_a_listener_that_hangs_is_reported_and_the_pause_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RELEASE_S", 0.05)
    board = Board(hangs=True)
    with pytest.raises(RequestError, match="the pause takes effect as soon as") as caught:
        asyncio.run(board.pause("a"))
    assert caught.value.code == "stalled"
    assert board.listener.paused_by == ("a",)


def test_a_request_that_waits_is_answered_where_another_ends_its_pause() -> None:
    async def check() -> None:
        board = Board(hangs=True)
        async with asyncio.timeout(5):
            waiting = asyncio.create_task(board.pause("a"))
            await asyncio.sleep(0.05)
            assert await board.resume("a")
            await waiting

    asyncio.run(check())


def test_the_command_that_ends_a_pause_can_be_pasted() -> None:
    assert PauseInfo("cli", None).remedy == "kwsd resume"
    assert PauseInfo("Ann's call", None).remedy == """kwsd resume --holder 'Ann'"'"'s call'"""
