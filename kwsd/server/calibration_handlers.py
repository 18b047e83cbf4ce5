"""Requests about thresholds: those in force, what others would do, and the log that tells it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kwsd.config import Config
from kwsd.detect.setup import DetectorSetup
from kwsd.learn import thresholds
from kwsd.model.bundle import Bundle
from kwsd.names import look_up, word_name
from kwsd.protocol import calibration, commands
from kwsd.protocol.commands import Command
from kwsd.protocol.data import (
    CalibratedSpeakers,
    CalibratedWord,
    JudgedPeak,
    LabeledTime,
    LoggedDay,
)
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import Done, Reply
from kwsd.server.clip_handlers import ClipHandlers
from kwsd.state.calibration import Calibration, CalibrationError, CalibrationStore
from kwsd.state.library import Library
from kwsd.state.peak_log import PeakLog, PeakLogError, Stretches, highest
from kwsd.state.store import StateError
from kwsd.state.words import AddedWord

MAX_PEAKS = 4000
"""Peaks of one word that `peaks` returns."""
MAX_OF_DAYS = 20_000
"""Peaks that the days of a trade-off have, unless the last one has more."""


class CalibrationHandlers:
    """The handlers over the calibration and the log of peaks of a state directory."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        config: Callable[[], Config],
        resolved: Callable[[], tuple[DetectorSetup, Library]],
        clips: ClipHandlers,
        note: Callable[[str, Sequence[StateError]], None],
    ) -> None:
        """`resolved` returns what is asked for now, and raises RequestError. `note` is called with
        a kind of files, and why some of them cannot be used."""
        self.store = CalibrationStore(folder, bundle.encoder_id)
        self.log = PeakLog(folder)
        self._encoder_id = bundle.encoder_id
        self._config = config
        self._resolved = resolved
        self._clips = clips
        self._note = note
        self.handlers: dict[type[Command], Callable[[Any], Reply]] = {
            commands.GetCalibration: self._get,
            commands.CalibrationPut: self._put,
            commands.CalibrationUndo: self._undo,
            commands.CalibrationTradeOff: self._trade_off,
            commands.Peaks: self._peaks,
        }

    def _get(self, command: commands.GetCalibration) -> calibration.CalibrationReply:
        setup, library = self._resolved()
        return calibration.CalibrationReply(
            words={name: _in_force(setup, name) for name in setup.words},
            speaker=CalibratedSpeakers(
                setup.speakers.threshold, setup.speakers.origin, setup.speakers.model
            ),
            earlier=len(library.calibration.earlier) if library.calibration else 0,
        )

    def _put(self, command: commands.CalibrationPut) -> Done:
        self._save(self._current().changed(command.words, command.speaker))
        return Done()

    def _undo(self, command: commands.CalibrationUndo) -> calibration.CalibrationUndoReply:
        try:
            before = self.store.current().undone()
        except CalibrationError as error:
            raise RequestError("bad_calibration", str(error)) from error
        self._save(before)
        return calibration.CalibrationUndoReply(words=dict(before.words), speaker=before.speaker)

    def _current(self) -> Calibration:
        """Return the calibration; one that cannot be used (of another encoder) is replaced."""
        try:
            return self.store.current()
        except CalibrationError:
            return Calibration(self._encoder_id)

    def _save(self, thing: Calibration) -> None:
        try:
            self.store.save(thing)
        except StateError as error:
            raise RequestError("not_saved", str(error)) from error

    def check_log(self) -> None:
        """Read the log of peaks; what cannot be used is noted. Raises PeakLogError."""
        self._logged(0.0)

    def _logged(self, since: float) -> dict[str, Stretches]:
        """Return each word's stretches that were written after `since`.

        Raises PeakLogError where the file cannot be read.
        """
        try:
            found, faults = self.log.read_all(since)
        except PeakLogError as error:
            self._note("peaks", [error])
            raise
        self._note("peaks", faults)
        return found

    def _read_log(self, since: float) -> dict[str, Stretches]:
        try:
            return self._logged(since)
        except PeakLogError as error:
            raise RequestError("bad_log", str(error)) from error

    def _peaks(self, command: commands.Peaks) -> calibration.PeaksReply:
        logged = self._read_log(command.since)
        peaks = {name: highest([one for _, one in at], MAX_PEAKS) for name, at in logged.items()}
        return calibration.PeaksReply(words=peaks, labels=self._clips.store.labels())

    def _trade_off(self, command: commands.CalibrationTradeOff) -> calibration.TradeOffReply:
        setup, _ = self._resolved()
        name = look_up(word_name(command.word), setup.words)
        if name is None:
            text = f"{command.word!r} is not listened for; the words are {', '.join(setup.words)}"
            raise RequestError("unknown_word", text)
        model = setup.words[name].model
        present = setup.words[name].threshold
        if command.days != sorted(command.days):
            raise RequestError("bad_request", "calibration.trade_off: days must rise")
        logged = self._read_log(command.since).get(name, [])
        stretches = [(end, one) for end, one in logged if one.model == model.id]
        labels = [label for label in self._clips.store.labels() if label.word == name]
        heard = [one for _, one in stretches]
        found = thresholds.evidence(heard, labels, nobody_spoke=False)
        rates = command.rates if found.hours else []
        choices = [thresholds.choose(found, rate, present) for rate in rates]
        marked = [one.threshold for one in choices]
        marked += [one.threshold for one in model.operating_points]
        clips = [one for one in self._clips.all() if (one.word, one.model) == (name, model.id)]
        scores = {
            label: sorted(one.score if one.peak is None else one.peak for one in labeled)
            for label in ("right", "wrong")
            for labeled in [[one for one in clips if one.label == label]]
        }
        return calibration.TradeOffReply(
            word=name,
            in_force=_in_force(setup, name),
            logs=self._config().log_peaks,
            hours=found.hours,
            other_hours=sum(one.seconds for _, one in logged) / 3600 - found.hours,
            assumed_right=found.assumed_right,
            trade_off=thresholds.trade_off(found, thresholds.grid([present, *marked]), model),
            choices=choices,
            operating_points=list(model.operating_points),
            takes=len(model.scores) if isinstance(model, AddedWord) else None,
            right=scores["right"],
            wrong=scores["wrong"],
            days=_days(command.days, stretches, labels),
        )


def _in_force(setup: DetectorSetup, name: str) -> CalibratedWord:
    word = setup.words[name]
    return CalibratedWord(word.threshold, word.model.id, word.origin, word.rate)


def _days(
    starts: Sequence[float], stretches: Stretches, labels: Sequence[LabeledTime]
) -> list[LoggedDay]:
    """Return the days that begin at `starts`, as many of the latest as `MAX_OF_DAYS` allows."""
    within: list[list[JudgedPeak]] = [[] for _ in starts]
    woke = [0 for _ in starts]
    for peak, right in thresholds.judged((one for _, one in stretches), labels):
        if (day := bisect.bisect(starts, peak.time) - 1) >= 0:
            woke[day] += peak.woke
            if peak.peak >= thresholds.MIN_THRESHOLD:
                within[day].append(JudgedPeak(peak.peak, peak.woke, right))
    days: list[LoggedDay] = []
    count = 0
    for n in reversed(range(len(starts))):
        count += len(within[n])
        if days and count > MAX_OF_DAYS:
            break
        start, end = starts[n], starts[n + 1] if n + 1 < len(starts) else math.inf
        heard = (min(at, end) - max(at - one.seconds, start) for at, one in stretches)
        hours = sum(each for each in heard if each > 0) / 3600
        days.append(LoggedDay(start, hours, woke[n], within[n]))
    return days[::-1]
