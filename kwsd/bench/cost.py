"""`kwsd bench cost`: CPU, memory, start-up and latency of kwsd and its peers, on the same audio.

Every engine runs in a process of its own; its CPU seconds are those of all its threads. kwsd is
measured twice: `kwsd` is the real daemon, fed through a pipe in blocks of 80 ms, with one enrolled
speaker and a subscriber; `kwsd detect` is the verb for recordings. Peers detect one word, kwsd six.
Runs take turns, and the median counts.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np
import soundfile

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.pcm import to_int16
from kwsd.bench import breakdown, scenes, speaker_encoders
from kwsd.bench.circumstances import Circumstances
from kwsd.bench.daemon import Collector, MeasuredDaemon, measured
from kwsd.bench.engines import ENGINES, KWSD_WORDS

log = logging.getLogger(__name__)
WARM_UP_S = 5
"""Seconds of audio before a measurement: the first blocks load what is loaded lazily, and the
gate's hang-over passes."""


class Run(TypedDict):
    """One engine over one scene."""

    engine: str
    words: int
    """How many words it detects."""
    scene: str
    audio_s: float
    cpu_per_audio_s: float
    """CPU seconds per second of audio, without start-up."""
    startup_cpu_s: float
    startup_s: float
    """Seconds from the start of the process until it listens."""
    peak_mib: float
    fired: int


class CostReport(TypedDict):
    """The report of `kwsd bench cost`, as it is written to JSON.

    All but `engines` and `runs` is measured where kwsd is among the engines.
    """

    engines: list[Run]
    """The median of each figure, a row for every engine and scene."""
    runs: list[Run]
    stages: NotRequired[dict[str, float]]
    """As `breakdown.stages` returns them."""
    voices: NotRequired[dict[str, dict[str, float]]]
    """Each speaker encoder's figures, as `speaker_encoders.measure` returns them."""
    idle_in_real_time: NotRequired[float]
    """CPU seconds per second of audio."""
    latency: NotRequired[dict[str, float]]
    circumstances: NotRequired[Circumstances]


def cost(seconds: float, repeats: int, wakes: int, engines: Sequence[str]) -> CostReport:
    """Return the report on `engines`, with `seconds` of audio per scene.

    Every engine and scene has `repeats` runs; latency is measured on `wakes` wakes. Raises
    RuntimeError where an engine fails.
    """
    runs = []
    for run in engine_runs(seconds, repeats, engines):
        log.info(
            "%-17s %-7s %.5f CPU s per audio s, peak %.0f MiB",
            run["engine"],
            run["scene"],
            run["cpu_per_audio_s"],
            run["peak_mib"],
        )
        runs.append(run)
    report: CostReport = {"engines": medians(runs), "runs": runs}
    if "kwsd" in engines:
        log.info("stages …")
        report["stages"] = breakdown.stages(min(seconds, 120.0))
        names = speaker_encoders.installed()
        report["voices"] = {name: run_speaker_encoder(name) for name in names}
        report["idle_in_real_time"] = idle_in_real_time(min(seconds, 60.0))
        log.info("latency of %d wakes, in real time: %.0f s …", wakes, wakes * 3.5)
        report["latency"] = latency(wakes)
    return report


def engine_runs(seconds: float, repeats: int, engines: Sequence[str]) -> Iterator[Run]:
    """Yield the runs of every engine over every scene, `repeats` times, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        for scene, make in scenes.SCENES.items():
            audio = make(seconds)
            path = Path(folder) / f"{scene}.wav"
            soundfile.write(path, audio, SAMPLE_RATE)
            for _ in range(repeats):
                for name in engines:
                    if name == "kwsd":
                        yield run_daemon(scene, audio)
                        yield run_peer("kwsd detect", KWSD_WORDS, scene, path)
                    else:
                        yield run_peer(name, ENGINES[name].words[:1], scene, path)


def medians(runs: Sequence[Run]) -> list[Run]:
    """Return a row for every engine and scene: the median of each figure over its runs."""
    rows = []
    for key in dict.fromkeys((run["engine"], run["scene"]) for run in runs):
        same = [dict(run) for run in runs if (run["engine"], run["scene"]) == key]
        row = {
            name: value if isinstance(value, str) else _median(run[name] for run in same)
            for name, value in same[0].items()
        }
        rows.append(cast(Run, row))
    return rows


def _median(values: Iterable[object]) -> float:
    return statistics.median(cast(float, value) for value in values)


def run_peer(name: str, words: Sequence[str], scene: str, path: Path) -> Run:
    """Run an engine over a recording in a process of its own. Raises RuntimeError."""
    began = time.monotonic()
    command = [sys.executable, "-m", "kwsd.bench.peers", name, ",".join(words), str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        startup_s = time.monotonic() - began
        last = process.stdout.read()
        errors = process.stderr.read()
    if process.returncode:
        raise RuntimeError(_failure(name, errors, process.returncode))
    ready = json.loads(first)
    end = json.loads(last)
    seconds = end["samples"] / SAMPLE_RATE
    return Run(
        engine=name,
        words=len(words),
        scene=scene,
        audio_s=seconds,
        cpu_per_audio_s=(end["cpu_s"] - ready["cpu_s"]) / seconds,
        startup_cpu_s=ready["cpu_s"],
        startup_s=startup_s,
        peak_mib=end["peak_mib"],
        fired=end["fired"],
    )


def run_speaker_encoder(name: str) -> dict[str, float]:
    """Measure a speaker encoder in a process of its own. Raises RuntimeError."""
    command = [sys.executable, "-m", "kwsd.bench.speaker_encoders", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(_failure(name, done.stderr, done.returncode))
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _failure(name: str, errors: str, status: int) -> str:
    lines = errors.strip().splitlines()
    return f"{name} failed: {lines[-1] if lines else f'exit status {status}'}"


def run_daemon(scene: str, audio: np.ndarray) -> Run:
    """Run the daemon over int16 `[sample]`, fed as fast as it takes them."""
    with measured() as (daemon, client), Collector(daemon.path) as events:
        daemon.feed(audio[: WARM_UP_S * SAMPLE_RATE])
        daemon.wait_until_heard(client)
        before = daemon.cpu_s()
        daemon.feed(audio)
        daemon.wait_until_heard(client)
        seconds = len(audio) / SAMPLE_RATE
        cpu = (daemon.cpu_s() - before) / seconds
        peak = daemon.memory().peak_mib
    return Run(
        engine="kwsd",
        words=len(KWSD_WORDS),
        scene=scene,
        audio_s=seconds,
        cpu_per_audio_s=cpu,
        startup_cpu_s=daemon.ready_cpu_s,
        startup_s=daemon.ready_s,
        peak_mib=peak,
        fired=len(events.arrived),
    )


def latency(wakes: int) -> dict[str, float]:
    """Return milliseconds from the sample at which the word ends to the line at a subscriber.

    The daemon is fed in real time, as by a microphone. The figures are `wakes`, `heard` (how many
    of them woke it), and the percentiles `p50_ms`, `p95_ms` and `p99_ms`. Raises RuntimeError where
    none was heard.
    """
    audio, ends = _spaced_wakes(wakes)
    with measured(words=("computer",)) as (daemon, client), Collector(daemon.path) as events:
        began = time.monotonic()
        for _ in _fed_in_real_time(daemon, audio, began):
            pass
        daemon.wait_until_heard(client)
    waits = []
    for end in ends:
        heard = [at for at, wake in events.arrived if abs(wake.end - end) < SAMPLE_RATE]
        if heard:
            waits.append(1000 * (heard[0] - (began + end / SAMPLE_RATE)))
    if not waits:
        raise RuntimeError("the daemon heard none of the words that the latency is measured on")
    p50, p95, p99 = np.percentile(waits, [50, 95, 99])
    return {
        "wakes": wakes,
        "heard": len(waits),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
    }


def _spaced_wakes(wakes: int) -> tuple[np.ndarray, list[int]]:
    """Return an idle room in which "computer" is said `wakes` times, and the ends of the words.

    The room is int16 `[sample]`, the ends are samples of it.

    The pauses exceed the refractory time and end at any phase of the blocks.
    """
    takes = scenes.wakes()
    rng = np.random.default_rng(3)
    room = scenes.idle(wakes * 4 + 10, seed=4).astype(np.int32)
    ends = []
    at = 2 * SAMPLE_RATE
    for n in range(wakes):
        take, end = takes[n % len(takes)]
        room[at : at + len(take)] += take
        ends.append(at + end)
        at += len(take) + int(rng.uniform(2.2, 2.6) * SAMPLE_RATE)
    return to_int16(room[: at + SAMPLE_RATE]), ends


def idle_in_real_time(seconds: float) -> float:
    """Return CPU seconds per second of audio in an idle room that is fed in real time.

    There every block finds the caches cold; the scenes of `engine_runs` come at once.
    """
    with measured() as (daemon, _):
        before = 0.0
        began = time.monotonic()
        measuring_since = began
        for n in _fed_in_real_time(daemon, scenes.idle(seconds + WARM_UP_S), began):
            if n == WARM_UP_S * SAMPLE_RATE // CHUNK_SAMPLES:
                before = daemon.cpu_s()
                measuring_since = time.monotonic()
        return (daemon.cpu_s() - before) / (time.monotonic() - measuring_since)


def _fed_in_real_time(daemon: MeasuredDaemon, audio: np.ndarray, began: float) -> Iterator[int]:
    """Feed whole blocks as a microphone would from the time `began` on; yield each one's number.

    A block is fed once its last sample has been spoken.
    """
    for n in range(len(audio) // CHUNK_SAMPLES):
        spoken = began + (n + 1) * CHUNK_SAMPLES / SAMPLE_RATE
        time.sleep(max(spoken - time.monotonic(), 0))
        daemon.feed(audio[n * CHUNK_SAMPLES : (n + 1) * CHUNK_SAMPLES])
        yield n
