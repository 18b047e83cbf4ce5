"""A word from a few takes, on the device: no torch, no network, seconds of one core.

Each take is encoded in several versions. A logistic regression over a few whitened frames parts the
chunks at which the word ends from a bank of negatives. Operating points are read on parts of the
bank that the regression was not fitted to, and extrapolated by an exponential tail beyond what the
bank's length supports. How often its user would be missed is measured on each take by a detector
made from the others (leave one out).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.learn.negatives import Negatives, read_negatives
from kwsd.learn.regression import Whitening, logistic_regression
from kwsd.learn.word_takes import FIRING_CHUNKS, WRONG_CHUNKS, TakeEncoder, WordTake
from kwsd.metrics import false_accept_peaks, tail_rate, tail_threshold
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.names import folded
from kwsd.protocol.data import MadeFrom, OperatingPoint
from kwsd.state.words import CONTEXT_FRAMES, MAX_STORED, AddedWord, WordError, check_word_name

MIN_TAKES = 2
"""Takes that a word is made from at least; three are asked for, since one may be unusable."""
FEW_TAKES = 3
"""A word of fewer takes than this is one to be warned of."""
RATES = (0.5, 1.0, 2.0)
"""False accepts per hour of continuous speech (which the bank is) of the operating points: strict,
balanced, lenient."""
DEFAULT_RATE = 2.0
"""Half a false wake per hour where a quarter of the day is speech."""
DRAWN = 4000
"""Negatives of the first fit."""
HARDEST = 2000
"""Negatives of the second fit: those with the highest scores in the first."""
WRONG_WEIGHT = 8
"""How often each chunk of a wrong clip counts as a negative."""
SHORT_S = 0.4
SAME_VOICE = 0.3
"""Cosine from which two takes of a word count as one person's. On the development split 97 % of
such pairs reach it, and 11 % of two people's."""
OTHER_WORD = 0.5
"""A take whose score by a detector of the others is below this share of their median may be another
word."""
MAX_FOLDS = 5
ABOVE_PARTS = 1.1
"""The threshold, as a multiple of the scores of a phrase's parts."""


@dataclass(frozen=True)
class Quality:
    """How good a word is, before it is kept."""

    missed: int
    """Takes that a detector made from the others misses at its default threshold."""
    missed_in_noise: int
    takes: int
    length_s: float
    false_accepts_per_hour: float
    """Expected at that threshold."""
    bank_hours: float
    outliers: tuple[int, ...]
    """Takes that the others hardly resemble."""
    also_wakes: dict[str, float]
    """Share of the takes at which other words of this device fire."""
    several_voices: bool = False
    """Whether the takes sound like several people."""
    woken: tuple[bool, ...] = ()
    """Whether each wrong clip still wakes a detector that was made without it."""
    parts_woken: tuple[bool, ...] = ()
    """The same of each part of the takes."""

    @property
    def warnings(self) -> list[str]:
        """What a person should know before the word is kept."""
        warnings = [
            f"take {n + 1} hardly resembles the others: is it the same word?" for n in self.outliers
        ]
        if self.takes < FEW_TAKES:
            warnings.append(
                f"it is made from {self.takes} takes alone, and will miss more and wake by mistake "
                "more often: `kwsd word remove` it and add it again from three at least, better ten"
            )
        if woken := sum(self.parts_woken):
            text = f"{woken} of {len(self.parts_woken)} parts of the takes, cut at their pauses"
            warnings.append(f"{text}, also wake it: say it without a pause, or choose other words")
        for word, share in self.also_wakes.items():
            fix = "choose a word that sounds less like it"
            warnings.append(f"{share:.0%} of the takes also wake {word!r}: {fix}")
        if self.several_voices:
            warnings.append(
                "the takes sound like several people: it will wake for each of them; "
                "where only one voice should wake it, use that voice's takes alone"
            )
        if self.length_s < SHORT_S:
            warnings.append(
                f"it lasts {self.length_s:.1f} s; words of two syllables or more, "
                "0.5 s at least, are recognized far better"
            )
        if self.missed > self.takes / 3:
            warnings.append(
                "more than a third of its own takes would be missed: it is too short, too common "
                "in speech, or its takes differ too much; more takes, or a longer phrase, help"
            )
        return warnings


class WordTrainer:
    """Makes words. The encoder and the bank are loaded once."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime | None = None,
        negatives: Negatives | None = None,
    ) -> None:
        self.bundle = bundle
        self.encoder = TakeEncoder(bundle, runtime)
        self._negatives = negatives

    @cached_property
    def negatives(self) -> Negatives:
        """The bank of negatives. Raises BundleError where it is damaged."""
        return self._negatives or read_negatives(self.bundle)

    def make(
        self,
        name: str,
        takes: Sequence[WordTake],
        others: Sequence[AddedWord] = (),
        *,
        wrong: Sequence[np.ndarray] = (),
        room: np.ndarray | None = None,
        rate: float = DEFAULT_RATE,
    ) -> tuple[AddedWord, Quality]:
        """Return the word `name`, made from the last `MAX_STORED` takes, and how good it is.

        `others` are the device's other added words; `wrong` are frames of clips that are not the
        word, as `TakeEncoder.wrong_clip` returns them; `room` are frames `[chunk, dim]` of the room
        without the word; `rate` is the false accepts per hour of continuous speech at the word's
        threshold. Where most takes have parts, these are kept as wrong clips, and the threshold is
        set above them where that loses no take. Raises WordError where there are too few takes.
        """
        name = check_word_name(name)
        if len(takes) < MIN_TAKES:
            text = f"{len(takes)} take(s) can be used; at least {MIN_TAKES} are needed"
            raise WordError(f"{name!r}: {text}, three are better, and ten far better")
        if room is not None:
            joined = self.negatives.joined(room)
            trainer = WordTrainer(self.bundle, self.encoder.runtime, joined)
            return trainer.make(name, takes, others, wrong=wrong, rate=rate)
        takes = takes[-MAX_STORED:]
        parts = [part for take in takes for part in take.parts]
        if sum(len(take.parts) > 0 for take in takes) <= len(takes) / 2:
            parts = []  # a noise beside the word, not a pause in it
        usable = self.negatives.usable(name)
        hours = self._hours(usable)
        blank = self._blank(name, takes, [*parts, *wrong])
        peaks = self._judged_peaks(blank, takes, usable)
        threshold = tail_threshold(peaks, hours, rate)
        scores, wrong_scores = self._left_out(blank, takes, usable)
        of_parts, of_wrong = np.split(wrong_scores, [max(len(wrong_scores) - len(wrong), 0)])
        if (above := _above(of_parts, scores[:, 0], threshold)) > threshold:
            threshold = above
            rate = tail_rate(peaks, hours, threshold)
        points = []
        for point_rate in RATES:
            at = tail_threshold(peaks, hours, point_rate)
            points.append(OperatingPoint(at, point_rate, *(scores < at).mean(axis=0).tolist()))
        word = replace(
            self._fit(blank, takes, usable),
            threshold=threshold,
            operating_points=tuple(points),
            made=MadeFrom(takes=len(takes), time=int(time.time())),
            scores=scores.astype(np.float32),
        )
        clean, noisy = (int(n) for n in (scores < threshold).sum(axis=0))
        outliers = np.flatnonzero(scores[:, 0] < OTHER_WORD * np.median(scores[:, 0]))
        return word, Quality(
            missed=clean,
            missed_in_noise=noisy,
            takes=len(takes),
            length_s=blank.length_s,
            false_accepts_per_hour=rate,
            bank_hours=hours,
            outliers=tuple(outliers.tolist()),
            also_wakes=self._also_wakes(name, takes, others),
            several_voices=_several(takes),
            woken=tuple((of_wrong >= threshold).tolist()),
            parts_woken=tuple((of_parts >= threshold).tolist()),
        )

    def rate(self, word: AddedWord, threshold: float) -> float:
        """Return the expected false accepts per hour of continuous speech at `threshold`."""
        takes = [WordTake(frames, word.length_s) for frames in word.takes.astype(np.float32)]
        usable = self.negatives.usable(word.name)
        peaks = self._judged_peaks(word, takes, usable)
        return tail_rate(peaks, self._hours(usable), threshold)

    def logits(self, word: AddedWord, embedding: np.ndarray) -> np.ndarray:
        """Return the logits of every chunk of a stream with the frames `embedding [chunk, dim]`."""
        frames = self.encoder.runtime.encoder.after_silence(embedding, CONTEXT_FRAMES)
        return word.logits(frames)

    def smoothed(self, logits: np.ndarray) -> np.ndarray:
        """Return scores of consecutive chunks `[chunk]`: the mean of the last posteriors.

        The trigger takes the same mean.
        """
        n = self.bundle.smoothing_chunks
        posteriors = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        sums = np.cumsum(np.pad(posteriors, (n, 0)))
        return np.asarray((sums[n:] - sums[:-n]) / np.minimum(np.arange(1, len(logits) + 1), n))

    def score(self, word: AddedWord, frames: np.ndarray) -> float:
        """Return the highest score of `word` in frames `[CONTEXT_FRAMES + k, dim]`."""
        return float(self.smoothed(word.logits(frames.astype(np.float32))).max())

    def _blank(
        self, name: str, takes: Sequence[WordTake], wrong: Sequence[np.ndarray]
    ) -> AddedWord:
        """Return the word without weights and threshold."""
        length_s = float(np.median([take.length_s for take in takes]))
        reach = min(max(2 * round(length_s / 0.16), 8), CONTEXT_FRAMES)
        frames = np.stack([take.frames for take in takes])
        none = np.zeros((0, CONTEXT_FRAMES + WRONG_CHUNKS, frames.shape[-1]), np.float32)
        return AddedWord(
            name=name,
            encoder_id=self.bundle.encoder_id,
            offsets=tuple(range(0, reach + 1, 2)),
            weights=np.zeros(0),
            bias=0.0,
            threshold=0.5,
            length_s=length_s,
            operating_points=(),
            takes=frames,
            made=MadeFrom(),
            wrong=np.stack(wrong[-MAX_STORED:]) if wrong else none,
        )

    def _left_out(
        self, blank: AddedWord, takes: Sequence[WordTake], usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what detectors give the takes and wrong clips that they were made without.

        Scores of the takes, clean and in noise, `[take, 2]`, and of the wrong clips, `[clip]`.
        """
        wrong = blank.wrong
        folds = min(max(len(takes), len(wrong)), MAX_FOLDS)
        scores = np.zeros((len(takes), 2))
        wrong_scores = np.zeros(len(wrong))
        for fold in range(folds):
            others = [take for n, take in enumerate(takes) if n % folds != fold]
            rest = replace(blank, wrong=wrong[np.arange(len(wrong)) % folds != fold])
            word = self._fit(rest, others, usable)
            for n in range(fold, len(takes), folds):
                scores[n] = [self.score(word, frames) for frames in takes[n].frames[:2]]
            wrong_scores[fold::folds] = [self.score(word, frames) for frames in wrong[fold::folds]]
        return scores, wrong_scores

    def _also_wakes(
        self, name: str, takes: Sequence[WordTake], others: Sequence[AddedWord]
    ) -> dict[str, float]:
        """Return the share of the takes at which other words of this device fire.

        The scores are those that a trigger would compare.
        """
        streams = [take.stream for take in takes if take.stream]
        fired = {
            other.name: [
                self.smoothed(self.logits(other, stream.embedding)).max() >= other.threshold
                for stream in streams
            ]
            for other in others
            if folded(other.name) != folded(name)
        }
        for n, (word, model) in enumerate(self.bundle.words.items()):
            fired[word] = [
                self.smoothed(stream.logits[:, n]).max() >= model.threshold for stream in streams
            ]
        return {word: float(np.mean(hits)) for word, hits in fired.items() if any(hits)}

    def _hours(self, usable: np.ndarray) -> float:
        return float(usable.sum() * self.bundle.chunk_samples / SAMPLE_RATE / 3600)

    def _judged_peaks(
        self, blank: AddedWord, takes: Sequence[WordTake], usable: np.ndarray
    ) -> np.ndarray:
        """Return peaks of the scores over the bank, highest first.

        Each half of the bank judges a detector that was fitted to the other.
        """
        draw = np.random.default_rng(1).integers(2, size=len(self.negatives.starts))
        half = draw[self.negatives.segment]
        found = [
            self._peaks(self._fit(blank, takes, usable & (half != n)), usable & (half == n))
            for n in (0, 1)
        ]
        return np.sort(np.concatenate(found))[::-1]

    def _peaks(self, word: AddedWord, usable: np.ndarray) -> list[float]:
        """Return the peaks of the word's scores over the usable frames of the bank."""
        scores = self.smoothed(self._bank_logits(word))
        scores[~usable] = 0
        return false_accept_peaks(scores)

    def _bank_logits(self, word: AddedWord) -> np.ndarray:
        """Return the logits `[frame]` of the bank.

        The first of a segment look into the segment before, and are not used.
        """
        return word.logits(np.pad(self.negatives.embedding, ((CONTEXT_FRAMES, 0), (0, 0))))

    @cached_property
    def _whitening(self) -> Whitening:
        return Whitening.fit(self.negatives.embedding)

    def _fit(self, blank: AddedWord, takes: Sequence[WordTake], usable: np.ndarray) -> AddedWord:
        """Return `blank` with weights fitted to takes and usable negatives.

        A first fit to some negatives finds the hard ones, which a second one is fitted to as well.
        """
        rng = np.random.default_rng(2)
        offsets = np.array(blank.offsets)
        at = np.flatnonzero(usable)
        whitening = self._whitening
        fires_at = CONTEXT_FRAMES + np.arange(FIRING_CHUNKS)
        positives = whitening(
            np.concatenate([take.frames[:, n - offsets] for take in takes for n in fires_at])
        )
        chunks = np.arange(CONTEXT_FRAMES, blank.wrong.shape[1])
        wrong = blank.wrong[:, chunks[:, None] - offsets]
        wrong = wrong.reshape(-1, len(offsets), wrong.shape[-1])
        wrong = np.repeat(wrong, WRONG_WEIGHT, axis=0)

        def draw() -> np.ndarray:
            return rng.choice(at, min(DRAWN, len(at)), replace=False)

        def fitted(negatives: np.ndarray) -> AddedWord:
            frames = self.negatives.embedding[negatives[:, None] - offsets]
            others = whitening(np.concatenate([frames, wrong]))
            weights, bias = whitening.undone(*logistic_regression(positives, others), len(offsets))
            return replace(blank, weights=weights, bias=bias)

        logits = self._bank_logits(fitted(draw()))[at]
        hardest = at[np.argpartition(logits, -HARDEST)[-HARDEST:]]
        return fitted(np.union1d(draw(), hardest))


def _above(parts: np.ndarray, takes: np.ndarray, threshold: float) -> float:
    """Return a threshold that the scores `[part]` of parts do not reach, as far as no take is lost.

    Of the scores `[take]` of takes, those above `threshold` must stay above it.
    """
    found = takes[takes >= threshold]
    lower = parts[parts < found.min(initial=1.0)]
    return min(ABOVE_PARTS * float(lower.max(initial=0.0)), float(found.min(initial=1.0)))


def _several(takes: Sequence[WordTake]) -> bool:
    """Return whether at most half of the takes sound like the one that the others resemble most."""
    voices = [take.voice for take in takes if take.voice is not None]
    if len(voices) < FEW_TAKES:
        return False
    same = np.stack(voices) @ np.stack(voices).T >= SAME_VOICE
    return bool(same.sum(axis=1).max() <= len(voices) / 2)
