"""A daemon that goes: whoever listens is told, or waits until it is back."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import msgspec
import pytest
from conftest import Start

import kwsd
from kwsd.cli import main as cli
from kwsd.client import exchange as clients
from kwsd.client.client import Client
from kwsd.events import MicrophoneChange


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try often."""
    monkeypatch.setattr(clients, "RETRY_MIN_S", 0.02)
    monkeypatch.setattr(clients, "RETRY_MAX_S", 0.1)


def command(path: Path, *arguments: str) -> list[str]:
    """Return the command line of `kwsd events`."""
    where = ["events", "--socket", str(path)]
    return ["-m", "kwsd", *where, *arguments]


def listen(client: Client, gaps: list[kwsd.Gap]) -> list[object]:
    """Return events until one has come after a gap."""
    found: list[object] = []
    for event in client.events(types=["wake"], reconnect=True, on_gap=gaps.append):
        found.append(event)
        if gaps:
            client.close()
    return found


async def listen_async(path: Path, gaps: list[kwsd.Gap]) -> list[object]:
    """Return events until one has come after a gap, with asyncio."""
    found: list[object] = []
    async with await kwsd.connect_async(path) as client:
        async for event in client.events(types=["wake"], reconnect=True, on_gap=gaps.append):
            found.append(event)
            if gaps:
                break
    return found


def test_everybody_is_told_or_comes_back(start: Start, tmp_path: Path, talkative: Path) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("checker: off\nwords: {computer: {refractory_s: 0}}\n")
    source = ["--source", str(talkative), "--realtime", "--config", str(config)]
    daemon = start(*source)
    telling = daemon.connect()
    told = telling.events(types=["wake"])
    blocking = daemon.connect()
    gaps: list[kwsd.Gap] = []
    async_gaps: list[kwsd.Gap] = []
    options = ["--json", "--types", "wake"]
    fails = forked.Process(
        command(daemon.socket, *options), stdout=forked.PIPE, stderr=forked.PIPE, text=True
    )
    returns = forked.Process(
        command(daemon.socket, *options, "--reconnect"), stdout=forked.PIPE, text=True
    )
    terminal, theirs = pty.openpty()  # where --reconnect is the default
    shown = forked.Process(
        command(daemon.socket, "--types", "wake"), stdout=theirs, stderr=forked.DEVNULL
    )
    os.close(theirs)
    assert fails.stdout is not None
    assert returns.stdout is not None
    with ThreadPoolExecutor() as threads:
        one = threads.submit(listen, blocking, gaps)
        other = threads.submit(asyncio.run, listen_async(daemon.socket, async_gaps))
        for out in (fails.stdout, returns.stdout):
            assert json.loads(out.readline())["type"] == "wake"
        screen = _lines(terminal)
        assert next(screen).startswith("wake: “computer”")
        daemon.kill()
        with pytest.raises(kwsd.DaemonError, match="the daemon has closed the connection") as lost:
            list(told)
        assert lost.value.code == "closed"
        telling.close()
        _, errors = fails.communicate(timeout=20)
        assert fails.returncode == cli.UNAVAILABLE
        assert "the daemon has closed the connection" in errors
        again = start(*source)
        again.connect().close()
        for found, missed in ((one.result(60), gaps), (other.result(60), async_gaps)):
            (gap,) = missed
            assert gap.seconds > 0
            assert gap.next_seq == 1
            seqs = [event.seq for event in found]  # type: ignore[attr-defined]
            assert seqs[-1] == 1
            assert gap.last_seq == (seqs[-2] if len(seqs) > 1 else None)
    lines = [json.loads(returns.stdout.readline())]
    while lines[-1]["type"] != "gap":
        lines.append(json.loads(returns.stdout.readline()))
    assert set(lines[-1]) == {"type", "seconds", "last_seq", "next_seq"}
    assert lines[-1]["last_seq"] >= 1
    assert json.loads(returns.stdout.readline())["seq"] == 1
    while not (line := next(screen)).startswith("gap: the daemon was away for"):
        assert line.startswith("wake")
    for process in (returns, shown):
        process.kill()
        process.wait()
    returns.stdout.close()
    os.close(terminal)


def _lines(terminal: int) -> Iterator[str]:
    """Yield the lines that a terminal shows."""
    shown = b""
    while data := os.read(terminal, 4096):
        *lines, shown = (shown + data).split(b"\n")
        yield from (line.decode() for line in lines)


def test_events_end_with_the_recording(start: Start, scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    with daemon.connect() as client:
        events = list(client.events(reconnect=True))
    assert isinstance(events[0], MicrophoneChange)
    assert daemon.wait() == 0


def test_a_client_that_is_closed_ends_its_events(start: Start, endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    client = daemon.connect()
    with ThreadPoolExecutor() as threads:
        listening = threads.submit(lambda: list(client.events(reconnect=True)))
        threading.Timer(0.5, client.close).start()
        assert all(event.seq for event in listening.result(20))
        waiting = daemon.connect()
        waiting_events = waiting.events(reconnect=True)
        listening = threads.submit(lambda: list(waiting_events))
        daemon.kill()
        threading.Timer(0.3, waiting.close).start()
        listening.result(20)


def test_a_daemon_of_another_protocol_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    greeting = {"type": "hello", "protocol": 2, "version": "x", "words": [], "sample_rate": 16000}

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as client:
            client.sendall(msgspec.json.encode(greeting) + b"\n")
            client.recv(100)
            client.sendall(b'{"type":"reply","id":1,"ok":true}\n')
        with server.accept()[0] as client:
            client.sendall(msgspec.json.encode({**greeting, "protocol": 3}) + b"\n")

    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor() as threads:
        server.bind(str(path))
        server.listen()
        server.settimeout(10)
        threads.submit(serve, server)
        with (
            kwsd.connect(path) as client,
            pytest.raises(kwsd.DaemonError, match="speaks protocol 3"),
        ):
            list(client.events(reconnect=True))
