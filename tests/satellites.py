"""Satellites that all stream to one `kwsd wyoming`, on one core: what do they cost?

    python tests/satellites.py --satellites 20 --seconds 120

Each streams in real time, in chunks of 64 ms: a quarter of speech, noise otherwise, and "computer"
every twelve seconds, not at the same time as the others. It prints what it measured as JSON.
`peers/test_wyoming.py` runs it small.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import RATE, hiss, say

from kwsd.bench import scenes
from kwsd.bridges.wyoming.frames import MAX_LINE, read_frame

SAMPLES = 1024
"""Samples of a chunk."""
PERIOD_S = 12.0
"""A word in so many seconds."""


class Report(NamedTuple):
    """What was measured."""

    satellites: int
    seconds: float
    spoken: int
    """Words that were said."""
    detected: int
    """Detections, of any word."""
    cpu_share: float
    """CPU seconds of the service per second; all satellites together."""
    waited_share: float
    """Seconds per second in which a thread of it could have run, and had no processor: what the
    machine's other work takes from it. It is late where this is not small."""
    latency_ms: list[float]
    """Median and greatest time from when the end of the word was sent to its detection."""
    resident_mib: float
    mib_a_satellite: float
    """What each of them added."""


def scene(seconds: float, seed: int) -> tuple[np.ndarray, int]:
    """Return what a satellite hears, int16 at 16 kHz, and how often the word is in it."""
    heard = scenes.day(seconds, seed).astype(np.int32)[: int(seconds * RATE)]
    word = np.concatenate([hiss(0.6), say("computer"), hiss(0.6)])
    first = int((1.0 + seed * 0.55 % (PERIOD_S - 3)) * RATE)
    starts = range(first, len(heard) - len(word) - 2 * RATE, int(PERIOD_S * RATE))
    for start in starts:  # in place of what was there, so that nobody talks over it
        heard[start : start + len(word)] = word
    return heard.clip(-32768, 32767).astype(np.int16), len(starts)


async def satellite(port: int, samples: np.ndarray, begins_at: float) -> list[float]:
    """Stream in real time from `begins_at`, by the monotonic clock; return the latencies in s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_LINE)
    found: list[float] = []
    t0 = begins_at

    async def listen() -> None:
        while frame := await read_frame(reader):
            if frame.type == "detection":
                found.append(time.monotonic() - (t0 + frame.data["timestamp"] / 1000))

    listening = asyncio.create_task(listen())
    writer.write(b'{"type":"audio-start","data":{"rate":16000,"width":2,"channels":1}}\n')
    for at in range(0, len(samples), SAMPLES):
        chunk = samples[at : at + SAMPLES].astype("<i2").tobytes()
        await asyncio.sleep(max(t0 + (at + len(chunk) // 2) / RATE - time.monotonic(), 0))
        data = {"rate": RATE, "width": 2, "channels": 1, "timestamp": at // 16}
        line = {"type": "audio-chunk", "data": data, "payload_length": len(chunk)}
        writer.write(json.dumps(line).encode() + b"\n" + chunk)
        await writer.drain()
    await asyncio.sleep(1.5)
    listening.cancel()
    writer.close()
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_s(pid: int) -> float:
    """Return the seconds for which the threads of a process have waited for a processor."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[1]) for task in tasks) / 1e9


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measure(satellites: int, seconds: float) -> Report:
    """Run the service and its satellites, and return what they cost."""
    made = [scene(seconds, seed) for seed in range(satellites)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        uri = f"tcp://127.0.0.1:{port}"
        empty = Path(folder) / "kwsd.yaml"
        empty.touch()
        where = ["--uri", uri, "--config", str(empty), "--socket", f"{folder}/none"]
        where += ["--max-clients", str(satellites + 1)]
        command = [sys.executable, "-m", "kwsd", "wyoming", *where]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
            return asyncio.run(_measured(process.pid, port, made, seconds))
        finally:
            process.terminate()
            process.wait(30)


async def _measured(
    pid: int, port: int, made: Sequence[tuple[np.ndarray, int]], seconds: float
) -> Report:
    await _until_it_serves(port)
    alone_mib = resident_mib(pid)
    begins_at = time.monotonic() + 1.0
    streams = [
        asyncio.create_task(satellite(port, samples, begins_at + 0.003 * n))
        for n, (samples, _) in enumerate(made)
    ]
    await asyncio.sleep(1.0)
    before = cpu_s(pid)
    waited_before = waited_s(pid)
    await asyncio.sleep(seconds)
    spent = cpu_s(pid) - before
    waited = waited_s(pid) - waited_before
    resident = resident_mib(pid)
    latencies = [1000 * one for each in await asyncio.gather(*streams) for one in each]
    return Report(
        satellites=len(made),
        seconds=seconds,
        spoken=sum(count for _, count in made),
        detected=len(latencies),
        cpu_share=round(spent / seconds, 4),
        waited_share=round(waited / seconds, 4),
        latency_ms=[
            round(statistics.median(latencies), 1) if latencies else -1.0,
            round(max(latencies, default=-1.0), 1),
        ],
        resident_mib=round(resident, 1),
        mib_a_satellite=round((resident - alone_mib) / len(made), 2),
    )


async def _until_it_serves(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--satellites", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    report = measure(arguments.satellites, arguments.seconds)
    sys.stdout.write(json.dumps(report._asdict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
