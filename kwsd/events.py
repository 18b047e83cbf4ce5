"""The events that the daemon and the detector emit: frozen structs with the protocol's fields."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

RejectReason = Literal["near_miss", "wrong_speaker", "refractory", "other_word"]
MicrophoneState = Literal["ok", "lost", "silent", "overflow", "moved", "paused"]


class SpeakerScore(Struct, frozen=True):
    """An enrolled speaker, and how likely a voice is theirs."""

    name: str
    score: float
    """Probability, 0 to 1, that the voice is this speaker's, at even prior odds."""


class SpeakerMatch(Struct, frozen=True, omit_defaults=True):
    """Whose voice it is; a voice that is not verified is a stranger's, and has no name."""

    name: str | None
    """The enrolled speaker; None unless verified."""
    score: float
    """Probability, 0 to 1, that the voice is the nearest enrolled speaker's, at even prior odds."""
    threshold: float
    verified: bool
    """Whether the score reaches the threshold, and says enough."""
    nearest: SpeakerScore | None = None
    """The nearest enrolled speaker, verified or not. With `details` only."""
    runner_up: SpeakerScore | None = None
    """The second nearest, where several are enrolled. With `details` only."""
    margin: float | None = None
    """By how much the score of the nearest exceeds that of the runner-up. With `details` only."""
    reason: str | None = None
    """Why nobody can be verified, whatever the score is; None where the score says it."""

    def __post_init__(self) -> None:
        """Forget the name of a voice that is not verified: 0.1.0 stored it in clips."""
        if not self.verified and self.name is not None:
            msgspec.structs.force_setattr(self, "name", None)

    def without_details(self) -> SpeakerMatch:
        """Return it as everybody may have it."""
        return SpeakerMatch(
            self.name, self.score, self.threshold, self.verified, reason=self.reason
        )


class Stages(Struct, frozen=True):
    """What the score of a word that is checked was made of."""

    streaming: float
    """The score of the first stage, which runs all the time, where the checker was asked."""
    checker: float
    """The checker's own probability, 0 to 1."""


class _Detection(Struct, frozen=True, kw_only=True):
    """What `Wake` and `Rejected` share."""

    word: str
    score: float
    """The score that decided: the first that reached the threshold; for a near miss, its peak."""
    stages: Stages | None = None
    """What the score was made of; None for a word that is not checked."""
    threshold: float
    start: int
    """First sample of the word, at 16 kHz since the stream opened."""
    end: int
    """Sample after the word."""
    level_dbfs: float | None = None
    """RMS level of the word, in dB of full scale (`kwsd.detect.loudness` defines both)."""
    snr_db: float | None = None
    """How far the word stands above the noise before it; None where too little was heard before."""
    speaker: SpeakerMatch | None = None
    """Who spoke; None where nobody is enrolled or the speaker was not checked."""
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
    not admit the voice. `refractory`: too soon after the last wake of the word. `other_word`:
    another word fits the utterance better, or has fired on it before (`exclusive_words`)."""


class MicrophoneChange(Struct, frozen=True, kw_only=True, tag="microphone"):
    """The state of the microphone changed."""

    state: MicrophoneState
    """`ok`: sound comes. `lost`: none can be had. `silent`: nothing but zeros for a minute.
    `overflow`: samples were lost, and it goes on. `moved`: a sound server gives another source's
    sound, and it goes on. `paused`: nobody listens; it was released because a client asked for
    that."""
    detail: str = ""
    """Name of the source, what went wrong, or who has paused it."""
    samples_lost: int | None = None
    """With `overflow`: about how many samples were lost."""
    holders: tuple[str, ...] | None = None
    """With `paused`: who has paused it."""
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


def to_dict(event: Event, *, details: bool = False) -> dict[str, Any]:
    """Return an event in the form of the protocol and of every `--json` output.

    Fields that are not known are left out; `speaker` alone is null where there is none. Without
    `details` nobody learns whom an unverified voice resembles.
    """
    if not details and isinstance(event, Wake | Rejected) and event.speaker:
        event = msgspec.structs.replace(event, speaker=event.speaker.without_details())
    body: dict[str, Any] = msgspec.to_builtins(event)
    return {key: value for key, value in body.items() if value is not None or key == "speaker"}
