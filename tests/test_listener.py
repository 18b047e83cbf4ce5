"""The listener thread: a lost microphone comes back, and any other error ends it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from fake_portaudio import FakePortAudio

from kwsd.config import Config, MicrophoneConfig
from kwsd.detect.detector import Detector, Step
from kwsd.detect.setup import resolve
from kwsd.events import Event, MicrophoneChange
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.server.listener import Listener


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
        wait_for(lambda: len(events) == 2)
        portaudio.lost = True
        portaudio.gone = True
        wait_for(lambda: len(events) == 3)
        before = listener.call(lambda: listener.detector.end).result(5)
        heartbeats = listener.heartbeats
        time.sleep(0.5)
        assert listener.heartbeats > heartbeats
        portaudio.lost = False
        portaudio.gone = False
        wait_for(lambda: len(events) == 4)
        after = listener.call(lambda: listener.detector.end).result(5)
    changes = [event for event in events if isinstance(event, MicrophoneChange)]
    assert [change.state for change in changes] == ["ok", "overflow", "lost", "ok"]
    assert changes[1].samples_lost is not None
    assert changes[1].samples_lost >= 1
    assert "PaErrorCode -9999" in changes[2].detail
    assert after - before >= 0.5 * 16000
    assert portaudio.scans >= 1
    assert ends == [None]


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
