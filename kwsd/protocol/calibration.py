"""Requests about thresholds, and about the log that they are chosen by."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from kwsd.protocol import replies
from kwsd.protocol.data import SpeakerThreshold, WordThreshold
from kwsd.protocol.request import Cursor, Name, Request


class GetCalibration(Request[replies.CalibrationReply], frozen=True, tag="calibration"):
    """Ask for the thresholds in force."""

    privileged: ClassVar[bool] = False


class CalibrationPut(Request[replies.Done], frozen=True, tag="calibration.put"):
    """Put calibrated thresholds in force."""

    changes_state: ClassVar[bool] = True
    words: Annotated[dict[Name, WordThreshold], Meta(max_length=1000)] = field(default_factory=dict)
    speaker: SpeakerThreshold | None = None


class CalibrationUndo(Request[replies.CalibrationUndoReply], frozen=True, tag="calibration.undo"):
    """Go back to the thresholds before the last calibration."""

    changes_state: ClassVar[bool] = True


class Peaks(Request[replies.PeaksReply], frozen=True, tag="peaks"):
    """Fetch the logged peaks of the words' scores."""

    since: Annotated[float, Meta(ge=-1e12, le=1e12)] = 0.0
    """Seconds since the epoch."""
    after: Cursor | None = None
