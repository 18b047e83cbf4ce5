"""`kwsd train evaluate`: measure a bundle on the development split, with the detector
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
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from kwsd.metrics import (
    mean_excess,
    operating_threshold,
    rate_interval,
    tail_rate,
    threshold_at,
)
from kwsd.model.manifest import CHECKED_FLOOR, Speaker
from kwsd.protocol.data import OperatingPoint
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.bundle_writer import WordMeasure
from kwsd.training.data.corpora import Corpora
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import (
    DRAWS,
    NO_RECORDING,
    PLAYBACK_DB,
    RATES,
    SWEEP,
    Development,
    FalseAccepts,
    Report,
)
from kwsd.training.models.backend import Backend, fit_to_people
from kwsd.training.stages import verification

log = logging.getLogger(__name__)
QUANTILES = 41
"""Quantiles of the scores of a word's recordings that the bundle keeps."""
DEFAULT_POINT = 0
"""Which of the `RATES` a word's default threshold is for: the strictest."""


PARTS = ("words", "voices")
"""What is measured."""
SPEAKER_SCALE = Speaker.__struct_fields__
"""What of the scale of voices goes into a bundle."""


def evaluate(models: BundleRuntime, data: TrainingData, parts: Collection[str] = PARTS) -> Report:
    """Return the figures of the model card that belong to `parts`, with operating points; those of
    the store for validation, if there is one, under `validation`.

    Raises ValueError where the development split holds no recording of a word."""
    development = Development(data)
    for n, word in enumerate(models.words if "words" in parts else []):
        if not development.scenes.words[n][False]:
            raise ValueError(NO_RECORDING.format(word))
    report = _figures(models, development, parts)
    validation = data.validation()
    if validation is not None:
        log.info("validation, which nothing is fitted to:")
        thresholds = {
            word: [point["threshold"] for point in figures["points"]]
            for word, figures in report.get("words", {}).items()
        }
        scale = report.get("speakers_all", {}).get("scale")
        report["validation"] = _figures(models, Development(validation), parts, thresholds, scale)
    return report


def _figures(
    models: BundleRuntime,
    development: Development,
    parts: Collection[str],
    thresholds: Mapping[str, Sequence[float]] | None = None,
    scale: Mapping[str, float] | None = None,
) -> Report:
    """Return the figures of a split: operating points of its own and, where they are given, the
    points at `thresholds`, by word, under `kept`; voices by `scale`."""
    report = _words(models, development, thresholds) if "words" in parts else {}
    if "voices" in parts:
        development = Development(development.data)  # drawn as where voices alone are measured
        report |= verification.figures(models, development, scale)
    return report


def _words(
    models: BundleRuntime,
    development: Development,
    thresholds: Mapping[str, Sequence[float]] | None,
) -> Report:
    """Return those of the words."""
    words = models.words
    checks = models.checks
    found = development.false_accepts(models.scores, len(words))
    report: Report = {"negative_hours": round(found.total_hours(), 2), "gated": models.gated}
    if models.checker is not None:
        report["checks_per_hour"] = round((models.checks - checks) / found.total_hours(), 1)
        log.info("%.0f checks an hour of all negatives", report["checks_per_hour"])
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
    usual = float(np.mean([mean_excess(one) for one in found.peaks(kinds)]))

    def point_at(threshold: float, rate: float) -> OperatingPoint:
        low, high = rate_interval(heard, heard_hours, threshold, usual=usual)
        missed = float((clean < threshold).mean())
        return OperatingPoint(
            threshold, rate, missed, float((noisy < threshold).mean()), low=low, high=high
        )

    points = [
        point_at(operating_threshold(heard, heard_hours, rate, usual), rate) for rate in RATES
    ]
    playing = {
        name: development.hits(models.scores, development.scenes.words[n][False], name)
        for name in PLAYBACK_DB
    }
    figures: Report = {
        "playback": {
            name: [float((best < point.threshold).mean()) for point in points]
            for name, best in playing.items()
        },
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
        # The share of the recordings that the checker was never asked about.
        "unasked": {
            name: float((best < CHECKED_FLOOR).mean()) if models.checker else 0.0
            for name, best in (recorded | playing).items()
        },
        "scores": [
            np.quantile(kind, np.linspace(0, 1, QUANTILES)).round(4).tolist()
            for kind in (clean, noisy)
        ],
    }
    if kept is not None:
        figures["kept"] = msgspec.to_builtins(
            [point_at(at, tail_rate(heard, heard_hours, at, usual)) for at in kept]
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


def word_measures(report: Report) -> dict[str, WordMeasure]:
    """Return what the bundle keeps of a report of words; a word's default is its strict point."""
    measures = {}
    for word, figures in report.get("words", {}).items():
        points = [OperatingPoint(**point) for point in figures["points"]]
        measures[word] = WordMeasure(points[DEFAULT_POINT].threshold, points, *figures["scores"])
    return measures


def fit_backend(models: BundleRuntime, corpora: Corpora) -> Backend:
    """Return the backend of the training split's people, fitted to the bundle's own embeddings, in
    8 bit where the bundle is."""
    return fit_to_people(corpora, lambda x: models.embed(x.astype(np.int16)))
