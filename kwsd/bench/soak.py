"""`kwsd bench soak`: hours of a day through the real daemon, faster than real time; what grows?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NotRequired, TypedDict

from kwsd.bench import scenes
from kwsd.bench.circumstances import Circumstances
from kwsd.bench.daemon import Collector, measured
from kwsd.client.client import connect
from kwsd.protocol import commands

log = logging.getLogger(__name__)
STEP_S = 600
"""Seconds of audio between two samples."""
CLIENTS = 5
"""Clients that come, ask and go in every step."""


class SoakSample(TypedDict):
    """The daemon after so much audio."""

    audio_h: float
    resident_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    """CPU seconds since the start of the process."""
    events: int
    """Wakes so far."""


class Growth(TypedDict):
    """What was added between two samples."""

    resident_mib: float
    descriptors: int
    threads: int


class SoakReport(TypedDict):
    """The report of `kwsd bench soak`, as it is written to JSON."""

    hours: float
    cpu_per_audio_s: float
    """CPU seconds per second of audio, start-up included."""
    growth: Growth
    """From after the first tenth, at least one sample, to the end."""
    samples: list[SoakSample]
    circumstances: NotRequired[Circumstances]


def soak(hours: float) -> SoakReport:
    """Feed `hours` of audio, half an hour at least; return a sample every ten minutes of it."""
    samples: list[SoakSample] = []
    steps = max(round(hours * 3600 / STEP_S), 3)
    day = scenes.day(STEP_S)
    with measured() as (daemon, client), Collector(daemon.path) as events:
        for step in range(1, steps + 1):
            daemon.feed(day)
            daemon.wait_until_heard(client)
            for _ in range(CLIENTS):
                with connect(daemon.path) as passing:
                    passing.request(commands.Status())
            sample: SoakSample = {
                "audio_h": step * STEP_S / 3600,
                "resident_mib": daemon.memory().resident_mib,
                "descriptors": _least(daemon.descriptors),
                "threads": daemon.threads(),
                "cpu_s": daemon.cpu_s(),
                "events": len(events.arrived),
            }
            samples.append(sample)
            log.info(
                "%.2f h: %.1f MiB resident, %d descriptors, %d threads, %d wakes",
                sample["audio_h"],
                sample["resident_mib"],
                sample["descriptors"],
                sample["threads"],
                sample["events"],
            )
    first = samples[max(steps // 10, 1)]
    last = samples[-1]
    return {
        "hours": last["audio_h"],
        "cpu_per_audio_s": last["cpu_s"] / (last["audio_h"] * 3600),
        "growth": {
            "resident_mib": last["resident_mib"] - first["resident_mib"],
            "descriptors": last["descriptors"] - first["descriptors"],
            "threads": last["threads"] - first["threads"],
        },
        "samples": samples,
    }


def _least(count: Callable[[], int]) -> int:
    """Return the least of five counts: a file that is just being written is no growth."""
    counts = []
    for _ in range(5):
        counts.append(count())
        time.sleep(0.05)
    return min(counts)
