"""The words that are listened for, and at which thresholds: what the configuration, the bundle and the user's own say together.

A word's threshold is the configuration's where it gives one, else what a calibration found in this room for this very model of
the word, else the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kwsd.config import Config, ConfigError, Word
from kwsd.model.bundle import Bundle, WordModel
from kwsd.state.calibration import Calibration
from kwsd.state.words import UserWord

OPERATING_POINTS = ("strict", "balanced", "lenient")
"""Of each word, by rising false accepts an hour."""
Origin = Literal["configured", "calibrated", "model"]


@dataclass(frozen=True)
class Listened:
    """A word that is listened for."""

    known: WordModel | UserWord
    threshold: float
    origin: Origin
    """Who says what its threshold is."""
    refractory_s: float


def vocabulary(config: Config, bundle: Bundle, added: Mapping[str, UserWord], calibration: Calibration | None) -> dict[str, Listened]:
    """Every word that is listened for, those of the configuration first.

    Raises ConfigError for one that neither the bundle has nor the user has `added`, or whose operating point was not measured."""
    unknown = [w for w in config.words if w not in bundle.words and w not in added]
    if unknown:
        raise ConfigError(f"words: {bundle.path} has no model of {', '.join(map(repr, unknown))}; it has {', '.join(bundle.words)}, "
                          f"and {', '.join(added) or 'none'} added; `kwsd word add` makes others")  # fmt: skip
    listened = {}
    for name in [*config.words, *(name for name in added if config.added_words and name not in config.words)]:
        own, known = config.words.get(name, Word()), added.get(name) or bundle.words[name]
        calibrated = calibration.threshold(name, known.id) if calibration else None
        if own.threshold is not None:
            listened[name] = Listened(known, _configured(name, own.threshold, known), "configured", own.refractory_s)
        elif calibrated is not None:
            listened[name] = Listened(known, calibrated, "calibrated", own.refractory_s)
        else:
            listened[name] = Listened(known, known.threshold, "model", own.refractory_s)
    return listened


def speaker_threshold(config: Config, bundle: Bundle, calibration: Calibration | None) -> tuple[float, Origin]:
    """From which likeness on a voice counts as an enrolled speaker's, and who says so; by the same order."""
    if config.speaker.threshold is not None:
        return config.speaker.threshold, "configured"
    if calibration and calibration.speaker:
        return calibration.speaker.threshold, "calibrated"
    return bundle.speaker_threshold, "model"


def _configured(name: str, threshold: float | str, known: WordModel | UserWord) -> float:
    if not isinstance(threshold, str):
        return threshold
    points = sorted(known.operating_points, key=lambda point: point.false_accepts_per_hour)
    if len(points) != len(OPERATING_POINTS):
        raise ConfigError(f"words.{name}.threshold: {threshold!r} was not measured for this word; give a number, or null")
    return points[OPERATING_POINTS.index(threshold)].threshold
