"""The client for asyncio, and what both say where no daemon is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Daemon

import kwsd


def test_asyncio(start: Callable[..., Daemon], scene_wav: Path) -> None:
    daemon = start("--source", str(scene_wav), "--wait-for-client")
    daemon.connect().close()

    async def listen() -> list[str]:
        async with await kwsd.connect_async(daemon.socket) as client:
            assert (await client.request("status"))["speakers"] == []
            with pytest.raises(kwsd.DaemonError, match="no events of type"):
                await client.request("subscribe", types=["nonsense"])
            return [event["word"] async for event in client.events(types=["wake"])]

    assert asyncio.run(listen()) == ["computer", "computer"]
    assert daemon.wait() == 0


def test_no_daemon_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(kwsd.DaemonError, match="no daemon runs there; start it"):
        kwsd.connect(tmp_path / "no.sock")
    with pytest.raises(kwsd.DaemonError, match="no daemon runs there; start it"):
        asyncio.run(kwsd.connect_async(tmp_path / "no.sock"))


def test_the_client_is_light() -> None:
    program = "import sys, kwsd; print([m for m in ('numpy', 'onnxruntime', 'yaml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
