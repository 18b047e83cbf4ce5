"""The listener thread: a lost microphone comes back, and any other error ends it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import hiss
from fake_portaudio import FakePortAudio, FakeStream

from kwsd.audio import capture, devices
from kwsd.audio.channels import ChannelMeter
from kwsd.audio.devices import MicrophoneError
from kwsd.audio.files import AudioFileError
from kwsd.audio.high_pass import HighPass
from kwsd.config import Config, MicrophoneConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.detect.trace import Step
from kwsd.events import Event, Lag, MicrophoneChange
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.server import source_health
from kwsd.server.consumer import Consumer, Heard
from kwsd.server.listener import Listener
from kwsd.server.sources import RecordingSource


def wait_for(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_loss_and_return_are_reported_the_index_moves_on_and_the_heart_beats(
    portaudio: FakePortAudio, bundle: Bundle, runtime: Runtime
) -> None:
    config = Config(microphone=MicrophoneConfig(retry_s=0.1))
    events: list[Event] = []
    ends: list[BaseException | None] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    listener = Listener(config, detector, events.append, ends.append)
    with listener.running():
        listener.go()
        wait_for(lambda: listener.stats.samples > 1600)
        portaudio.overflowed = True
        wait_for(lambda: len(changes(events)) == 2)
        portaudio.lost = True
        portaudio.gone = True
        wait_for(lambda: len(changes(events)) == 3)
        before = listener.call(lambda: listener.detector.end).result(5)
        heartbeats = listener.heartbeats
        time.sleep(0.5)
        assert listener.heartbeats > heartbeats
        portaudio.lost = False
        portaudio.gone = False
        wait_for(lambda: len(changes(events)) == 4)
        after = listener.call(lambda: listener.detector.end).result(5)
    found = changes(events)
    assert [change.state for change in found] == ["ok", "overflow", "lost", "ok"]
    assert found[1].samples_lost is not None
    assert found[1].samples_lost >= 1
    assert "PaErrorCode -9999" in found[2].detail
    assert after - before >= 0.5 * 16000
    assert portaudio.scans >= 1
    assert ends == [None]


def changes(events: list[Event]) -> list[MicrophoneChange]:
    """Return the changes of the microphone among events."""
    return [event for event in events if isinstance(event, MicrophoneChange)]


def test_a_device_that_opens_and_delivers_nothing_is_never_ok(
    portaudio: FakePortAudio,
    bundle: Bundle,
    runtime: Runtime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = Config(microphone=MicrophoneConfig(retry_s=0.05, stall_s=0.5))
    events: list[Event] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    listener = Listener(config, detector, events.append, lambda _: None)
    portaudio.silent = True
    with caplog.at_level(logging.INFO), listener.running():
        listener.go()
        wait_for(lambda: len(portaudio.opened) >= 4, 10)
        assert [change.state for change in changes(events)] == ["lost"]
        assert len(caplog.records) == 1
        portaudio.silent = False
        wait_for(lambda: len(changes(events)) == 2)
    assert [change.state for change in changes(events)] == ["lost", "ok"]


def test_a_library_that_is_installed_later_is_waited_for(
    bundle: Bundle, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    installed = FakePortAudio()

    def portaudio() -> FakePortAudio:
        nonlocal tries
        tries += 1
        if tries <= 6:
            raise MicrophoneError("PortAudio library not found")
        return installed

    for module in (capture, devices):
        monkeypatch.setattr(module, "portaudio", portaudio)
    config = Config(microphone=MicrophoneConfig(retry_s=0.01))
    events: list[Event] = []
    ends: list[BaseException | None] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    listener = Listener(config, detector, events.append, ends.append)
    with listener.running():
        listener.go()
        wait_for(lambda: len(changes(events)) == 2)
    assert [change.state for change in changes(events)] == ["lost", "ok"]
    assert "PortAudio library not found" in changes(events)[0].detail
    assert ends == [None]


def test_zeros_for_a_minute_are_silent_and_the_living_channel_is_named(
    portaudio: FakePortAudio,
    bundle: Bundle,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_health, "SILENT_S", 1.0)
    portaudio.channels = 2
    portaudio.speaking = 0
    config = Config(microphone=MicrophoneConfig(channel=1))
    events: list[Event] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    listener = Listener(config, detector, events.append, lambda _: None)
    with listener.running():
        listener.go()
        wait_for(lambda: len(changes(events)) == 2)
        assert listener.stats.meter
        levels = listener.stats.meter.levels_dbfs
        portaudio.speaking = 1
        wait_for(lambda: len(changes(events)) == 3)
    assert [change.state for change in changes(events)] == ["ok", "silent", "ok"]
    assert "channel 1 of fake mic has been zero" in changes(events)[1].detail
    assert re.search(r"channel 0 is not \(-1\d dBFS\); set .* to 0", changes(events)[1].detail)
    assert levels == [pytest.approx(-15.3, abs=1.5), -100]


def test_a_microphone_that_is_all_zeros() -> None:
    meter = ChannelMeter(2, 16000)
    meter.step(np.zeros((61 * 16000, 2), np.int16))
    text = "every channel of USB has been zero for a minute; unmute it: alsamixer"
    assert source_health.silence(meter, 0, "USB").startswith(text)
    text = "USB has delivered nothing but zeros for a minute; unmute it"
    assert source_health.silence(meter, "mix", "USB").startswith(text)


def test_lag_is_reported_once_until_it_has_been_caught_up_for_a_while() -> None:
    watch = source_health.LagWatch()
    lags = [0.05, 0.5, 0.9, 0.05, 0.3, 0.02, 0.02, 0.02]
    found = [watch.step(lag, 2.0 * n) for n, lag in enumerate(lags)]
    assert found == [None, Lag(behind=True, lag_s=0.5), *[None] * 6]
    assert watch.step(0.01, 15.0) == Lag(behind=False, lag_s=0.01)
    assert watch.lag_s == 0.01


def test_a_damaged_recording_ends_it_without_a_traceback(
    bundle: Bundle, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros(1280, np.int16)
        raise AudioFileError("x.wav: contains samples that are not numbers")

    ends: list[BaseException | None] = []
    detector = Detector(bundle, resolve(Config(), bundle), runtime)
    source = RecordingSource("x.wav", blocks(), realtime=False)
    listener = Listener(Config(), detector, lambda _: None, ends.append, source)
    with listener.running():
        listener.go()
        wait_for(lambda: ends)
    assert isinstance(ends[0], AudioFileError)
    assert caplog.text.count("x.wav: contains samples") == 1
    assert "Traceback" not in caplog.text


def test_an_error_of_ours_is_not_a_lost_microphone(
    portaudio: FakePortAudio,
    bundle: Bundle,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(samples: np.ndarray) -> Step:
        raise ZeroDivisionError

    config = Config()
    ends: list[BaseException | None] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    monkeypatch.setattr(detector, "feed", fail)
    listener = Listener(config, detector, lambda _: None, ends.append)
    with listener.running():
        listener.go()
        wait_for(lambda: ends)
    assert isinstance(ends[0], ZeroDivisionError)


def test_lag_is_said_of_the_source_and_not_of_a_microphone(
    bundle: Bundle, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield from [hiss(0.08)] * 4  # as many as the listener reads at once
        time.sleep(2 * source_health.BEHIND_S)
        yield from [hiss(0.08)] * 4

    events: list[Event] = []
    detector = Detector(bundle, resolve(Config(), bundle), runtime)
    source = RecordingSource("a.wav", blocks(), realtime=True)
    listener = Listener(Config(), detector, events.append, lambda _: None, source)
    with caplog.at_level(logging.WARNING), listener.running():
        listener.go()
        wait_for(lambda: any(isinstance(event, Lag) for event in events))
    assert re.search(r"0\.\d s behind a\.wav: kwsd was held up, or", caplog.text)


class Collector(Consumer):
    """Keeps the blocks that were heard."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []

    def consume(self, heard: Heard) -> None:
        self.blocks.append(heard.block.samples)


def test_everything_behind_the_source_hears_filtered_samples(
    portaudio: FakePortAudio,
    bundle: Bundle,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device with an offset, and an overflow after which the stream begins anew."""
    room = hiss(60.0, 20) + 2300
    at = 0

    def read(stream: FakeStream, frames: int) -> tuple[bytes, bool]:
        nonlocal at
        time.sleep(0.001)
        overflowed = portaudio.overflowed
        portaudio.overflowed = False
        at += frames
        return np.take(room, np.arange(at - frames, at), mode="wrap").tobytes(), overflowed

    monkeypatch.setattr(FakeStream, "read", read)
    config = Config()
    events: list[Event] = []
    detector = Detector(bundle, resolve(config, bundle), runtime)
    listener = Listener(config, detector, events.append, lambda _: None)
    collector = Collector()
    listener.consumers.append(collector)
    with listener.running():
        listener.go()
        wait_for(lambda: len(collector.blocks) >= 5)
        begun = listener.call(lambda: listener.audio.read(0, 3000)).result(5)
        portaudio.overflowed = True
        wait_for(lambda: len(events) == 2)
        heard = len(collector.blocks)
        wait_for(lambda: len(collector.blocks) > heard + 3)
        kept = listener.call(
            lambda: listener.audio.read(listener.audio.begin, listener.audio.end)
        ).result(5)
    assert np.array_equal(begun, HighPass().step(room[:3000]))
    assert np.abs(np.concatenate(collector.blocks)).max() < 200  # no thump, at the gap either
    assert len(kept) >= 1280
    assert np.abs(kept).max() < 200
