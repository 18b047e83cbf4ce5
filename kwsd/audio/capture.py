"""The microphone, through PortAudio: bounded reads of mono int16 at 16 kHz, and one error for every way of losing it.

No callback: PortAudio fills its own buffer, `read` waits until enough is there. A device that delivers nothing for
`stall_s` is lost as surely as one that raises.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kwsd.audio.files import RATE, AudioFileError, Mono
from kwsd.config import Microphone as MicrophoneConfig

log = logging.getLogger(__name__)


LONGEST_SLEEP_S = 0.2
"""Between two looks at a device: how late a stop or a lost device may be noticed."""


class MicrophoneError(OSError):
    """The microphone cannot be opened, or was lost; the message names the device and the mend."""


@dataclass(frozen=True)
class Block:
    samples: np.ndarray
    """int16 `[sample]` at 16 kHz."""
    arrived: float
    """`time.monotonic()` at which its last sample was there."""
    overflowed: bool = False
    """Samples before this block were lost."""


def _portaudio() -> Any:
    try:
        import sounddevice
    except OSError as error:
        raise MicrophoneError(f"{error}; install PortAudio: apt-get install libportaudio2") from error
    return sounddevice


def devices() -> list[dict[str, Any]]:
    """The input devices that PortAudio sees: `index, name, channels, rate, default`. Raises MicrophoneError."""
    sd = _portaudio()
    default = sd.default.device[0]
    return [
        {"index": d["index"], "name": d["name"], "channels": d["max_input_channels"], "rate": int(d["default_samplerate"]), "default": d["index"] == default}
        for d in sd.query_devices()
        if d["max_input_channels"] > 0
    ]


def rescan() -> None:
    """Make PortAudio look for devices again: it does so only when initialised. No stream may be open."""
    sd = _portaudio()
    with contextlib.suppress(sd.PortAudioError):
        sd._terminate()
    with contextlib.suppress(sd.PortAudioError):
        sd._initialize()


class Microphone:
    """An open input device."""

    def __init__(self, stream: Any, name: str, config: MicrophoneConfig, block_s: float, stop: Callable[[], bool]) -> None:
        self._stream, self.name, self._config, self._stop = stream, name, config, stop
        self.rate, self.channels = int(stream.samplerate), int(stream.channels)
        try:
            self._mono = Mono(self.rate, self.channels, config.channel, f"the microphone {name}")
        except AudioFileError as error:
            raise MicrophoneError(str(error)) from error
        self._size = int(self.rate * block_s)
        self._half_full = max(int(self.rate * float(stream.latency) / 2), self._size // 8)

    def read(self, blocks: int = 1) -> Block | None:
        """The next `blocks` in one; waits for them. None once `stop` says so. Raises MicrophoneError.

        The device may be able to hold less than that: it is emptied when half full."""
        sd, wanted, parts, overflowed = _portaudio(), self._size * blocks, [], False
        deadline = time.monotonic() + self._config.stall_s
        try:
            while wanted:
                available = self._stream.read_available
                if available >= min(wanted, self._half_full):
                    data, over = self._stream.read(min(available, wanted))
                    parts.append(np.frombuffer(data, np.int16).reshape(-1, self.channels))
                    wanted -= len(parts[-1])
                    overflowed |= bool(over)
                    deadline = time.monotonic() + self._config.stall_s
                    continue
                if self._stop():
                    return None
                if time.monotonic() > deadline:
                    raise MicrophoneError(f"the microphone {self.name} has delivered nothing for {self._config.stall_s:g} s")
                if not self._stream.active:
                    raise MicrophoneError(f"the microphone {self.name} has stopped")
                time.sleep(min(max((min(wanted, self._half_full) - available) / self.rate, 0.002), LONGEST_SLEEP_S))
        except sd.PortAudioError as error:
            raise MicrophoneError(f"the microphone {self.name} was lost: {error.args[0]}") from error
        arrived = time.monotonic()
        return Block(self._mono.step(np.concatenate(parts)), arrived, overflowed)


@contextlib.contextmanager
def open_microphone(config: MicrophoneConfig, block_s: float = 0.08, stop: Callable[[], bool] = lambda: False) -> Iterator[Microphone]:
    """Open the configured device, at 16 kHz where it can, else at its own rate. Raises MicrophoneError."""
    sd = _portaudio()
    try:
        info = sd.query_devices(config.device, "input")
    except (ValueError, sd.PortAudioError) as error:
        listed = ", ".join(repr(d["name"]) for d in devices()) or "none at all"
        wanted = "no default input device" if config.device is None else f"no input device {config.device!r}"
        raise MicrophoneError(f"{wanted}; there is {listed}. `kwsd devices` lists them, `kwsd doctor` says more") from error
    channels = 1 if config.channel == 0 else int(info["max_input_channels"])
    failures = []
    for rate, count in _formats(info, channels):
        stream = None
        try:
            stream = sd.RawInputStream(samplerate=rate, device=info["index"], channels=count, dtype="int16", latency=0.5)
            stream.start()
        except sd.PortAudioError as error:
            failures.append(f"{rate} Hz, {count} channel(s): {error.args[0]}")
            if stream is not None:
                stream.close(ignore_errors=True)
            continue
        try:
            yield Microphone(stream, str(info["name"]), config, block_s, stop)
        finally:
            with contextlib.suppress(sd.PortAudioError):
                stream.abort()
            stream.close(ignore_errors=True)
        return
    busy = " It is in use by another program." if any("unavailable" in f.lower() or "busy" in f.lower() for f in failures) else ""
    raise MicrophoneError(f"the microphone {info['name']} could not be opened ({'; '.join(failures)}).{busy} `kwsd doctor` says more")


def _formats(info: dict[str, Any], channels: int) -> list[tuple[int, int]]:
    """What to try: 16 kHz first, then the device's own rate and the common ones; few channels first, then all of them."""
    rates = list(dict.fromkeys([RATE, int(info["default_samplerate"]), 48000, 44100]))
    counts = list(dict.fromkeys([channels, int(info["max_input_channels"])]))
    return [(rate, count) for rate in rates for count in counts]
