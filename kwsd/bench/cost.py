"""`kwsd bench cost`: CPU, memory, start-up and latency of kwsd and of the peers that are installed, on the same audio.

Every engine runs in a process of its own; its CPU seconds are those of all its threads. kwsd is measured twice: `kwsd` is
the real daemon, fed through a pipe in blocks of 80 ms, with one enrolled speaker and a subscriber; `kwsd detect` is the
verb for recordings. Peers hear one word; kwsd hears six. Runs take turns, and the median counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile

from kwsd.audio.files import RATE
from kwsd.bench import scenes
from kwsd.bench.daemon import Collector, measured
from kwsd.bench.peers import BLOCK_SAMPLES, ENGINES, KWSD_WORDS, Kwsd
from kwsd.bench.voices import encoders
from kwsd.detect.detector import SPAN_CHUNKS
from kwsd.model import bundle as bundles
from kwsd.model.bundle import STUDENT
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.server.hub import Filter, Hub, Outlet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One engine over one scene."""

    engine: str
    words: int
    scene: str
    audio_s: float
    cpu_per_audio_s: float
    """Start-up left out."""
    startup_cpu_s: float
    startup_s: float
    """From the start of the process until it listens."""
    peak_mib: float
    fired: int


def run_peer(name: str, words: tuple[str, ...], scene: str, path: Path) -> Run:
    began = time.monotonic()
    command = [sys.executable, "-m", "kwsd.bench.peers", name, ",".join(words), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        startup_s = time.monotonic() - began
        last, errors = process.stdout.read(), process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"{name} failed: {errors.strip().splitlines()[-1] if errors.strip() else process.returncode}")
    ready, end = json.loads(first), json.loads(last)
    seconds = end["samples"] / RATE
    return Run(name, len(words), scene, seconds, (end["cpu_s"] - ready["cpu_s"]) / seconds, ready["cpu_s"], startup_s, end["peak_mib"], end["fired"])


def run_voice(name: str) -> dict[str, float]:
    """One speaker encoder in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "kwsd.bench.voices", name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_daemon(scene: str, audio: np.ndarray) -> Run:
    with measured() as (daemon, client), Collector(daemon.path) as events:
        daemon.feed(audio[: 5 * RATE])  # its first blocks load what is loaded lazily
        daemon.caught_up(client)
        before = daemon.cpu_s()
        daemon.feed(audio)
        daemon.caught_up(client)
        seconds = len(audio) / RATE
        cpu, (_, peak) = (daemon.cpu_s() - before) / seconds, daemon.memory_mib()
    return Run("kwsd", len(KWSD_WORDS), scene, seconds, cpu, daemon.ready_cpu_s, daemon.ready_s, peak, len(events.arrived))


def engine_runs(seconds: float, repeats: int, engines: list[str]) -> Iterator[Run]:
    """Every engine over every scene, `repeats` times, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        for scene, make in scenes.SCENES.items():
            audio = make(seconds)
            path = Path(folder) / f"{scene}.wav"
            soundfile.write(path, audio, RATE)
            for _ in range(repeats):
                for name in engines:
                    if name == "kwsd":
                        yield run_daemon(scene, audio)
                        yield run_peer("kwsd detect", KWSD_WORDS, scene, path)
                    else:
                        yield run_peer(name, ENGINES[name].words[:1], scene, path)


def medians(runs: list[Run]) -> list[Run]:
    """One row an engine and scene: the median of each figure over its runs."""
    rows = []
    for key in dict.fromkeys((r.engine, r.scene) for r in runs):
        same = [asdict(r) for r in runs if (r.engine, r.scene) == key]
        middle: dict[str, Any] = {k: v if isinstance(v, str) else statistics.median(r[k] for r in same) for k, v in same[0].items()}
        rows.append(Run(**middle))
    return rows


def latency(wakes: int) -> dict[str, float]:
    """Milliseconds from the sample where the word ends to the line at a subscriber, fed in real time as a microphone would."""
    takes, rng, waits = scenes.wakes(), np.random.default_rng(3), []
    with measured(words=("computer",)) as (daemon, client), Collector(daemon.path) as events:
        room, parts, ends, at = scenes.idle(wakes * 4 + 10, seed=4).astype(np.int32), [], [], 2 * RATE
        for n in range(wakes):
            take, end = takes[n % len(takes)]
            room[at : at + len(take)] += take
            ends.append(at + end)
            at += len(take) + int(rng.uniform(2.2, 2.6) * RATE)  # past the refractory time, at any phase of the blocks
        audio = np.clip(room[: at + RATE], -32768, 32767).astype(np.int16)
        parts = [audio[i : i + BLOCK_SAMPLES] for i in range(0, len(audio) - BLOCK_SAMPLES, BLOCK_SAMPLES)]
        began = time.monotonic()
        for n, part in enumerate(parts, 1):  # a block is there once its last sample has been spoken
            time.sleep(max(began + n * BLOCK_SAMPLES / RATE - time.monotonic(), 0))
            daemon.feed(part)
        daemon.caught_up(client)
    for end in ends:
        heard = [arrived for arrived, event in events.arrived if abs(event["end"] - end) < RATE]
        if heard:
            waits.append(1000 * (heard[0] - (began + end / RATE)))
    if not waits:
        raise RuntimeError("the daemon heard none of the words that the latency is measured on")
    p50, p95, p99 = np.percentile(waits, [50, 95, 99])
    return {"wakes": wakes, "heard": len(waits), "p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def waking_up(seconds: float) -> float:
    """CPU s per audio s in an idle room in real time, where every block finds the caches cold; the scenes above come at once."""
    with measured() as (daemon, _):
        room, before = scenes.idle(seconds + 5), 0.0
        began = time.monotonic()
        for n in range(len(room) // BLOCK_SAMPLES):
            time.sleep(max(began + n * BLOCK_SAMPLES / RATE - time.monotonic(), 0))
            daemon.feed(room[n * BLOCK_SAMPLES : (n + 1) * BLOCK_SAMPLES])
            if n == 5 * RATE // BLOCK_SAMPLES:  # by then the gate's hang-over is past
                before, began_measuring = daemon.cpu_s(), time.monotonic()
        return (daemon.cpu_s() - before) / (time.monotonic() - began_measuring)


def stages(seconds: float) -> dict[str, float]:
    """Where the CPU time goes: microseconds a chunk of 80 ms while the gate is open, and milliseconds a wake."""
    audio, engine, spent = scenes.speech(seconds), Kwsd(KWSD_WORDS), dict[str, float]()
    detector = engine.detector
    assert detector._gate
    with _timed(detector._gate, "step", "vad", spent), _timed(detector, "_features", "features", spent), \
            _timed(detector._student, "step", "student", spent), _timed(detector, "feed", "all", spent):  # fmt: skip
        for at in range(0, len(audio) - BLOCK_SAMPLES, BLOCK_SAMPLES):
            engine.feed(audio[at : at + BLOCK_SAMPLES])
    chunks = len(audio) // BLOCK_SAMPLES
    out = {name: 1e6 * s / chunks for name, s in spent.items()}
    share = head_share(detector._student)
    student = out.pop("student")
    out["encoder"], out["wake_head"] = student * (1 - share), student * share
    out["trigger_and_rings"] = out["all"] - out["vad"] - out["features"] - student
    order = ("vad", "features", "encoder", "wake_head", "trigger_and_rings", "all")
    return {**{f"{name}_us_per_chunk": out[name] for name in order}, "verification_ms_per_wake": verification_ms(), "hub_us_per_event": hub_us()}


@contextmanager
def _timed(owner: Any, method: str, name: str, spent: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds of `owner.method` to `spent[name]`."""
    inner = getattr(owner, method)
    spent[name] = 0.0

    def outer(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return inner(*arguments)
        finally:
            spent[name] += time.thread_time() - began

    setattr(owner, method, outer)
    try:
        yield
    finally:
        delattr(owner, method)


def head_share(student: Student) -> float:
    """The wake head's share of the student's graph, by onnxruntime's own profile of its nodes."""
    bundle = bundles.load()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(bundle.path / STUDENT), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        feed = dict(zip(names, [np.zeros((1, student.frames_per_chunk, bundle.front_end.bands), np.float32), *student.zero_state()], strict=True))
        for _ in range(200):
            session.run(None, feed)
        nodes = [e for e in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")) if e.get("cat") == "Node"]
    head = sum(e["dur"] for e in nodes if "/head/" in e["name"])
    return head / sum(e["dur"] for e in nodes)


def verification_ms(repeats: int = 50) -> float:
    """One embedding of the shortest span, as a wake takes it."""
    bundle = bundles.load()
    speaker, student = SpeakerEncoder(bundle), Student(bundle)
    rng, k = np.random.default_rng(0), SPAN_CHUNKS[0]
    tap = rng.normal(size=(k, student.frames_per_chunk // 2, student.tap_dim)).astype(np.float32)
    high = rng.normal(size=(k, student.embedding_dim)).astype(np.float32)
    samples = rng.normal(0, 3000, k * bundle.chunk_samples + speaker.history_samples).astype(np.float32)
    return 1000 * _median_cpu_s(lambda: speaker(tap, high, speaker.fine(samples)), repeats)


def hub_us(events: int = 500) -> float:
    """One event published to one subscriber that reads."""

    async def publish() -> float:
        hub, (ours, theirs) = Hub(), socket.socketpair()
        ours.setblocking(False)
        outlet = Outlet(ours, "subscriber", 1 << 20, lambda: None)
        outlet.filter = Filter()
        hub.outlets.add(outlet)
        body = {"type": "wake", "word": "computer", "score": 0.9, "threshold": 0.5, "start": 1, "end": 2, "speaker": None}

        def once() -> None:
            hub.publish(body)
            theirs.recv(4096)

        try:
            return 1e6 * _median_cpu_s(once, events)
        finally:
            outlet.close()
            theirs.close()

    return asyncio.run(publish())


def _median_cpu_s(do: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        do()
        times.append(time.thread_time() - began)
    return statistics.median(times)


def cost(seconds: float, repeats: int, wakes: int, engines: list[str]) -> dict[str, Any]:
    """All of it, as a dict that `json` takes."""
    runs = []
    for run in engine_runs(seconds, repeats, engines):
        log.info("%-17s %-7s %.5f CPU s per audio s, peak %.0f MiB", run.engine, run.scene, run.cpu_per_audio_s, run.peak_mib)
        runs.append(run)
    report: dict[str, Any] = {"engines": [asdict(r) for r in medians(runs)], "runs": [asdict(r) for r in runs]}
    if "kwsd" in engines:
        log.info("stages …")
        report["stages"] = stages(min(seconds, 120.0))
        report["voices"] = {name: run_voice(name) for name in encoders()}
        report["idle_in_real_time"] = waking_up(min(seconds, 60.0))
        log.info("latency of %d wakes, in real time: %.0f s …", wakes, wakes * 3.5)
        report["latency"] = latency(wakes)
    return report
