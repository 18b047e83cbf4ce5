"""`kwsd bench soak`: hours of a day through the real daemon, faster than real time; whether anything of it grows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from kwsd.bench import scenes
from kwsd.bench.daemon import Collector, measured
from kwsd.client.client import connect

log = logging.getLogger(__name__)
STEP_S = 600


@dataclass(frozen=True)
class Sample:
    audio_h: float
    resident_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    events: int


def soak(hours: float) -> dict[str, Any]:
    """Samples each ten minutes of audio, and the growth from after the first tenth (at least one sample) to the end."""
    samples: list[Sample] = []
    steps = max(round(hours * 3600 / STEP_S), 3)
    day = scenes.day(STEP_S)
    with measured() as (daemon, client), Collector(daemon.path) as events:
        for step in range(1, steps + 1):
            daemon.feed(day)
            daemon.caught_up(client)
            for _ in range(5):  # clients that come, ask and go
                with connect(daemon.path) as passing:
                    passing.request("status")
            sample = Sample(step * STEP_S / 3600, daemon.memory_mib()[0], _settled(daemon.descriptors), daemon.threads(), daemon.cpu_s(), len(events.arrived))
            samples.append(sample)
            log.info("%.2f h: %.1f MiB resident, %d descriptors, %d threads, %d wakes", sample.audio_h, sample.resident_mib, sample.descriptors,
                     sample.threads, sample.events)  # fmt: skip
    first, last = samples[max(steps // 10, 1)], samples[-1]
    growth = {name: getattr(last, name) - getattr(first, name) for name in ("resident_mib", "descriptors", "threads")}
    return {"hours": last.audio_h, "cpu_per_audio_s": last.cpu_s / (last.audio_h * 3600),
            "growth": growth, "samples": [asdict(s) for s in samples]}  # fmt: skip


def _settled(count: Callable[[], int]) -> int:
    """The least of a few looks: a file that is just being written is no growth."""
    looks = []
    for _ in range(5):
        looks.append(count())
        time.sleep(0.05)
    return min(looks)
