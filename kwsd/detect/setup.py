"""What the detector listens for, resolved once from the configuration, the bundle and the library.

`resolve` is the only place that raises ConfigError about words, thresholds and speakers. What it
returns is complete: a detector that is given it and a runtime cannot fail.

A threshold is the configuration's where it gives one, else what a calibration found in this room
for this very model, else the model's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec
import numpy as np

from kwsd.config import (
    Config,
    ConfigError,
    OperatingPointName,
    UnknownWords,
    VadConfig,
    WordConfig,
)
from kwsd.detect.rates import rate_at
from kwsd.detect.speaker_id import SpeakerScorer, best_match
from kwsd.events import SpeakerMatch
from kwsd.metrics import SCORE_DIGITS
from kwsd.model.bundle import Bundle, CheckerModel, WordModel
from kwsd.model.manifest import CHECKED_FLOOR
from kwsd.names import look_up
from kwsd.protocol.data import Band, RateInfo, ThresholdOrigin, all_together
from kwsd.state.calibration import Calibration
from kwsd.state.library import Library
from kwsd.state.second_stage import SecondStage
from kwsd.state.voiceprints import Voiceprint
from kwsd.state.words import DEFAULT_RATE, AddedWord


@dataclass(frozen=True)
class ActiveWord:
    """A word that the detector listens for."""

    model: WordModel | AddedWord
    threshold: float
    origin: ThresholdOrigin
    """Who sets the threshold."""
    refractory_s: float
    candidate: float | None = None
    """Streaming score from which the checker is asked; None for a word that is not checked."""
    calibration_is_stale: bool = False
    """Whether a threshold was calibrated, for other scores than it has now."""
    is_for_another_checker: bool = False
    """Whether it has a second stage that the checker in force cannot hear."""
    rate: RateInfo | None = None
    """How often it wakes by mistake; None where that was not measured."""

    @property
    def second(self) -> SecondStage | None:
        """How the checker hears it, where that is the word's own affair: an added one's."""
        return self.model.second if isinstance(self.model, AddedWord) else None


@dataclass(frozen=True)
class SpeakerSetup:
    """Who is enrolled, and who may wake the detector."""

    voiceprints: Mapping[str, Voiceprint]
    """As they are compared."""
    threshold: float
    origin: ThresholdOrigin
    """Who sets the threshold."""
    require: Literal["anyone", "enrolled"] | list[str]
    scorer: SpeakerScorer | None
    """None where nobody is enrolled."""
    joins: CheckerModel | None = None
    """The checker whose embeddings are joined to those of the speaker head."""
    calibration_is_stale: bool = False
    """Whether the threshold was calibrated, for other scores than it has now."""

    @property
    def model(self) -> str:
        """Identifies what joins the speaker head in giving scores; empty for the head alone."""
        every = (one for person in self.voiceprints.values() for one in person.references)
        joined = any(one.is_joined for one in every)
        return self.joins.voice_id if self.joins and joined else ""

    def match(self, embedding: np.ndarray, band: Band, speech_s: float) -> SpeakerMatch | None:
        """Return whose voice `embedding [dim]` is, of so much speech in this band.

        None where nobody is enrolled, or it is not finite."""
        if self.scorer is None or not np.isfinite(embedding).all():
            return None
        scorer = self.scorer.of(speech_s)
        return best_match(embedding, self.voiceprints, self.threshold, scorer, band)

    def admits(self, speaker: SpeakerMatch | None) -> bool:
        """Return whether `speaker` may wake the detector."""
        if self.require == "anyone" or speaker is None or not speaker.verified:
            return self.require == "anyone"
        return self.require == "enrolled" or speaker.name in self.require

    def as_compared(self, voiceprint: Voiceprint) -> Voiceprint:
        """Return a voiceprint with both of its parts, where both are compared."""
        return _as_compared(voiceprint, self.joins)

    @property
    def warnings(self) -> list[str]:
        """Why `speaker.require` keeps out people whom it is meant to let in, with the remedy."""
        if self.require == "anyone":
            return []
        enrolled = ", ".join(self.voiceprints)
        nobody = "every wake will be rejected"
        if not enrolled:
            asks = "speaker.require asks for an enrolled speaker, and none is enrolled"
            return [f"{asks}: {nobody}; run `kwsd enroll NAME`"]
        if self.require == "enrolled":
            return []
        missing = [name for name in self.require if name not in self.voiceprints]
        effect = nobody if len(missing) == len(self.require) else "that voice cannot wake it"
        return [
            f"speaker.require names {name!r}, who is not enrolled (enrolled: {enrolled}): "
            f"{effect}; run `kwsd enroll {name}`, or correct the name"
            for name in missing
        ]


@dataclass(frozen=True)
class DetectorSetup:
    """Everything that a detector must know beside the bundle."""

    words: Mapping[str, ActiveWord]
    """Those of the configuration first."""
    vad: VadConfig
    near_miss: float
    speakers: SpeakerSetup
    checker: CheckerModel | None = None
    """The second stage in force."""
    exclusive: bool = True
    """Whether of words that fire on one utterance only the best wakes."""
    disabled: tuple[str, ...] = ()
    """Words that it could listen for, and that are disabled."""

    @property
    def false_accepts_per_hour(self) -> float | None:
        """Those to expect of all words together; None where no word's were measured."""
        return all_together(word.rate for word in self.words.values())

    @property
    def warnings(self) -> list[str]:
        """What is not as somebody meant it, with the remedy."""
        stale = [
            f"words.{name}: its calibrated threshold was found for another model or checker, and "
            f"is not used; run `kwsd calibrate` again"
            for name, word in self.words.items()
            if word.calibration_is_stale
        ]
        if self.speakers.calibration_is_stale:
            stale.append(
                "speaker.threshold: the calibrated one was found for voices that were compared by "
                "other models, and is not used; run `kwsd calibrate --speakers` again"
            )
        return [*self._deaf, *stale, *self._half_heard, *self.speakers.warnings]

    @property
    def _half_heard(self) -> list[str]:
        return [
            f"words.{name}: it was made with another checker, so that its streaming score alone "
            f"decides; `kwsd word rebuild {shlex.quote(name)}` makes it again"
            for name, word in self.words.items()
            if word.is_for_another_checker
        ]

    @property
    def _deaf(self) -> list[str]:
        if self.words:
            return []
        remedy = f"run `kwsd word enable {self.disabled[0]}`" if self.disabled else "add a word"
        return [f"words: every word is disabled, so that nothing wakes it; {remedy}"]


def resolve(
    config: Config,
    bundle: Bundle,
    library: Library | None = None,
    required: Collection[str] = (),
    enabled: Mapping[str, bool] | None = None,
) -> DetectorSetup:
    """Return the setup that `config` asks for, with what the `library` holds.

    `enabled` says of words, by name, whether they are listened for; else the configuration does.

    A word whose file cannot be used is left out, unless it is `required`. Raises ConfigError for
    such a word, for one that neither the bundle has nor the user has added, for an operating point
    that was not measured, and for a checker that the bundle lacks; BundleError where the bundle's
    cohort is damaged.
    """
    library = library or Library()
    config = _as_stored(config, bundle, library)
    checker = chosen_checker(config, bundle)
    words = _active_words(config, bundle, checker, library, required)
    listened_for = {name: config.words.get(name, WordConfig()).enabled for name in words}
    listened_for |= enabled or {}
    return DetectorSetup(
        words={name: word for name, word in words.items() if listened_for[name]},
        vad=config.vad,
        near_miss=config.near_miss,
        speakers=_speakers(config, bundle, checker, library),
        checker=checker,
        exclusive=config.exclusive_words,
        disabled=tuple(name for name in words if not listened_for[name]),
    )


def _as_stored(config: Config, bundle: Bundle, library: Library) -> Config:
    """Return the configuration with the names of words and speakers as the library spells them."""
    known = [*bundle.words, *library.words, *library.unusable_words]
    words = {look_up(name, known) or name: word for name, word in config.words.items()}
    require = config.speaker.require
    if isinstance(require, list):
        require = [look_up(name, library.voiceprints) or name for name in require]
    speaker = msgspec.structs.replace(config.speaker, require=require)
    return msgspec.structs.replace(config, words=words, speaker=speaker)


def chosen_checker(config: Config, bundle: Bundle) -> CheckerModel | None:
    """Return the checker that the configuration asks for.

    A bundle without any is used without one, unless the configuration asks for the large one, which
    nobody gets by default. Raises ConfigError.
    """
    size = config.checker
    if size == "off" or (size == "small" and not bundle.checkers):
        return None
    found = bundle.checkers.get(size)
    if found is None:
        has = " and ".join(map(repr, bundle.checkers)) or "none"
        choices = ", or ".join(f"`checker: {choice}`" for choice in [*bundle.checkers, "off"])
        text = f"checker: {bundle.path} has no checker {size!r}; it has {has}"
        raise ConfigError(f"{text}: set {choices}")
    return found


def _active_words(
    config: Config,
    bundle: Bundle,
    checker: CheckerModel | None,
    library: Library,
    required: Collection[str],
) -> dict[str, ActiveWord]:
    if not config.words:
        raise ConfigError("words: at least one wake word is needed")
    names = [name for name in config.words if name in bundle.words or name in library.words]
    missing = [name for name in config.words if name not in names]
    unusable = {name: library.why_unusable(name) for name in missing}
    for name in missing:
        if unusable[name] and look_up(name, required):
            raise ConfigError(f"words: {name!r} cannot be used: {unusable[name]}")
    unknown = [name for name in missing if not unusable[name]]
    if unknown:
        raise UnknownWords(_unknown_words(unknown, bundle, library), unknown)
    if config.added_words:
        names += [name for name in library.words if name not in config.words]
    models: dict[str, WordModel | AddedWord] = dict(checker.words if checker else bundle.words)
    candidates = dict(checker.candidates) if checker else {}
    lost = set()
    for name in names:
        if name in models:  # a file that calls itself as a built-in word does not take its place
            continue
        word = library.words[name]
        models[name] = heard = word.heard_with(checker.word_id if checker else None)
        if heard.second:
            candidates[name] = heard.second.candidate
        elif word.second and checker and checker.word_id:
            lost.add(name)
    return {
        name: _active_word(
            name,
            models[name],
            config.words.get(name, WordConfig()),
            library.calibration,
            candidates.get(name),
            is_for_another_checker=name in lost,
        )
        for name in names
    }


def _unknown_words(unknown: list[str], bundle: Bundle, library: Library) -> str:
    import difflib  # 200 kB that only a mistyped word needs

    near = difflib.get_close_matches(unknown[0], [*bundle.words, *library.words], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"words: {bundle.path} has no model of {', '.join(map(repr, unknown))}; {hint}"
        f"it has {', '.join(bundle.words)}, and {', '.join(library.words) or 'none'} added; "
        "`kwsd word add` makes others"
    )


def _active_word(
    name: str,
    model: WordModel | AddedWord,
    wanted: WordConfig,
    calibration: Calibration | None,
    candidate: float | None,
    *,
    is_for_another_checker: bool = False,
) -> ActiveWord:
    calibrated = calibration.threshold(name, model.id) if calibration else None
    threshold = model.threshold
    origin: ThresholdOrigin = "model"
    if wanted.threshold is not None:
        threshold = _configured(name, wanted.threshold, model)
        if candidate is not None and threshold <= CHECKED_FLOOR:
            raise ConfigError(
                f"words.{name}.threshold: {threshold:g} is among the scores of what no checker has "
                f"heard; give a number above {CHECKED_FLOOR:g}, or set `checker: off`"
            )
        origin = "configured"
    elif calibrated is not None:
        threshold = calibrated
        origin = "calibrated"
    least = 0.0 if candidate is None else CHECKED_FLOOR
    asked = None
    if calibration and origin == "calibrated":
        asked = calibration.words[name].rate
    elif isinstance(model, AddedWord) and origin == "model":
        asked = model.made.rate or DEFAULT_RATE
    return ActiveWord(
        model=model,
        threshold=_rounded(threshold, least),
        origin=origin,
        refractory_s=wanted.refractory_s,
        candidate=candidate,
        calibration_is_stale=origin == "model"
        and calibration is not None
        and name in calibration.words,
        is_for_another_checker=is_for_another_checker,
        rate=rate_at(model.operating_points, threshold, asked),
    )


def _rounded(threshold: float, least: float = 0.0) -> float:
    """Return a threshold with the decimals of scores, above `least`; 1 only where it was 1."""
    step = 10**-SCORE_DIGITS
    most = 1 - step if threshold < 1 else threshold
    return round(min(max(threshold, least + step), most), SCORE_DIGITS)


def _configured(
    name: str, threshold: float | OperatingPointName, model: WordModel | AddedWord
) -> float:
    if not isinstance(threshold, str):
        return threshold
    points = sorted(model.operating_points, key=lambda point: point.false_accepts_per_hour)
    names = get_args(OperatingPointName)
    if len(points) != len(names):
        text = f"words.{name}.threshold: {threshold!r} was not measured for this word"
        raise ConfigError(f"{text}; give a number, or null")
    return points[names.index(threshold)].threshold


def _as_compared(voiceprint: Voiceprint, joins: CheckerModel | None) -> Voiceprint:
    return voiceprint.joined(joins.voice_id, joins.voice_weight) if joins else voiceprint


def _speakers(
    config: Config, bundle: Bundle, checker: CheckerModel | None, library: Library
) -> SpeakerSetup:
    joins = checker if checker and checker.voices else None
    people = {name: _as_compared(one, joins) for name, one in library.voiceprints.items()}
    setup = SpeakerSetup(
        voiceprints=people,
        threshold=_rounded(_voice_threshold(people, bundle, joins)),
        origin="model",
        require=config.speaker.require,
        scorer=SpeakerScorer(bundle, joins) if people else None,
        joins=joins,
    )
    calibrated = library.calibration and library.calibration.speaker
    if config.speaker.threshold is not None:
        return replace(setup, threshold=_rounded(config.speaker.threshold), origin="configured")
    if calibrated and calibrated.model == setup.model:
        return replace(setup, threshold=_rounded(calibrated.threshold), origin="calibrated")
    return replace(setup, calibration_is_stale=calibrated is not None)


def _voice_threshold(
    people: Mapping[str, Voiceprint], bundle: Bundle, joins: CheckerModel | None
) -> float:
    """Return the models' threshold for the voices of `people`: the stricter where there are two."""
    head = bundle.speaker_threshold
    if joins is None or joins.voices is None:
        return head
    joined = {one.is_joined for person in people.values() for one in person.references} or {True}
    return max(joins.voices.threshold if each else head for each in joined)
