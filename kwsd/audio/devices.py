"""The input devices that PortAudio sees."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARDS = Path("/proc/asound")
"""Where the kernel names the sound cards."""


class MicrophoneError(OSError):
    """The microphone cannot be opened, or was lost; the message names the device and the fix."""


@dataclass(frozen=True)
class Device:
    """An input device."""

    index: int
    """PortAudio's number, which may change when a device is plugged in."""
    name: str
    channels: int
    rate: int
    """Its own sample rate, in Hz."""
    default: bool
    alsa: str = ""
    """ALSA's name by the card's id, such as `hw:CARD=Device,DEV=0`, which stays the same when the
    machine starts again; empty where it is no sound card."""


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
    # It would terminate PortAudio when Python exits, which waits for ever for a dead sound server.
    atexit.unregister(sd._exit_handler)
    default = sd.default.device[0]
    return [
        Device(
            index=d["index"],
            name=d["name"],
            channels=d["max_input_channels"],
            rate=int(d["default_samplerate"]),
            default=d["index"] == default,
            alsa=_alsa_name(d["name"]),
        )
        for d in sd.query_devices()
        if d["max_input_channels"] > 0
    ]


def find(wanted: str | int | None) -> Device:
    """Return the input device that `microphone.device` names; None is the default one.

    A text is an ALSA name (`hw:CARD=Device`), a card's id, a whole name, or words of one. Raises
    MicrophoneError where there is none, or several.
    """
    found = devices()
    if wanted is None:
        matching = [device for device in found if device.default]
    elif isinstance(wanted, int):
        matching = [device for device in found if device.index == wanted]
    else:
        matching = _matching(wanted, found)
    if not matching:
        listed = ", ".join(map(_described, found)) or "none at all"
        missing = "default input device" if wanted is None else f"input device {wanted!r}"
        raise MicrophoneError(
            f"no {missing}; there is {listed}. "
            "`kwsd devices` lists them; set microphone.device to one"
        )
    if len(matching) > 1:
        raise MicrophoneError(
            f"microphone.device {wanted!r} matches {len(matching)} devices, and none is opened: "
            f"{', '.join(map(_described, matching))}. Set it to the name of one"
        )
    return matching[0]


def _matching(wanted: str, found: Iterable[Device]) -> list[Device]:
    by_alsa = [device for device in found if _same_alsa(wanted, device.alsa)]
    exact = [device for device in found if device.name == wanted]
    words = wanted.casefold().split()
    by_words = [d for d in found if words and all(word in d.name.casefold() for word in words)]
    return by_alsa or exact or by_words


def _same_alsa(wanted: str, alsa: str) -> bool:
    """Return whether a card's id, with or without `hw:CARD=` and `,DEV=`, is a device's."""
    form = re.fullmatch(r"(?:(?:plug)?hw:)?(?:CARD=)?([^,:=]+)(?:,(?:DEV=)?(\d+))?", wanted)
    if form is None or not alsa:
        return False
    return alsa.startswith(f"hw:CARD={form[1]},DEV={form[2] or ''}")


def _alsa_name(name: str) -> str:
    """Return ALSA's name of a device that PortAudio calls `… (hw:1,0)`, by the card's id."""
    numbers = re.search(r"\(hw:(\d+),(\d+)\)", name)
    if numbers is None:
        return ""
    try:
        id = (CARDS / f"card{numbers[1]}" / "id").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f"hw:CARD={id},DEV={numbers[2]}"


def _described(device: Device) -> str:
    stable = f" = {device.alsa}" if device.alsa else ""
    return f"{device.index}: {device.name!r}{stable}"


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Lead descriptor 2 to /dev/null for a while.

    ALSA and PortAudio write dozens of lines there about each device that they cannot open.
    """
    kept = null = -1
    try:
        kept = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 2)
    except OSError:  # it is closed, or there are no descriptors left: they are heard
        pass
    try:
        yield
    finally:
        if null >= 0:
            os.dup2(kept, 2)
        for descriptor in (kept, null):
            if descriptor >= 0:
                os.close(descriptor)


def rescan() -> None:
    """Make PortAudio look for devices again, which it does only when it is initialized.

    No stream may be open. Where PortAudio is missing, whoever opens a device next says so.
    """
    try:
        sd = portaudio()
    except MicrophoneError:
        return
    with contextlib.suppress(sd.PortAudioError):
        sd._terminate()
    with contextlib.suppress(sd.PortAudioError):
        sd._initialize()
