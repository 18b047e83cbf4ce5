"""A million events through an open page, and what the page costs while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pytest
from conftest import Start
from pages import Serve, Visitor, WebPage, browser, serve, visit
from playwright.sync_api import Page, expect
from test_clients import STATUS
from test_live import listen, talk

from kwsd.web.live import CHUNK, MAX_UNREAD, Watcher, frame

EVENTS = 1_000_000
PARTS = 20
"""Parts of the events, after each of which memory is measured."""
HELLO = {"type": "hello", "protocol": 2, "version": "x", "words": [], "sample_rate": 16000}


def lines(count: int) -> Iterator[bytes]:
    """Yield events as the daemon would send them, a thousand at a time."""
    one = {"type": "rejected", "reason": "near_miss", "word": "computer", "score": 0.41}
    one |= {"threshold": 0.55, "start": 1000, "end": 17000, "speaker": None, "latency_ms": 3.1}
    for begin in range(0, count, 1000):
        events = ({**one, "seq": begin + n + 1, "time": 1.7e9 + begin + n} for n in range(1000))
        yield b"".join(msgspec.json.encode(event) + b"\n" for event in events)


class Flood:
    """A socket that answers as a daemon, and sends as many events as it is told."""

    def __init__(self, path: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._serving = threading.Thread(target=self._serve)
        self._serving.start()

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.shutdown(socket.SHUT_RDWR)
        self._serving.join()
        self._listening.close()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, client.makefile("rb") as requests, contextlib.suppress(OSError):
            self._answer(client, requests)

    def _answer(self, client: socket.socket, requests: BinaryIO) -> None:
        self._send(client, HELLO)
        for line in requests:
            request = msgspec.json.decode(line)
            reply = {"type": "reply", "id": request["id"], "ok": True}
            if request["type"] == "status":
                reply |= msgspec.to_builtins(STATUS)
            elif request["type"] == "scores":
                reply["interval_s"] = 0.16
            elif request["type"] == "scores.stop":
                reply["stopped"] = True
            self._send(client, reply)
            if request["type"] == "subscribe":
                self._client = client

    def _send(self, client: socket.socket, message: object) -> None:
        with self._lock:
            client.sendall(msgspec.json.encode(message) + b"\n")

    def send(self, count: int) -> None:
        """Send events as fast as they are taken."""
        while self._client is None:
            time.sleep(0.05)
        for part in lines(count):
            with self._lock:
                self._client.sendall(part)


def heap_mib(page: Page) -> float:
    """Return what the page holds in the browser, after its garbage is collected.

    What a first collection frees lets go of more, so that the least of several counts.
    """
    session = page.context.new_cdp_session(page)
    used: list[int] = []
    for _ in range(4):
        session.send("HeapProfiler.collectGarbage")
        used.append(session.send("Runtime.getHeapUsage")["usedSize"])
        page.wait_for_timeout(300)
    return min(used) / 2**20


@pytest.mark.slow
def test_a_million_events_leave_no_trace(tmp_path: Path, serve: Serve, visit: Visitor) -> None:
    with contextlib.closing(Flood(tmp_path / "k.sock")) as flood:
        flooded(flood, serve(real=True), visit)


def flooded(flood: Flood, served: WebPage, visit: Visitor) -> None:
    """Let a million events through a page, and compare its memory after the first and the last."""
    page = visit(served).page
    rows = page.locator(".happened li")
    held: list[tuple[float, float]] = []
    for _ in range(PARTS):
        flood.send(EVENTS // PARTS)
        expect(rows.first).to_be_visible(timeout=60_000)
        page.wait_for_timeout(1000)
        held.append((served.memory_mib(), heap_mib(page)))
    # What an allocator keeps differs by what came at once, so that medians are compared.
    third = PARTS // 3
    before, heap_before = np.median(held[:third], axis=0)
    after, heap_after = np.median(held[-third:], axis=0)
    assert rows.count() <= 100
    # What came too fast may be left out, and that is said in a row of its own.
    expect(rows.filter(has_text="near miss: 0.41 of 0.55").first).to_be_attached()
    sys.stdout.write(
        f"{before:.1f} → {after:.1f} MiB, in the browser {heap_before:.1f} → {heap_after:.1f}\n"
    )
    assert after <= 1.05 * before
    assert heap_after <= 1.05 * heap_before + 0.2  # compiled code, of some MiB
    assert served.ask("GET", "/").status == 401, "it answers"


def test_a_page_that_reads_nothing_is_bounded_and_told_what_it_missed() -> None:
    async def read() -> list[bytes]:
        watcher = Watcher()
        for number in range(1000):
            watcher.push(b"event: event\ndata: %d %s\n\n" % (number, b"x" * 2000))
        parts = [await watcher.take()]
        watcher.push(b"event: scores\ndata: {}\n\n", droppable=True)
        while b"missed" not in parts[-1]:
            parts.append(await watcher.take())
        watcher.push(b"event: scores\ndata: {}\n\n", droppable=True)
        return [*parts, await watcher.take()]

    with ThreadPoolExecutor(1) as thread:  # a browser's test may run a loop in this one
        *parts, last = thread.submit(asyncio.run, read()).result()
    assert all(CHUNK <= len(part) < CHUNK + 4000 for part in parts[:-1])
    heard = re.findall(rb"event: event\ndata: (\d+) ", b"".join(parts))
    assert heard == [b"%d" % number for number in range(len(heard))]
    assert MAX_UNREAD - 4000 < len(b"".join(parts)) < MAX_UNREAD + 100
    assert parts[-1].endswith(frame("missed", {"events": 1000 - len(heard)}))
    assert last == b"event: scores\ndata: {}\n\n", "and is up to date then"


def cpu_s(page: WebPage) -> float:
    """Return the processor time that the process of a page has used."""
    fields = Path(f"/proc/{page.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.timing
def test_it_costs_little_while_watched_and_nothing_while_not(
    start: Start, serve: Serve, visit: Visitor, talk: Path
) -> None:
    listen(start, talk, "words: {computer: , jarvis: }\n")
    served = serve(real=True)
    page: Any = visit(served).page
    expect(page.locator(".happened li").first).to_be_visible(timeout=60_000)
    begun, before = time.monotonic(), cpu_s(served)
    page.wait_for_timeout(20_000)
    watched = (cpu_s(served) - before) / (time.monotonic() - begun)
    page.goto("about:blank")
    page.wait_for_timeout(3000)
    begun, before = time.monotonic(), cpu_s(served)
    page.wait_for_timeout(10_000)
    unwatched = (cpu_s(served) - before) / (time.monotonic() - begun)
    sys.stdout.write(
        f"{100 * watched:.2f} % of a core while watched, {100 * unwatched:.2f} % while not\n"
    )
    assert watched < 0.03
    assert unwatched <= 0.003  # a wake now and then
    assert served.memory_mib() < 60
