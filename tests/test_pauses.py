"""Pauses: what they mean for each kind of source."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import hiss
from fake_portaudio import FakePortAudio, FakeStream
from test_listener import changes, wait_for

from kwsd.audio.raw_pcm import RawFormat
from kwsd.config import Config, MicrophoneConfig
from kwsd.detect.detector import Detector
from kwsd.detect.offline import with_tail
from kwsd.detect.setup import resolve
from kwsd.events import Detection, Event, Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.server.consumer import Consumer, Heard
from kwsd.server.listener import Listener
from kwsd.server.sources import LiveInput, PipeInput, RecordingSource

FAST = Config(microphone=MicrophoneConfig(retry_s=0.05, stall_s=0.5))


class Heart(Consumer):
    """Counts the samples that were heard, and keeps what was detected."""

    def __init__(self) -> None:
        self.samples = 0
        self.found: list[Detection] = []

    def consume(self, heard: Heard) -> None:
        self.samples += len(heard.block.samples)
        self.found += heard.wakes


class Running:
    """A listener that runs, with what it reports."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime, source: RecordingSource | LiveInput | None = None
    ) -> None:
        self.events: list[Event] = []
        self.ends: list[BaseException | None] = []
        self.heart = Heart()
        detector = Detector(bundle, resolve(FAST, bundle), runtime)
        self.listener = Listener(
            FAST, detector, self.events.append, self.ends.append, source=source
        )
        self.listener.consumers.append(self.heart)

    @property
    def states(self) -> list[str]:
        """The states that were reported."""
        return [change.state for change in changes(self.events)]

    @contextlib.contextmanager
    def heard(self, state: str = "ok") -> Iterator[None]:
        """Let it listen; begin when the microphone is in a state."""
        with self.listener.running():
            self.listener.go()
            wait_for(lambda: self.states == [state])
            yield

    def pause(self, *holders: str) -> None:
        """Pause, and wait until it is in force."""
        self.listener.paused_by = holders
        wait_for(lambda: self.listener.stats.paused_by == holders)
        assert self.listener.stats.microphone == "paused"


@pytest.fixture
def streams(portaudio: FakePortAudio) -> list[FakeStream]:
    """Every stream that was opened."""
    opened: list[FakeStream] = []

    def stream(*arguments: Any, **more: Any) -> FakeStream:
        opened.append(FakeStream(*arguments, **more))
        return opened[-1]

    portaudio.stream = stream  # type: ignore[assignment]
    return opened


def test_the_microphone_is_released_and_comes_back(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    run = Running(bundle, runtime)
    listener = run.listener
    with run.heard():
        run.pause("cli")
        assert not any(stream.active for stream in streams)
        assert listener.stats.meter is None
        heard = run.heart.samples
        end = listener.call(lambda: listener.detector.end).result(5)
        beats = listener.heartbeats
        wait_for(lambda: listener.heartbeats > beats + 5)  # which feeds the watchdog
        assert (len(streams), run.heart.samples) == (1, heard)
        scans = portaudio.scans
        listener.paused_by = ()
        wait_for(lambda: run.states == ["ok", "paused", "ok"])
        assert portaudio.scans == scans + 1  # devices may have come or gone meanwhile
        assert [stream.active for stream in streams] == [False, True]
        assert listener.call(lambda: listener.detector.end).result(5) > end + 0.2 * 16000
    paused = changes(run.events)[1]
    assert (paused.detail, paused.holders) == ("by cli", ("cli",))
    assert run.ends == [None]


def test_other_holders_are_reported_and_nothing_is_opened_between_them(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    run = Running(bundle, runtime)
    with run.heard():
        for holders in (("a",), ("a", "b"), ("b",)):
            run.pause(*holders)
            assert changes(run.events)[-1].holders == holders
        assert len(streams) == 1
    assert run.states == ["ok", "paused", "paused", "paused"]


def test_a_microphone_that_is_lost_can_be_paused_and_is_lost_again_afterwards(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    portaudio.gone = True
    run = Running(bundle, runtime)
    with run.heard("lost"):
        run.pause("cli")
        run.listener.paused_by = ()
        wait_for(lambda: run.states == ["lost", "paused", "lost"])
        portaudio.gone = False
        wait_for(lambda: run.states[3:] == ["ok"])


def test_a_microphone_that_delivers_nothing_is_released_at_once(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    """A read waits for `stall_s`, and breaks off."""
    run = Running(bundle, runtime)
    with run.heard():
        portaudio.silent = True
        run.pause("cli")
        assert run.states == ["ok", "paused"]  # never lost


def test_a_pause_may_begin_before_anything_is_heard(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    run = Running(bundle, runtime)
    listener = run.listener
    with listener.running():
        run.pause("cli")
        listener.go()
        beats = listener.heartbeats
        wait_for(lambda: listener.heartbeats > beats + 3)
        assert not streams
        assert run.states == ["paused"]
        listener.paused_by = ()
        wait_for(lambda: run.states == ["paused", "ok"])


def test_a_stop_ends_a_pause(
    portaudio: FakePortAudio, streams: list[FakeStream], bundle: Bundle, runtime: Runtime
) -> None:
    run = Running(bundle, runtime)
    with run.heard():
        run.pause("cli")
    assert run.ends == [None]
    assert len(streams) == 1


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe: the end that is read, and the end that is written."""
    reading, writing = os.pipe()
    ends = [reading, writing]
    yield reading, writing
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def test_what_is_written_into_a_pipe_is_dropped_and_its_writer_not_held_up(
    pipe: tuple[int, int], bundle: Bundle, runtime: Runtime
) -> None:
    reading, writing = pipe
    run = Running(bundle, runtime, PipeInput(reading, RawFormat(channels=2), 1))
    tone = np.zeros((1 << 18, 2), "<i2")
    with run.listener.running():
        run.listener.go()
        os.write(writing, tone[:16000].tobytes())
        wait_for(lambda: run.heart.samples >= 15000)
        run.pause("cli")
        heard = run.heart.samples
        more = tone.tobytes()  # far more than a pipe holds
        writer = threading.Thread(target=os.write, args=(writing, more), daemon=True)
        writer.start()
        writer.join(10)
        assert not writer.is_alive()
        assert run.heart.samples == heard
    assert run.ends == [None]


def test_frames_stay_whole_over_a_pause(
    pipe: tuple[int, int], bundle: Bundle, runtime: Runtime
) -> None:
    reading, writing = pipe
    run = Running(bundle, runtime, PipeInput(reading, RawFormat(channels=2), 1))
    stereo = np.zeros((32000, 2), "<i2")
    stereo[:, 0] = hiss(2.0, 5000)
    with run.listener.running():
        run.listener.go()
        os.write(writing, stereo[:4000].tobytes())
        wait_for(lambda: run.heart.samples >= 2560)
        run.pause("cli")
        os.write(writing, stereo[:8000].tobytes()[:-2])
        beats = run.listener.heartbeats
        wait_for(lambda: run.listener.heartbeats > beats + 20)
        run.listener.paused_by = ()
        wait_for(lambda: run.listener.stats.microphone == "lost")
        os.write(writing, stereo[-1:].tobytes()[2:] + stereo[:8000].tobytes())
        wait_for(lambda: run.states == ["ok", "paused", "ok"])
        audio = run.listener.audio
        kept = run.listener.call(lambda: audio.read(audio.begin, audio.end)).result(5)
    assert len(kept)
    assert not kept.any()


def test_a_pipe_that_ends_in_a_pause_ends_the_listener(
    pipe: tuple[int, int], bundle: Bundle, runtime: Runtime
) -> None:
    reading, writing = pipe
    run = Running(bundle, runtime, PipeInput(reading, RawFormat(), 0))
    with run.listener.running():
        run.listener.go()
        os.write(writing, bytes(64000))
        wait_for(lambda: run.states == ["ok"])
        run.pause("cli")
        os.close(writing)
        wait_for(lambda: run.ends)
    assert run.ends == [None]
    assert run.states == ["ok", "paused"]


@pytest.mark.parametrize("realtime", [False, True])
def test_a_recording_is_held_and_no_sample_is_lost(
    bundle: Bundle, runtime: Runtime, scene: np.ndarray, realtime: bool
) -> None:
    def blocks(x: np.ndarray) -> Iterator[np.ndarray]:
        return with_tail(x[at : at + 1280] for at in range(0, len(x), 1280))

    sound = scene[: 2 * 16000] if realtime else scene
    reached = threading.Event()
    paused = threading.Event()

    def interrupted() -> Iterator[np.ndarray]:
        for number, block in enumerate(blocks(sound)):
            if number == 8:
                reached.set()
                paused.wait(5)
            yield block

    plain = Running(bundle, runtime, RecordingSource("a", blocks(sound), realtime=False))
    with plain.listener.running():
        plain.listener.go()
        wait_for(lambda: plain.ends, 20)
    run = Running(bundle, runtime, RecordingSource("a", interrupted(), realtime=realtime))
    with run.listener.running():
        began = time.time()
        run.listener.go()
        assert reached.wait(5)
        run.listener.paused_by = ("cli",)
        paused.set()
        wait_for(lambda: run.listener.stats.microphone == "paused")
        held_at = time.monotonic()
        beats = run.listener.heartbeats
        wait_for(lambda: run.listener.heartbeats > beats + 10)  # longer than a lag
        held_s = time.monotonic() - held_at
        run.listener.paused_by = ()
        wait_for(lambda: run.ends, 20)
    assert run.states == ["ok", "paused", "ok"]
    assert len(run.events) == len(plain.events) + 2  # no lag
    assert run.heart.samples == plain.heart.samples
    assert spans(run.heart.found) == spans(plain.heart.found)
    assert len(spans(plain.heart.found)) == (0 if realtime else 2)
    if realtime:  # what is heard after it was said after it
        assert run.listener.clock.wall(0) >= began + held_s


def spans(found: list[Detection]) -> list[tuple[int, int, float]]:
    """Return where the wakes were, and their scores."""
    return [(one.start, one.end, one.score) for one in found if isinstance(one, Wake)]
