"""The streaming stage of an added word: a regression over a few whitened frames, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.learn.judged import Judged
from kwsd.learn.negatives import Negatives
from kwsd.learn.regression import Logistic, Whitening, logistic_regression
from kwsd.learn.rivals import WEIGHT as RIVAL_WEIGHT
from kwsd.learn.rivals import Rivals
from kwsd.learn.second_stage import StreamScores
from kwsd.learn.word_takes import FIRING_CHUNKS, WRONG_CHUNKS, WordTake, WrongClip
from kwsd.learn.word_vectors import EVERY_CHUNKS
from kwsd.metrics import false_accept_peaks
from kwsd.state.words import CONTEXT_FRAMES, AddedWord

DRAWN = 4000
"""Negatives of the first fit."""
HARDEST = 2000
"""Negatives of the second fit: those with the highest scores in the first."""
WRONG_WEIGHT = 8
"""How often each chunk of a wrong clip counts as a negative."""
MAX_FOLDS = 5
NO_RIVALS = Rivals()


class Streamed(NamedTuple):
    """A word by its streaming stage, without a threshold, and what it scores."""

    word: AddedWord
    judged: Judged
    scores: StreamScores


class Fitted(NamedTuple):
    """A word that was fitted."""

    word: AddedWord
    found: Logistic
    """The regression over whitened frames that it is."""
    rows: np.ndarray
    """The negatives of the bank that it was fitted to."""
    hardness: np.ndarray = np.zeros(0)
    """The logits `[frame]` of the bank that chose the hard ones of them."""


class StreamStage:
    """Fits words to takes and a bank of negatives."""

    def __init__(self, negatives: Negatives, smoothing_chunks: int) -> None:
        """`smoothing_chunks` are the posteriors whose mean is a score."""
        self._negatives = negatives
        self._smoothing_chunks = smoothing_chunks

    def learn(
        self,
        blank: AddedWord,
        takes: Sequence[WordTake],
        clips: Sequence[WrongClip],
        usable: np.ndarray,
        parts: int,
        rivals: Rivals = NO_RIVALS,
    ) -> Streamed:
        """Return `blank` with weights fitted to takes, usable negatives, bool `[frame]`, and
        rivals; and what detectors score that were made without what they score.

        The first `parts` of the wrong clips, which `blank` has the frames of, are parts of takes.
        """
        whole = self.fit(blank, takes, usable, rivals)
        bank = np.zeros((2, len(usable)))
        for half in (0, 1):
            rows = _rows(usable & (self.half != half), whole.hardness)
            word = self._refit(whole, blank, takes, rows, rivals)
            scores = smoothed(self.bank_logits(word), self._smoothing_chunks)
            bank[half] = np.where(usable & (self.half == half), scores, 0)
        folds = folds_of(takes, clips)
        of_takes = np.zeros((len(takes), 2, FIRING_CHUNKS))
        of_clips = np.zeros((len(clips), WRONG_CHUNKS))
        of_rivals = [np.zeros((len(each), FIRING_CHUNKS)) for each in rivals.takes]
        for fold in range(folds):
            others = [take for n, take in enumerate(takes) if n % folds != fold]
            rest = replace(blank, wrong=blank.wrong[np.arange(len(clips)) % folds != fold])
            outside = rivals.outside(fold, folds)
            word = self._refit(whole, rest, others, whole.rows, outside)
            for n in range(fold, len(takes), folds):
                of_takes[n] = [self._scores(word, one) for one in takes[n].frames[:2]]
            for n in range(fold, len(clips), folds):
                of_clips[n] = self._scores(word, clips[n].frames)
            for each, theirs in zip(of_rivals, rivals.takes, strict=True):
                for n in range(fold, len(each), folds):
                    each[n] = self._scores(word, theirs[n, 0])
        speech = usable & self._negatives.is_speech
        peaks = [p for scores in bank for p in false_accept_peaks(np.where(speech, scores, 0))]
        highest = of_clips.max(axis=-1)
        rival_scores = np.concatenate([np.zeros((0, FIRING_CHUNKS)), *of_rivals])
        judged = Judged(
            of_takes.max(axis=-1),
            highest[:parts],
            highest[parts:],
            np.sort(peaks)[::-1],
            float(speech.sum() * CHUNK_SAMPLES / SAMPLE_RATE / 3600),
            rival_scores.max(axis=-1),
        )
        found = StreamScores(of_takes, of_clips[:, ::EVERY_CHUNKS], bank, rival_scores, speech)
        return Streamed(whole.word, judged, found)

    def _scores(self, word: AddedWord, frames: np.ndarray) -> np.ndarray:
        return smoothed(word.logits(frames.astype(np.float32)), self._smoothing_chunks)

    @cached_property
    def half(self) -> np.ndarray:
        """The half of the bank that each frame is in, `[frame]`: each judges a detector that was
        fitted to the other."""
        draw = np.random.default_rng(1).integers(2, size=len(self._negatives.starts))
        return np.asarray(draw[self._negatives.segment])

    def bank_logits(self, word: AddedWord) -> np.ndarray:
        """Return the logits `[frame]` of the bank.

        The first of a segment look into the segment before, and are not used.
        """
        return word.logits(np.pad(self._negatives.embedding, ((CONTEXT_FRAMES, 0), (0, 0))))

    @cached_property
    def _whitening(self) -> Whitening:
        return Whitening.fit(self._negatives.embedding)

    def fit(
        self,
        blank: AddedWord,
        takes: Sequence[WordTake],
        usable: np.ndarray,
        rivals: Rivals = NO_RIVALS,
    ) -> Fitted:
        """Return `blank` with weights fitted to takes, usable negatives and rivals.

        A first fit to some negatives finds the hard ones, which a second one is fitted to as well.
        """
        first = self._fitted(blank, takes, _drawn(np.flatnonzero(usable)), rivals)
        hardness = self.bank_logits(first.word)
        rows = _rows(usable, hardness)
        return self._fitted(blank, takes, rows, rivals, first.found)._replace(hardness=hardness)

    def _refit(
        self,
        whole: Fitted,
        blank: AddedWord,
        takes: Sequence[WordTake],
        rows: np.ndarray,
        rivals: Rivals,
    ) -> AddedWord:
        """Return `blank` fitted to a part of what `whole` was fitted to, where it begins."""
        return self._fitted(blank, takes, rows, rivals, whole.found).word

    def _fitted(
        self,
        blank: AddedWord,
        takes: Sequence[WordTake],
        rows: np.ndarray,
        rivals: Rivals,
        start: Logistic | None = None,
    ) -> Fitted:
        """Return `blank` fitted to takes, the negatives in these `rows` of the bank, and rivals."""
        offsets = np.array(blank.offsets)
        whitening = self._whitening
        fires_at = CONTEXT_FRAMES + np.arange(FIRING_CHUNKS)
        positives = np.concatenate([one.frames[:, n - offsets] for one in takes for n in fires_at])
        chunks = np.arange(CONTEXT_FRAMES, blank.wrong.shape[1])
        wrong = blank.wrong[:, chunks[:, None] - offsets]
        negatives = [
            self._negatives.embedding[rows[:, None] - offsets],
            wrong.reshape(-1, len(offsets), wrong.shape[-1]),
            *rivals.windows(offsets),
        ]
        weights = [1.0, WRONG_WEIGHT] + [RIVAL_WEIGHT] * len(rivals.takes)
        weighed = np.repeat(weights, [len(each) for each in negatives])
        others = whitening(np.concatenate(negatives))
        found = logistic_regression(whitening(positives), others, weighed, start)
        raw, bias = whitening.undone(found.weights, found.bias, len(offsets))
        return Fitted(replace(blank, weights=raw, bias=bias), found, rows)


def _drawn(at: np.ndarray) -> np.ndarray:
    """Return `DRAWN` of these rows."""
    return np.random.default_rng(2).choice(at, min(DRAWN, len(at)), replace=False)


def _rows(usable: np.ndarray, hardness: np.ndarray) -> np.ndarray:
    """Return some usable negatives, and those of the greatest `hardness [frame]`."""
    at = np.flatnonzero(usable)
    hardest = at[np.argsort(hardness[at])[-HARDEST:]]
    return np.asarray(np.union1d(_drawn(at), hardest))


def smoothed(logits: np.ndarray, chunks: int) -> np.ndarray:
    """Return scores of consecutive chunks `[chunk]`: the mean of the last posteriors, so many.

    The trigger takes the same mean.
    """
    posteriors = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    sums = np.cumsum(np.pad(posteriors, (chunks, 0)))
    counts = np.minimum(np.arange(1, len(logits) + 1), chunks)
    return np.asarray((sums[chunks:] - sums[:-chunks]) / counts)


def folds_of(takes: Sequence[WordTake], clips: Sequence[WrongClip]) -> int:
    """Return into how many folds takes and wrong clips are parted."""
    return min(max(len(takes), len(clips)), MAX_FOLDS)
