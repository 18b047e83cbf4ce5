"""`kwsd bench accuracy`: misses v false accepts of every word and engine, and verification, on labelled recordings.

A recording of a word sits between a second of near-silence on either side; its score is the highest that the engine gives
meanwhile. A false accept is a pass over the threshold in audio that does not hold the word: recordings of other words, noise,
and the folders of negatives; two within a second count once. Misses at a rate are read at the lowest threshold that keeps it,
so they are in-sample: thresholds and misses come from the same recordings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.files import RATE, AudioFileError, read_all, read_blocks
from kwsd.bench.corpus import Recording, audio_under, labelled, noise_of
from kwsd.bench.peers import BLOCK_SAMPLES, ENGINES, Engine
from kwsd.bench.voices import encoders
from kwsd.metrics import bootstrap_interval, equal_error_rate, error_curves, false_accept_peaks, poisson_interval, threshold_at, verification_trials

log = logging.getLogger(__name__)
RATES = (0.1, 0.5, 1.0)
"""False accepts an hour at which misses are read."""
MIN_TAKES = 6
"""Takes that a speaker needs: five to enrol, one to try."""


def _scores(engine: Engine, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Scores `[step, word]` of a stream, fed as a microphone would."""
    parts = [engine.feed(b[at : at + BLOCK_SAMPLES]) for b in blocks for at in range(0, len(b), BLOCK_SAMPLES)]
    return np.concatenate(parts)


def between_silence(samples: np.ndarray) -> np.ndarray:
    """int16 `samples` with a second of faint hiss on either side."""
    hiss = np.random.default_rng(0).normal(0, 3, 2 * RATE).astype(np.int16)
    return np.concatenate([hiss[:RATE], samples, hiss[RATE:]])


def with_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """int16 `samples` in `noise`, `snr_db` under the level of their loud half."""
    x, y = samples.astype(np.float64), np.resize(noise, len(samples)).astype(np.float64)
    frames = np.sort(np.mean(x[: len(x) // 400 * 400].reshape(-1, 400) ** 2, axis=1))
    power = frames[len(frames) // 2 :].mean()
    gain = np.sqrt(power / 10 ** (snr_db / 10) / (np.mean(y**2) + 1e-9))
    return np.clip(np.round(x + gain * y), -32768, 32767).astype(np.int16)


@dataclass
class Heard:
    """What one engine made of one word."""

    engine: str
    word: str
    hits: list[float] = field(default_factory=list)
    """The highest score of each recording of the word."""
    noisy: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    """The speaker of each, or the recording itself where speakers are not known."""
    peaks: list[float] = field(default_factory=list)
    """Of the audio that does not hold it."""
    seconds: float = 0.0


def listen(name: str, words: list[str], recordings: list[Recording], negatives: list[Path], noise: list[Path], snr_db: float) -> list[Heard]:
    """One engine over everything; words that it does not know are left out."""
    kind = ENGINES[name]
    known = [w for w in words if w in kind.words]
    heard = []
    for together in [known] if kind.several and known else [[w] for w in known]:
        table = {w: Heard(name, w) for w in together}
        rng = np.random.default_rng(5)
        for n, recording in enumerate(recordings):
            samples = read_all(recording.path)
            scores = _scores(kind.make(together), [between_silence(samples)])
            for w, one in enumerate(table.values()):
                if recording.word == one.word:
                    one.hits.append(float(scores[:, w].max(initial=0.0)))
                    one.groups.append(recording.speaker or str(recording.path))
                else:
                    one.peaks += false_accept_peaks(scores[:, w])
                    one.seconds += len(samples) / RATE
            if noise and recording.word in table:
                babble = read_all(noise[rng.integers(len(noise))])
                start = int(rng.integers(max(len(babble) - len(samples) - 2 * RATE, 1)))
                loud = with_noise(between_silence(samples), babble[start:], snr_db)
                table[recording.word].noisy.append(float(_scores(kind.make(together), [loud])[:, together.index(recording.word)].max(initial=0.0)))
            if n % 500 == 499:
                log.info("%s: %d of %d recordings", name, n + 1, len(recordings))
        for path in negatives:
            seconds = 0.0

            def counted(path: Path = path) -> Iterator[np.ndarray]:
                nonlocal seconds
                for block in read_blocks(path):
                    seconds += len(block) / RATE
                    yield block

            scores = _scores(kind.make(together), counted())
            for w, one in enumerate(table.values()):
                one.peaks += false_accept_peaks(scores[:, w])
                one.seconds += seconds
        heard += list(table.values())
    return heard


def figures(heard: Heard) -> dict[str, Any]:
    """Misses at each rate with their interval, and the rates that the audio supports."""
    hours, peaks = heard.seconds / 3600, np.sort(np.array(heard.peaks))[::-1]
    points = []
    for rate in RATES:
        threshold = threshold_at(peaks, hours, rate)
        missed = np.array(heard.hits) < threshold
        accepts = int((peaks >= threshold).sum())
        point = {"rate": rate, "threshold": threshold, "false_accepts": accepts, "rate_interval": poisson_interval(accepts, max(hours, 1e-9)),
                 "miss": float(missed.mean()), "miss_interval": bootstrap_interval(missed, heard.groups)}  # fmt: skip
        if heard.noisy:
            point["miss_noisy"] = float((np.array(heard.noisy) < threshold).mean())
        points.append(point)
    levels = np.unique(np.concatenate([peaks, heard.hits]))[::-1][:4000]
    curve = [[float((peaks >= t).sum() / max(hours, 1e-9)), float((np.array(heard.hits) < t).mean())] for t in levels]
    return {"engine": heard.engine, "word": heard.word, "recordings": len(heard.hits), "speakers": len(set(heard.groups)), "hours": hours,
            "points": points, "curve": curve}  # fmt: skip


def verification(recordings: list[Recording], takes_each: int = 12) -> list[dict[str, Any]]:
    """One take against one, and five enrolled against one, of the speakers who have takes enough, per speaker encoder."""
    people: dict[str, list[Path]] = {}
    for recording in recordings:
        if recording.speaker:
            people.setdefault(recording.speaker, []).append(recording.path)
    rng = np.random.default_rng(0)
    chosen = [[paths[i] for i in rng.permutation(len(paths))[:takes_each]] for _, paths in sorted(people.items()) if len(paths) >= MIN_TAKES]
    if len(chosen) < 2:
        return []
    reports = []
    for name, make in encoders().items():
        embed = make()
        embeddings = [np.stack([embed(read_all(path)) for path in paths]) for paths in chosen]
        log.info("%s: %d speakers embedded", name, len(embeddings))
        one, five = verification_trials(embeddings)
        reports.append({"engine": name, "speakers": len(chosen), "takes": sum(map(len, chosen)), "one": _det(*one), "five": _det(*five)})
    return reports


def _det(same: np.ndarray, different: np.ndarray) -> dict[str, Any]:
    rejects, accepts, _ = error_curves(same, different)
    every = max(len(rejects) // 2000, 1)
    return {"eer": equal_error_rate(same, different)[0], "trials": len(same) + len(different),
            "curve": np.stack([accepts, rejects], axis=1)[::every].round(6).tolist()}  # fmt: skip


def accuracy(folder: Path, engines: list[str], negatives: list[Path], noise: Path | None, snr_db: float, words: list[str] | None) -> dict[str, Any]:
    """Everything, as a dict that `json` takes. Raises AudioFileError."""
    recordings = labelled(folder)
    spoken = {r.word for r in recordings}
    wanted = words or [w for w in dict.fromkeys(w for e in engines for w in ENGINES[e].words) if w in spoken]
    for word in words or ():
        if word not in spoken:
            raise AudioFileError(f"{folder}: holds no recording of {word!r}; it has {', '.join(sorted(spoken))}")
    noises = audio_under(noise) if noise else noise_of(folder)
    others = [path for n in negatives for path in audio_under(n)] + noise_of(folder)
    heard = [one for e in engines for one in listen(e, wanted, recordings, others, noises, snr_db)]
    if not wanted:
        log.warning("%s: holds none of the words of %s; only verification is measured", folder, ", ".join(engines))
    return {"folder": str(folder), "snr_db": snr_db if noises else None, "words": [figures(one) for one in heard if one.hits],
            "verification": verification(recordings)}  # fmt: skip
