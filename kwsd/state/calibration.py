"""Calibration: thresholds that fit a room and its people, from what was heard there; with an honest word on what that supports.

A threshold for a wanted rate of false accepts is read off the peaks of the scores where enough was heard to count them, and
continued beyond by an exponential tail. Nothing heard is no evidence: a threshold is never lowered without peaks to show for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kwsd.metrics import Alike, binomial_interval, poisson_interval, tail_rate, tail_threshold, threshold_at
from kwsd.state.peak_log import WordPeaks
from kwsd.state.store import StateError, Store

FORMAT = 1
KEPT = 10
"""How many calibrations can be undone."""
COUNTED = 5
"""From so many allowed false accepts on, they are counted, and no tail is needed."""
FEWEST_PEAKS = 10
"""Peaks that a tail needs."""
LOWEST, HIGHEST = 0.05, 0.98
LABEL_WITHIN_S = 1.5
"""A label belongs to the peaks so near its clip's word."""


class CalibrationError(StateError):
    """A calibration cannot be made, read or written; the message says why."""


@dataclass(frozen=True)
class WordThreshold:
    threshold: float
    model: str
    """Id of the model of the word that it was found for."""
    rate: float
    """False accepts an hour that were wanted."""
    hours: float
    """How long was listened."""
    time: int


@dataclass(frozen=True)
class SpeakerThreshold:
    threshold: float
    false_accept_rate: float
    """That was wanted."""
    time: int


@dataclass(frozen=True)
class Calibration:
    """What a state directory holds of it: one file, `room.calibration`."""

    encoder_id: str
    words: dict[str, WordThreshold] = field(default_factory=dict)
    speaker: SpeakerThreshold | None = None
    earlier: tuple[dict[str, Any], ...] = ()
    """What was in force before, the latest last, each as `state()` gives it."""
    name: str = "room"

    def threshold(self, word: str, model: str) -> float | None:
        """What was found for this very `model` of `word`."""
        found = self.words.get(word)
        return found.threshold if found and found.model == model else None

    def state(self) -> dict[str, Any]:
        """Its thresholds as plain data."""
        return {"words": {name: asdict(one) for name, one in self.words.items()}, "speaker": asdict(self.speaker) if self.speaker else None}

    def changed(self, words: Mapping[str, WordThreshold], speaker: SpeakerThreshold | None) -> Calibration:
        """With other thresholds for `words`, and for speakers where one is given; this one can be come back to."""
        earlier = (*self.earlier, self.state())[-KEPT:]
        return Calibration(self.encoder_id, {**self.words, **words}, speaker or self.speaker, earlier)

    def undone(self) -> Calibration:
        """What was in force before. Raises CalibrationError where nothing was."""
        if not self.earlier:
            raise CalibrationError("there is no calibration to undo")
        return _of_state(self.encoder_id, self.earlier[-1], self.earlier[:-1])


def _of_state(encoder_id: str, state: Mapping[str, Any], earlier: Iterable[dict[str, Any]]) -> Calibration:
    words = {str(name): WordThreshold(**one) for name, one in state["words"].items()}
    if any(not 0 < one.threshold <= 1 for one in words.values()):
        raise ValueError("a threshold must lie above 0 and at most at 1")
    speaker = SpeakerThreshold(**state["speaker"]) if state["speaker"] else None
    if speaker and not 0 < speaker.threshold < 1:
        raise ValueError("the speakers' threshold must lie between 0 and 1")
    return Calibration(encoder_id, words, speaker, tuple(earlier))


def of_body(encoder_id: str, words: Mapping[str, Any], speaker: Any) -> Calibration:
    """A calibration of plain data. Raises CalibrationError."""
    try:
        return _of_state(encoder_id, {"words": words, "speaker": speaker}, ())
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"no calibration: {error}") from error


class CalibrationStore(Store[Calibration]):
    """The calibration of a state directory."""

    suffix, thing, error = ".calibration", "calibration", CalibrationError

    def parse(self, name: str, data: bytes) -> Calibration:
        path = self.path(name)
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise CalibrationError(f"{path}: format {body['format']}, this kwsd reads {FORMAT}; run `kwsd calibrate` again")
            kept = _of_state(str(body["encoder_id"]), body, body["earlier"])
        except CalibrationError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{path}: damaged ({error}); remove it and run `kwsd calibrate` again, or restore it") from error
        if kept.encoder_id != self.encoder_id:
            raise CalibrationError(f"{path}: found with the encoder {kept.encoder_id}, this model is {self.encoder_id}; run `kwsd calibrate` again")
        return kept

    def to_bytes(self, thing: Calibration) -> bytes:
        body = {"format": FORMAT, "encoder_id": thing.encoder_id, **thing.state(), "earlier": thing.earlier}
        return json.dumps(body, indent=1).encode()

    def current(self) -> Calibration:
        """What is in force; an empty one where there is none yet. Raises CalibrationError where there is one that cannot be used."""
        return self.load("room") if "room" in self.names() else Calibration(self.encoder_id)


@dataclass(frozen=True)
class Heard:
    """What was heard of a word, and was not it."""

    peaks: np.ndarray
    """Scores of the peaks, highest first."""
    hours: float
    taken_as_right: int = 0
    """Wakes that nobody has labelled, and that are left out."""


@dataclass(frozen=True)
class Label:
    """What a user has said of a clip."""

    word: str
    time: float
    right: bool


def heard(stretches: Sequence[WordPeaks], labels: Sequence[Label] = (), *, nobody_spoke: bool) -> Heard:
    """The peaks of one word that count as false: all but what is labelled right.

    Unless `nobody_spoke` the word, a peak that woke and has no label is taken as right."""
    counted, unlabelled = [], 0
    for stretch in stretches:
        for time, score, woke in stretch.peaks:
            near = [label.right for label in labels if abs(label.time - time) <= LABEL_WITHIN_S]
            if near:
                counted += [] if any(near) else [score]
            elif woke and not nobody_spoke:
                unlabelled += 1
            else:
                counted.append(score)
    return Heard(np.sort(np.array(counted, np.float64))[::-1], sum(s.seconds for s in stretches) / 3600, unlabelled)


@dataclass(frozen=True)
class Choice:
    """A threshold for a wanted rate, and what it rests on."""

    threshold: float
    rate: float
    """Wanted, false accepts an hour."""
    hours: float
    seen: int
    """False accepts among the peaks at that threshold."""
    bounds: tuple[float, float]
    """95 % bounds of their rate an hour (Garwood 1936)."""
    tail: float | None
    """The rate an hour that the tail expects there; None where there were too few peaks for one."""
    capped: bool
    """The wanted rate asks for a threshold that hardly anything would reach."""

    @property
    def hours_needed(self) -> float:
        """Without a single false accept, to show the wanted rate at 95 %."""
        return -math.log(0.05) / self.rate


def choose(heard: Heard, rate: float, present: float) -> Choice:
    """The threshold for `rate` false accepts an hour, of a word whose threshold is `present`. Raises CalibrationError where nothing was heard."""
    if heard.hours <= 0:
        raise CalibrationError("nothing was heard: is the microphone there, and does the daemon listen for the word?")
    threshold = threshold_at(heard.peaks, heard.hours, rate)
    tailed = len(heard.peaks) >= FEWEST_PEAKS
    if rate * heard.hours < COUNTED:
        threshold = max(threshold, tail_threshold(heard.peaks, heard.hours, rate) if tailed else present)
    capped, threshold = threshold >= HIGHEST, float(np.clip(threshold, LOWEST, HIGHEST))
    seen = int((heard.peaks >= threshold).sum())
    return Choice(
        threshold, rate, heard.hours, seen, poisson_interval(seen, heard.hours), tail_rate(heard.peaks, heard.hours, threshold) if tailed else None, capped
    )


def trade_off(heard: Heard, thresholds: Iterable[float]) -> list[tuple[float, int, float, float, float | None]]:
    """At each threshold: false accepts seen, the 95 % bounds of their rate an hour, and the tail's own."""
    rows = []
    for threshold in thresholds:
        seen = int((heard.peaks >= threshold).sum())
        rows.append(
            (
                threshold,
                seen,
                *poisson_interval(seen, heard.hours),
                tail_rate(heard.peaks, heard.hours, threshold) if len(heard.peaks) >= FEWEST_PEAKS else None,
            )
        )
    return rows


@dataclass(frozen=True)
class SpeakerChoice:
    """A verification threshold, and what it rests on."""

    threshold: float
    false_accept_rate: float
    """Wanted, of a stranger's voice against one voiceprint."""
    strangers: int
    people: int
    missed: int
    """Own takes that it would not verify, each held against the voiceprint of the others."""
    takes: int
    bounds: tuple[float, float]
    """95 % bounds of the share that is missed (Clopper and Pearson 1934)."""


def speaker_trials(people: Mapping[str, np.ndarray], strangers: np.ndarray, alike: Alike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of people's own takes, each against the mean of their others, and of strangers against each voiceprint.

    `people`: takes `[take, dim]` of unit length by name; `strangers [stranger, dim]`, beside whom the other people are strangers too."""
    own, strange = [], []
    means = {name: _unit(takes.mean(axis=0)) for name, takes in people.items()}
    for name, takes in people.items():
        if len(takes) > 1:
            own += [float(alike(take[None], _unit(takes.sum(axis=0) - take)[None])[0, 0]) for take in takes]
        others = np.concatenate([strangers, *(other for who, other in people.items() if who != name)])
        strange.append(alike(others, means[name][None])[:, 0])
    return np.array(own), np.concatenate(strange) if strange else np.zeros(0)


def choose_speaker(own: np.ndarray, strange: np.ndarray, people: int, false_accept_rate: float) -> SpeakerChoice:
    """The threshold that `false_accept_rate` of the strangers' scores reach. Raises CalibrationError where nobody is enrolled."""
    if not people or not len(strange):
        raise CalibrationError("nobody is enrolled; `kwsd enroll NAME` comes first")
    threshold = round(float(np.quantile(strange, 1 - false_accept_rate)), 4)
    missed = int((own < threshold).sum())
    return SpeakerChoice(threshold, false_accept_rate, len(strange), people, missed, len(own), binomial_interval(missed, len(own)))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))
