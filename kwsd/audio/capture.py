"""The microphone, through PortAudio: bounded reads of mono int16 at 16 kHz.

There is no callback: PortAudio fills its own buffer, and `read` waits until enough is there. Every
way of losing a device raises the same error; one that delivers nothing for `stall_s` counts as
lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kwsd.audio.channels import ChannelMeter
from kwsd.audio.devices import Device, MicrophoneError, find, hushed, portaudio
from kwsd.audio.files import AudioFileError, MonoConverter
from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.config import MicrophoneConfig

LONGEST_SLEEP_S = 0.2
"""Seconds between two looks at a device: how late a stop or a loss may be noticed."""


@dataclass(frozen=True)
class Block:
    """Samples that arrived together."""

    samples: np.ndarray
    """int16 `[sample]` at 16 kHz."""
    arrived: float
    """`time.monotonic()` when its last sample was there, be it read much later."""
    overflowed: bool = False
    """Whether samples before this block were lost."""


class Microphone:
    """An open input device."""

    def __init__(
        self,
        stream: Any,
        name: str,
        config: MicrophoneConfig,
        block_s: float,
        stop: Callable[[], bool],
    ) -> None:
        """Raises MicrophoneError where the device has no such channel."""
        self._stream = stream
        self.name = name
        self._config = config
        self._stop = stop
        self.rate = int(stream.samplerate)
        self.channels = int(stream.channels)
        self.channel = config.channel
        try:
            self._mono = MonoConverter(
                self.rate,
                self.channels,
                config.channel,
                f"the microphone {name}",
                metered=True,
            )
        except AudioFileError as error:
            raise MicrophoneError(str(error)) from error
        self._block_frames = int(self.rate * block_s)
        self.meter: ChannelMeter = self._mono.meter
        # The device may hold less than is asked for at once: it is emptied when half full.
        self._half_full = max(int(self.rate * float(stream.latency) / 2), self._block_frames // 8)

    def read(self, blocks: int = 1) -> Block | None:
        """Wait for the next `blocks` and return them in one; None once `stop` is true.

        Raises MicrophoneError.
        """
        sd = portaudio()
        wanted = self._block_frames * blocks
        parts: list[np.ndarray] = []
        overflowed = False
        deadline = time.monotonic() + self._config.stall_s
        try:
            while wanted:
                available = self._stream.read_available
                enough = min(wanted, self._half_full)
                if available >= enough:
                    data, over = self._stream.read(min(available, wanted))
                    parts.append(np.frombuffer(data, np.int16).reshape(-1, self.channels))
                    wanted -= len(parts[-1])
                    overflowed |= bool(over)
                    deadline = time.monotonic() + self._config.stall_s
                    continue
                if self._stop():
                    return None
                self._check(deadline)
                time.sleep(min(max((enough - available) / self.rate, 0.002), LONGEST_SLEEP_S))
            waiting = self._stream.read_available / self.rate
        except sd.PortAudioError as error:
            text = f"the microphone {self.name} was lost: {error.args[0]}"
            raise MicrophoneError(text) from error
        arrived = time.monotonic() - waiting
        return Block(self._mono.step(np.concatenate(parts)), arrived, overflowed)

    def _check(self, deadline: float) -> None:
        """Raise MicrophoneError where nothing more can be expected."""
        if time.monotonic() > deadline:
            waited = f"{self._config.stall_s:g} s"
            raise MicrophoneError(f"the microphone {self.name} has delivered nothing for {waited}")
        if not self._stream.active:
            raise MicrophoneError(f"the microphone {self.name} has stopped")


@contextlib.contextmanager
def open_microphone(
    config: MicrophoneConfig,
    block_s: float = BLOCK_S,
    stop: Callable[[], bool] = lambda: False,
    *,
    every_channel: bool = False,
    again: bool = False,
) -> Iterator[Microphone]:
    """Open the configured device, at 16 kHz where it can, else at its own rate.

    Only the channels that are heard are opened where that is possible, unless `every_channel` is
    to be metered. With `again`, the libraries' own lines about what fails are left out. Raises
    MicrophoneError.
    """
    sd = portaudio()
    device = find(config.device)
    failures = []
    for rate, count in _formats(device, config.channel == 0 and not every_channel):
        stream = None
        try:
            with hushed() if again else contextlib.nullcontext():
                stream = sd.RawInputStream(
                    samplerate=rate, device=device.index, channels=count, dtype="int16", latency=0.5
                )
                stream.start()
        except sd.PortAudioError as error:
            failures.append(f"{rate} Hz, {count} channel(s): {error.args[0]}")
            if stream is not None:
                stream.close(ignore_errors=True)
            continue
        try:
            yield Microphone(stream, device.name, config, block_s, stop)
        finally:
            with contextlib.suppress(sd.PortAudioError):
                stream.abort()
            stream.close(ignore_errors=True)
        return
    in_use = any("unavailable" in f.lower() or "busy" in f.lower() for f in failures)
    raise MicrophoneError(
        f"the microphone {device.name} could not be opened ({'; '.join(failures)})."
        f"{' It is in use by another program.' if in_use else ''} Run `kwsd doctor`"
    )


def _formats(device: Device, first_alone: bool) -> list[tuple[int, int]]:
    """Return what to try, as rate and channels: 16 kHz first, the first channel alone if asked."""
    rates = dict.fromkeys([SAMPLE_RATE, device.rate, 48000, 44100])
    channels = 1 if first_alone else device.channels
    counts = dict.fromkeys([channels, device.channels])
    return [(rate, count) for rate in rates for count in counts]
