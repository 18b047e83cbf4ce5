"""Calibration, seen from the client: what was heard comes from the daemon's log or from recordings, and what is chosen goes back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.client import words as wording
from kwsd.config import SAMPLE_RATE, Config, Word
from kwsd.detect.offline import Progress, Recordings
from kwsd.detect.peaks import PeakMeter
from kwsd.model.bundle import Bundle
from kwsd.protocol.messages import Ask
from kwsd.state.calibration import (
    CalibrationError,
    Choice,
    Heard,
    Label,
    SpeakerChoice,
    SpeakerThreshold,
    WordThreshold,
    choose,
    choose_speaker,
    heard,
    trade_off,
)
from kwsd.state.peak_log import WordPeaks, unpack

PERIODS_H = {"h": 1.0, "hour": 1.0, "d": 24.0, "day": 24.0, "w": 168.0, "week": 168.0, "month": 730.5}
SHOWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Thresholds of the table."""


@dataclass(frozen=True)
class Row:
    """A threshold and what it would do."""

    threshold: float
    seen: int
    bounds: tuple[float, float]
    """95 % bounds of the false accepts an hour."""
    tail: float | None
    missed: tuple[float, float] | None
    """Share of its recordings or takes, and of those in noise."""


@dataclass(frozen=True)
class Result:
    """One word, calibrated."""

    word: str
    model: str
    present: float
    origin: str
    """Who says what its threshold is now: configured, calibrated, or model."""
    choice: Choice
    taken_as_right: int
    before: Row
    after: Row
    rows: tuple[Row, ...]
    """The trade-off, by rising threshold."""


def rate(text: str) -> float:
    """`1/week`, `2/day`, `0.5/hour` or a number, as false accepts an hour. Raises ValueError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*(?:(?:/|per |an? )\s*([a-z]+))?\s*", text)
    period = found.group(2) or "hour" if found else ""
    if not found or period not in PERIODS_H or not 0 < float(found.group(1)) / PERIODS_H[period] <= 100:
        raise ValueError(f"{text!r} is no rate: 1/week, 2/day, 0.5/hour, at most 100 an hour")
    return float(found.group(1)) / PERIODS_H[period]


Evidence = dict[str, Heard]
"""What was heard of each word."""


def of_log(ask: Ask, since: float, *, nobody_spoke: bool) -> Evidence:
    """What the daemon has logged since `since`, seconds since the epoch, of the models of the words that are in force. Raises RequestError."""
    models = {name: one["model"] for name, one in ask.request("calibration")["words"].items()}
    body = ask.request("peaks", since=since)
    labels = [Label(str(word), float(at), bool(right)) for word, at, right in body["labels"]]
    found = {}
    for name, packed in body["words"].items():
        stretches = [one for one in unpack(packed) if one.model == models.get(name)]
        if stretches:
            found[name] = heard(stretches, [label for label in labels if label.word == name], nobody_spoke=nobody_spoke)
    return found


def of_listening(ask: Ask, seconds: float, wait: Callable[[float, float], None]) -> Evidence:
    """What the daemon hears from now on, while nobody says the words. `wait(done, all)` is called every second, and may end it by KeyboardInterrupt."""
    ask.request("peaks", since=time.time())  # what was heard before is another stretch
    begun = time.time()
    try:
        while (done := time.time() - begun) < seconds:
            wait(done, seconds)
            time.sleep(min(1.0, seconds - done))
    except KeyboardInterrupt:
        pass  # what was heard so far counts
    return of_log(ask, begun, nobody_spoke=True)


def of_recordings(ask: Ask, bundle: Bundle, config: Config, paths: Sequence[Path], progress: Progress) -> Evidence:
    """What the detector finds in recordings of the room, in which nobody says the words. Raises AudioFileError, RequestError."""
    names = list(ask.request("calibration")["words"])
    added = {name: wording.get(ask, bundle, name) for name in names if name not in bundle.words}
    found: dict[str, list[WordPeaks]] = {name: [] for name in names}
    recordings = Recordings(
        Config(words={name: Word() for name in names}, added_words=False, vad=config.vad, microphone=config.microphone), bundle, words=added
    )
    for path in paths:
        meter = PeakMeter()
        for _ in recordings.detect(path, meter.add, progress):
            pass  # its peaks are what is wanted
        peaks = meter.take()
        for name in names:
            at = tuple((sample / SAMPLE_RATE, score, False) for sample, score in peaks.get(name, ()))
            found[name].append(WordPeaks("", meter.end / SAMPLE_RATE, at))
    return {name: heard(stretches, nobody_spoke=True) for name, stretches in found.items()}


def calibrate(ask: Ask, bundle: Bundle, evidence: Evidence, wanted_rate: float, only: Sequence[str] | None) -> list[Result]:
    """A threshold for each word that is listened for (or for those in `only`). Raises CalibrationError, RequestError."""
    in_force = ask.request("calibration")["words"]
    for name in only or ():
        if name not in in_force:
            raise CalibrationError(f"{name!r} is not listened for; the words are {', '.join(in_force)}")
    results = []
    for name in only or in_force:
        now = in_force[name]
        if name not in evidence:
            raise CalibrationError(
                f"nothing was heard with {name!r} as it is now; listen first: `kwsd calibrate --listen 1h`, or log_peaks: true in the configuration"
            )
        known = bundle.words.get(name) or wording.get(ask, bundle, name)
        choice = choose(evidence[name], wanted_rate, now["threshold"])
        shown = sorted({*SHOWN, now["threshold"], choice.threshold})
        rows = tuple(Row(threshold, seen, (low, high), tail, known.missed(threshold)) for threshold, seen, low, high, tail in trade_off(evidence[name], shown))
        at = {row.threshold: row for row in rows}
        results.append(
            Result(name, now["model"], now["threshold"], now["origin"], choice, evidence[name].taken_as_right, at[now["threshold"]], at[choice.threshold], rows)
        )
    return results


def speakers(ask: Ask, false_accept_rate: float) -> tuple[SpeakerChoice, float, str]:
    """The verification threshold of the enrolled voices, the one in force, and who says so. Raises CalibrationError, RequestError."""
    if not 0 < false_accept_rate < 1:
        raise ValueError(f"--far {false_accept_rate:g}: a share of strangers lies between 0 and 1; 0.01 is one in a hundred")
    body, now = ask.request("speakers.trials"), ask.request("calibration")["speaker"]
    choice = choose_speaker(np.array(body["own"]), np.array(body["strange"]), body["people"], false_accept_rate)
    return choice, now["threshold"], now["origin"]


def keep(ask: Ask, results: Sequence[Result], speaker: SpeakerChoice | None = None) -> None:
    """Put the new thresholds in force. Raises RequestError."""
    now = int(time.time())
    words = {
        r.word: asdict(WordThreshold(r.choice.threshold, r.model, r.choice.rate, round(r.choice.hours, 3), now)) for r in results if r.origin != "configured"
    }
    fields: dict[str, Any] = {"words": words}
    if speaker:
        fields["speaker"] = asdict(SpeakerThreshold(speaker.threshold, speaker.false_accept_rate, now))
    ask.request("calibration.put", **fields)


def describe(result: Result, wanted: str) -> list[str]:
    """What was found for a word, for a person; no more than the listening supports."""
    c = result.choice
    low, high = c.bounds
    lines = [f"{result.word}: threshold {result.present:.3f} → {c.threshold:.3f}"]
    lines.append(f"  heard for {hours(c.hours)}: {c.seen} false wake(s) at the new threshold, {result.before.seen} at the present one")
    bounds = f"between {per(low)} and {per(high)}" if c.seen else f"under {per(high)}"
    lines.append(f"  so the rate lies {bounds} (95 %)" + (f"; the tail of its scores expects {per(c.tail)}" if c.tail else ""))
    if c.hours < c.hours_needed and high > c.rate:
        lines.append(f"  to show {wanted} at 95 %, {hours(c.hours_needed)} without one would have to be heard")
    if result.before.missed and result.after.missed:
        pairs = [f"{100 * b:.1f} → {100 * a:.1f} %{where}" for b, a, where in zip(result.before.missed, result.after.missed, ("", " in noise"), strict=True)]
        lines.append(f"  missed: {', '.join(pairs)}")
    if c.capped:
        lines.append("  warning: hardly anything would reach a threshold for that rate; this is the highest that is of use")
    if result.after.missed and result.after.missed[0] > max(0.5, result.before.missed[0] if result.before.missed else 0.0):
        lines.append("  warning: it would miss most; allow more false wakes (--rate), or make the word better with more takes")
    if result.taken_as_right:
        lines.append(f"  {result.taken_as_right} wake(s) without a label are taken as right; label clips, or use --nobody-spoke")
    if result.origin == "configured":
        lines.append(f"  warning: the configuration sets this word's threshold, and it stays so; take words.{result.word}.threshold out of it")
    return lines


def table(result: Result) -> list[str]:
    """The trade-off as text: a row a threshold, false wakes an hour to the left, misses to the right."""
    lines = [f"  {'threshold':>9}  {'false wakes':>11}  {'an hour (95 %)':>16}  {'missed':>7}  {'in noise':>8}"]
    for row in result.rows:
        missed = [f"{100 * m:.1f} %" for m in row.missed] if row.missed else ["?", "?"]
        mark = "new" if row.threshold == result.choice.threshold else "now" if row.threshold == result.present else ""
        bar = "█" * round(24 * row.missed[1]) if row.missed else ""
        lines.append(
            f"  {row.threshold:9.3f}  {row.seen:11d}  {row.bounds[0]:7.3g}–{row.bounds[1]:<8.3g}  {missed[0]:>7}  {missed[1]:>8}  {bar}{mark and ' ← ' + mark}"
        )
    return lines


def describe_speakers(choice: SpeakerChoice, present: float, origin: str) -> list[str]:
    """What was found for speakers, for a person."""
    low, high = choice.bounds
    lines = [f"speakers: threshold {present:.3f} → {choice.threshold:.3f}",
             f"  {100 * choice.false_accept_rate:g} % of {choice.strangers} scores of strangers against {choice.people} voiceprint(s) reach it",
             f"  {choice.missed} of {choice.takes} own takes would not be verified ({100 * low:.0f} to {100 * high:.0f} %, 95 %)"]  # fmt: skip
    if origin == "configured":
        lines.append("  warning: the configuration sets speaker.threshold, and it stays so; take it out there")
    return lines


def hours(value: float) -> str:
    """A length of time, given in hours, in the unit that reads best."""
    if value < 0.05:
        return f"{3600 * value:.0f} s"
    if value < 1.5:
        return f"{60 * value:.0f} min"
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.0f} days"


def per(rate: float) -> str:
    """A rate, given an hour, in the unit that reads best."""
    for unit, length in (("an hour", 1.0), ("a day", 24.0), ("a week", 168.0)):
        if rate * length >= 0.5:
            return f"{rate * length:.{0 if rate * length >= 10 else 1}f} {unit}"
    return f"{rate * 8766:.2g} a year"
