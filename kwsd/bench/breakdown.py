"""Where kwsd's CPU time goes: its stages per chunk, the checks of candidates and of speakers, and
the hub per event.

The hub belongs to the server, and what one event costs there can be measured on its own only here:
this is the one module of the benchmarks that imports the server. All else is measured from outside.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.bench import scenes
from kwsd.bench.engines import KWSD_WORDS
from kwsd.bench.peers import Kwsd, shipped
from kwsd.config import Config, WordConfig
from kwsd.detect.detector import MIN_SPAN_CHUNKS, Detector
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.second_stage import CHECKS_PER_HOUR
from kwsd.model.bundle import ENCODER
from kwsd.ort import onnxruntime
from kwsd.server.hub import Filter, Hub, Subscriber
from kwsd.state.library import Library

WAKE_HEAD = "/head/"
"""Part of the names of the graph's nodes that belong to the wake head."""
BACKLOG_BYTES = 1 << 20
ADDED = "computer_too"
"""The added word, of the takes of "computer" that come with kwsd."""


def stages(seconds: float) -> dict[str, float]:
    """Return the CPU time of every stage, over `seconds` of continuous speech.

    `…_us_per_chunk` are microseconds per chunk of 80 ms while the gate is open,
    `verification_ms_per_wake` milliseconds, `hub_us_per_event` microseconds. With a checker there
    are also `checks_per_hour` of such speech, all words together, `check_ms`, the milliseconds of
    one, and `checks_s_per_hour`, the seconds of all. Where it knows words, `added_checks_per_hour`
    and `added_checks_s_per_hour` are those of one added word, and `added_budget_per_hour` is how
    many such a word may ask for, in the speech that it was made with.
    """
    audio = scenes.speech(seconds)
    engine = Kwsd(KWSD_WORDS)
    detector = engine.detector
    checker = detector.checker
    spent = {"checks": 0.0}
    with (
        _timed(checker, "hear", "checks", spent) if checker else nullcontext(),
        _timed(engine.high_pass, "step", "high_pass", spent),
        _timed(detector._gate, "step", "vad", spent),
        _timed(detector, "_features", "features", spent),
        _timed(detector._encoder, "step", "graph", spent),
        _timed(detector, "feed", "all", spent),
    ):
        for at in range(0, len(audio) - CHUNK_SAMPLES, CHUNK_SAMPLES):
            engine.feed(audio[at : at + CHUNK_SAMPLES])
    chunks = len(audio) // CHUNK_SAMPLES
    cost = {name: 1e6 * cpu_s / chunks for name, cpu_s in spent.items()}
    share = head_share()
    found = {
        "high_pass_us_per_chunk": cost["high_pass"],
        "vad_us_per_chunk": cost["vad"],
        "features_us_per_chunk": cost["features"],
        "encoder_us_per_chunk": cost["graph"] * (1 - share),
        "wake_head_us_per_chunk": cost["graph"] * share,
        "trigger_and_rings_us_per_chunk": (
            cost["all"] - cost["vad"] - cost["features"] - cost["graph"] - cost["checks"]
        ),
        "all_us_per_chunk": cost["high_pass"] + cost["all"],
        "verification_ms_per_wake": verification_ms(),
        "hub_us_per_event": hub_us(),
    }
    if checker:
        an_hour = SAMPLE_RATE * 3600 / (chunks * CHUNK_SAMPLES)
        found["checks_per_hour"] = checker.checks * an_hour
        found["check_ms"] = 1000 * spent["checks"] / max(checker.checks, 1)
        found["checks_s_per_hour"] = spent["checks"] * an_hour
    return found | added_checks(audio)


def added_checks(audio: np.ndarray) -> dict[str, float]:
    """Return what the checks of one added word cost in int16 `[sample]` without it, as above.

    Empty where no checker knows words.
    """
    bundle, runtime = shipped()
    checker = bundle.checkers.get("small")
    if checker is None or checker.negatives is None:
        return {}
    trainer = WordTrainer(bundle, runtime, checker=checker)
    takes = [trainer.encoder.take(HighPass().step(take)) for take, _ in scenes.wakes()]
    word, _ = trainer.make(ADDED, takes)
    config = Config(words={ADDED: WordConfig()}, added_words=False)
    setup = resolve(config, bundle, Library(words={ADDED: word}))
    detector = Detector(bundle, setup, runtime)
    spent: dict[str, float] = {}
    if detector.checker is None:
        return {}
    with _timed(detector.checker, "hear", "checks", spent):
        detector.feed(HighPass().step(audio))
    an_hour = SAMPLE_RATE * 3600 / len(audio)
    return {
        "added_checks_per_hour": detector.checker.checks * an_hour,
        "added_checks_s_per_hour": spent["checks"] * an_hour,
        "added_budget_per_hour": CHECKS_PER_HOUR,
    }


@contextmanager
def _timed(owner: object, method: str, name: str, spent: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds of `owner.method` to `spent[name]`."""
    inner = getattr(owner, method)
    spent[name] = 0.0

    def outer(*arguments: object) -> object:
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


def head_share() -> float:
    """Return the wake head's share of the graph's time, 0 to 1.

    It is read from onnxruntime's own profile of the nodes, over 200 single chunks.
    """
    bundle, runtime = shipped()
    encoder = runtime.encoder
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(bundle.path / ENCODER), options, providers=["CPUExecutionProvider"]
        )
        names = [one.name for one in session.get_inputs()]
        mel = np.zeros((1, encoder.frames_per_chunk, bundle.front_end.bands), np.float32)
        feed = dict(zip(names, [mel, *encoder.zero_state()], strict=True))
        for _ in range(200):
            session.run(None, feed)
        profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [entry for entry in profile if entry.get("cat") == "Node"]
    head = sum(node["dur"] for node in nodes if WAKE_HEAD in node["name"])
    return float(head / sum(node["dur"] for node in nodes))


def verification_ms(repeats: int = 50) -> float:
    """Return the CPU milliseconds of one embedding of the shortest span, as a wake takes it."""
    bundle, runtime = shipped()
    speaker = runtime.speaker
    encoder = runtime.encoder
    rng = np.random.default_rng(0)
    k = MIN_SPAN_CHUNKS
    shape = (k, encoder.intermediate_per_chunk, encoder.intermediate_dim)
    intermediate = rng.normal(size=shape).astype(np.float32)
    embedding = rng.normal(size=(k, encoder.embedding_dim)).astype(np.float32)
    length = k * bundle.chunk_samples + speaker.history_samples
    samples = rng.normal(0, 3000, length).astype(np.float32)

    def embed() -> None:
        speaker(intermediate, embedding, speaker.fine(samples))

    return 1000 * _median_cpu_s(embed, repeats)


def hub_us(events: int = 500) -> float:
    """Return the CPU microseconds of one event that is published to one subscriber and read."""
    return asyncio.run(_hub_us(events))


async def _hub_us(events: int) -> float:
    hub = Hub()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    subscriber = Subscriber(ours, "subscriber", BACKLOG_BYTES, lambda: None)
    subscriber.filter = Filter()
    hub.subscribers.add(subscriber)
    wake = Wake(word="computer", score=0.9, threshold=0.5, start=1, end=2)

    def publish() -> None:
        hub.publish(wake)
        theirs.recv(4096)

    try:
        return 1e6 * _median_cpu_s(publish, events)
    finally:
        subscriber.close()
        theirs.close()


def _median_cpu_s(do: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        do()
        times.append(time.thread_time() - began)
    return statistics.median(times)
