"""`kwsd bench accuracy`: misses against false accepts on labeled recordings.

Speakers are verified on the same recordings (`kwsd.bench.verification`).

A recording of a word has a second of near-silence before it and one after it; its score is the
highest that the engine gives meanwhile. A false accept is a pass over the threshold in audio that
does not contain the word: recordings of other words, noise, and the folders of negatives; two
within a second count once. Misses at a rate are read at the lowest threshold that keeps it, so they
are in-sample: thresholds and misses come from the same recordings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from kwsd.audio.files import read_all, read_blocks
from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.bench import peers
from kwsd.bench.circumstances import Circumstances
from kwsd.bench.corpus import LabeledRecording, audio_under, check_words, labeled, noise_of
from kwsd.bench.engines import ENGINES
from kwsd.bench.scenes import between_silence, with_noise
from kwsd.bench.verification import VerificationStats, verification
from kwsd.metrics import bootstrap_interval, false_accept_peaks, poisson_interval, threshold_at

log = logging.getLogger(__name__)
RATES = (0.1, 0.5, 1.0)
"""False accepts per hour at which misses are read."""
MAX_CURVE_POINTS = 4000
LOG_EVERY = 500
"""Recordings between two lines of the log."""


@dataclass
class EngineScores:
    """The scores that one engine gave to one word."""

    engine: str
    word: str
    scores: list[float] = field(default_factory=list)
    """The highest score of each recording of the word."""
    noisy_scores: list[float] = field(default_factory=list)
    """The same in noise; empty where there is no noise to mix in."""
    groups: list[str] = field(default_factory=list)
    """The speaker of each recording, or the recording itself where speakers are not known."""
    false_peaks: list[float] = field(default_factory=list)
    """The peaks of the score in audio that does not contain the word."""
    negative_s: float = 0.0
    """Length of that audio in seconds."""


class Point(TypedDict):
    """The misses at one rate of false accepts; shares lie between 0 and 1."""

    rate: float
    """Allowed false accepts per hour."""
    threshold: float
    false_accepts: int
    rate_interval: tuple[float, float]
    """95 % bounds of the false accepts per hour (Garwood 1936)."""
    miss: float
    miss_interval: tuple[float, float]
    """95 % bounds, by a bootstrap over speakers (Efron 1979)."""
    miss_noisy: NotRequired[float]


class WordStats(TypedDict):
    """The figures of one engine and word."""

    engine: str
    word: str
    recordings: int
    speakers: int
    hours: float
    """Hours of audio that does not contain the word."""
    points: list[Point]
    curve: list[list[float]]
    """Pairs of false accepts per hour and the share of misses, by falling threshold."""


class AccuracyReport(TypedDict):
    """The report of `kwsd bench accuracy`, as it is written to JSON."""

    folder: str
    snr_db: float | None
    """Signal-to-noise ratio of the noisy recordings; None where there is no noise."""
    words: list[WordStats]
    verification: list[VerificationStats]
    circumstances: NotRequired[Circumstances]


def accuracy(
    folder: Path,
    engines: Sequence[str],
    negatives: Sequence[Path],
    noise: Path | None,
    snr_db: float,
    words: list[str] | None,
) -> AccuracyReport:
    """Return the report on the labeled recordings in `folder`.

    `negatives` are folders of audio that contains none of the words; `noise` is mixed into the
    recordings at `snr_db`, else the layout's own. `words` are all that are in `folder` and that
    some engine has, unless they are given. Raises AudioFileError.
    """
    recordings = labeled(folder)
    available = {recording.word for recording in recordings}
    offered = dict.fromkeys(word for name in engines for word in ENGINES[name].words)
    wanted = words or [word for word in offered if word in available]
    check_words(folder, words, available)
    noises = audio_under(noise) if noise else noise_of(folder)
    without = [path for one in negatives for path in audio_under(one)] + noise_of(folder)
    found = [
        scores
        for name in engines
        for scores in score_engine(name, wanted, recordings, without, noises, snr_db)
    ]
    if not wanted:
        text = "%s: holds none of the words of %s; only verification is measured"
        log.warning(text, folder, ", ".join(engines))
    return {
        "folder": str(folder),
        "snr_db": snr_db if noises else None,
        "words": [figures(scores) for scores in found if scores.scores],
        "verification": verification(recordings),
    }


def score_engine(
    name: str,
    words: Sequence[str],
    recordings: Sequence[LabeledRecording],
    negatives: Sequence[Path],
    noise: Sequence[Path],
    snr_db: float,
) -> list[EngineScores]:
    """Run one engine over all audio; return the scores of each word that it has."""
    kind = ENGINES[name]
    known = [word for word in words if word in kind.words]
    together = [known] if kind.several and known else [[word] for word in known]
    found = []
    for instance in together:
        table = {word: EngineScores(name, word) for word in instance}
        _score_recordings(table, recordings, noise, snr_db)
        _score_negatives(table, negatives)
        found += list(table.values())
    return found


def _score_recordings(
    table: dict[str, EngineScores],
    recordings: Sequence[LabeledRecording],
    noise: Sequence[Path],
    snr_db: float,
) -> None:
    """Add the labeled recordings to the scores of words that one instance detects together."""
    rng = np.random.default_rng(5)
    words = list(table)
    (name,) = {scores.engine for scores in table.values()}
    for n, recording in enumerate(recordings, 1):
        samples = read_all(recording.path)
        found = _scores(name, words, [between_silence(samples)])
        for column, scores in enumerate(table.values()):
            if recording.word == scores.word:
                scores.scores.append(float(found[:, column].max(initial=0.0)))
                scores.groups.append(recording.group)
            else:
                scores.false_peaks += false_accept_peaks(found[:, column])
                scores.negative_s += len(samples) / SAMPLE_RATE
        if noise and recording.word in table:
            background = read_all(noise[int(rng.integers(len(noise)))])
            spare = len(background) - len(samples) - 2 * SAMPLE_RATE
            start = int(rng.integers(max(spare, 1)))
            noisy = with_noise(between_silence(samples), background[start:], snr_db)
            column = words.index(recording.word)
            highest = _scores(name, words, [noisy])[:, column].max(initial=0.0)
            table[recording.word].noisy_scores.append(float(highest))
        if n % LOG_EVERY == 0:
            log.info("%s: %d of %d recordings", name, n, len(recordings))


def _score_negatives(table: dict[str, EngineScores], paths: Sequence[Path]) -> None:
    """Add audio that contains none of the words to the scores of words detected together."""
    (name,) = {scores.engine for scores in table.values()}
    for path in paths:
        seconds = 0.0

        def blocks(path: Path = path) -> Iterator[np.ndarray]:
            nonlocal seconds
            for block in read_blocks(path):
                seconds += len(block) / SAMPLE_RATE
                yield block

        found = _scores(name, list(table), blocks())
        for column, scores in enumerate(table.values()):
            scores.false_peaks += false_accept_peaks(found[:, column])
            scores.negative_s += seconds


def _scores(name: str, words: Sequence[str], blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the scores `[step, word]` of a stream, fed in blocks as a microphone gives them."""
    engine = peers.make(name, words)
    parts = [
        engine.feed(block[at : at + CHUNK_SAMPLES])
        for block in blocks
        for at in range(0, len(block), CHUNK_SAMPLES)
    ]
    return np.concatenate(parts)


def figures(found: EngineScores) -> WordStats:
    """Return the misses of one word at each of `RATES`, and its trade-off, with 95 % intervals."""
    hours = found.negative_s / 3600
    peaks = np.sort(np.array(found.false_peaks))[::-1]
    scores = np.array(found.scores)
    levels = np.unique(np.concatenate([peaks, found.scores]))[::-1][:MAX_CURVE_POINTS]
    curve = [
        [float((peaks >= t).sum() / max(hours, 1e-9)), float((scores < t).mean())] for t in levels
    ]
    return {
        "engine": found.engine,
        "word": found.word,
        "recordings": len(found.scores),
        "speakers": len(set(found.groups)),
        "hours": hours,
        "points": [_point(found, peaks, hours, rate) for rate in RATES],
        "curve": curve,
    }


def _point(found: EngineScores, peaks: np.ndarray, hours: float, rate: float) -> Point:
    """Return the misses at `rate` false accepts per hour; `peaks` are sorted, highest first."""
    threshold = threshold_at(peaks, hours, rate)
    missed = np.array(found.scores) < threshold
    accepts = int((peaks >= threshold).sum())
    point: Point = {
        "rate": rate,
        "threshold": threshold,
        "false_accepts": accepts,
        "rate_interval": poisson_interval(accepts, max(hours, 1e-9)),
        "miss": float(missed.mean()),
        "miss_interval": bootstrap_interval(missed, found.groups),
    }
    if found.noisy_scores:
        point["miss_noisy"] = float((np.array(found.noisy_scores) < threshold).mean())
    return point
