"""A bridge's link to the daemon: it waits for it, hears it, and comes back after its restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import forked
import pytest
import soundfile
from conftest import Daemon, Start, hiss

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.client.async_client import AsyncClient, connect_async
from kwsd.events import Event, Wake
from kwsd.protocol.commands import Pause, SpeakersDelete, Status
from kwsd.protocol.errors import DaemonError, RequestError


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, for at most half a minute."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_daemon_comes_goes_and_comes_back(
    start: Start, talkative: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    life: list[str] = []
    heard: list[Event] = []

    async def came(client: AsyncClient) -> None:
        status = await client.request(Status())
        life.append(f"came {status.version}")

    def run() -> Daemon:
        return start("--source", str(talkative), "--realtime")

    async def steps() -> None:
        link = DaemonLink(tmp_path / "k.sock", types=["wake"])
        task = asyncio.create_task(link.run(came, heard.append, lambda: life.append("went")))
        await until(lambda: "no daemon runs there" in caplog.text)
        assert not link.is_there
        with pytest.raises(DaemonError, match="the daemon is away"):
            await link.request(Status())
        daemon = run()
        await until(lambda: len(heard) > 0 and len(life) > 0)
        assert link.is_there
        # Requests are made while events are awaited; a refused one changes nothing.
        statuses = await asyncio.gather(*(link.request(Status()) for _ in range(3)))
        assert {status.user for status in statuses} == {statuses[0].user}
        with pytest.raises(RequestError, match="no speaker"):
            await link.request(SpeakersDelete(name="ann"))
        assert link.is_there
        daemon.kill()
        await until(lambda: not link.is_there)
        assert life[-1] == "went"
        count = len(heard)
        run()
        await until(lambda: len(heard) > count)
        assert isinstance(heard[-1], Wake)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(steps())
    assert [entry[:4] for entry in life] == ["came", "went", "came", "went"]
    assert caplog.text.count("no daemon runs there") == 1, "each reason is logged once"


def test_a_daemon_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"type":"hello","protocol":2,"version":"x","words":[],"sample_rate":1}\n')
        line = await reader.readline()
        assert b"subscribe" in line
        writer.write(b'{"type":"reply","id":1,"ok":true}\n')
        while await reader.readline():
            pass
        writer.close()
        gone.set()

    gone = asyncio.Event()

    async def steps() -> None:
        server = await asyncio.start_unix_server(mute, tmp_path / "k.sock")
        link = DaemonLink(tmp_path / "k.sock")
        task = asyncio.create_task(link.run())
        await until(lambda: link.is_there)
        with pytest.raises(DaemonError, match=r"not answered within 0\.1 s"):
            await link.request(Status(), timeout_s=0.1)
        assert link.is_there
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await gone.wait()
        server.close()
        await server.wait_closed()

    asyncio.run(steps())


def test_what_goes_wrong_while_it_is_there_begins_anew(tmp_path: Path, start: Start) -> None:
    came = 0

    async def fails(client: AsyncClient) -> None:
        nonlocal came
        came += 1
        raise DaemonError("timeout", "it was too slow")

    async def steps() -> None:
        link = DaemonLink(tmp_path / "k.sock")
        task = asyncio.create_task(link.run(fails))
        await until(lambda: came == 2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    start("--source", "-", stdin=forked.PIPE)
    asyncio.run(steps())


def test_a_stop_is_heeded_while_something_goes_wrong(tmp_path: Path, start: Start) -> None:
    async def steps() -> None:
        async def fails(client: AsyncClient) -> None:
            task.cancel()
            raise DaemonError("closed", "it goes at the same moment")

        task = asyncio.create_task(DaemonLink(tmp_path / "k.sock").run(fails))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 10)

    start("--source", "-", stdin=forked.PIPE)
    asyncio.run(steps())


def test_an_error_of_the_bridge_itself_is_no_loss(tmp_path: Path, start: Start) -> None:
    async def fails(client: AsyncClient) -> None:
        raise RuntimeError("a fault")

    async def steps() -> None:
        await DaemonLink(tmp_path / "k.sock").run(fails)

    start("--source", "-", stdin=forked.PIPE).connect().close()
    with pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(asyncio.wait_for(steps(), 30))


def test_several_tasks_wait_for_one_connection(start: Start, endless: Path) -> None:
    """Each has what is for it at once, whichever of them has read it."""
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()

    async def steps() -> None:
        async with await connect_async(daemon.socket) as client:
            events, scores = client.events(), client.scores()
            await anext(scores)
            await client.request(Pause(holder="test"))

            async def wait_for(each: AsyncIterator[object]) -> None:
                async for _ in each:
                    pass

            waiting = [asyncio.ensure_future(wait_for(each)) for each in (scores, events)]
            await asyncio.sleep(0.2)  # nothing comes while it is paused, but what is asked for
            for _ in range(20):
                async with asyncio.timeout(10):
                    await client.request(Status())
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(steps())


def test_a_stream_is_read_to_its_end_while_events_are_awaited(start: Start, tmp_path: Path) -> None:
    """The task that waits for events reads what belongs to the stream, and nothing comes after."""
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, hiss(60), 16000)
    start("--source", str(quiet), "--realtime").connect().close()

    async def steps() -> None:
        link = DaemonLink(tmp_path / "k.sock", types=["wake"])
        with pytest.raises(DaemonError, match="the daemon is away"):
            await link.stream(0, silence_s=0, max_s=1)
        task = asyncio.create_task(link.run())
        await until(lambda: link.is_there)
        for _ in range(3):
            end = (await link.request(Status())).look_back.end
            async with asyncio.timeout(10):
                async with await link.stream(end, silence_s=0, max_s=0.4) as stream:
                    lengths = [len(message.pcm) async for message in stream]
            assert stream.end is not None
            assert (stream.end.reason, sum(lengths)) == ("length", 2 * 6400)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(steps(), 60))
