"""Notifications to systemd never block, and come in order once they are read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kwsd import systemd
from kwsd.systemd import MAX_UNSENT, Notifier


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Return a notification socket whose queue is full."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setattr(systemd, "RETRY_S", 0.01)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    receiver.setblocking(False)
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as filler, contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"filler", path)
    return receiver


@pytest.fixture
def notifier(full: socket.socket) -> Iterator[Notifier]:
    """Return a notifier of that socket."""
    with contextlib.closing(Notifier()) as opened:
        yield opened


def received(receiver: socket.socket) -> list[bytes]:
    """Return what has arrived."""
    found = []
    try:
        while True:
            found.append(receiver.recv(4096))
    except BlockingIOError:
        return [one for one in found if one != b"filler"]


def test_a_full_queue_blocks_nothing_and_loses_nothing_that_is_still_true(
    full: socket.socket, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> list[bytes]:
        notifier.send(READY=1, STATUS="starting")
        for _ in range(50):
            notifier.send(WATCHDOG=1)
        notifier.send(STATUS="listening")
        assert received(full) == []
        async with asyncio.timeout(5):
            found: list[bytes] = []
            while len(found) < 2:
                await asyncio.sleep(0.01)
                found += received(full)
        notifier.send(WATCHDOG=1)
        return found + received(full)

    with caplog.at_level(logging.WARNING):
        found = asyncio.run(run())
    assert found == [b"READY=1\nSTATUS=starting", b"STATUS=listening", b"WATCHDOG=1"]
    assert len(caplog.records) == 1
    full.close()


def test_what_waits_is_bounded(full: socket.socket, notifier: Notifier) -> None:
    async def run() -> None:
        for n in range(1000):
            notifier.send(STATUS=n)
        assert len(notifier._unsent) == MAX_UNSENT

    asyncio.run(run())
    full.close()


def test_a_socket_that_is_gone_is_logged_once(
    full: socket.socket, notifier: Notifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full.close()
    (tmp_path / "notify").unlink()
    for n in range(100):
        notifier.send(STATUS=n)
    assert [one.levelno for one in caplog.records] == [logging.WARNING]


def test_nothing_that_is_started_speaks_for_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    with contextlib.closing(Notifier()) as another:
        assert another.watchdog_s == 2
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
