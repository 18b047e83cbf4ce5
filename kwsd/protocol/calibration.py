"""Requests about thresholds, and about the log that they are chosen by, with their replies."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from kwsd.protocol.data import (
    MAX_RATE,
    CalibratedSpeakers,
    CalibratedWord,
    LabeledTime,
    LoggedDay,
    OperatingPoint,
    SpeakerThreshold,
    ThresholdChoice,
    TradeOff,
    WordPeaks,
    WordThreshold,
)
from kwsd.protocol.replies import Done, Page, Reply
from kwsd.protocol.request import Cursor, Name, Request

Time = Annotated[float, Meta(ge=-1e12, le=1e12)]
"""Seconds since the epoch."""
WantedRate = Annotated[float, Meta(gt=0, le=MAX_RATE)]
"""False accepts per hour."""


class CalibrationReply(Reply, frozen=True):
    """The thresholds in force."""

    words: dict[str, CalibratedWord]
    speaker: CalibratedSpeakers
    earlier: int
    """How many calibrations can be undone."""


class CalibrationUndoReply(Reply, frozen=True):
    """The calibration that is in force again."""

    words: dict[str, WordThreshold]
    speaker: SpeakerThreshold | None


class TradeOffReply(Reply, frozen=True):
    """What thresholds would do to a word."""

    word: str
    in_force: CalibratedWord
    logs: bool
    """Whether peaks are logged."""
    hours: float
    """Logged with the model in force."""
    other_hours: float
    """Logged with another model, which do not count."""
    assumed_right: int
    """Wakes without a label, which count as right."""
    trade_off: list[TradeOff]
    """By rising threshold, up to the highest of use."""
    choices: list[ThresholdChoice]
    """For each wanted rate; none where nothing was heard."""
    operating_points: list[OperatingPoint]
    """Strict, balanced and lenient, as its model was measured."""
    takes: int | None
    """Number of the takes that `missed` counts; null for a word that comes with kwsd."""
    right: list[float]
    """The highest score of each clip that is labeled right, with the model in force."""
    wrong: list[float]
    """Of each that is labeled wrong."""
    days: list[LoggedDay]
    """Those that were asked for, or as many of the latest as fit."""


class PeaksReply(Page, frozen=True, kw_only=True):
    """The logged peaks of each word, and the labels of clips."""

    words: dict[str, list[WordPeaks]]
    labels: list[LabeledTime]


class GetCalibration(Request[CalibrationReply], frozen=True, tag="calibration"):
    """Ask for the thresholds in force."""

    privileged: ClassVar[bool] = False


class CalibrationPut(Request[Done], frozen=True, tag="calibration.put"):
    """Put calibrated thresholds in force."""

    changes_state: ClassVar[bool] = True
    words: Annotated[dict[Name, WordThreshold], Meta(max_length=1000)] = field(default_factory=dict)
    speaker: SpeakerThreshold | None = None


class CalibrationUndo(Request[CalibrationUndoReply], frozen=True, tag="calibration.undo"):
    """Go back to the thresholds before the last calibration."""

    changes_state: ClassVar[bool] = True


class CalibrationTradeOff(Request[TradeOffReply], frozen=True, tag="calibration.trade_off"):
    """Ask what thresholds would do to a word: by the log of peaks, labeled clips and its model."""

    word: Name
    since: Time = 0.0
    """Only what was logged after it counts."""
    rates: Annotated[list[WantedRate], Meta(max_length=16)] = field(default_factory=list)
    """Rates for which thresholds are chosen."""
    days: Annotated[list[Time], Meta(max_length=62)] = field(default_factory=list)
    """When the days begin by which peaks are told, rising."""


class Peaks(Request[PeaksReply], frozen=True, tag="peaks"):
    """Fetch the logged peaks of the words' scores."""

    since: Time = 0.0
    after: Cursor | None = None
