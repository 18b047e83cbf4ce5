"""What the listener has counted, for whoever asks how it is doing."""

from __future__ import annotations

from dataclasses import dataclass

from kwsd.audio.channels import ChannelMeter
from kwsd.events import MicrophoneState


@dataclass
class Stats:
    """Running counts, which the listener alone writes."""

    samples: int = 0
    cpu_s: float = 0.0
    microphone: MicrophoneState = "lost"
    source: str = ""
    paused_by: tuple[str, ...] = ()
    """Who has paused it, as it was reported last; there is nobody while it listens."""
    meter: ChannelMeter | None = None
    """What the channels of a live source carry."""
    lag_s: float | None = None
    """Seconds for which the last block had been there when it was heard; None for a recording that
    is read as fast as it can be."""
    wakes: int = 0
