"""The microphone against a PortAudio played by the test: rates refused, devices lost, stalled, back again."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kwsd.audio import capture
from kwsd.audio.capture import MicrophoneError, open_microphone
from kwsd.config import Config, Microphone
from kwsd.detect.detector import Detector
from kwsd.events import Event
from kwsd.model.bundle import Bundle
from kwsd.server.listener import Listener


class PortAudioError(Exception):
    pass


class FakeStream:
    def __init__(self, audio: FakePortAudio, samplerate: int, channels: int, **_: Any) -> None:
        if samplerate not in audio.rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        if audio.busy:
            raise PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.audio, self.samplerate, self.channels, self.active = audio, samplerate, channels, True
        audio.opened.append((samplerate, channels))
        self.phase = 0
        self.latency = audio.buffer_s

    def start(self) -> None: ...
    def abort(self) -> None: ...
    def close(self, ignore_errors: bool = True) -> None:
        self.active = False

    @property
    def read_available(self) -> int:
        if self.audio.lost:
            raise PortAudioError("Unanticipated host error [PaErrorCode -9999]")
        return 0 if self.audio.silent else self.samplerate

    def read(self, frames: int) -> tuple[bytes, bool]:
        time.sleep(0.001)
        t = (self.phase + np.arange(frames)) / self.samplerate
        self.phase += frames
        tone = (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
        overflowed, self.audio.overflowed = self.audio.overflowed, False
        return np.stack([tone * (1 if c == self.audio.speaking else 0) for c in range(self.channels)], axis=1).tobytes(), overflowed


class FakePortAudio:
    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.rates, self.channels, self.speaking = {16000, 48000}, 1, 0
        self.busy = self.lost = self.silent = self.gone = self.overflowed = False
        self.opened: list[tuple[int, int]] = []
        self.buffer_s = 1.0
        self.scans = 0
        self.default = SimpleNamespace(device=[0, 0])

    def query_devices(self, device: object = None, kind: object = None) -> Any:
        info = {"index": 0, "name": "fake mic", "max_input_channels": self.channels, "default_samplerate": 48000.0}
        if kind is None:
            return [] if self.gone else [info]
        if self.gone or device not in (None, 0, "fake"):
            raise ValueError(f"No input device matching {device!r}")
        return info

    def RawInputStream(self, **kwargs: Any) -> FakeStream:
        kwargs.pop("device")
        return FakeStream(self, **kwargs)

    def _terminate(self) -> None: ...
    def _initialize(self) -> None:
        self.scans += 1


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio()
    monkeypatch.setattr(capture, "_portaudio", lambda: fake)
    return fake


def loudness(block: capture.Block | None) -> float:
    assert block is not None
    return float(np.sqrt(np.mean(block.samples.astype(float) ** 2)))


def test_opened_at_16_khz_where_it_can_be(portaudio: FakePortAudio) -> None:
    with open_microphone(Microphone()) as microphone:
        block = microphone.read()
    assert block is not None
    assert len(block.samples) == 1280
    assert portaudio.opened == [(16000, 1)]


def test_else_at_its_own_rate_and_resampled(portaudio: FakePortAudio) -> None:
    portaudio.rates = {48000}
    with open_microphone(Microphone()) as microphone:
        samples = np.concatenate([b.samples for _ in range(20) if (b := microphone.read())])
    assert abs(len(samples) - 20 * 1280) < 1280
    spectrum = np.abs(np.fft.rfft(samples[4000:20000].astype(float)))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)


def test_a_device_that_holds_little_is_emptied_in_time(portaudio: FakePortAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are wanted four at a time, 0.32 s, of a device whose buffer holds 0.1 s and runs over after that."""
    now, read = 0.0, 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def deliver(stream: FakeStream, frames: int) -> tuple[bytes, bool]:
        nonlocal read
        overflowed = round(now * 16000) - read > 1600
        read += frames
        return bytes(2 * frames), overflowed

    portaudio.buffer_s = 0.1
    monkeypatch.setattr(capture, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(FakeStream, "read_available", property(lambda _: min(round(now * 16000) - read, 1600)))
    monkeypatch.setattr(FakeStream, "read", deliver)
    with open_microphone(Microphone()) as microphone:
        blocks = [microphone.read(4) for _ in range(5)]
    assert [len(b.samples) for b in blocks if b] == [4 * 1280] * 5
    assert not any(b.overflowed for b in blocks if b)
    assert now == pytest.approx(5 * 4 * 0.08, abs=0.05)


@pytest.mark.parametrize(("channel", "loud"), [(0, False), (4, True), ("mix", True)])
def test_one_of_six_channels_or_all(portaudio: FakePortAudio, channel: int | str, loud: bool) -> None:
    portaudio.channels, portaudio.speaking = 6, 4
    with open_microphone(Microphone(channel=channel)) as microphone:  # type: ignore[arg-type]
        assert (loudness(microphone.read()) > 500) is loud


def test_a_channel_that_is_not_there(portaudio: FakePortAudio) -> None:
    with pytest.raises(MicrophoneError, match=r"has 1 channel\(s\), so none of number 3"), open_microphone(Microphone(channel=3)):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gone": True}, "no default input device; there is none at all. `kwsd devices`"),
        ({"busy": True}, "could not be opened .* in use by another program"),
        ({"rates": {96000}}, "could not be opened .*16000 Hz.*48000 Hz.*Invalid sample rate"),
    ],
)
def test_what_cannot_be_opened_is_named(portaudio: FakePortAudio, change: dict[str, Any], message: str) -> None:
    for key, value in change.items():
        setattr(portaudio, key, value)
    with pytest.raises(MicrophoneError, match=message), open_microphone(Microphone()):
        pass


def test_an_unknown_device_is_named_with_those_that_are_there(portaudio: FakePortAudio) -> None:
    with pytest.raises(MicrophoneError, match="no input device 'usb'; there is 'fake mic'"), open_microphone(Microphone(device="usb")):
        pass


def test_a_device_that_delivers_nothing_is_lost(portaudio: FakePortAudio) -> None:
    portaudio.silent = True
    with open_microphone(Microphone(stall_s=0.5)) as microphone, pytest.raises(MicrophoneError, match=r"delivered nothing for 0.5 s"):
        microphone.read()


def wait_for(condition: Any, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_loss_and_return_are_told_the_index_moves_on_and_it_keeps_beating(portaudio: FakePortAudio, bundle: Bundle) -> None:
    config, events, ends = Config(microphone=Microphone(retry_s=0.1)), list[Event](), list[object]()
    listener = Listener(config, Detector(config, bundle), events.append, ends.append)
    with listener.running():
        listener.go()
        wait_for(lambda: listener.figures.samples > 1600)
        portaudio.overflowed = True
        wait_for(lambda: len(events) == 2)
        portaudio.lost = portaudio.gone = True
        wait_for(lambda: len(events) == 3)
        before = listener.call(lambda: listener.detector.end).result(5)
        beats = listener.beats
        time.sleep(0.5)
        assert listener.beats > beats
        portaudio.lost = portaudio.gone = False
        wait_for(lambda: len(events) == 4)
        after = listener.call(lambda: listener.detector.end).result(5)
    states = [e.to_dict()["state"] for e in events]
    assert states == ["ok", "overflow", "lost", "ok"]
    assert events[1].to_dict()["samples_lost"] >= 1
    assert "PaErrorCode -9999" in events[2].to_dict()["detail"]
    assert after - before >= 0.5 * 16000
    assert portaudio.scans >= 1
    assert ends == [None]


def test_an_error_of_ours_is_not_a_lost_microphone(portaudio: FakePortAudio, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    config, ends = Config(), list[BaseException | None]()
    detector = Detector(config, bundle)
    monkeypatch.setattr(detector, "feed", lambda _: 1 / 0)
    listener = Listener(config, detector, lambda _: None, ends.append)
    with listener.running():
        listener.go()
        wait_for(lambda: ends)
    assert isinstance(ends[0], ZeroDivisionError)
