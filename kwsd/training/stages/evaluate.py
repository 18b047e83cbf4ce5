"""What a bundle is worth, on the development split: the very detector and embedder that run on the device.

Words: miss rate at given false accepts an hour, per word, clean, at 10 dB and in rooms. A recorded word sits between a second of
near-silence on either side; a false accept is a firing in audio that holds no such word. Speakers: equal error rate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kwsd.audio.files import RATE
from kwsd.config import Config, Vad, Word
from kwsd.detect.detector import Detector, Trace
from kwsd.detect.embedder import Embedder
from kwsd.metrics import (
    Alike,
    cosine,
    equal_error_rate,
    false_accept_peaks,
    logistic_calibration,
    symmetric_norm,
    threshold_at,
    verification_trials,
)
from kwsd.model import bundle as bundles
from kwsd.model.bundle import OperatingPoint
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.state.voiceprints import read_cohort
from kwsd.training.data import augment
from kwsd.training.data.corpora import Clip, Corpora
from kwsd.training.data.scenes import Scenes
from kwsd.training.models.backend import Backend, fit_to
from kwsd.training.stages.export import Measured
from kwsd.training.stages.speaker import by_speaker

log = logging.getLogger(__name__)
RATES = (0.1, 0.5, 1.0)
SWEEP = (0.125, 0.25, 0.5, 1.0, 2.0)
"""False accepts an hour over which misses are averaged: no single utterance sets that figure, so it is the one to choose by."""
DRAWS = {"clean": 1, "10 dB": 4, "room": 4}
"""How often a recorded word is heard in each condition, amid other noise or in another room each time."""
PEOPLE = {"gsc": ("gsc",), "all": ("gsc", "speechocean", "libri", "arabic", "dsp20")}
"""Corpora whose development people are told apart."""
QUANTILES = 41
"""Of the scores of a word's recordings, that the bundle keeps."""


class Development:
    """What figures are taken on: the development split, clean, in noise, and in a room."""

    def __init__(self, stores: list[Path], rooms: Path, seed: int = 7) -> None:
        self.corpora = Corpora(*stores)
        self.scenes = Scenes(self.corpora, rooms, development=True, seed=seed)
        self.rng = np.random.default_rng(seed)

    def noisy(self, x: np.ndarray, snr_db: float = 10.0) -> np.ndarray:
        """`x [sample]` amid noise of the split."""
        noise = self.scenes.fill(lambda: self.scenes.pick(self.scenes.noise), len(x))
        return augment.mix(torch.from_numpy(x)[None], torch.from_numpy(noise)[None], torch.tensor([snr_db]))[0].numpy()

    def reverberant(self, x: np.ndarray) -> np.ndarray:
        """`x [sample]` in a room of the split."""
        rooms = self.scenes.rooms.responses
        return augment.reverberate(torch.from_numpy(x)[None], rooms[self.rng.integers(len(rooms))][None])[0].numpy()

    def negatives(self) -> Iterator[tuple[str, np.ndarray]]:
        """Minutes of development audio without a wake word, clean and at 10 dB, and noise by itself; int16."""
        for name, snr in (("clean", None), ("10 dB", 10.0)):
            for corpus, clips in self.scenes.speech.items():
                order = self.rng.permutation(len(clips))
                for at in range(0, len(order), 200):
                    x = np.concatenate([np.pad(self.corpora.read(clips[i]), (0, 2400)) for i in order[at : at + 200]])
                    x = x if snr is None else self.noisy(x, snr)
                    yield f"{corpus} {name}", augment.to_int16(x).astype(np.int16)
        for clip in self.scenes.noise:
            yield "noise", self.corpora.read(clip).astype(np.int16)

    def conditions(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        return {"clean": lambda x: x, "10 dB": self.noisy, "room": self.reverberant}

    def hits(self, scores_of: Callable[[np.ndarray], np.ndarray], clips: list[Clip], condition: str = "clean") -> np.ndarray:
        """The highest score of each clip's own word `[draw, clip]`, by what `scores_of` a stretch is `[chunk, word]`."""
        way = self.conditions()[condition]
        out = np.zeros((DRAWS[condition], len(clips)))
        for best in out:
            for n, clip in enumerate(clips):
                hiss = self.rng.normal(0, 3, 2 * RATE).astype(np.float32)
                x = way(np.concatenate([hiss[:RATE], self.corpora.read(clip), hiss[RATE:]]))
                best[n] = scores_of(augment.to_int16(x).astype(np.int16))[:, clip.word].max()
        return out

    def false_accepts(self, scores_of: Callable[[np.ndarray], np.ndarray], words: int) -> tuple[list[np.ndarray], dict[str, float]]:
        """Each word's peaks in all negatives, highest first, by what `scores_of` a stretch is `[chunk, word]`; and the hours of each source."""
        peaks: list[list[float]] = [[] for _ in range(words)]
        hours = dict[str, float]()
        for name, samples in self.negatives():
            scores = scores_of(samples)
            hours[name] = hours.get(name, 0.0) + len(samples) / RATE / 3600
            for w in range(words):
                peaks[w] += false_accept_peaks(scores[:, w])
        return [np.sort(np.array(found))[::-1] for found in peaks], hours


class Evaluation(Development):
    """A bundle on the development split."""

    def __init__(self, bundle: Path, stores: list[Path], rooms: Path, *, gated: bool = True, seed: int = 7) -> None:
        super().__init__(stores, rooms, seed)
        self.bundle = bundles.load(bundle)
        self._student, self._speaker = Student(self.bundle), SpeakerEncoder(self.bundle)
        self.words = list(self.bundle.words)
        self._config = Config(words={w: Word() for w in self.words}, vad=Vad(enabled=gated))

    def trace(self, samples: np.ndarray) -> np.ndarray:
        """Scores `[chunk, word]` of int16 `samples`, from the start of a stream."""
        parts: list[Trace] = []
        detector = Detector(self._config, self.bundle, student=self._student, speaker=self._speaker, on_trace=parts.append)
        detector.feed(samples)
        return np.concatenate([p.scores for p in parts])


@dataclass(frozen=True)
class Verification:
    """Trials of one corpus: equal error rates, and the scores."""

    one: float
    five: float
    people: int


def takes(development: Development, corpora: tuple[str, ...], clips_each: int = 12) -> Iterator[list[np.ndarray]]:
    """Takes `[sample]` of at most 2 s of each person of `corpora`."""
    for who, clips in by_speaker(development.corpora, development=True).items():
        if who.split("/")[0] not in corpora:
            continue
        chosen = [clips[i] for i in development.rng.permutation(len(clips))[:clips_each]]
        if len(chosen) == 1 and chosen[0].samples > 8 * RATE:  # one long take: its pieces
            whole = development.corpora.read(chosen[0])
            yield [whole[i : i + 2 * RATE] for i in range(0, len(whole) - 2 * RATE, 2 * RATE)]
        else:
            yield [development.corpora.read(c)[: 2 * RATE] for c in chosen]


def voices(evaluation: Evaluation, corpora: tuple[str, ...]) -> list[np.ndarray]:
    """Embeddings `[take, dim]` of each development person of `corpora` with six takes at least."""
    embedder = Embedder(evaluation.bundle, evaluation._student, evaluation._speaker)
    people: list[np.ndarray] = []
    for own in takes(evaluation, corpora):
        vectors = [v for t in own if (v := embedder.embed([t.astype(np.int16)])) is not None]
        if len(vectors) >= 6:
            people.append(np.stack(vectors))
    return people


def fit_backend(bundle: Path, stores: list[Path]) -> Backend:
    """Of the training split's people, as `bundle` hears them: 8 bit and all."""
    corpora, embedder = Corpora(*stores), Embedder(bundles.load(bundle))
    return fit_to(by_speaker(corpora, development=False), corpora, lambda x: embedder.embed([x.astype(np.int16)]))


def cohort(bundle: Path, stores: list[Path], rooms: Path, out: Path, takes_each: int = 3) -> None:
    """Write `out`, a byte a number: of each of the training split's people the mean of a few takes, for normalising scores; and of each
    development person one take, strangers for calibrating."""
    evaluation = Evaluation(bundle, stores, rooms)
    embedder, corpora = Embedder(evaluation.bundle, evaluation._student, evaluation._speaker), evaluation.corpora
    means = []
    for clips in by_speaker(corpora, development=False).values():
        chosen = [corpora.read(clips[i])[: 2 * RATE] for i in evaluation.rng.permutation(len(clips))[:takes_each]]
        vectors = [v for x in chosen if (v := embedder.embed([x.astype(np.int16)])) is not None]
        if vectors:
            means.append(np.mean(vectors, axis=0) / np.linalg.norm(np.mean(vectors, axis=0)))
    strangers = [own[0] for own in voices(evaluation, PEOPLE["all"])]
    np.savez(out, cohort=np.round(127 * np.stack(means)).astype(np.int8), strangers=np.round(127 * np.stack(strangers)).astype(np.int8))
    log.info("a cohort of %d, %d strangers, %.0f kB", len(means), len(strangers), out.stat().st_size / 1e3)


def trials(people: list[np.ndarray], alike: Alike = cosine) -> tuple[Verification, np.ndarray, np.ndarray]:
    """Equal error rates over `people`, each embeddings `[take, dim]` with at least six takes, one take against one, five enrolled against
    one: all pairs of own takes, all pairs with others'; and the five-v-one scores."""
    (same_one, different_one), (same_five, different_five) = verification_trials(people, alike)
    one, five = equal_error_rate(same_one, different_one)[0], equal_error_rate(same_five, different_five)[0]
    return Verification(one, five, len(people)), same_five, different_five


def evaluate(bundle: Path, stores: list[Path], rooms: Path, *, gated: bool = True) -> dict[str, object]:
    """All figures of the card, as a dict that `json` takes; also the operating points under `points`."""
    evaluation = Evaluation(bundle, stores, rooms, gated=gated)
    words = evaluation.words
    peaks, by_source = evaluation.false_accepts(evaluation.trace, len(words))
    hours, sources = sum(by_source.values()), {name: round(each, 3) for name, each in by_source.items()}
    log.info("%.1f h of negatives: %s", hours, sources)
    report: dict[str, object] = {"negative_hours": round(hours, 2), "sources": sources, "gated": gated}
    table: dict[str, dict[str, Any]] = {}
    for w, word in enumerate(words):
        swept = np.array([threshold_at(peaks[w], hours, rate) for rate in SWEEP])
        recorded, synthetic = (
            {condition: evaluation.hits(evaluation.trace, evaluation.scenes.words[w][kind], condition) for condition in DRAWS} for kind in (False, True)
        )
        clean, noisy = recorded["clean"], recorded["10 dB"]
        points = []
        for rate in RATES:
            threshold = threshold_at(peaks[w], hours, rate)
            points.append(OperatingPoint(threshold, rate, float((clean < threshold).mean()), float((noisy < threshold).mean())))
        table[word] = {
            "clips": clean.shape[1],
            "points": [p.__dict__ for p in points],
            "sweep": {condition: float((best[..., None] < swept).mean()) for condition, best in recorded.items()},
            "synthetic_sweep": {condition: float((best[..., None] < swept).mean()) for condition, best in synthetic.items()},
            "scores": [np.quantile(kind, np.linspace(0, 1, QUANTILES)).round(4).tolist() for kind in (clean, noisy)],
        }
        log.info("%-13s %d clips, missed at %s FA/h: clean %s, 10 dB %s; of %d synthetic takes on average %s", word, clean.shape[1], RATES,
                 [round(100 * p.miss_rate, 2) for p in points], [round(100 * p.miss_rate_10db, 2) for p in points],
                 synthetic["clean"].shape[1], [round(100 * m, 2) for m in table[word]["synthetic_sweep"].values()])  # fmt: skip
    report["words"] = table
    means = {
        kind: [float(np.mean([body["points"][r][kind] for body in table.values()])) for r in range(len(RATES))] for kind in ("miss_rate", "miss_rate_10db")
    }
    report["mean"] = means
    log.info("mean of the words at %s FA/h: clean %s, 10 dB %s", RATES, *([round(100 * m, 2) for m in means[k]] for k in means))
    for kind, told in (("sweep", "recorded"), ("synthetic_sweep", "synthetic")):
        report[kind] = averaged = {condition: float(np.mean([body[kind][condition] for body in table.values()])) for condition in DRAWS}
        log.info("mean of the words, %s, averaged over %s FA/h: %s", told, SWEEP, {k: round(100 * v, 2) for k, v in averaged.items()})
    known = read_cohort(evaluation.bundle, "cohort")
    for name, corpora in PEOPLE.items():
        people = voices(evaluation, corpora)
        plain, _, _ = trials(people)
        normed, same, different = trials(people, lambda takes, references: symmetric_norm(takes, references, known))
        log.info("speakers %s: %d people, EER one v one %.2f %%, five v one %.2f %%; normalised %.2f, %.2f %%", name, plain.people,
                 100 * plain.one, 100 * plain.five, 100 * normed.one, 100 * normed.five)  # fmt: skip
        slope, offset = logistic_calibration(same, different)
        one_percent = float(np.quantile(different, 0.99))
        report[f"speakers_{name}"] = {
            "people": plain.people, "eer_one": plain.one, "eer_five": plain.five, "normalised_eer_one": normed.one, "normalised_eer_five": normed.five,
            "miss_at_1_percent_fa": float((same < one_percent).mean()),
            "scale": {"threshold": 1 / (1 + math.exp(-(slope * one_percent + offset))), "slope": slope, "offset": offset},
        }  # fmt: skip
    return report


def measured(report: dict[str, Any]) -> dict[str, Measured]:
    """What the bundle keeps of a report; a word's default is its threshold of 0.5 false accepts an hour."""
    words = {}
    for word, body in report["words"].items():
        points = [OperatingPoint(**p) for p in body["points"]]
        words[word] = Measured(points[1].threshold, points, *body["scores"])
    return words
