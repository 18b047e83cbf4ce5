"""A source that hangs: what needs the listener says so, and what it kept takes effect later."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from kwsd.config import Config, SocketConfig
from kwsd.protocol import commands
from kwsd.protocol.commands import Command
from kwsd.protocol.errors import RequestError
from kwsd.server import calls
from kwsd.server.clients import ClientSession
from kwsd.server.daemon import Daemon, RunOptions
from kwsd.server.hub import Subscriber
from kwsd.server.unix_socket import Peer
from kwsd.state.words import AddedWord, to_bytes


@pytest.fixture
def daemon_of(
    tmp_path: Path, scene_wav: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Daemon]:
    """Make daemons whose listener does not run yet: it hangs."""
    monkeypatch.setattr(calls, "STALLED_S", 0.1)

    def make() -> Daemon:
        config = Config(state=str(tmp_path), socket=SocketConfig(path=str(tmp_path / "k.sock")))
        return Daemon(RunOptions(config, source=str(scene_wav)))

    return make


@contextlib.contextmanager
def client() -> Iterator[ClientSession]:
    """Return the session of a client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        subscriber = Subscriber(ours, "client", 1 << 20, lambda: None)
        yield ClientSession(subscriber, Peer.of(ours))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test on an event loop."""
    asyncio.run(main())


NEEDS_THE_LISTENER: list[Command] = [
    commands.Audio(start=0, end=9),
    commands.CalibrationTradeOff(word="computer"),
    commands.Peaks(),
    commands.RecordTake(),
    commands.Scores(),
    commands.Stream(),
    commands.Reload(),
    commands.SpeakersDelete(name="ann"),
]


@pytest.mark.parametrize("command", NEEDS_THE_LISTENER)
def test_requests_say_that_the_source_has_stalled(
    daemon_of: Callable[[], Daemon], command: Command, tmp_path: Path
) -> None:
    async def ask() -> None:
        daemon = daemon_of()
        if isinstance(command, commands.SpeakersDelete):
            (tmp_path / "ann.voiceprint").write_bytes(b"")
        with client() as session:
            with pytest.raises(RequestError, match="the source of the audio has stalled") as caught:
                await daemon._handlers.dispatch(session, command)
            assert caught.value.code == "stalled"
            status = await daemon._handlers.dispatch(session, commands.Status())
            assert status.version  # type: ignore[attr-defined]
            assert status.streams == 0  # type: ignore[attr-defined]
        assert daemon._listener.consumers == [daemon._clips, daemon._peaks]

    run(ask)


def test_a_change_that_was_kept_takes_effect_when_the_source_is_back(
    daemon_of: Callable[[], Daemon], deaf_banana: AddedWord
) -> None:
    async def ask() -> None:
        daemon = daemon_of()
        put = commands.WordsPut(file=to_bytes(deaf_banana))
        with client() as session:
            with pytest.raises(RequestError, match="is kept, and takes effect as soon as"):
                await daemon._handlers.dispatch(session, put)
            listed = await daemon._handlers.dispatch(session, commands.Words())
            assert b"hey_banana" in listed.json  # type: ignore[attr-defined]
            assert "hey_banana" not in daemon.setup.words
            threading.Thread(target=daemon._listener._serve_calls).start()
            async with asyncio.timeout(10):
                while "hey_banana" not in daemon.setup.words:
                    await asyncio.sleep(0.01)

    run(ask)


def test_a_change_is_applied_where_its_client_hangs_up(
    daemon_of: Callable[[], Daemon], deaf_banana: AddedWord
) -> None:
    async def ask() -> None:
        daemon = daemon_of()
        put = commands.WordsPut(file=to_bytes(deaf_banana))
        with client() as session:
            task = asyncio.create_task(daemon._handlers.dispatch(session, put))
            async with asyncio.timeout(10):
                while not daemon._handlers._applying:
                    await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            threading.Thread(target=_serve, args=(daemon,)).start()
            async with asyncio.timeout(10):
                while "hey_banana" not in daemon.setup.words:
                    await asyncio.sleep(0.01)

    run(ask)


def _serve(daemon: Daemon) -> None:
    """Do what waits for the listener, once something does."""
    while daemon._listener._calls.empty():
        pass
    daemon._listener._serve_calls()
