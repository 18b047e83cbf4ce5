"""The input devices that PortAudio sees."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any


class MicrophoneError(OSError):
    """The microphone cannot be opened, or was lost; the message names the device and the fix."""


@dataclass(frozen=True)
class Device:
    """An input device."""

    index: int
    name: str
    channels: int
    rate: int
    """Its own sample rate, in Hz."""
    default: bool


def portaudio() -> Any:
    """Return the module `sounddevice`. Raises MicrophoneError where PortAudio is missing."""
    try:
        import sounddevice
    except OSError as error:
        text = f"{error}; install PortAudio: apt-get install libportaudio2"
        raise MicrophoneError(text) from error
    return sounddevice


def devices() -> list[Device]:
    """Return the input devices. Raises MicrophoneError."""
    sd = portaudio()
    default = sd.default.device[0]
    return [
        Device(
            index=d["index"],
            name=d["name"],
            channels=d["max_input_channels"],
            rate=int(d["default_samplerate"]),
            default=d["index"] == default,
        )
        for d in sd.query_devices()
        if d["max_input_channels"] > 0
    ]


def rescan() -> None:
    """Make PortAudio look for devices again, which it does only when it is initialized.

    No stream may be open.
    """
    sd = portaudio()
    with contextlib.suppress(sd.PortAudioError):
        sd._terminate()
    with contextlib.suppress(sd.PortAudioError):
        sd._initialize()
