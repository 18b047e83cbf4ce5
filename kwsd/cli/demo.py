"""What `kwsd run --source auto` listens to: the microphone, or, where there is none, the bundled recording."""

from __future__ import annotations

from pathlib import Path

from kwsd.audio import capture

RECORDING = Path(__file__).with_name("demo.flac")
"""Synthetic voices saying wake words amid other words."""


def source() -> str:
    """`mic`, or the path of the bundled recording."""
    try:
        return "mic" if capture.devices() else str(RECORDING)
    except capture.MicrophoneError:
        return str(RECORDING)
