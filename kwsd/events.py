"""What kwsd tells: frozen data. `to_dict` gives the form of the protocol and of every `--json` output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

RejectReason = Literal["near_miss", "wrong_speaker", "refractory"]
MicrophoneState = Literal["ok", "lost", "overflow"]


@dataclass(frozen=True)
class SpeakerMatch:
    """The enrolled speaker nearest to a voice."""

    name: str
    score: float
    """Cosine similarity to the voiceprint, -1 to 1."""
    threshold: float
    verified: bool


@dataclass(frozen=True)
class Wake:
    """A wake word was heard, or (with a `reason`) was not let through."""

    word: str
    score: float
    threshold: float
    start: int
    """Sample, at 16 kHz since the stream opened, at which the word began."""
    end: int
    """Sample at which the word ended."""
    speaker: SpeakerMatch | None = None
    reason: RejectReason | None = None
    time: float | None = None
    """Wall-clock time of `end`, seconds since the epoch. The daemon knows it; the detector does not."""
    latency_ms: float | None = None
    """From the arrival of the last sample that decided it to the event. The daemon's to say."""

    def to_dict(self) -> dict[str, Any]:
        body = {k: v for k, v in asdict(self).items() if v is not None or k == "speaker"}
        return {"type": "rejected" if self.reason else "wake", **body}


@dataclass(frozen=True)
class Microphone:
    state: MicrophoneState
    detail: str = ""
    samples_lost: int | None = None
    """With `overflow`: how many samples were lost."""

    def to_dict(self) -> dict[str, Any]:
        return {"type": "microphone", **{k: v for k, v in asdict(self).items() if v is not None}}


Event = Wake | Microphone
