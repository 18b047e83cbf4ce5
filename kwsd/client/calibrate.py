"""Calibration from the client's side: evidence comes from the daemon's log or from recordings, and
the chosen thresholds go back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.client import words
from kwsd.config import Config, WordConfig
from kwsd.detect.offline import Progress, Recordings
from kwsd.detect.peaks import PeakMeter
from kwsd.detect.setup import resolve
from kwsd.learn.thresholds import (
    Evidence,
    SpeakerChoice,
    choose,
    choose_speaker,
    evidence,
    trade_off,
)
from kwsd.model.bundle import Bundle
from kwsd.names import look_up
from kwsd.protocol import commands
from kwsd.protocol.data import (
    CalibratedSpeakers,
    CalibratedWord,
    CheckerSize,
    Peak,
    SpeakerThreshold,
    ThresholdChoice,
    ThresholdOrigin,
    TradeOff,
    WordPeaks,
    WordThreshold,
    why_paused,
)
from kwsd.protocol.messages import Requester
from kwsd.state.calibration import CalibrationError
from kwsd.state.library import Library

PERIODS_H = {
    "h": 1.0,
    "hour": 1.0,
    "d": 24.0,
    "day": 24.0,
    "w": 168.0,
    "week": 168.0,
    "month": 730.5,
}
STARTING_S = 5.0
"""A daemon that has only just been started has no microphone yet for a while."""
SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Thresholds of the table."""

EvidenceByWord = dict[str, Evidence]


@dataclass(frozen=True)
class Result:
    """One word, calibrated."""

    word: str
    model: str
    present: float
    origin: ThresholdOrigin
    """Who sets its present threshold."""
    choice: ThresholdChoice
    assumed_right: int
    """Wakes without a label, which count as right."""
    before: TradeOff
    after: TradeOff
    outcomes: tuple[TradeOff, ...]
    """The trade-off, by rising threshold."""


def parse_rate(text: str) -> float:
    """Return `1/week`, `2/day`, `0.5/hour` or a number as false accepts per hour.

    Raises ValueError.
    """
    pattern = r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*(?:(?:/|per |an? )\s*([a-z]+))?\s*"
    found = re.fullmatch(pattern, text)
    period = found.group(2) or "hour" if found else ""
    if (
        not found
        or period not in PERIODS_H
        or not 0 < float(found.group(1)) / PERIODS_H[period] <= 100
    ):
        raise ValueError(f"{text!r} is not a rate: 1/week, 2/day, 0.5/hour, at most 100 an hour")
    return float(found.group(1)) / PERIODS_H[period]


def from_log(requester: Requester, since: float, *, nobody_spoke: bool) -> EvidenceByWord:
    """Return what the daemon has logged since `since`, seconds since the epoch.

    Only what the present models of the words gave counts. Raises RequestError.
    """
    in_force = requester.request(commands.GetCalibration()).words
    log = requester.request(commands.Peaks(since=since))
    found = {}
    for name, stretches in log.words.items():
        current = [s for s in stretches if name in in_force and s.model == in_force[name].model]
        if current:
            labels = [label for label in log.labels if label.word == name]
            found[name] = evidence(current, labels, nobody_spoke=nobody_spoke)
    return found


def check_words(requester: Requester, only: Sequence[str] | None) -> list[str]:
    """Return the words that are listened for, or those in `only`.

    Raises CalibrationError for a word in `only` that is not listened for.
    """
    in_force = list(requester.request(commands.GetCalibration()).words)
    chosen = []
    for name in in_force if only is None else only:
        found = look_up(name, in_force)
        if found is None:
            known = ", ".join(in_force)
            raise CalibrationError(f"{name!r} is not listened for; the words are {known}")
        chosen.append(found)
    return chosen


def check_listening(requester: Requester) -> None:
    """Raise CalibrationError where nothing would come of listening."""
    status = requester.request(commands.Status())
    patience = time.monotonic() + STARTING_S
    while status.microphone.state == "lost" and time.monotonic() < patience:
        time.sleep(0.1)
        status = requester.request(commands.Status())
    if not status.log_peaks:
        text = "the configuration has log_peaks: false, so nothing that is heard would be kept"
        raise CalibrationError(f"{text}; remove it, then `kwsd reload`")
    if status.microphone.state == "paused":
        raise CalibrationError(why_paused(status.pauses))
    if status.microphone.state == "lost":
        text = f"the daemon has no microphone ({status.microphone.name or 'none was found'})"
        raise CalibrationError(f"{text}; `kwsd doctor` says more")


def from_listening(
    requester: Requester, seconds: float, wait: Callable[[float, float], None]
) -> EvidenceByWord:
    """Return what the daemon hears from now on, while nobody says the words.

    `wait(done, all)` is called every second; a KeyboardInterrupt ends it early.
    """
    requester.request(commands.Peaks(since=time.time()))  # ends the stretch before
    begun = time.time()
    try:
        while (done := time.time() - begun) < seconds:
            wait(done, seconds)
            time.sleep(min(1.0, seconds - done))
    except KeyboardInterrupt:
        pass  # what was heard so far counts
    return from_log(requester, begun, nobody_spoke=True)


def from_recordings(
    requester: Requester,
    bundle: Bundle,
    config: Config,
    paths: Sequence[Path],
    progress: Progress,
) -> EvidenceByWord:
    """Return what the detector finds in recordings of the room, in which nobody says the words.

    Raises AudioFileError or RequestError.
    """
    in_force = requester.request(commands.GetCalibration()).words
    names = list(in_force)
    added = {name: words.get(requester, bundle, name) for name in names if name not in bundle.words}
    tried = Config(
        words={name: WordConfig() for name in names},
        added_words=False,
        vad=config.vad,
        checker=_checker(bundle, in_force) or "off",
    )
    setup = resolve(tried, bundle, Library(words=added))
    recordings = Recordings(bundle, setup, config.microphone.channel)
    found: dict[str, list[WordPeaks]] = {name: [] for name in names}
    for path in paths:
        meter = PeakMeter()
        for step in recordings.detect(path, progress):
            meter.add(step.trace)
        peaks = meter.take()
        for name in names:
            at = [Peak(one.at / SAMPLE_RATE, one.peak, False) for one in peaks.get(name, ())]
            found[name].append(WordPeaks("", meter.end / SAMPLE_RATE, at))
    return {name: evidence(stretches, nobody_spoke=True) for name, stretches in found.items()}


def calibrate(
    requester: Requester,
    bundle: Bundle,
    found: EvidenceByWord,
    wanted_rate: float,
    only: Sequence[str] | None,
) -> list[Result]:
    """Return a threshold for each active word, or for those in `only`.

    Raises CalibrationError or RequestError.
    """
    chosen = check_words(requester, only)
    in_force = requester.request(commands.GetCalibration()).words
    checker = _checker(bundle, in_force)
    models = bundle.checkers[checker].words if checker else bundle.words
    results = []
    for name in chosen:
        if name not in found:
            text = f"nothing was heard with {name!r} as it is now; listen first"
            fix = "`kwsd calibrate --listen 1h`, or log_peaks: true in the configuration"
            raise CalibrationError(f"{text}: {fix}")
        now = in_force[name]
        model = models.get(name) or words.get(requester, bundle, name).of_id(now.model)
        choice = choose(found[name], wanted_rate, now.threshold)
        shown = sorted({*SHOWN, now.threshold, choice.threshold})
        outcomes = trade_off(found[name], shown, model)
        at = {outcome.threshold: outcome for outcome in outcomes}
        results.append(
            Result(
                word=name,
                model=now.model,
                present=now.threshold,
                origin=now.origin,
                choice=choice,
                assumed_right=found[name].assumed_right,
                before=at[now.threshold],
                after=at[choice.threshold],
                outcomes=tuple(outcomes),
            )
        )
    return results


def _checker(bundle: Bundle, in_force: Mapping[str, CalibratedWord]) -> CheckerSize | None:
    """Return the checker that gives the scores of the bundle's words in force."""
    bundled = (name for name in in_force if name in bundle.words)
    return next((bundle.checker_of(name, in_force[name].model) for name in bundled), None)


def speakers(
    requester: Requester, false_accept_rate: float
) -> tuple[SpeakerChoice, CalibratedSpeakers]:
    """Return the verification threshold for the enrolled voices, and the one in force.

    Raises CalibrationError or RequestError.
    """
    if not 0 < false_accept_rate < 1:
        text = "a share of strangers lies between 0 and 1; 0.01 is one in a hundred"
        raise ValueError(f"--far {false_accept_rate:g}: {text}")
    trials = requester.request(commands.SpeakersTrials())
    in_force = requester.request(commands.GetCalibration()).speaker
    target = np.array(trials.target)
    impostor = np.array(trials.impostor)
    return choose_speaker(target, impostor, trials.people, false_accept_rate), in_force


def keep(
    requester: Requester, results: Sequence[Result], speaker: SpeakerChoice | None = None
) -> None:
    """Put the new thresholds in force. Raises RequestError."""
    now = int(time.time())
    thresholds = {
        r.word: WordThreshold(
            threshold=r.choice.threshold,
            model=r.model,
            rate=r.choice.rate,
            hours=round(r.choice.hours, 3),
            time=now,
        )
        for r in results
        if r.origin != "configured"
    }
    found = None
    if speaker:
        model = requester.request(commands.GetCalibration()).speaker.model
        found = SpeakerThreshold(speaker.threshold, speaker.false_accept_rate, now, model)
    requester.request(commands.CalibrationPut(words=thresholds, speaker=found))
