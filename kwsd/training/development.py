"""The development split, on which models are measured: recorded words, audio without them, and
people; clean, in noise, and in a room."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from kwsd.audio.format import SAMPLE_RATE
from kwsd.metrics import false_accept_peaks, poisson_interval
from kwsd.training.data import augment
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.training_data import TrainingData
from kwsd.training.settings.catalog import CONTINUOUS

RATES = (0.1, 0.5, 1.0)
"""False accepts per hour at which misses are given."""
SWEEP = (0.125, 0.25, 0.5, 1.0, 2.0)
"""False accepts per hour over which misses are averaged: no single utterance decides that figure,
so it is the one to choose by."""
DRAWS = {"clean": 1, "10 dB": 4, "room": 4}
"""How often a recorded word is heard in each condition, in other noise or another room each
time."""
PLAYBACK_DB = {"playback": 0.0, "playback +10 dB": 10.0}
"""How loud the device's own loudspeaker is, over who speaks the word meanwhile."""
PLAYBACK_DRAWS = 2
"""How often a recorded word is heard in each."""
GAP_SAMPLES = 2400
"""Silence between joined utterances: 0.15 s."""
BLOCK_SAMPLES = 180 * SAMPLE_RATE
"""Audio that is scored at once: three minutes."""
ROOM_NOISE_SAMPLES = 30 * SAMPLE_RATE
"""Noise of a room that people share: 30 s."""
HOMOPHONES = "near-homophones"
"""The kind of recorded phrases that sound nearly like a wake word."""
NO_RECORDING = (
    "the development split holds no recording of {}; bring some by other speakers, or choose "
    "another development_fold in corpora.yaml (`kwsd train folds` counts them)"
)
IN_NOISE = " at 10 dB"
"""What follows the kind of speech in noise."""

Report = dict[str, Any]
"""The figures of a measurement, as they are written to JSON."""
Scores = Callable[[np.ndarray], np.ndarray]
"""int16 `[sample]` to the scores `[chunk, word]`."""


class FalseAccepts:
    """The peaks of the scores of words in audio without them, by the kind of the audio."""

    def __init__(self, words: int) -> None:
        """`words` scores stand side by side."""
        self.words = words
        self.hours: dict[str, float] = {}
        """Hours of audio by kind."""
        self._peaks: dict[str, list[list[float]]] = {}

    def add(self, kind: str, scores: np.ndarray, hours: float) -> None:
        """Count the peaks of `scores [chunk, word]` of audio of a kind."""
        self.hours[kind] = self.hours.get(kind, 0.0) + hours
        peaks = self._peaks.setdefault(kind, [[] for _ in range(self.words)])
        for word, found in enumerate(peaks):
            found += false_accept_peaks(scores[:, word])

    def peaks(self, kinds: Collection[str] | None = None) -> list[np.ndarray]:
        """Return each word's peaks in audio of `kinds` (default: all), highest first."""
        chosen = [peaks for kind, peaks in self._peaks.items() if kinds is None or kind in kinds]
        return [
            np.sort(np.array([peak for peaks in chosen for peak in peaks[word]], np.float64))[::-1]
            for word in range(self.words)
        ]

    def total_hours(self, kinds: Collection[str] | None = None) -> float:
        """Return the hours of `kinds` (default: all)."""
        return sum(h for kind, h in self.hours.items() if kinds is None or kind in kinds)

    def by_kind(self, thresholds: Sequence[float]) -> Report:
        """Return, by kind, the hours, and how many false accepts an hour all words together have at
        their `thresholds`, with its 95 % interval (Garwood 1936)."""
        report: Report = {}
        for kind, hours in sorted(self.hours.items()):
            peaks = self.peaks([kind])
            seen = sum(int((p >= t).sum()) for p, t in zip(peaks, thresholds, strict=True))
            low, high = poisson_interval(seen, hours)
            report[kind] = {
                "hours": round(hours, 3),
                "false_accepts": seen,
                "per_hour": round(seen / hours, 3),
                "low": round(low, 3),
                "high": round(high, 3),
            }
        return report


class Development:
    """Draws from the development split; the draws depend on `seed` and on the order of calls."""

    def __init__(self, data: TrainingData, seed: int = 7) -> None:
        """Open the stores of `data`."""
        self.data = data
        self.scenes = data.scenes(development=True, seed=seed)
        self.corpora = self.scenes.corpora
        self.roles = data.roles
        self.rng = np.random.default_rng(seed)

    def noisy(self, x: np.ndarray, snr_db: float = 10.0) -> np.ndarray:
        """Return `x [sample]` in noise of the split. Raises ValueError where the split has none."""
        if not self.scenes.noise:
            raise ValueError(
                "the development split holds no noise; add a corpus of noise recordings, "
                "whose name begins with noise"
            )
        noise = self.scenes.fill(lambda: self.scenes.pick(self.scenes.noise), len(x))
        speech = torch.from_numpy(x)[None]
        return augment.mix(speech, torch.from_numpy(noise)[None], torch.tensor([snr_db]))[0].numpy()

    def reverberant(self, x: np.ndarray) -> np.ndarray:
        """Return `x [sample]` in a room of the split."""
        rooms = self.scenes.rooms.responses
        room = rooms[self.rng.integers(len(rooms))][None]
        return augment.reverberate(torch.from_numpy(x)[None], room)[0].numpy()

    def by_telephone(self, x: np.ndarray) -> np.ndarray:
        """Return `x [sample]` in the band of a telephone."""
        return augment.quantize_int16(augment.narrow_band(x, *augment.TELEPHONE_HZ))

    def same_room(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """Return what the room `name` does to each take `[sample]`: the same response, microphone
        and noise for all, whoever speaks.

        Raises ValueError where the split has no noise."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        rooms = self.scenes.rooms.responses
        room = rooms[rng.integers(len(rooms))][None]
        noise = self.scenes.fill(lambda: self.scenes.pick(self.scenes.noise), ROOM_NOISE_SAMPLES)
        snr_db = torch.tensor([rng.uniform(10, 20)])
        limits = [rng.uniform(60, 300), rng.uniform(3500, 8000), rng.uniform(-6, 6)]
        microphone = [torch.tensor([limit], dtype=torch.float32) for limit in limits]

        def heard(x: np.ndarray) -> np.ndarray:
            speech = augment.reverberate(torch.from_numpy(augment.gain_to(x, -26))[None], room)
            begin = int(rng.integers(max(len(noise) - len(x), 0) + 1))
            around = np.resize(noise[begin:], len(x)).astype(np.float32)
            mixed = augment.mix(speech, torch.from_numpy(around)[None], snr_db)
            return augment.quantize_int16(augment.band_limit(mixed, *microphone)[0].numpy())

        return heard

    def conditions(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """Return what each condition of `DRAWS` and of `PLAYBACK_DB` does to `[sample]`."""
        conditions = {"clean": lambda x: x, "10 dB": self.noisy, "room": self.reverberant}
        return conditions | {
            name: partial(self.playing, louder_db=louder) for name, louder in PLAYBACK_DB.items()
        }

    def playing(self, x: np.ndarray, louder_db: float) -> np.ndarray:
        """Return `x [sample]` while the device plays speech or music, `louder_db` over the
        speech."""
        played = self.scenes.backgrounds.of("playback", len(x))
        snr_db = torch.tensor([-louder_db])
        mixed = augment.mix(torch.from_numpy(x)[None], torch.from_numpy(played)[None], snr_db)
        return mixed[0].numpy()

    def negatives(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (kind, int16 `[sample]`): blocks of audio without a wake word; speech clean and,
        as `KIND at 10 dB`, in noise.

        One block at a time is in memory, however much audio there is."""
        noise: dict[str, list[Utterance]] = {}
        for utterance in self.scenes.noise:
            noise.setdefault(utterance.corpus, []).append(utterance)
        for corpus, utterances in noise.items():
            for x in self._blocks(utterances):
                yield self.roles.source(corpus), augment.quantize_int16(x).astype(np.int16)
        speech = [(self.roles.source(c), pool) for c, pool in self.scenes.speech.items()]
        if self.scenes.homophones:
            speech.append((HOMOPHONES, self.scenes.homophones))
        for kind, utterances in speech:
            for x in self._blocks(utterances):
                yield kind, augment.quantize_int16(x).astype(np.int16)
            if not noise:
                continue
            for x in self._blocks(utterances):
                heard = augment.quantize_int16(self.noisy(x))
                yield f"{kind}{IN_NOISE}", heard.astype(np.int16)

    def operating_kinds(self) -> list[str]:
        """Return the kinds of negatives that operating points are read from."""
        kinds = self.roles.operating_sources or [*self.roles.sources, CONTINUOUS]
        return [f"{kind}{ending}" for kind in kinds for ending in ("", IN_NOISE)]

    def _blocks(self, utterances: Sequence[Utterance]) -> Iterator[np.ndarray]:
        """Yield `utterances` in a drawn order, joined and cut to blocks of float32 `[sample]`."""
        parts: list[np.ndarray] = []
        length = 0
        gap = np.zeros(GAP_SAMPLES, np.float32)
        for n in self.rng.permutation(len(utterances)):
            utterance = utterances[n]
            for begin in range(0, utterance.samples, BLOCK_SAMPLES):
                part = self.corpora.read(utterance, begin, begin + BLOCK_SAMPLES)
                if parts and length + len(part) > BLOCK_SAMPLES:
                    yield np.concatenate(parts)
                    parts, length = [], 0
                parts += [part, gap]
                length += len(part) + len(gap)
        if parts:
            yield np.concatenate(parts)

    def hits(
        self, scores_of: Scores, utterances: list[Utterance], condition: str = "clean"
    ) -> np.ndarray:
        """Return the highest score of each utterance's own word, `[draw, utterance]`.

        Each utterance lies between a second of near-silence on either side."""
        degrade = self.conditions()[condition]
        best = np.zeros((DRAWS.get(condition, PLAYBACK_DRAWS), len(utterances)))
        for draw in best:
            for n, utterance in enumerate(utterances):
                hiss = self.rng.normal(0, 3, 2 * SAMPLE_RATE).astype(np.float32)
                before = hiss[:SAMPLE_RATE]
                after = hiss[SAMPLE_RATE:]
                x = degrade(np.concatenate([before, self.corpora.read(utterance), after]))
                scores = scores_of(augment.quantize_int16(x).astype(np.int16))
                draw[n] = scores[:, utterance.word].max()
        return best

    def false_accepts(self, scores_of: Scores, words: int) -> FalseAccepts:
        """Return each word's peaks in all negatives."""
        found = FalseAccepts(words)
        for kind, samples in self.negatives():
            found.add(kind, scores_of(samples), len(samples) / SAMPLE_RATE / 3600)
        return found

    def takes(self, corpora: Sequence[str], per_person: int = 12) -> Iterator[list[np.ndarray]]:
        """Yield, for each person of `corpora` (beginnings of their names), takes `[sample]` of at
        most 2 s."""
        longest = 2 * SAMPLE_RATE
        for person, utterances in self.corpora.people(development=True).items():
            if not person.startswith(tuple(corpora)):
                continue
            order = self.rng.permutation(len(utterances))[:per_person]
            chosen = [utterances[i] for i in order]
            if len(chosen) == 1 and chosen[0].samples > 8 * SAMPLE_RATE:
                whole = self.corpora.read(chosen[0])  # one long utterance: its pieces
                starts = range(0, len(whole) - longest, longest)
                yield [whole[start : start + longest] for start in starts]
            else:
                yield [self.corpora.read(utterance)[:longest] for utterance in chosen]
