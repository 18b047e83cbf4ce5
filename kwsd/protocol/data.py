"""The data that requests and replies carry, and that the rooms above share."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from kwsd.events import SpeakerMatch

ThresholdOrigin = Literal["configured", "calibrated", "model"]
"""Who sets a threshold: the configuration, a calibration, or the model."""
CheckerSize = Literal["small", "large"]
CLI_HOLDER = "cli"
"""Whose pause `kwsd pause` and `kwsd resume` mean."""
ClipLabel = Literal["right", "wrong"]
Band = Literal["wide", "telephone", "unknown"]
"""The band of a recording, as far as it shows; a telephone carries nothing above 4 kHz."""
Threshold = Annotated[float, Meta(gt=0, le=1)]
MAX_RATE = 100.0
"""Most false accepts per hour that a threshold may be asked to have."""
MAX_TAKES = 32
"""Takes of a word that are kept."""
MAX_TAKE_SAMPLES = 20 * 16_000
"""Samples of a kept take, at 16 kHz: what one message carries."""
TakeSample = Annotated[int, Meta(ge=0, le=MAX_TAKE_SAMPLES)]


class Data(Struct, frozen=True):
    """A part of a message."""


class RateInfo(Data, frozen=True):
    """How often a word wakes by mistake."""

    asked: float | None
    """False accepts per hour that its threshold was chosen for; null for a configured number."""
    held: float
    """Those to expect at the threshold in force, of the audio that its model was measured on."""
    low: float | None = None
    """95 % bounds of these, as far as the tail of its scores tells."""
    high: float | None = None


def all_together(rates: Iterable[RateInfo | None]) -> float | None:
    """Return the false accepts per hour to expect of several words; None where none is known."""
    known = [rate.held for rate in rates if rate]
    return round(sum(known), 6) if known else None


class ActiveWordInfo(Data, frozen=True):
    """A word that the detector listens for."""

    threshold: float
    origin: ThresholdOrigin
    id: str = ""
    """Id of its model."""
    rate: RateInfo | None = None
    """Null where it was not measured."""


class WordScores(Data, frozen=True):
    """Where the scores of a word stand."""

    score: float
    """What is compared with the threshold; 0 while the voice gate is closed."""
    streaming: float
    """The score of the first stage."""
    checker: float | None
    """The probability that the second stage gave; null where it was not asked."""
    threshold: float


class CheckerInfo(Data, frozen=True):
    """The second stage, which hears candidates of the words that come with kwsd again."""

    size: CheckerSize
    checks: int
    """Windows that it has heard since it was put in force."""


class MicrophoneInfo(Data, frozen=True):
    """The source of the audio."""

    state: str
    name: str
    levels_dbfs: list[float] = []
    """Level of each channel over the last second, before anything is mixed or filtered."""


class PauseInfo(Data, frozen=True):
    """A pause that keeps the microphone released."""

    holder: str
    """Who asked for it, in their own words."""
    left_s: float | None
    """Seconds until it ends; null for one that ends with its connection."""

    @property
    def remedy(self) -> str:
        """The command that ends it."""
        whose = "" if self.holder == CLI_HOLDER else f" --holder {shlex.quote(self.holder)}"
        return f"kwsd resume{whose}"


def why_paused(pauses: Sequence[PauseInfo]) -> str:
    """Return the sentence for whoever needs the microphone during these pauses."""
    holders = ", ".join(one.holder for one in pauses)
    ends = " and ".join(f"`{one.remedy}`" for one in pauses)
    return f"the microphone is paused by {holders}; it returns with {ends}"


class LookBack(Data, frozen=True):
    """The samples that `audio` can return."""

    start: int
    end: int


class ReferenceInfo(Data, frozen=True):
    """A reference of an enrolled speaker."""

    name: str
    """What tells it from the speaker's others; empty where nobody said."""
    takes: int
    created: float
    """Seconds since the epoch."""


class SpeakerInfo(Data, frozen=True):
    """An enrolled speaker."""

    name: str
    takes: int
    """Of all references."""
    created: float
    """Seconds since the epoch, of the first reference."""
    references: list[ReferenceInfo] = []


class OperatingPoint(Data, frozen=True, omit_defaults=True):
    """A threshold with the error rates that were measured there."""

    threshold: float
    false_accepts_per_hour: float
    miss_rate: float
    miss_rate_10db: float
    low: float | None = None
    """95 % bounds of the false accepts per hour, as far as the tail of their scores tells."""
    high: float | None = None


class MadeFrom(Data, frozen=True, omit_defaults=True):
    """How an added word was made."""

    takes: int = 0
    """Number of takes."""
    time: int = 0
    """Seconds since the epoch."""
    of: Literal["recordings", "text"] | None = None
    kwsd: str | None = None
    """Version of kwsd that made it."""
    clips: list[str] = []
    """Ids of the labeled clips it has learned from."""
    rate: Annotated[float, Meta(gt=0, le=MAX_RATE)] | None = None
    """False accepts per hour of continuous speech that its user has asked for; null for the
    default, which gives way where most of its takes would be missed."""
    language: Annotated[str, Meta(max_length=32)] | None = None
    """Of the synthetic voices among its takes; null where people alone have said it."""


class AddedWordInfo(Data, frozen=True):
    """A word that a user added."""

    name: str
    id: str
    """Identifies the weights that give its scores."""
    threshold: float
    length_s: float
    """Mean length of its takes, in seconds."""
    operating_points: list[OperatingPoint]
    made: MadeFrom


class TakeInfo(Data, frozen=True):
    """A recording that an added word was made from."""

    id: Annotated[str, Meta(max_length=64)]
    """Identifies its samples."""
    origin: Annotated[str, Meta(max_length=128)]
    """Where it came from: the name of a file, the number of a take from the microphone, a synthetic
    voice, or the id of a clip."""
    start: TakeSample
    """First sample of the word in it."""
    end: TakeSample
    """Sample after the word."""
    samples: TakeSample
    """How many it has, at 16 kHz."""
    span: Literal["found", "trimmed", "clip"] = "found"
    """Who says where the word is: whoever made it looks for its voice, a person has trimmed it, or
    it is where a detector heard the word, in a clip."""


class WordThreshold(Data, frozen=True):
    """A calibrated threshold of a word."""

    threshold: Threshold
    model: str
    """Id of the model of the word for which it was found."""
    rate: float | None
    """Wanted false accepts per hour; null where a person has set the threshold itself."""
    hours: float
    """Hours of audio it rests on."""
    time: float
    """Seconds since the epoch."""


class SpeakerThreshold(Data, frozen=True, omit_defaults=True):
    """A calibrated threshold of speaker verification."""

    threshold: Annotated[float, Meta(gt=0, lt=1)]
    false_accept_rate: float
    """Wanted share of impostors that pass."""
    time: float
    """Seconds since the epoch."""
    model: str = ""
    """Id of what joins the speaker head in giving scores; empty for the head alone."""


class CalibratedWord(Data, frozen=True):
    """The threshold in force of a word."""

    threshold: float
    model: str
    """Id of the model of the word."""
    origin: ThresholdOrigin
    rate: RateInfo | None = None
    """Null where it was not measured."""


class CalibratedSpeakers(Data, frozen=True):
    """The threshold in force of speaker verification."""

    threshold: float
    origin: ThresholdOrigin
    model: str = ""
    """Id of what joins the speaker head in giving scores; empty for the head alone."""


class ThresholdChoice(Data, frozen=True):
    """A threshold for a wanted rate, and what it rests on."""

    threshold: float
    rate: float
    """Wanted false accepts per hour."""
    hours: float
    seen: int
    """False accepts among the peaks at that threshold."""
    bounds: tuple[float, float]
    """95 % bounds of their rate per hour (Garwood 1936)."""
    tail: float | None
    """The rate per hour that the tail predicts; null where there were too few peaks for one."""
    capped: bool
    """Whether the wanted rate asks for a threshold that hardly anything would reach."""
    hours_needed: float
    """Hours without a false accept that would show the wanted rate at 95 %."""


class TradeOff(Data, frozen=True):
    """What a threshold would do to a word."""

    threshold: float
    seen: int
    """False accepts among the peaks."""
    bounds: tuple[float, float]
    """95 % bounds of their rate per hour."""
    tail: float | None
    """The rate per hour that the tail predicts; null where there were too few peaks for one."""
    missed: tuple[float, float] | None
    """Share that is missed, clean and in noise at 10 dB: of the recordings that its model was
    measured on, or of its takes; null where there are none."""
    rate: RateInfo | None
    """How often it wakes by mistake in the audio that its model was measured on."""


class JudgedPeak(Data, frozen=True, array_like=True):
    """A peak of a word's score, with what a person has said of it: `[peak, woke, right]`."""

    peak: float
    woke: bool
    """Whether it reached the threshold of that time."""
    right: bool | None
    """Whether its clip is labeled as the word; null where it has no label."""


class LoggedDay(Data, frozen=True):
    """A day of the log of peaks, for one word."""

    start: float
    """Seconds since the epoch."""
    hours: float
    """How much of it was heard."""
    woke: int
    """Peaks that reached the threshold of their time."""
    peaks: list[JudgedPeak]
    """Those that reach the lowest threshold of use."""


class Peak(Data, frozen=True, array_like=True):
    """A peak of a word's score: `[time, peak, woke, score]`."""

    time: float
    """Seconds of the stream, or since the epoch."""
    peak: float
    """The highest score of the excursion."""
    woke: bool
    """Whether it reached the threshold of that time."""
    score: float | None = None
    """The score that decided, which is the `score` of the event: the first that reached the
    threshold. Null where none did, and in logs of 0.1.0."""


class WordPeaks(Data, frozen=True, array_like=True):
    """The peaks of one word in a stretch of time: `[model, seconds, peaks]`."""

    model: str
    """Id of the model of the word that gave the scores."""
    seconds: float
    peaks: list[Peak]


class LabeledTime(Data, frozen=True, array_like=True):
    """A label of a clip: `[word, time, right]`."""

    word: str
    time: float
    """End of the word, seconds since the epoch."""
    right: bool
    """Whether the clip holds the word."""


class ClipInfo(Data, frozen=True, kw_only=True):
    """A recording of a wake or a near miss."""

    id: str
    word: str
    model: str
    """Id of the model of the word that gave the score."""
    kind: str
    """`wake`, or the reason of the rejection."""
    time: float
    """End of the word, seconds since the epoch."""
    score: float
    """The score that decided, which is the `score` of the event."""
    peak: float | None = None
    """The highest score of the excursion, as far as the clip reaches. Null in clips of 0.1.0."""
    threshold: float
    start: int
    """First sample of the word in the clip."""
    end: int
    """Sample of the clip after the word."""
    speaker: SpeakerMatch | None = None
    label: ClipLabel | None = None
    """Whether it was the word, as a user has said."""


class Clip(ClipInfo, frozen=True, kw_only=True):
    """A recording of a wake or a near miss, with the scores of its chunks."""

    scores: list[tuple[int, float]] = []
    """Sample of the clip after each chunk, and the score there."""
