"""The clients, blocking and for asyncio, and what both say where no daemon answers."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import Start

import kwsd
from kwsd import commands
from kwsd.protocol.messages import MAX_LINE

Connect = Callable[[Path], object]
GREETING = {"type": "hello", "protocol": 2, "version": "x", "words": [], "sample_rate": 16000}


def connect_async(path: Path) -> object:
    """Connect by asyncio, and hang up."""

    async def connect() -> object:
        async with await kwsd.connect_async(path) as client:
            return client.greeting

    return asyncio.run(connect())


def connect(path: Path) -> object:
    """Connect, and hang up."""
    with kwsd.connect(path) as client:
        return client.greeting


both_clients = pytest.mark.parametrize("connect", [connect, connect_async])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that serves fixed bytes to one client, and gives the path of the socket.

    The first are sent at once, the others one after each request.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    threads: list[threading.Thread] = []

    def answer(data: tuple[bytes, ...]) -> None:
        with server.accept()[0] as client:
            for part in data:
                client.sendall(part)
                client.recv(4096)
            while client.recv(4096):
                pass

    def start(*data: bytes) -> Path:
        path = tmp_path / "fake.sock"
        server.bind(str(path))
        server.listen()
        threads.append(threading.Thread(target=answer, args=(data,)))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(5)
    server.close()


def test_requests_are_made_while_another_task_waits_for_events(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()

    async def both() -> tuple[list[str], list[kwsd.Event]]:
        async with await kwsd.connect_async(daemon.socket) as client:
            heard: list[kwsd.Event] = []

            async def listen() -> None:
                async for event in client.events(types=["microphone", "wake"]):
                    heard.append(event)  # noqa: PERF401 # it is looked at meanwhile

            listening = asyncio.create_task(listen())
            asked = [client.request(commands.Status()) for _ in range(5)]
            versions = {status.version for status in await asyncio.gather(*asked)}
            given_up = asyncio.create_task(client.request(commands.Status()))
            await asyncio.sleep(0)
            given_up.cancel()
            await client.request(commands.Pause(holder="test"))
            while not heard:  # its event comes to the task that waits for one
                await asyncio.sleep(0.01)
            await client.request(commands.Words())
            assert not client._exchange._replies
            assert not client._exchange._forgotten
            listening.cancel()
            return list(versions), heard

    async def in_time() -> tuple[list[str], list[kwsd.Event]]:
        return await asyncio.wait_for(both(), 60)

    versions, heard = asyncio.run(in_time())
    assert len(versions) == 1
    assert isinstance(heard[0], kwsd.Wake | kwsd.MicrophoneChange)


def test_asyncio(start: Start, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()

    async def listen() -> list[str]:
        async with await kwsd.connect_async(daemon.socket) as client:
            assert (await client.request(commands.Status())).speakers == []
            nonsense = commands.Subscribe(types=["nonsense"])  # type: ignore[list-item]
            with pytest.raises(kwsd.DaemonError, match=r"types\[0\]: 'nonsense' is not 'lag'"):
                await client.request(nonsense)
            events = client.events(types=["wake"])
            return [event.word async for event in events if isinstance(event, kwsd.Wake)]

    assert asyncio.run(listen()) == ["computer", "computer"]
    assert daemon.wait() == 0


@both_clients
def test_no_daemon_is_reported(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(kwsd.DaemonError, match="no daemon runs there; start it") as caught:
        connect(tmp_path / "no.sock")
    assert caught.value.code == "unreachable"


@both_clients
def test_a_path_that_is_too_long_is_named_with_the_limit(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / ("x" * 107)
    length = len(str(path))
    said = f"{path} has {length} bytes, and the path of a socket at most 107; choose a shorter one"
    with pytest.raises(kwsd.DaemonError) as caught:
        connect(path)
    assert (caught.value.code, str(caught.value)) == ("unreachable", said)


@both_clients
def test_a_daemon_of_this_protocol_is_greeted(serve: Callable[..., Path], connect: Connect) -> None:
    greeting = connect(serve(msgspec.json.encode(GREETING) + b"\n"))
    assert msgspec.to_builtins(greeting) == GREETING


@both_clients
@pytest.mark.parametrize("protocol", [1, 3])
def test_a_daemon_of_another_protocol_is_refused_with_both_numbers(
    serve: Callable[..., Path], connect: Connect, protocol: int
) -> None:
    path = serve(json.dumps({**GREETING, "protocol": protocol}).encode() + b"\n")
    message = f"the daemon speaks protocol {protocol}, this client speaks 2; use the daemon and"
    with pytest.raises(kwsd.DaemonError, match=message) as caught:
        connect(path)
    assert caught.value.code == "protocol"


@both_clients
def test_something_else_than_kwsd_is_refused(serve: Callable[..., Path], connect: Connect) -> None:
    with pytest.raises(kwsd.DaemonError) as caught:
        connect(serve(b"220 mail.example.org ESMTP\r\n"))
    assert caught.value.code == "protocol"


def test_events_end_with_an_error_where_the_daemon_talks_nonsense(
    serve: Callable[..., Path],
) -> None:
    event = b'{"seq":1,"type":"microphone","state":"lost","index":0}\n'
    greeting = msgspec.json.encode(GREETING) + b"\n"
    reply = b'{"type":"reply","id":1,"ok":true}\n'
    with kwsd.connect(serve(greeting, reply + event + b"nonsense\n" + event)) as client:
        events = client.events()
        assert next(events).seq == 1
        with pytest.raises(kwsd.DaemonError) as caught:
            next(events)
    assert caught.value.code == "protocol"


def test_a_request_that_is_too_long_is_not_sent(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        with pytest.raises(kwsd.DaemonError, match=r"words.put: .* send less at once") as caught:
            client.request(commands.WordsPut(file=bytes(MAX_LINE)))
        assert caught.value.code == "line_too_long"
        assert client.request(commands.Status()).clients == 1  # the connection goes on


def test_the_client_is_light() -> None:
    heavy = "('numpy', 'onnxruntime', 'yaml')"
    program = f"import sys, kwsd; kwsd.connect; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
