"""How well a bundle tells people apart: trials of the development split's people, as they were
recorded, in one room, and by telephone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kwsd.metrics import (
    NEAREST,
    Scorer,
    cosine,
    equal_error_rate,
    length_evidence,
    logistic_calibration,
    verification_trials,
)
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.development import Development, Report

log = logging.getLogger(__name__)
MIN_TAKES = 6
"""Takes that a person needs: five enroll, one is tried."""
MANY_PEOPLE = 20
"""People who can tell how much the length of a take gives."""
RECORDED = "as recorded"
TELEPHONE = "telephone"
ROOMS = ("one room", "another room", "a third room")
"""Conditions in which all people share a room, a noise and a microphone, enrolled and tried."""
OWNERS_MISSED = 0.05
"""Share of the owners that the default threshold misses as recorded."""
NEAR_THRESHOLD = 0.1
"""Share of the owners whose scores tell how much length gives: those near the threshold; of fewer
of them, the draw of the takes would decide."""
MOST_PEOPLE = 80
"""People who are heard in each of these conditions."""


def figures(
    models: BundleRuntime, development: Development, scale: Mapping[str, float] | None = None
) -> Report:
    """Return the figures of each group of corpora whose people are in the split, by the name
    `speakers_GROUP`.

    What passes in each condition is counted at the threshold `normalized` of `scale`, and scores
    lose its `length`: by default those of the group `all`, at whose threshold all but
    `OWNERS_MISSED` of its owners pass as recorded: as strict as they can bear, since on a device
    all share a room and a microphone, and there more strangers pass than as recorded."""
    report: Report = {}
    scorer = models.speaker_scorer()
    groups = development.roles.speaker_groups
    for group in sorted(groups, key=lambda name: name != "all"):
        people = voices(models, development, groups[group])
        if len(people) < 2:
            log.info("speakers %s: fewer than two people with %d takes", group, MIN_TAKES)
            continue
        length = _length(people, scorer) if scale is None else scale["length"]
        found = _group_figures(f"{group}, {RECORDED}", people, scorer, length)
        report[f"speakers_{group}"] = found
        scale = found["scale"] if scale is None else scale
        if group != "all":
            found["conditions"] = {
                name: _at_scale(f"{group}, {name}", heard, scorer, length, scale["normalized"])
                for name, degrade in _conditions(development).items()
                if len(heard := voices(models, development, groups[group], degrade, MOST_PEOPLE))
                > 1
            }
    return report


def _conditions(development: Development) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what is done to every take of every person, `[sample]`."""
    conditions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        RECORDED: lambda x: x,
        TELEPHONE: development.by_telephone,
    }
    if development.scenes.noise:
        conditions |= {name: development.same_room(name) for name in ROOMS}
    return conditions


def _group_figures(name: str, people: list[Person], scorer: Scorer, length: float) -> Report:
    """Return the equal error rates of `people`, plain and normalized, and the calibration."""
    plain, _, _ = trials(people)
    normalized, target, impostor = trials(people, scorer, length)
    log.info(
        "speakers %s: %d people, EER one vs. one %.2f %%, five vs. one %.2f %%; "
        "normalized %.2f, %.2f %%",
        name,
        plain.people,
        100 * plain.one,
        100 * plain.five,
        100 * normalized.one,
        100 * normalized.five,
    )
    slope, offset = logistic_calibration(target, impostor)
    one_percent = float(np.quantile(impostor, 0.99))
    normalized_threshold = float(np.quantile(target, OWNERS_MISSED))
    threshold = 1 / (1 + math.exp(-(slope * normalized_threshold + offset)))
    return {
        "people": plain.people,
        "eer_one": plain.one,
        "eer_five": plain.five,
        "normalized_eer_one": normalized.one,
        "normalized_eer_five": normalized.five,
        "miss_at_1_percent_fa": float((target < one_percent).mean()),
        "strangers_pass": float((impostor >= normalized_threshold).mean()),
        "scale": {
            "threshold": threshold,
            "slope": slope,
            "offset": offset,
            "nearest": NEAREST,
            "length": length,
            "normalized": normalized_threshold,
        },
    }


def _at_scale(
    name: str, people: list[Person], scorer: Scorer, length: float, threshold: float
) -> Report:
    """Return the equal error rates of `people` in one condition, and who passes at the normalized
    `threshold`."""
    plain, _, _ = trials(people)
    normalized, target, impostor = trials(people, scorer, length)
    one_percent = float(np.quantile(impostor, 0.99))
    strangers = float((impostor >= threshold).mean())
    owners = float((target < threshold).mean())
    log.info(
        "speakers %s: %d people, EER one vs. one %.2f %%, five vs. one %.2f %%; "
        "%.1f %% of strangers pass and %.1f %% of owners are missed",
        name,
        plain.people,
        100 * plain.one,
        100 * plain.five,
        100 * strangers,
        100 * owners,
    )
    return {
        "people": plain.people,
        "eer_one": plain.one,
        "eer_five": plain.five,
        "normalized_eer_one": normalized.one,
        "normalized_eer_five": normalized.five,
        "one_percent": one_percent,
        "miss_at_1_percent_fa": float((target < one_percent).mean()),
        "strangers_pass": strangers,
        "owners_missed": owners,
    }


@dataclass(frozen=True)
class Verification:
    """Equal error rates over the people of one group."""

    one: float
    """One take against one."""
    five: float
    """Five enrolled takes against one."""
    people: int


class Person(NamedTuple):
    """The takes of one person."""

    voices: np.ndarray
    """Embeddings `[take, dim]`."""
    speech_s: np.ndarray
    """Seconds of speech, `[take]`."""


def trials(
    people: Sequence[Person], scorer: Scorer = cosine, length: float = 0.0
) -> tuple[Verification, np.ndarray, np.ndarray]:
    """Return the equal error rates over `people` with at least six takes each, and the target and
    impostor scores of five against one, less `length` for the evidence of the one's length.

    One take against one, and five enrolled against one: all pairs of a person's takes, and all
    pairs with others'."""
    voices = [person.voices for person in people]
    (target_one, impostor_one), (target, impostor) = verification_trials(voices, scorer)
    evidence = _evidence(people)
    target = target - length * evidence
    impostor = impostor - length * np.repeat(evidence, len(people) - 1)
    one = equal_error_rate(target_one, impostor_one)[0]
    five = equal_error_rate(target, impostor)[0]
    return Verification(one, five, len(people)), target, impostor


def _evidence(people: Sequence[Person]) -> np.ndarray:
    """Return that of the length of each take that is tried against five, `[trial]`."""
    return length_evidence(np.concatenate([person.speech_s[5:] for person in people]))


def _length(people: Sequence[Person], scorer: Scorer) -> float:
    """Return how much owners' scores rise with the length of a take; 0 of few people."""
    if len(people) < MANY_PEOPLE:
        return 0.0
    _, target, _ = trials(people, scorer)
    slope = length_slope(target, _evidence(people), NEAR_THRESHOLD)
    log.info("a score rises by %.2f with the logarithm of the seconds of speech", slope)
    return slope


def length_slope(targets: np.ndarray, evidence: np.ndarray, missed: float) -> float:
    """Return by how much the scores of owners rise with the `length_evidence` of a take, 0 to 3.

    `targets` and `evidence` are `[trial]`. It is the slope of the line under which the share
    `missed` of them lies, whatever their length (quantile regression, Koenker and Bassett 1978)."""
    slopes = np.linspace(0, 3, 301)
    left = targets - slopes[:, None] * evidence
    over = left - np.quantile(left, missed, axis=1, keepdims=True)
    losses = np.where(over > 0, missed * over, (missed - 1) * over).mean(axis=1)
    return float(slopes[losses.argmin()])


def voices(
    models: BundleRuntime,
    development: Development,
    corpora: Sequence[str],
    degrade: Callable[[np.ndarray], np.ndarray] | None = None,
    most: int | None = None,
) -> list[Person]:
    """Return each development person of `corpora` (`most` of them) with at least six takes;
    `degrade` is what happens to each take `[sample]`."""
    people: list[Person] = []
    for takes in development.takes(corpora):
        heard = takes if degrade is None else [degrade(take) for take in takes]
        found = [voice for take in heard if (voice := models.voice(take.astype(np.int16)))]
        if len(found) >= MIN_TAKES:
            vectors, speech_s = zip(*found, strict=True)
            people.append(Person(np.stack(vectors), np.array(speech_s)))
        if most is not None and len(people) == most:
            break
    return people
