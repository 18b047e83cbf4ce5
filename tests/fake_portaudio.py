"""A PortAudio that the tests play: devices that refuse rates, are lost, stall and come back."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np


class PortAudioError(Exception):
    """The error of the module `sounddevice`."""


class FakeStream:
    """An input stream with a tone on one channel."""

    def __init__(self, audio: FakePortAudio, samplerate: int, channels: int, **_: object) -> None:
        if samplerate not in audio.rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        if audio.busy:
            raise PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.audio = audio
        self.samplerate = samplerate
        self.channels = channels
        self.active = True
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
        return 0 if self.audio.silent else int(0.35 * self.samplerate)

    def read(self, frames: int) -> tuple[bytes, bool]:
        time.sleep(0.001)
        t = (self.phase + np.arange(frames)) / self.samplerate
        self.phase += frames
        tone = (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
        overflowed = self.audio.overflowed
        self.audio.overflowed = False
        columns = [tone * (c == self.audio.speaking) for c in range(self.channels)]
        return np.stack(columns, axis=1).astype(np.int16).tobytes(), overflowed


class FakePortAudio:
    """Stands in for the module `sounddevice`."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.rates = {16000, 48000}
        self.channels = 1
        self.names = ["fake mic"]
        self.speaking = 0
        """The channel with the tone."""
        self.busy = False
        self.lost = False
        self.silent = False
        self.gone = False
        self.overflowed = False
        self.opened: list[tuple[int, int]] = []
        """Rate and channels of each stream that was opened."""
        self.stream: type[FakeStream] = FakeStream
        self.buffer_s = 1.0
        self.scans = 0
        self.default = SimpleNamespace(device=[0, 0])

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "name": name,
                "max_input_channels": self.channels,
                "default_samplerate": 48000.0,
            }
            for index, name in enumerate(self.names)
            if not self.gone
        ]

    def RawInputStream(self, samplerate: int, channels: int, **more: object) -> FakeStream:
        return self.stream(self, samplerate, channels, **more)

    def _exit_handler(self) -> None: ...

    def _terminate(self) -> None: ...

    def _initialize(self) -> None:
        self.scans += 1
