"""The source of `kwsd run --source auto`: the microphone, else the bundled recording."""

from __future__ import annotations

from pathlib import Path

from kwsd.audio.devices import MicrophoneError, devices

RECORDING = Path(__file__).with_name("demo.flac")
"""Synthetic voices that say wake words amid other words."""
NEXT = "Plug a microphone in and run it again, or give it a recording of yours: --source FILE"


def source() -> str:
    """Return `mic`, or the path of the bundled recording where there is no microphone."""
    try:
        return "mic" if devices() else str(RECORDING)
    except MicrophoneError:
        return str(RECORDING)
