"""The events that the daemon and the detector emit: frozen structs with the protocol's fields."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

RejectReason = Literal["near_miss", "wrong_speaker", "refractory"]
MicrophoneState = Literal["ok", "lost", "silent", "overflow", "moved"]


class SpeakerMatch(Struct, frozen=True):
    """The enrolled speaker whose voiceprint is nearest to a voice."""

    name: str
    score: float
    """Probability, 0 to 1, that the voice is this speaker's, at even prior odds."""
    threshold: float
    verified: bool
    """Whether the score reaches the threshold."""


class _Detection(Struct, frozen=True, kw_only=True):
    """What `Wake` and `Rejected` share."""

    word: str
    score: float
    """Score at the chunk that decided."""
    threshold: float
    start: int
    """First sample of the word, at 16 kHz since the stream opened."""
    end: int
    """Sample after the word."""
    speaker: SpeakerMatch | None = None
    """The nearest enrolled speaker; None where nobody is enrolled or the speaker was not checked.
    """
    time: float | None = None
    """Wall-clock time of `end`, in seconds since the epoch. The daemon sets it."""
    latency_ms: float | None = None
    """Milliseconds from when the last sample that decided was there, be it read much later, to the
    event. The daemon sets it."""
    stale: bool | None = None
    """True where the event is over a second late: whoever spoke may have given up."""
    seq: int | None = None
    """Number of the event among those sent to this subscriber, from 1."""


class Wake(_Detection, frozen=True, kw_only=True, tag="wake"):
    """A wake word was detected."""


class Rejected(_Detection, frozen=True, kw_only=True, tag="rejected"):
    """A score came near a wake, or would have been one, and was not let through."""

    reason: RejectReason
    """`near_miss`: the score peaked below the threshold. `wrong_speaker`: `speaker.require` does
    not admit the voice. `refractory`: too soon after the last wake of the word."""


class MicrophoneChange(Struct, frozen=True, kw_only=True, tag="microphone"):
    """The state of the microphone changed."""

    state: MicrophoneState
    """`ok`: sound comes. `lost`: none can be had. `silent`: nothing but zeros for a minute.
    `overflow`: samples were lost, and it goes on. `moved`: a sound server gives another source's
    sound, and it goes on."""
    detail: str = ""
    """Name of the source, or what went wrong."""
    samples_lost: int | None = None
    """With `overflow`: about how many samples were lost."""
    seq: int | None = None
    """Number of the event among those sent to this subscriber, from 1."""


class Lag(Struct, frozen=True, kw_only=True, tag="lag"):
    """The daemon has fallen behind its source, or has caught up."""

    behind: bool
    lag_s: float
    """Seconds for which sound had been there when it was heard."""
    seq: int | None = None
    """Number of the event among those sent to this subscriber, from 1."""


Detection = Wake | Rejected
"""What the detector decides."""
Event = Wake | Rejected | MicrophoneChange | Lag
EVENT_TYPES = ("wake", "rejected", "microphone", "lag")


def to_dict(event: Event) -> dict[str, Any]:
    """Return an event in the form of the protocol and of every `--json` output.

    Fields that are not known are left out; `speaker` alone is null where there is none.
    """
    body: dict[str, Any] = msgspec.to_builtins(event)
    return {key: value for key, value in body.items() if value is not None or key == "speaker"}
