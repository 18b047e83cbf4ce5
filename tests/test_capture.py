"""The microphone: rates that are refused, channels, and devices that are lost or stall."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from fake_portaudio import FakePortAudio, FakeStream

from kwsd.audio import capture, devices
from kwsd.audio.capture import open_microphone
from kwsd.audio.devices import MicrophoneError
from kwsd.config import MicrophoneConfig


def loudness(block: capture.Block | None) -> float:
    """Return the RMS of a block."""
    assert block is not None
    return float(np.sqrt(np.mean(block.samples.astype(float) ** 2)))


def test_opened_at_16_khz_where_it_can_be(portaudio: FakePortAudio) -> None:
    with open_microphone(MicrophoneConfig()) as microphone:
        block = microphone.read()
    assert block is not None
    assert len(block.samples) == 1280
    assert portaudio.opened == [(16000, 1)]


def test_else_at_its_own_rate_and_resampled(portaudio: FakePortAudio) -> None:
    portaudio.rates = {48000}
    with open_microphone(MicrophoneConfig()) as microphone:
        samples = np.concatenate([b.samples for _ in range(20) if (b := microphone.read())])
    assert abs(len(samples) - 20 * 1280) < 1280
    spectrum = np.abs(np.fft.rfft(samples[4000:20000].astype(float)))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)


def test_a_device_with_a_small_buffer_is_emptied_in_time(
    portaudio: FakePortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four blocks, 0.32 s, are wanted at once of a device whose buffer overflows after 0.1 s."""
    now = 0.0
    read = 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def deliver(stream: FakeStream, frames: int) -> tuple[bytes, bool]:
        nonlocal read
        overflowed = round(now * 16000) - read > 1600
        read += frames
        return bytes(2 * frames), overflowed

    def available(stream: FakeStream) -> int:
        return min(round(now * 16000) - read, 1600)

    portaudio.buffer_s = 0.1
    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(capture, "time", clock)
    monkeypatch.setattr(FakeStream, "read_available", property(available))
    monkeypatch.setattr(FakeStream, "read", deliver)
    with open_microphone(MicrophoneConfig()) as microphone:
        blocks = [microphone.read(4) for _ in range(5)]
    assert [len(b.samples) for b in blocks if b] == [4 * 1280] * 5
    assert not any(b.overflowed for b in blocks if b)
    assert now == pytest.approx(5 * 4 * 0.08, abs=0.05)


@pytest.mark.parametrize(("channel", "loud"), [(0, False), (4, True), ("mix", True)])
def test_one_of_six_channels_or_all(
    portaudio: FakePortAudio, channel: int | Literal["mix"], loud: bool
) -> None:
    portaudio.channels = 6
    portaudio.speaking = 4
    with open_microphone(MicrophoneConfig(channel=channel)) as microphone:
        assert (loudness(microphone.read()) > 500) is loud


def test_a_channel_that_is_not_there(portaudio: FakePortAudio) -> None:
    message = r"has 1 channel\(s\), so no channel 3"
    with (
        pytest.raises(MicrophoneError, match=message),
        open_microphone(MicrophoneConfig(channel=3)),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gone": True}, "no default input device; there is none at all. `kwsd devices`"),
        ({"busy": True}, "could not be opened .* in use by another program"),
        ({"rates": {96000}}, "could not be opened .*16000 Hz.*48000 Hz.*Invalid sample rate"),
    ],
)
def test_what_cannot_be_opened_is_named(
    portaudio: FakePortAudio, change: dict[str, Any], message: str
) -> None:
    for key, value in change.items():
        setattr(portaudio, key, value)
    with pytest.raises(MicrophoneError, match=message), open_microphone(MicrophoneConfig()):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_what_the_library_writes_is_left_out_the_second_time(
    portaudio: FakePortAudio, capfd: pytest.CaptureFixture[str], again: bool
) -> None:
    class NoisyStream(FakeStream):
        def __init__(self, *given: Any, **named: Any) -> None:
            os.write(2, b"ALSA lib: noise\n")
            super().__init__(*given, **named)

    portaudio.stream = NoisyStream
    portaudio.busy = True
    with pytest.raises(MicrophoneError), open_microphone(MicrophoneConfig(), again=again):
        pass
    os.write(2, b"after\n")
    written = capfd.readouterr().err
    assert ("noise" in written) is not again
    assert written.endswith("after\n")


def test_an_unknown_device_is_named_with_those_that_are_there(portaudio: FakePortAudio) -> None:
    message = "no input device 'usb'; there is 0: 'fake mic'"
    with (
        pytest.raises(MicrophoneError, match=message),
        open_microphone(MicrophoneConfig(device="usb")),
    ):
        pass


def test_a_device_that_delivers_nothing_is_lost(portaudio: FakePortAudio) -> None:
    portaudio.silent = True
    with (
        open_microphone(MicrophoneConfig(stall_s=0.5)) as microphone,
        pytest.raises(MicrophoneError, match=r"delivered nothing for 0.5 s"),
    ):
        microphone.read()


def test_two_devices_that_match_are_named_and_neither_is_opened(portaudio: FakePortAudio) -> None:
    portaudio.names = ["USB Audio: - (hw:1,0)", "USB Audio: - (hw:2,0)", "other"]
    message = r"'USB' matches 2 devices, and none is opened: 0: 'USB Audio.*, 1: 'USB Audio"
    with (
        pytest.raises(MicrophoneError, match=message),
        open_microphone(MicrophoneConfig(device="USB")),
    ):
        pass
    assert portaudio.opened == []


@pytest.mark.parametrize(
    ("device", "index"),
    [
        ("hw:CARD=Mic,DEV=0", 1),
        ("plughw:CARD=Mic", 1),
        ("Mic", 1),
        ("CARD=Camera", 0),
        ("hw:CARD=Camera,DEV=3", 3),
        ("audio usb (hw:1,0)", 0),
        ("other", 2),
        (3, 3),
    ],
)
def test_a_name_that_survives_a_reboot(
    portaudio: FakePortAudio,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str | int,
    index: int,
) -> None:
    for number, id in ((1, "Camera"), (2, "Mic")):
        (tmp_path / f"card{number}").mkdir()
        (tmp_path / f"card{number}" / "id").write_text(f"{id}\n")
    monkeypatch.setattr(devices, "CARDS", tmp_path)
    # A whole name is meant before others that contain it.
    usb = ["USB Audio: - (hw:1,0)", "USB Audio: - (hw:2,0)"]
    portaudio.names = [*usb, "other", "USB Audio: #1 (hw:1,3)", "some other"]
    if device == "CARD=Camera":
        with pytest.raises(MicrophoneError, match=r"= hw:CARD=Camera,DEV=0, 3: .*DEV=3"):
            devices.find(device)
        return
    assert devices.find(device).index == index


def test_when_a_block_was_there_counts_what_still_waits(portaudio: FakePortAudio) -> None:
    with open_microphone(MicrophoneConfig()) as microphone:
        block = microphone.read()
    assert block is not None
    assert time.monotonic() - block.arrived >= 0.35
