"""`kwsd train evaluate` and `cohort`: measure a bundle on the development split, with the detector
and the embedder that run on the device.

Words: miss rate at given false accepts per hour, per word, clean, at 10 dB and in rooms. A recorded
word lies between a second of near-silence on either side; a false accept is a firing in audio that
holds no such word. Operating points come from the tail of the peaks over continuous speech and
noise. Speakers: equal error rate.

Where there is a store for validation, all of it is measured there as well, and what becomes there
of the operating points; nothing is fitted to it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.metrics import (
    Scorer,
    cosine,
    equal_error_rate,
    logistic_calibration,
    operating_threshold,
    rate_interval,
    tail_rate,
    threshold_at,
    verification_trials,
)
from kwsd.protocol.data import OperatingPoint
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.bundle_writer import WordMeasure
from kwsd.training.data.corpora import Corpora
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import (
    DRAWS,
    RATES,
    SWEEP,
    Development,
    FalseAccepts,
    Report,
)
from kwsd.training.models.backend import Backend, fit_to_people

log = logging.getLogger(__name__)
QUANTILES = 41
"""Quantiles of the scores of a word's recordings that the bundle keeps."""
DEFAULT_POINT = 0
"""Which of the `RATES` a word's default threshold is for: the strictest."""
MIN_TAKES = 6
"""Takes that a person needs: five enroll, one is tried."""


def evaluate(models: BundleRuntime, data: TrainingData) -> Report:
    """Return all figures of the model card, and the operating points under `points`; those of the
    store for validation, if there is one, under `validation`.

    Raises ValueError where the development split holds no recording of a word."""
    development = Development(data)
    for n, word in enumerate(models.words):
        if not development.scenes.words[n][False]:
            raise ValueError(f"the development split holds no recording of {word}")
    report = _figures(models, development)
    validation = data.validation()
    if validation is not None:
        log.info("validation, which nothing is fitted to:")
        thresholds = {
            word: [point["threshold"] for point in figures["points"]]
            for word, figures in report["words"].items()
        }
        report["validation"] = _figures(models, Development(validation), thresholds)
    return report


def _figures(
    models: BundleRuntime,
    development: Development,
    thresholds: Mapping[str, Sequence[float]] | None = None,
) -> Report:
    """Return the figures of a split: operating points of its own and, where they are given, the
    points at `thresholds`, by word, under `kept`."""
    words = models.words
    found = development.false_accepts(models.scores, len(words))
    report: Report = {"negative_hours": round(found.total_hours(), 2), "gated": models.gated}
    table: dict[str, Report] = {}
    report["words"] = table
    for n, word in enumerate(words):
        if development.scenes.words[n][False]:
            kept = thresholds[word] if thresholds else None
            table[word] = _word_figures(models, development, n, found, kept)
        else:
            log.warning("%s: there is no recording of it", word)
    report |= _word_means(table)
    if thresholds is None:
        thresholds = {
            word: [point["threshold"] for point in figures["points"]]
            for word, figures in table.items()
        }
    if len(thresholds) == len(words):
        default = [thresholds[word][DEFAULT_POINT] for word in words]
        report["sources"] = found.by_kind(default)
        for kind, row in report["sources"].items():
            log.info(
                "%-32s %6.2f h, %4d false accepts of all words at their defaults, %.2f an hour "
                "(%.2f to %.2f)",
                kind,
                *(row[key] for key in ("hours", "false_accepts", "per_hour", "low", "high")),
            )
    scorer = models.speaker_scorer()
    data = development.data
    for group, corpora in data.roles.speaker_groups.items():
        people = voices(models, development, corpora)
        if len(people) < 2:
            log.warning("speakers %s: fewer than two people with %d takes", group, MIN_TAKES)
            continue
        report[f"speakers_{group}"] = _speaker_figures(group, people, scorer)
    return report


def _word_figures(
    models: BundleRuntime,
    development: Development,
    n: int,
    found: FalseAccepts,
    kept: Sequence[float] | None,
) -> Report:
    """Return the figures of the word with the index `n`: its own operating points, and the points
    at the thresholds `kept`."""
    peaks = found.peaks()[n]
    hours = found.total_hours()
    swept = np.array([threshold_at(peaks, hours, rate) for rate in SWEEP])
    recorded, synthetic = (
        {
            condition: development.hits(models.scores, development.scenes.words[n][kind], condition)
            for condition in DRAWS
        }
        for kind in (False, True)
    )
    clean = recorded["clean"]
    noisy = recorded["10 dB"]
    kinds = development.operating_kinds()
    heard = found.peaks(kinds)[n]
    heard_hours = found.total_hours(kinds)

    def point_at(threshold: float, rate: float) -> OperatingPoint:
        low, high = rate_interval(heard, heard_hours, threshold)
        missed = float((clean < threshold).mean())
        return OperatingPoint(
            threshold, rate, missed, float((noisy < threshold).mean()), low=low, high=high
        )

    points = [point_at(operating_threshold(heard, heard_hours, rate), rate) for rate in RATES]
    figures: Report = {
        "clips": clean.shape[1],
        "points": msgspec.to_builtins(points),
        # By counting alone, as other engines are measured.
        "counted": {
            str(rate): {name: float((s < at).mean()) for name, s in recorded.items()}
            for rate in RATES
            for at in [threshold_at(peaks, hours, rate)]
        },
        "sweep": _missed_over_sweep(recorded, swept),
        "synthetic_sweep": _missed_over_sweep(synthetic, swept),
        "scores": [
            np.quantile(kind, np.linspace(0, 1, QUANTILES)).round(4).tolist()
            for kind in (clean, noisy)
        ],
    }
    if kept is not None:
        figures["kept"] = msgspec.to_builtins(
            [point_at(at, tail_rate(heard, heard_hours, at)) for at in kept]
        )
    log.info(
        "%-13s %d recordings, missed at %s FA/h: clean %s, 10 dB %s; "
        "of %d synthetic ones on average %s",
        models.words[n],
        clean.shape[1],
        RATES,
        [round(100 * point.miss_rate, 2) for point in points],
        [round(100 * point.miss_rate_10db, 2) for point in points],
        synthetic["clean"].shape[1],
        [round(100 * share, 2) for share in figures["synthetic_sweep"].values()],
    )
    return figures


def _missed_over_sweep(best: Mapping[str, np.ndarray], thresholds: np.ndarray) -> dict[str, float]:
    """Return the share of the `best` scores below `thresholds`, by condition; nothing without
    scores."""
    return {
        condition: float((scores[..., None] < thresholds).mean())
        for condition, scores in best.items()
        if scores.size
    }


def _word_means(table: Mapping[str, Report]) -> Report:
    """Return the means over the words of `table`, nothing without any."""
    report: Report = {}
    if not table:
        return report
    means = {
        kind: [
            float(np.mean([figures["points"][r][kind] for figures in table.values()]))
            for r in range(len(RATES))
        ]
        for kind in ("miss_rate", "miss_rate_10db")
    }
    report["mean"] = means
    percent = [[round(100 * rate, 2) for rate in rates] for rates in means.values()]
    log.info("mean of the words at %s FA/h: clean %s, 10 dB %s", RATES, *percent)
    for kind, name in (("sweep", "recorded"), ("synthetic_sweep", "synthetic")):
        measured = [figures[kind] for figures in table.values() if figures[kind]]
        if not measured:
            continue
        averaged = {
            condition: float(np.mean([shares[condition] for shares in measured]))
            for condition in DRAWS
        }
        report[kind] = averaged
        shares = {condition: round(100 * share, 2) for condition, share in averaged.items()}
        log.info("mean of the words, %s, averaged over %s FA/h: %s", name, SWEEP, shares)
    return report


def _speaker_figures(group: str, people: list[np.ndarray], scorer: Scorer) -> Report:
    """Return the equal error rates of `people`, plain and normalized, and the calibration."""
    plain, _, _ = trials(people)
    normalized, target, impostor = trials(people, scorer)
    log.info(
        "speakers %s: %d people, EER one vs. one %.2f %%, five vs. one %.2f %%; "
        "normalized %.2f, %.2f %%",
        group,
        plain.people,
        100 * plain.one,
        100 * plain.five,
        100 * normalized.one,
        100 * normalized.five,
    )
    slope, offset = logistic_calibration(target, impostor)
    one_percent = float(np.quantile(impostor, 0.99))
    threshold = 1 / (1 + math.exp(-(slope * one_percent + offset)))
    return {
        "people": plain.people,
        "eer_one": plain.one,
        "eer_five": plain.five,
        "normalized_eer_one": normalized.one,
        "normalized_eer_five": normalized.five,
        "miss_at_1_percent_fa": float((target < one_percent).mean()),
        "scale": {"threshold": threshold, "slope": slope, "offset": offset},
    }


def word_measures(report: Report) -> dict[str, WordMeasure]:
    """Return what the bundle keeps of a report; a word's default is its strict point."""
    measures = {}
    for word, figures in report["words"].items():
        points = [OperatingPoint(**point) for point in figures["points"]]
        measures[word] = WordMeasure(points[DEFAULT_POINT].threshold, points, *figures["scores"])
    return measures


@dataclass(frozen=True)
class Verification:
    """Equal error rates over the people of one group."""

    one: float
    """One take against one."""
    five: float
    """Five enrolled takes against one."""
    people: int


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
    models: BundleRuntime, development: Development, corpora: Sequence[str]
) -> list[np.ndarray]:
    """Return embeddings `[take, dim]` of each development person of `corpora` with at least six
    takes."""
    people: list[np.ndarray] = []
    for takes in development.takes(corpora):
        vectors = [
            vector for take in takes if (vector := models.embed(take.astype(np.int16))) is not None
        ]
        if len(vectors) >= MIN_TAKES:
            people.append(np.stack(vectors))
    return people


def fit_backend(models: BundleRuntime, corpora: Corpora) -> Backend:
    """Return the backend of the training split's people, fitted to the bundle's own embeddings, in
    8 bit where the bundle is."""
    return fit_to_people(corpora, lambda x: models.embed(x.astype(np.int16)))


def cohort(models: BundleRuntime, data: TrainingData, out: Path, per_person: int = 3) -> None:
    """Write `out`, one byte per number: `cohort`, the mean of a few takes of each of the training
    split's people, for normalizing scores; `strangers`, one take of each development person, for
    calibrating."""
    development = Development(data)
    corpora = development.corpora
    means = []
    for utterances in corpora.people(development=False).values():
        order = development.rng.permutation(len(utterances))[:per_person]
        takes = [corpora.read(utterances[i])[: 2 * SAMPLE_RATE] for i in order]
        vectors = [v for x in takes if (v := models.embed(x.astype(np.int16))) is not None]
        if vectors:
            mean = np.mean(vectors, axis=0)
            means.append(mean / np.linalg.norm(mean))
    people = voices(models, development, data.roles.speaker_groups["all"])
    strangers = [takes[0] for takes in people]
    if not means or not strangers:
        raise ValueError(
            f"the stores hold {len(means)} people of the training split and {len(strangers)} of "
            f"the development split with {MIN_TAKES} takes; a cohort needs both"
        )
    np.savez(
        out,
        cohort=np.round(127 * np.stack(means)).astype(np.int8),
        strangers=np.round(127 * np.stack(strangers)).astype(np.int8),
    )
    size = out.stat().st_size / 1e3
    log.info("a cohort of %d, %d strangers, %.0f kB", len(means), len(strangers), size)
