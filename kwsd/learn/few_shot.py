"""A word from a few takes, on the device: no torch, no network, seconds of one core.

Each take is encoded in several versions. A logistic regression over a few whitened frames parts the
chunks at which the word ends from a bank of negatives. Operating points are read on parts of the
bank that the regression was not fitted to, and extrapolated by an exponential tail beyond what the
bank's length supports. How often its user would be missed is measured on each take by a detector
made from the others (leave one out). Where a checker knows words, the word gets a second stage.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from kwsd.learn.judged import RATES, Judged
from kwsd.learn.negatives import Negatives, read_negatives
from kwsd.learn.quality import FEW_TAKES, Quality
from kwsd.learn.rivals import Rivals
from kwsd.learn.second_stage import (
    Candidates,
    Vectors,
    clip_score,
    learn_second_stage,
    stream_scores,
    take_score,
)
from kwsd.learn.stream_stage import NO_RIVALS, Streamed, StreamStage, folds_of, smoothed
from kwsd.learn.word_takes import (
    FIRING_CHUNKS,
    VERSIONS,
    WRONG_CHUNKS,
    HeardStream,
    TakeEncoder,
    TakeStream,
    WordTake,
    WrongClip,
)
from kwsd.learn.word_vectors import EVERY_CHUNKS
from kwsd.metrics import tail_rate
from kwsd.model.bundle import Bundle, CheckerModel
from kwsd.model.runtime import Runtime
from kwsd.names import folded
from kwsd.protocol.data import MadeFrom
from kwsd.state.second_stage import SecondStage, restored
from kwsd.state.words import CONTEXT_FRAMES, MAX_STORED, AddedWord, WordError, check_word_name

MIN_TAKES = 2
"""Takes that a word is made from at least; three are asked for, since one may be unusable."""
SAME_VOICE = 0.3
"""Cosine from which two takes of a word count as one person's. On the development split 97 % of
such pairs reach it, and 11 % of two people's."""
WAKE = 0.1
"""Share of the takes of another word that wake this one, from which they are held against it. Eight
short words that were added together found 70 % of other people's takes so, and 54 % with every
word's takes held against every other."""
OTHER_WORD = 0.5
"""A take whose score by a detector of the others is below this share of their median may be another
word."""


class WordTrainer:
    """Makes words. The encoder and the bank are loaded once."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime | None = None,
        negatives: Negatives | None = None,
        checker: CheckerModel | None = None,
    ) -> None:
        """With a `checker` that knows words, they get a second stage. Raises BundleError."""
        self.bundle = bundle
        self.encoder = TakeEncoder(bundle, runtime, checker)
        self._checker = checker
        self._negatives = negatives

    @cached_property
    def negatives(self) -> Negatives:
        """The bank of negatives. Raises BundleError where it is damaged."""
        return self._negatives or read_negatives(self.bundle, self._checker)

    @cached_property
    def _stream(self) -> StreamStage:
        return StreamStage(self.negatives, self.bundle.smoothing_chunks)

    @property
    def word_id(self) -> str | None:
        """Identifies the vectors of the checker; None without one that knows words."""
        return self._checker.word_id if self._checker else None

    def make(
        self,
        name: str,
        takes: Sequence[WordTake],
        others: Sequence[AddedWord] = (),
        *,
        wrong: Sequence[WrongClip] = (),
        room: np.ndarray | None = None,
        rate: float | None = None,
    ) -> tuple[AddedWord, Quality]:
        """Return the word `name`, made from the last `MAX_STORED` takes, and how good it is.

        `others` are the device's other added words: the takes of those that would wake it are
        negatives, where they sound like another word; `wrong` are clips that are not the word;
        `room` is int16 `[sample]` of the room without the word; `rate` is the false accepts per
        hour of continuous speech at the word's threshold, by default as `Judged.choose` says. Where
        most takes have parts, these are kept as wrong clips, and the threshold is set above them
        where that loses no take. Raises WordError where there are too few takes.
        """
        name = check_word_name(name)
        if len(takes) < MIN_TAKES:
            text = f"{len(takes)} take(s) can be used; at least {MIN_TAKES} are needed"
            raise WordError(f"{name!r}: {text}, three are better, and ten far better")
        if room is not None:
            joined = self.negatives.joined(*self.encoder.heard(room))
            trainer = WordTrainer(self.bundle, self.encoder.runtime, joined, self._checker)
            return trainer.make(name, takes, others, wrong=wrong, rate=rate)
        word, quality = self._made(name, takes, NO_RIVALS, wrong, rate)
        waking = [other for other in others if self._is_woken_by(word, other)]
        if rivals := Rivals.of(name, waking, self.word_id):
            word, quality = self._made(name, takes, rivals, wrong, rate)
        return word, replace(quality, also_wakes=self.also_wakes(name, takes, others))

    def _is_woken_by(self, word: AddedWord, other: AddedWord) -> bool:
        """Return whether takes of another word wake `word`."""
        rivals = Rivals.of(word.name, [other], self.word_id)
        if not rivals:
            return False
        (takes,), (vectors,) = rivals.takes, rivals.vectors
        heard = word.heard_with(None if vectors is None else self.word_id)
        scores = [
            self.score(heard, frames[0], None if vectors is None else vectors[n, 0])
            for n, frames in enumerate(takes)
        ]
        return bool(np.mean(np.array(scores) >= heard.threshold) >= WAKE)

    def _made(
        self,
        name: str,
        takes: Sequence[WordTake],
        rivals: Rivals,
        wrong: Sequence[WrongClip],
        rate: float | None,
    ) -> tuple[AddedWord, Quality]:
        """Return what `make` does, with the takes of `rivals` as negatives."""
        takes = takes[-MAX_STORED:]
        clips = [*_parts(takes), *wrong][-MAX_STORED:]
        parts = max(len(clips) - len(wrong), 0)
        usable = self.negatives.usable(name)
        blank = self._blank(name, takes, clips)
        streamed, rivals = self._streamed(blank, takes, clips, usable, parts, rivals)
        judged = streamed.judged
        threshold, expected = judged.choose(rate)
        of_stream = judged.takes[:, 0]
        word = replace(
            streamed.word,
            threshold=threshold,
            operating_points=judged.points(),
            made=MadeFrom(takes=len(takes), time=int(time.time())),
            scores=judged.takes.astype(np.float32),
        )
        candidates = None
        if found := self._second(takes, clips, usable, streamed, parts, rivals):
            second, judged, candidates = found
            threshold, expected = judged.choose(rate)
            word = replace(word, second=replace(second, threshold=threshold))
        clean, noisy = (int(n) for n in (judged.takes < threshold).sum(axis=0))
        outliers = np.flatnonzero(of_stream < OTHER_WORD * np.median(of_stream))
        return word, Quality(
            missed=clean,
            missed_in_noise=noisy,
            takes=len(takes),
            length_s=word.length_s,
            false_accepts_per_hour=expected,
            interval=judged.interval(threshold),
            asked=RATES[0] if rate is None else rate,
            traded=rate is None and expected > RATES[0],
            bank_hours=judged.hours,
            outliers=tuple(outliers.tolist()),
            also_wakes={},
            several_voices=_several(takes),
            woken=tuple((judged.wrong >= threshold).tolist()),
            parts_woken=tuple((judged.parts >= threshold).tolist()),
            candidates=candidates,
        )

    def rate(self, word: AddedWord, threshold: float) -> float:
        """Return the expected false accepts per hour of continuous speech at `threshold`."""
        takes = stored_takes(word)
        clips = stored_clips(word)
        usable = self.negatives.usable(word.name)
        streamed = self._stream.learn(word, takes, clips, usable, 0)
        judged = streamed.judged
        if word.second and (found := self._second(takes, clips, usable, streamed, 0)):
            judged = found[1]
        return tail_rate(judged.peaks, judged.hours, threshold)

    def logits(self, word: AddedWord, embedding: np.ndarray) -> np.ndarray:
        """Return the logits of every chunk of a stream with the frames `embedding [chunk, dim]`."""
        frames = self.encoder.runtime.encoder.after_silence(embedding, CONTEXT_FRAMES)
        return word.logits(frames)

    def smoothed(self, logits: np.ndarray) -> np.ndarray:
        """Return scores of consecutive chunks `[chunk]`: the mean of the last posteriors."""
        return smoothed(logits, self.bundle.smoothing_chunks)

    def stream_scores(self, word: AddedWord, stream: HeardStream) -> np.ndarray:
        """Return the scores `[chunk]` of `word` that a trigger would compare."""
        streaming = self.smoothed(self.logits(word, stream.embedding))
        return stream_scores(word.second, streaming, stream.vector) if word.second else streaming

    def score(
        self, word: AddedWord, frames: np.ndarray, vectors: np.ndarray | None = None
    ) -> float:
        """Return the highest score of `word` in frames `[CONTEXT_FRAMES + k, dim]`.

        Where it has a second stage, with the `vectors` of these k chunks, or of every
        `EVERY_CHUNKS`th.
        """
        scores = self.smoothed(word.logits(frames.astype(np.float32)))
        if word.second is None or vectors is None:
            return float(scores.max())
        if len(vectors) == len(scores):
            return take_score(word.second, scores, vectors)
        return clip_score(word.second, scores[::EVERY_CHUNKS], vectors)

    def _blank(self, name: str, takes: Sequence[WordTake], wrong: Sequence[WrongClip]) -> AddedWord:
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
            wrong=np.stack([clip.frames for clip in wrong]) if wrong else none,
        )

    def _streamed(
        self,
        blank: AddedWord,
        takes: Sequence[WordTake],
        clips: Sequence[WrongClip],
        usable: np.ndarray,
        parts: int,
        rivals: Rivals,
    ) -> tuple[Streamed, Rivals]:
        """Return the word by its streaming stage, and the rivals that are held against it."""
        streamed = self._stream.learn(blank, takes, clips, usable, parts, rivals)
        scores = rivals.by_word(streamed.judged.rivals)
        told_apart = rivals.told_apart(streamed.judged.takes[:, 0], scores)
        if all(told_apart):
            return streamed, rivals
        rivals = rivals.those(told_apart)
        return self._stream.learn(blank, takes, clips, usable, parts, rivals), rivals

    def _second(
        self,
        takes: Sequence[WordTake],
        clips: Sequence[WrongClip],
        usable: np.ndarray,
        streamed: Streamed,
        parts: int,
        rivals: Rivals = NO_RIVALS,
    ) -> tuple[SecondStage, Judged, Candidates] | None:
        """Return what `learn_second_stage` does; None where the checker did not hear all of it."""
        scores = streamed.scores
        of_rivals, rival_scores = rivals.heard(self.negatives.vectors.shape[-1], scores.rivals)
        scores = scores._replace(rivals=rival_scores)
        vectors = self._vectors(takes, clips, of_rivals, usable)
        if vectors is None or self.word_id is None:
            return None
        folds = folds_of(takes, clips)
        hours = streamed.judged.hours
        return learn_second_stage(self.word_id, vectors, scores, folds, hours, parts)

    def _vectors(
        self,
        takes: Sequence[WordTake],
        clips: Sequence[WrongClip],
        of_rivals: np.ndarray,
        usable: np.ndarray,
    ) -> Vectors | None:
        """Return what the checker heard; None where it did not hear all of it."""
        bank = self.negatives
        if not len(bank.at):
            return None
        of_takes = [take.vectors for take in takes if take.vectors is not None]
        of_clips = [clip.vectors for clip in clips if clip.vectors is not None]
        if len(of_takes) < len(takes) or len(of_clips) < len(clips):
            return None
        if {one.shape[-1] for one in (*of_takes, *of_clips)} != {bank.vectors.shape[1]}:
            return None  # a stored one that is not what it says
        chosen = usable[bank.at]
        none = np.zeros((0, -(-WRONG_CHUNKS // EVERY_CHUNKS), bank.vectors.shape[1]), np.float32)
        return Vectors(
            takes=np.stack(of_takes),
            wrong=np.stack(of_clips) if of_clips else none,
            rivals=of_rivals,
            words=bank.words,
            bank=bank.vectors[chosen],
            at=bank.at[chosen],
            half=self._stream.half[bank.at[chosen]],
        )

    def _wakes(self, word: AddedWord, stream: TakeStream) -> bool:
        if word.second and stream.heard:
            return bool(self.stream_scores(word, stream.heard).max() >= word.threshold)
        return bool(self.smoothed(self.logits(word, stream.embedding)).max() >= word.threshold)

    def also_wakes(
        self, name: str, takes: Sequence[WordTake], others: Sequence[AddedWord]
    ) -> dict[str, float]:
        """Return the share of the takes at which other words of this device fire.

        The scores are those that a trigger would compare.
        """
        streams = [take.stream for take in takes if take.stream]
        heard = [other.heard_with(self.word_id) for other in others]
        fired = {
            other.name: [self._wakes(other, stream) for stream in streams]
            for other in heard
            if folded(other.name) != folded(name)
        }
        for n, (word, model) in enumerate(self.bundle.words.items()):
            fired[word] = [
                self.smoothed(stream.logits[:, n]).max() >= model.threshold for stream in streams
            ]
        return {word: float(np.mean(hits)) for word, hits in fired.items() if any(hits)}


def _parts(takes: Sequence[WordTake]) -> list[WrongClip]:
    """Return the parts of takes; none where most have none: it is a noise beside the word."""
    if sum(len(take.parts) > 0 for take in takes) <= len(takes) / 2:
        return []
    return [part for take in takes for part in take.parts]


def stored_takes(word: AddedWord) -> list[WordTake]:
    """Return the takes of a word, as they were encoded.

    Raises WordError where they are not such as `TakeEncoder` makes.
    """
    _check(word, "takes", word.takes, len(VERSIONS), CONTEXT_FRAMES + FIRING_CHUNKS)
    if word.second:
        _check(word, "takes", word.second.takes, len(VERSIONS), FIRING_CHUNKS)
    frames = word.takes.astype(np.float32)
    if word.second is None:
        return [WordTake(one, word.length_s) for one in frames]
    vectors = restored(word.second.takes)
    return [
        WordTake(one, word.length_s, vectors=heard)
        for one, heard in zip(frames, vectors, strict=True)
    ]


def stored_clips(word: AddedWord) -> list[WrongClip]:
    """Return the clips that are not the word, as they were encoded.

    Raises WordError where they are not such as `TakeEncoder` makes.
    """
    _check(word, "wrong clips", word.wrong, CONTEXT_FRAMES + WRONG_CHUNKS)
    if word.second:
        _check(word, "wrong clips", word.second.wrong, -(-WRONG_CHUNKS // EVERY_CHUNKS))
    frames = word.wrong.astype(np.float32)
    if word.second is None:
        return [WrongClip(one, None) for one in frames]
    vectors = restored(word.second.wrong)
    return [WrongClip(one, heard) for one, heard in zip(frames, vectors, strict=True)]


def _check(word: AddedWord, things: str, stored: np.ndarray, *axes: int) -> None:
    """Raise WordError unless what is stored of a word, if anything, has these axes."""
    if len(stored) and stored.shape[1:-1] != axes:
        text = f"its {things} are not such as this kwsd makes"
        raise WordError(f"{word.name!r} cannot be made again: {text}; add it again")


def _several(takes: Sequence[WordTake]) -> bool:
    """Return whether at most half of the takes sound like the one that the others resemble most."""
    voices = [take.voice for take in takes if take.voice is not None]
    if len(voices) < FEW_TAKES:
        return False
    same = np.stack(voices) @ np.stack(voices).T >= SAME_VOICE
    return bool(same.sum(axis=1).max() <= len(voices) / 2)
