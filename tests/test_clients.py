"""Clients of every kind: those that hang up, idle, flood, do not read, or pass descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kwsd.config import SocketConfig
from kwsd.events import MicrophoneChange
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import Command
from kwsd.protocol.data import LookBack, MicrophoneInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import MAX_LINE, MAX_SHORT_LINE, encode_greeting
from kwsd.protocol.replies import Reply
from kwsd.seldom import Seldom
from kwsd.server import clients, hub, passed
from kwsd.server.clients import MAX_FDS, ClientSession, serving
from kwsd.server.hub import Filter, Hub
from kwsd.server.passed import PassedFiles
from kwsd.server.unix_socket import Peer

STATUS = replies.StatusReply(
    version="x",
    uptime_s=1,
    audio_s=1,
    real_time_factor=None,
    encoded_share=None,
    words={},
    speakers=[],
    clients=1,
    microphone=MicrophoneInfo("ok", "mic"),
    lag_s=None,
    look_back=LookBack(0, 0),
    encoder_id="x",
    user="x",
    config=None,
    state="x",
    log_peaks=True,
    refused=None,
    warnings=[],
)
Answer = Callable[[ClientSession, Command], Awaitable[Reply]]


class Server:
    """A served socket, whose requests a test answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hub = Hub()
        self.asked: list[Command] = []
        self.opened: list[RawClient] = []

    async def answer(self, session: ClientSession, command: Command) -> Reply:
        """Answer the requests that need no daemon."""
        self.asked.append(command)
        match command:
            case commands.Status():
                return STATUS
            case commands.Subscribe():
                session.subscriber.filter = Filter()
                return replies.Done()
            case commands.ClipsGet():
                return replies.DeletedReply(deleted="x" * int(command.clip))
            case commands.Reload():
                await asyncio.Event().wait()
            case commands.EnrollAbort():
                raise ZeroDivisionError
        raise RequestError("permission_denied", "no")


@contextlib.asynccontextmanager
async def served(
    folder: Path, config: SocketConfig | None = None, answer: Answer | None = None
) -> AsyncIterator[Server]:
    """Serve a socket for as long as the context lasts."""
    server = Server(folder / "k.sock")
    greeting = encode_greeting("x", [], 16000)
    dispatch = answer or server.answer
    config = config or SocketConfig()
    async with serving(server.path, config, server.hub, lambda: greeting, dispatch):
        yield server
        for client in server.opened:
            client.close()


class RawClient:
    """A connection without any rules."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, server: Server) -> RawClient:
        """Connect, and read the greeting."""
        client = await cls.refused(server)
        await client.line()
        return client

    @classmethod
    async def refused(cls, server: Server) -> RawClient:
        """Connect where there is no greeting."""
        client = cls(*await asyncio.open_unix_connection(server.path, limit=1 << 23))
        server.opened.append(client)
        return client

    async def line(self) -> Any:
        """Return the next line, or None at the end."""
        line = await asyncio.wait_for(self.reader.readline(), 10)
        return json.loads(line) if line else None

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def ask(self, **body: object) -> Any:
        """Send a request and return the answer."""
        self.send(json.dumps(body).encode() + b"\n")
        return await self.line()

    def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every client one of another user."""
    monkeypatch.setattr(Peer, "is_own", lambda _: False)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where a traceback was logged that the test does not expect."""
    yield
    errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert [one.getMessage() for one in errors] == []


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds, for at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


ENDINGS = {
    "nothing": b"",
    "half a line": b'{"type":"sta',
    "a request": b'{"type":"status","id":1}\n',
    "many requests": b'{"type":"status","id":1}\n' * 600,
    "a request that takes long": b'{"type":"reload"}\n',
    "behind a request that takes long": b'{"type":"reload"}\n' + b'{"type":"status"}\n' * 2000,
    "junk": b"junk\n" * 9,
    "a long line": b"x" * (MAX_SHORT_LINE + 5),
    "a subscription": b'{"type":"subscribe"}\n',
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_clients_that_hang_up_at_once_leave_nothing_behind(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients, "HANG_UP_CHECK_S", 0.02)

    async def run() -> None:
        async with served(tmp_path) as server:
            before = descriptors()
            for n in range(60):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.setblocking(False)
                    sock.connect(str(server.path))
                    with contextlib.suppress(BlockingIOError):
                        sock.send(ENDINGS[ending])
                    await asyncio.sleep(0.001 * (n % 3))
            await eventually(lambda: descriptors() == before and not server.hub.subscribers)
            client = await RawClient.of(server)
            assert (await client.ask(type="status", id=1))["ok"]
            client.close()

    asyncio.run(run(), debug=True)
    slow = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name != "asyncio"]
    assert len(slow) <= 1


def test_a_client_that_has_sent_all_it_has_to_say_is_still_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as server:
            client = await RawClient.of(server)
            client.send(b'{"type":"subscribe","id":1}\n{"type":"status","id":2}\n')
            client.writer.write_eof()
            assert [(await client.line())["id"] for _ in range(2)] == [1, 2]
            server.hub.publish(MicrophoneChange(state="ok"))
            assert (await client.line())["type"] == "microphone"
            client.close()
            await eventually(lambda: not server.hub.subscribers)
            asking = await RawClient.of(server)
            asking.send(b'{"type":"status","id":3}\n')
            asking.writer.write_eof()
            assert (await asking.line())["id"] == 3
            assert await asking.line() is None

    asyncio.run(run())


def test_a_request_that_fails_is_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_failing", Seldom(clients.log, logging.ERROR))

    async def run() -> None:
        async with served(tmp_path) as server:
            client = await RawClient.of(server)
            for n in range(20):
                assert (await client.ask(type="enroll.abort", id=n))["code"] == "internal"
            client.close()

    asyncio.run(run())
    (failure,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert failure.exc_info
    caplog.clear()


@pytest.mark.usefixtures("stranger")
def test_a_stranger_has_short_lines(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as server:
            for length, code in ((MAX_SHORT_LINE, None), (MAX_SHORT_LINE + 1, "line_too_long")):
                client = await RawClient.of(server)
                line = b'{"type":"status","x":"' + b"x" * (length - 25) + b'"}\n'
                assert len(line) == length
                client.send(line)
                assert (await client.line()).get("code") == code
                client.close()
            client = await RawClient.of(server)
            client.send(b"x" * MAX_SHORT_LINE)
            answer = await client.line()
            assert answer["code"] == "line_too_long"
            assert f"at most {MAX_SHORT_LINE} bytes" in answer["message"]
            assert await client.line() is None

    asyncio.run(run())


def test_long_lines_come_in_turn_and_do_not_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "LONG_LINE_S", 0.3)

    async def run() -> None:
        async with served(tmp_path) as server:
            slow = [await RawClient.of(server) for _ in range(6)]
            for client in slow:
                client.send(b"x" * (MAX_SHORT_LINE + 1))
            fast = await RawClient.of(server)
            fast.send(b'{"type":"status","id":1,"x":"' + b"x" * (MAX_LINE - 32) + b'"}\n')
            quick = await RawClient.of(server)
            assert (await quick.ask(type="status", id=2))["id"] == 2
            assert (await fast.line())["id"] == 1
            assert [await client.line() for client in slow] == [None] * 6
            assert (await fast.ask(type="status", id=3))["id"] == 3
            fast.send(b"x" * (MAX_LINE + 1))
            assert (await fast.line())["code"] == "line_too_long"

    asyncio.run(run())


def test_little_is_read_ahead_of_the_answers(tmp_path: Path) -> None:
    async def run() -> None:
        answering = asyncio.Event()

        async def answer(session: ClientSession, command: Command) -> Reply:
            await answering.wait()
            return replies.Done()

        async with served(tmp_path, answer=answer) as server:
            client = await RawClient.of(server)
            client.send(b'{"type":"status"}\n' * 100_000)
            await asyncio.sleep(0.2)
            (subscriber,) = server.hub.subscribers
            assert subscriber.connection.lines.waiting <= MAX_SHORT_LINE
            answering.set()
            for _ in range(500):
                assert (await client.line())["ok"]
            client.close()

    asyncio.run(run())


def test_a_reply_does_not_count_against_the_events(tmp_path: Path) -> None:
    config = SocketConfig(backlog_bytes=4096)

    async def run() -> None:
        async with served(tmp_path, config) as server:
            client = await RawClient.of(server)
            assert (await client.ask(type="subscribe"))["ok"]
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            size = 3 << 20
            client.send(json.dumps({"type": "clips.get", "clip": str(size), "id": 1}).encode())
            client.send(b"\n" + b'{"type":"status","id":2}\n' * 9)
            (subscriber,) = server.hub.subscribers
            await eventually(lambda: subscriber.backlog > 1 << 20)
            for _ in range(5):
                server.hub.publish(MicrophoneChange(state="ok"))
            await asyncio.sleep(0.1)
            assert len(server.asked) == 2  # the next request waits until the reply is read
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            reply = await client.line()
            assert (reply["id"], len(reply["deleted"])) == (1, size)
            assert [(await client.line())["seq"] for _ in range(5)] == [1, 2, 3, 4, 5]
            assert (await client.line())["id"] == 2
            client.close()

    asyncio.run(run())


def test_who_has_left_the_most_unread_goes_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_BACKLOG_BYTES", 5 << 20)

    async def run() -> None:
        async with served(tmp_path) as server:
            deaf = [await RawClient.of(server) for _ in range(4)]
            for n, client in enumerate(deaf):
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                size = str((3 - n % 2) << 20)
                client.send(json.dumps({"type": "clips.get", "clip": size}).encode() + b"\n")
                await eventually(lambda n=n: len(server.asked) == n + 1)  # type: ignore[misc]
            await eventually(lambda: len(server.hub.subscribers) == 2)
            assert sum(one.backlog for one in server.hub.subscribers) <= 5 << 20
            client = await RawClient.of(server)
            assert (await client.ask(type="status"))["ok"]

    asyncio.run(run())


def test_places_are_kept_for_root_and_the_daemons_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = False
    monkeypatch.setattr(Peer, "is_own", lambda _: own)

    async def run() -> None:
        nonlocal own
        async with served(tmp_path, SocketConfig(max_clients=10)) as server:
            strangers = [await RawClient.of(server) for _ in range(6)]
            for client in strangers:
                assert (await client.ask(type="subscribe"))["ok"]
            refused = await RawClient.refused(server)
            assert (await refused.line())["code"] == "busy"
            own = True
            owners = [await RawClient.of(server) for _ in range(4)]
            for client in owners:
                assert (await client.ask(type="status"))["ok"]
            refused = await RawClient.refused(server)
            assert (await refused.line())["code"] == "busy"

    asyncio.run(run())


@pytest.mark.usefixtures("stranger")
def test_who_says_nothing_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with served(tmp_path, SocketConfig(max_clients=4)) as server:
            subscriber = await RawClient.of(server)
            assert (await subscriber.ask(type="subscribe"))["ok"]
            silent = await RawClient.of(server)
            silent.send(b"junk\n")
            assert (await silent.line())["code"] == "malformed"
            refused = await RawClient.refused(server)
            assert (await refused.line())["code"] == "busy"
            monkeypatch.setattr(clients, "SILENT_S", 0.0)
            client = await RawClient.of(server)
            assert (await client.ask(type="status"))["ok"]
            assert await silent.line() is None
            refused = await RawClient.refused(server)
            assert (await refused.line())["code"] == "busy"

    asyncio.run(run())


async def read_fd(server: Server, session: ClientSession, command: Command) -> Reply:
    """Answer `audio` with a byte to the passed descriptor, as the daemon does."""
    if isinstance(command, commands.Audio):
        fd = session.take_fd()
        if fd is not None:
            await PassedFiles().write(fd, b"!")
        return replies.AudioReply(start=0, end=1, sample_rate=16000, written="wav" if fd else None)
    return await server.answer(session, command)


PASSED = {
    "with another request": b'{"type":"status"}\n',
    "with a request that is refused": b'{"type":"audio","start":"x","end":1}\n',
    "with a malformed line": b"junk\n",
    "with an empty line": b"\n",
    "with a line that is too long": b"x" * (MAX_LINE + 1),
    "with half a line": b'{"type":"audio"',
    "with what is used": b'{"type":"audio","start":0,"end":1}\n',
    "with a request that takes long": b'{"type":"reload"}\n',
}


@pytest.mark.parametrize("how", PASSED)
@pytest.mark.parametrize("count", [1, MAX_FDS, MAX_FDS + 5])
def test_a_passed_descriptor_never_leaks(tmp_path: Path, how: str, count: int) -> None:
    async def run() -> None:
        server = Server(tmp_path / "k.sock")

        async def answer(session: ClientSession, command: Command) -> Reply:
            return await read_fd(server, session, command)

        async with served(tmp_path, answer=answer) as there:
            before = descriptors()
            for closes in (False, True):
                client = await RawClient.of(there)
                with (tmp_path / "out").open("wb") as out:
                    sock = socket.socket(
                        fileno=os.dup(client.writer.get_extra_info("socket").fileno())
                    )
                    with sock, contextlib.suppress(BlockingIOError):
                        socket.send_fds(sock, [PASSED[how][: 1 << 16]], [out.fileno()] * count)
                client.send(PASSED[how][1 << 16 :])
                if how not in ("with half a line", "with a request that takes long"):
                    await eventually(lambda: descriptors() <= before + 2)
                if closes:
                    client.close()
                else:
                    client.send(b'\n{"type":"status"}\n')
                    await asyncio.sleep(0.05)
                    client.close()
                await eventually(lambda: descriptors() == before)

    asyncio.run(run())


def test_a_descriptor_belongs_to_the_request_that_it_came_with(tmp_path: Path) -> None:
    async def run() -> None:
        server = Server(tmp_path / "k.sock")

        async def answer(session: ClientSession, command: Command) -> Reply:
            return await read_fd(server, session, command)

        async with served(tmp_path, answer=answer) as there:
            client = await RawClient.of(there)
            with (tmp_path / "out").open("wb") as out:
                sock = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))
                with sock:
                    socket.send_fds(sock, [b'{"type":"status"}\n'], [out.fileno()])
            assert (await client.line())["version"] == "x"
            assert "written" not in await client.ask(type="audio", start=0, end=1)
            client.close()
        assert (tmp_path / "out").read_bytes() == b""

    asyncio.run(run())


def test_a_pipe_that_nobody_reads_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passed, "TIMEOUT_S", 0.3)

    async def run() -> None:
        files = PassedFiles()
        before = descriptors()
        pipes = [os.pipe() for _ in range(passed.MAX_WRITING + 1)]
        data = bytes(1 << 20)
        tasks = [asyncio.create_task(files.write(w, data)) for _, w in pipes]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        codes = [one.code for one in results if isinstance(one, RequestError)]
        assert sorted(codes) == ["busy"] + ["not_written"] * passed.MAX_WRITING
        for r, _ in pipes:
            os.close(r)
        await eventually(lambda: descriptors() == before)
        with (tmp_path / "file").open("wb") as out:
            await files.write(os.dup(out.fileno()), data)
        assert (tmp_path / "file").read_bytes() == data
        r, w = os.pipe()
        reading = asyncio.create_task(asyncio.to_thread(_read_all, r))
        await files.write(w, data)
        assert await reading == data
        with (tmp_path / "file").open("rb") as readable, pytest.raises(RequestError) as refused:
            await files.write(os.dup(readable.fileno()), data)
        assert refused.value.code == "not_written"
        r, w = os.pipe()
        os.close(r)
        with pytest.raises(RequestError, match="could not be written"):
            await files.write(w, data)
        r, w = os.pipe()
        canceled = asyncio.create_task(files.write(w, data))
        await asyncio.sleep(0.05)
        canceled.cancel()  # the client has hung up
        os.set_blocking(r, False)
        await eventually(lambda: descriptors() == before + 1)
        os.close(r)

    asyncio.run(run())


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def test_short_lines_behind_a_long_one_wait_their_turn(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as server:
            client = await RawClient.of(server)
            long = b'{"type":"status","id":0,"x":"' + b"x" * (MAX_SHORT_LINE + 1) + b'"}\n'
            for round in range(3):
                client.send(long + b'{"type":"status","id":1}\n' * 5000)
                assert (await client.line())["id"] == 0, round
                for _ in range(5000):
                    assert (await client.line())["id"] == 1

    asyncio.run(run())


def test_who_is_refused_is_told_of_the_smallest_group_that_helps() -> None:
    nobody = Peer(1, 65534, 65534)
    assert nobody.refusal(SocketConfig()) == (
        "for root and the daemon's user alone; set socket.admin_group in the daemon's "
        "configuration to a group of yours, or use sudo"
    )
    why = nobody.refusal(SocketConfig(admin_group="bin"), "pause_group")
    assert why is not None
    assert "members of the group bin; set socket.pause_group in the daemon's configuration" in why
    assert "to a group of yours, or `sudo usermod -aG bin nobody`, then log in again" in why
    why = nobody.refusal(SocketConfig(admin_group="bin", pause_group="games"), "pause_group")
    assert why is not None
    assert "group games and the group bin; `sudo usermod -aG games nobody`, then" in why
