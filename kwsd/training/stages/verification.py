"""How well a bundle tells people apart: trials of the development split's people, as they were
recorded, in one room, and by telephone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kwsd.metrics import (
    Scorer,
    cosine,
    equal_error_rate,
    logistic_calibration,
    verification_trials,
)
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.development import Development, Report

log = logging.getLogger(__name__)
MIN_TAKES = 6
"""Takes that a person needs: five enroll, one is tried."""
RECORDED = "as recorded"
TELEPHONE = "telephone"
ROOMS = ("one room", "another room", "a third room")
"""Conditions in which all people share a room, a noise and a microphone, enrolled and tried."""
PASSING = 0.02
"""Share of the strangers that the default threshold lets pass in a room that all share."""
MOST_PEOPLE = 80
"""People who are heard in each of these conditions."""


def figures(
    models: BundleRuntime, development: Development, threshold: float | None = None
) -> Report:
    """Return the figures of each group of corpora whose people are in the split, by the name
    `speakers_GROUP`.

    What passes in each condition is counted at `threshold`, a normalized score; by default the one
    that `PASSING` of the strangers in `ROOMS` reach, and without noise for rooms the one that 1 %
    reach as recorded. It is the `normalized` one of each group's `scale`."""
    report: Report = {}
    scorer = models.speaker_scorer()
    groups = development.roles.speaker_groups
    heard: dict[str, dict[str, _Trials]] = {}
    for group in sorted(groups, key=lambda name: name != "all"):
        people = voices(models, development, groups[group])
        if len(people) < 2:
            log.info("speakers %s: fewer than two people with %d takes", group, MIN_TAKES)
            continue
        report[f"speakers_{group}"] = _group_figures(f"{group}, {RECORDED}", people, scorer)
        if group != "all":
            heard[group] = {
                name: _Trials.of(people, scorer)
                for name, degrade in _conditions(development).items()
                if len(people := voices(models, development, groups[group], degrade, MOST_PEOPLE))
                > 1
            }
    if not report:
        return report
    rooms = [of[name].impostor for of in heard.values() for name in ROOMS if name in of]
    if threshold is None:
        first, *_ = report.values()
        threshold = first["scale"]["normalized"]
        if rooms:
            threshold = float(np.quantile(np.concatenate(rooms), 1 - PASSING))
    for found in report.values():
        scale = found["scale"]
        logit = scale["slope"] * threshold + scale["offset"]
        scale |= {"normalized": threshold, "threshold": 1 / (1 + math.exp(-logit))}
    for group, conditions in heard.items():
        report[f"speakers_{group}"]["conditions"] = {
            name: _at_scale(f"{group}, {name}", trials, threshold)
            for name, trials in conditions.items()
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


def _group_figures(name: str, people: list[np.ndarray], scorer: Scorer) -> Report:
    """Return the equal error rates of `people`, plain and normalized, and the calibration."""
    plain, _, _ = trials(people)
    normalized, target, impostor = trials(people, scorer)
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
    return {
        "people": plain.people,
        "eer_one": plain.one,
        "eer_five": plain.five,
        "normalized_eer_one": normalized.one,
        "normalized_eer_five": normalized.five,
        "miss_at_1_percent_fa": float((target < one_percent).mean()),
        "scale": {"slope": slope, "offset": offset, "normalized": one_percent},
    }


def _at_scale(name: str, trials: _Trials, threshold: float) -> Report:
    """Return the equal error rates in one condition, and who passes at the normalized
    `threshold`."""
    one_percent = float(np.quantile(trials.impostor, 0.99))
    strangers = float((trials.impostor >= threshold).mean())
    owners = float((trials.target < threshold).mean())
    plain, normalized = trials.plain, trials.normalized
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
        "miss_at_1_percent_fa": float((trials.target < one_percent).mean()),
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


class _Trials(NamedTuple):
    """The trials of one condition."""

    plain: Verification
    normalized: Verification
    target: np.ndarray
    """Normalized scores of five against one, of the same person."""
    impostor: np.ndarray
    """The same of two people."""

    @classmethod
    def of(cls, people: list[np.ndarray], scorer: Scorer) -> _Trials:
        return cls(trials(people)[0], *trials(people, scorer))


def trials(
    people: list[np.ndarray], scorer: Scorer = cosine
) -> tuple[Verification, np.ndarray, np.ndarray]:
    """Return the equal error rates over `people`, each embeddings `[take, dim]` with at least six
    takes, and the target and impostor scores of five against one.

    One take against one, and five enrolled against one: all pairs of a person's takes, and all
    pairs with others'."""
    (target_one, impostor_one), (target, impostor) = verification_trials(people, scorer)
    one = equal_error_rate(target_one, impostor_one)[0]
    five = equal_error_rate(target, impostor)[0]
    return Verification(one, five, len(people)), target, impostor


def voices(
    models: BundleRuntime,
    development: Development,
    corpora: Sequence[str],
    degrade: Callable[[np.ndarray], np.ndarray] | None = None,
    most: int | None = None,
) -> list[np.ndarray]:
    """Return embeddings `[take, dim]` of each development person of `corpora` (of `most` of them)
    with at least six takes; `degrade` is what happens to each take `[sample]`."""
    people: list[np.ndarray] = []
    for takes in development.takes(corpora):
        heard = takes if degrade is None else [degrade(take) for take in takes]
        vectors = [
            vector for take in heard if (vector := models.embed(take.astype(np.int16))) is not None
        ]
        if len(vectors) >= MIN_TAKES:
            people.append(np.stack(vectors))
        if most is not None and len(people) == most:
            break
    return people
