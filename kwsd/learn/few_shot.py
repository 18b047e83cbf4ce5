"""A word from a few takes, on the device: no torch, no network, seconds of one core.

Each take is heard in several versions (speed, noise, level) by the very encoder. A logistic regression over a few whitened
frames parts the chunks at which the word ends from a bank of negatives. Its operating points are read on parts of the bank
that it was not fitted to, and continued beyond what the bank's length supports by an exponential tail; how often its user
would be missed is measured on each take by a detector made of the others (leave one out).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kwsd.audio.speech_span import speech_span
from kwsd.audio.synthesis import espeak_takes, has_kokoro, kokoro_takes
from kwsd.config import SAMPLE_RATE
from kwsd.detect.embedder import Embedder
from kwsd.learn.takes import TakeRejected, check_take
from kwsd.metrics import false_accept_peaks, tail_rate, tail_threshold
from kwsd.model.bundle import NEGATIVES, Bundle, OperatingPoint
from kwsd.model.runtime import Frames, Student
from kwsd.state.words import MOST_KEPT, REACH, UserWord, WordError, after_silence, check_name

MIN_TAKES = 3
SPOKEN_TAKES = 16
"""Voices that say a word which is made of text alone."""
MIN_SPEECH_S, MAX_WORD_S, MAX_TAKE_S = 0.25, 1.6, 6.0
MAX_CLIPPED = 0.02
"""A word stays what it is where a voice no longer does."""
LATE = 4
"""Chunks, from the one that holds the end of the word on, at which it should fire."""
VERSIONS: tuple[tuple[float, float | None, bool], ...] = (
    (1.0, None, False), (1.0, 10.0, False), (1.0, 20.0, False), (0.9, None, True), (0.9, 14.0, False), (1.12, None, True), (1.12, 14.0, False),
    (1.06, 8.0, True),
)  # fmt: skip
"""Speed, signal-to-noise ratio (dB), and whether there was speech before it (the take itself, backwards), of each version of a take.
The first is the take as it is, the second stands for it in noise."""
BEFORE_S, AFTER_S = 2.4, 0.6
RATES = (0.5, 1.0, 2.0)
"""False accepts an hour of ceaseless speech (which the bank is) of the operating points: strict, balanced, lenient."""
DEFAULT_RATE = 2.0
"""Half a false wake an hour where a quarter of the day is speech."""
RIDGE = 20.0
DRAWN, HARDEST = 4000, 2000
"""Negatives of the first fit; those of the second, which the first took most for the word."""
WRONG_CHUNKS, WRONG_WEIGHT = 8, 8
"""Chunks about the end of a wrong clip at which the word must not fire, and how often each counts as a negative."""
SHRINK = 0.3
"""Share of the mean variance that is added to each before whitening."""
SHORT_S = 0.4
SAME_VOICE = 0.3
"""Likeness from which two takes of a word count as one person's. On the development split 97 % of such pairs reach it, and 11 % of two people's."""
OTHER_WORD = 0.5
"""A take whose score by a detector of the others is under this share of their median may be another word."""


@dataclass(frozen=True)
class Negatives:
    """The bank of frames that hold no word of the user's."""

    high: np.ndarray
    """float32 `[frame, dim]`"""
    starts: np.ndarray
    """int64 `[segment]`: the frame at which each stretch of unbroken audio begins."""
    texts: tuple[str, ...]
    """The words that are known to be said in each segment."""

    @cached_property
    def segment(self) -> np.ndarray:
        """int64 `[frame]`: the segment of each."""
        return np.searchsorted(self.starts, np.arange(len(self.high)), side="right") - 1

    def usable(self, word: str) -> np.ndarray:
        """Which frames may be decided on, bool `[frame]`: with `REACH` before them, and not where a part of `word` is said."""
        parts = set(word.replace("_", " ").lower().split())
        holds = np.array([bool(parts & set(text.split())) for text in self.texts])
        return ~holds[self.segment] & (np.arange(len(self.high)) - self.starts[self.segment] >= REACH)

    def joined(self, room: np.ndarray) -> Negatives:
        """With the frames `[chunk, dim]` of a room as one more segment."""
        return Negatives(np.concatenate([self.high, room]), np.append(self.starts, len(self.high)), (*self.texts, ""))


def read_negatives(bundle: Bundle) -> Negatives:
    """Raises BundleError."""
    with np.load(bundle.file(NEGATIVES), allow_pickle=False) as kept:
        return Negatives(kept["high"].astype(np.float32) * kept["scale"], kept["starts"], tuple(kept["texts"].tolist()))


@dataclass(frozen=True)
class WordTake:
    """One recording of a word, heard."""

    frames: np.ndarray
    """float32 `[version, REACH + LATE, dim]`: those before the word's end and `LATE` from there on."""
    length_s: float
    builtin: dict[str, float]
    """The highest posterior that each word of the bundle has about it."""
    voice: np.ndarray | None = None
    """Speaker embedding `[dim]`, where it was asked for."""


@dataclass(frozen=True)
class Quality:
    """How good a word is, before it is kept."""

    missed: int
    """Takes that a detector made of the others misses at its default threshold."""
    missed_in_noise: int
    takes: int
    length_s: float
    false_accepts_per_hour: float
    """Expected at that threshold."""
    bank_hours: float
    odd: tuple[int, ...]
    """Takes that the others hardly resemble."""
    alike: dict[str, float]
    """Share of the takes at which other words of this device fire."""
    voices: bool = False
    """Whether the takes sound like several people."""
    woken: tuple[bool, ...] = ()
    """Whether each clip that is not the word still wakes a detector that was made without it."""

    @property
    def warnings(self) -> list[str]:
        """What a person should know before the word is kept."""
        said = [f"take {n + 1} hardly resembles the others: is it the same word?" for n in self.odd]
        said += [f"{share:.0%} of the takes also wake {word!r}: choose a word that sounds less like it" for word, share in self.alike.items()]
        if self.voices:
            said.append("the takes sound like several people: it will wake for each of them; where only one voice is to wake it, take that one's alone")
        if self.length_s < SHORT_S:
            said.append(f"it lasts {self.length_s:.1f} s; words of two syllables or more, 0.5 s at least, are told apart far better")
        if self.missed > self.takes / 3:
            said.append("more than a third of its own takes would be missed: it is too short, too common in speech, or its takes are too unlike; "
                        "more takes, or a longer phrase, help")  # fmt: skip
        return said


class WordTrainer:
    """Makes words. The encoder and the bank are loaded once."""

    def __init__(self, bundle: Bundle, student: Student | None = None, negatives: Negatives | None = None) -> None:
        self.bundle, self._student, self._bank = bundle, student or Student(bundle), negatives

    @cached_property
    def negatives(self) -> Negatives:
        return self._bank or read_negatives(self.bundle)

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.bundle, self._student)

    @cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `[dim]` of the bank's frames and the matrix `[dim, dim]` that whitens them."""
        mean = self.negatives.high.mean(axis=0)
        centred = (self.negatives.high - mean).astype(np.float64)
        variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        return mean, ((axes / np.sqrt(variances + SHRINK * variances.mean())) @ axes.T).astype(np.float32)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """High frames `[chunk, dim]` of `samples` (int16 scale) from the start of a stream."""
        return self._hear(samples).embedding

    def _hear(self, samples: np.ndarray) -> Frames:
        chunk, front = self.bundle.chunk_samples, self.bundle.front_end
        whole = samples[: len(samples) // chunk * chunk].astype(np.float32)
        return self._student.step(front(np.pad(whole, (front.history_samples, 0))), self._student.zero_state())[0]

    def logits(self, word: UserWord, high: np.ndarray) -> np.ndarray:
        """Of every chunk of a stream whose frames are `high [chunk, dim]`."""
        return word.logits(after_silence(high, self._student, self.bundle, REACH))

    def take(self, samples: np.ndarray) -> WordTake:
        """Hear one take, int16 `[sample]`, which holds the word alone. Raises TakeRejected."""
        check_take(samples, MIN_SPEECH_S, MAX_TAKE_S, MAX_CLIPPED)
        begin, end = speech_span(samples.astype(np.float32))
        return replace(self._take(samples, begin, end), voice=self._embedder.embed([samples]))

    def clip_take(self, samples: np.ndarray, begin: int, end: int) -> WordTake:
        """Hear a clip of a running microphone, int16 `[sample]`, in which the word is said in samples `[begin, end)`. Raises TakeRejected."""
        heard = self._take(samples, begin, end)
        return replace(heard, frames=np.concatenate([self._about(samples, end, LATE)[None], heard.frames[1:]]))

    def wrong_clip(self, samples: np.ndarray, end: int) -> np.ndarray:
        """Frames float32 `[REACH + WRONG_CHUNKS, dim]` of a clip, int16 `[sample]`, that was taken for the word at sample `end`, and is not."""
        return self._about(samples, max(end - WRONG_CHUNKS // 4 * self.bundle.chunk_samples, 1), WRONG_CHUNKS)

    def _about(self, samples: np.ndarray, end: int, after: int) -> np.ndarray:
        """`REACH` frames before the chunk that holds sample `end`, and `after` from it on; around the clip there is silence."""
        lead, chunk = REACH * self.bundle.chunk_samples, self.bundle.chunk_samples
        frames = self._hear(np.pad(samples, (lead, (after + 1) * chunk))).embedding
        first = (lead + end - 1) // chunk
        return frames[first - REACH : first + after]

    def _take(self, samples: np.ndarray, begin: int, end: int) -> WordTake:
        length_s = (end - begin) / SAMPLE_RATE
        if length_s > MAX_WORD_S:
            raise TakeRejected("too_long", f"the take holds {length_s:.1f} s of speech, a wake word at most {MAX_WORD_S}: say it alone")
        rng, chunk = np.random.default_rng(0), self.bundle.chunk_samples
        margin = SAMPLE_RATE // 10
        spoken = samples[max(begin - margin, 0) : end + margin].astype(np.float64)
        ends = end - max(begin - margin, 0)
        versions: list[np.ndarray] = []
        heard: list[np.ndarray] = []
        for speed, snr_db, spoken_before in VERSIONS:
            x = np.interp(np.arange(0, len(spoken) - 1, speed), np.arange(len(spoken)), spoken)
            level = np.sqrt(np.mean(x**2) / 10 ** (snr_db / 10)) if snr_db is not None else 3.0
            before = np.zeros(int(BEFORE_S * SAMPLE_RATE))
            if spoken_before:
                before[-2 * margin - len(x) : -2 * margin] = x[::-1]
            x = np.concatenate([before, x, np.zeros(int(AFTER_S * SAMPLE_RATE))])
            x += level * _noise(len(x), rng)
            frames = self._hear(np.clip(x, -32768, 32767))
            heard.append(frames.logits)
            first = -(-(len(before) + int(ends / speed)) // chunk) - 1
            versions.append(frames.embedding[first - REACH : first + LATE])
        tops = 1 / (1 + np.exp(-heard[0].max(axis=0).astype(np.float64)))
        return WordTake(np.stack(versions), length_s, dict(zip(self.bundle.words, tops.tolist(), strict=True)))

    def spoken(self, text: str) -> list[WordTake]:
        """Takes of `text` by espeak-ng, and by neural voices where those are installed, but for what cannot be used. Raises SynthesisError."""
        takes = []
        for samples in [*espeak_takes(text, SPOKEN_TAKES), *(kokoro_takes(text, SPOKEN_TAKES) if has_kokoro() else [])]:
            with contextlib.suppress(TakeRejected):  # some whisper, some shout
                takes.append(self.take(samples))
        return takes

    def make(
        self,
        name: str,
        takes: Sequence[WordTake],
        others: Sequence[UserWord] = (),
        *,
        wrong: Sequence[np.ndarray] = (),
        room: np.ndarray | None = None,
        rate: float = DEFAULT_RATE,
    ) -> tuple[UserWord, Quality]:
        """The word `name`, of the last `MOST_KEPT` takes, and how good it is. Raises WordError where there are too few.

        `wrong`: frames of clips that are not the word, as `wrong_clip` gives them; `room`: frames `[chunk, dim]` of the room without it;
        `rate`: false accepts an hour of ceaseless speech at its threshold."""
        name = check_name(name)
        if len(takes) < MIN_TAKES:
            raise WordError(f"{name!r}: {len(takes)} take(s) can be used; at least {MIN_TAKES} are needed, ten are better")
        takes = takes[-MOST_KEPT:]
        length_s = float(np.median([t.length_s for t in takes]))
        offsets = tuple(range(0, min(max(2 * round(length_s / 0.16), 8), REACH) + 1, 2))
        if room is not None:
            return WordTrainer(self.bundle, self._student, self.negatives.joined(room)).make(name, takes, others, wrong=wrong, rate=rate)
        usable = self.negatives.usable(name)
        hours = self._hours(usable)
        kept = np.stack([t.frames for t in takes])
        not_it = np.stack(wrong[-MOST_KEPT:]) if wrong else np.zeros((0, REACH + WRONG_CHUNKS, kept.shape[-1]), np.float32)
        blank = UserWord(name, self.bundle.encoder_id, offsets, np.zeros(0), 0.0, 0.5, length_s, (), kept, {}, wrong=not_it)
        peaks = self._judged_peaks(blank, takes, usable)
        thresholds = {rate: tail_threshold(peaks, hours, rate) for rate in RATES}
        default = tail_threshold(peaks, hours, rate)
        folds = min(max(len(takes), len(not_it)), 5)
        left_out, woken = np.zeros((len(takes), 2)), np.zeros(len(not_it), bool)
        for fold in range(folds):
            ours = [t for n, t in enumerate(takes) if n % folds != fold]
            word = self._fit(replace(blank, wrong=not_it[np.arange(len(not_it)) % folds != fold]), ours, usable)
            for n in range(fold, len(takes), folds):
                left_out[n] = [self.score(word, frames) for frames in takes[n].frames[:2]]
            woken[fold::folds] = [self.score(word, frames) >= default for frames in not_it[fold::folds]]
        points = tuple(OperatingPoint(t, rate, *(left_out < t).mean(axis=0).tolist()) for rate, t in thresholds.items())
        made = {"takes": len(takes), "time": int(time.time())}
        word = replace(self._fit(blank, takes, usable), threshold=default, operating_points=points, made=made, scores=left_out.astype(np.float32))
        odd = tuple(int(n) for n in np.flatnonzero(left_out[:, 0] < OTHER_WORD * np.median(left_out[:, 0])))
        alike = {o.name: float(np.mean([self.score(o, t.frames[0]) >= o.threshold for t in takes])) for o in others if o.name != name}
        alike |= {w: float(np.mean([t.builtin.get(w, 0.0) >= model.threshold for t in takes])) for w, model in self.bundle.words.items()}
        clean, noisy = (int(n) for n in (left_out < default).sum(axis=0))
        alike = {other: share for other, share in alike.items() if share > 0}
        return word, Quality(clean, noisy, len(takes), length_s, rate, hours, odd, alike, _several(takes), tuple(woken.tolist()))

    def rate(self, word: UserWord, threshold: float) -> float:
        """False accepts an hour of ceaseless speech to expect of `word` at `threshold`."""
        takes = [WordTake(frames, word.length_s, {}) for frames in word.takes.astype(np.float32)]
        usable = self.negatives.usable(word.name)
        return tail_rate(self._judged_peaks(word, takes, usable), self._hours(usable), threshold)

    def _hours(self, usable: np.ndarray) -> float:
        return float(usable.sum() * self.bundle.chunk_samples / SAMPLE_RATE / 3600)

    def _judged_peaks(self, blank: UserWord, takes: Sequence[WordTake], usable: np.ndarray) -> np.ndarray:
        """Peaks of the scores over the bank, highest first; each half of it judges a detector that was fitted to the other."""
        parts = np.random.default_rng(1).integers(2, size=len(self.negatives.starts))[self.negatives.segment]
        found = [self._peaks(self._fit(blank, takes, usable & (parts != half)), usable & (parts == half)) for half in (0, 1)]
        return np.sort(np.concatenate(found))[::-1]

    def _fit(self, blank: UserWord, takes: Sequence[WordTake], usable: np.ndarray) -> UserWord:
        """`blank` with weights fitted to takes and usable negatives: a fit to some, and another to those that it found hard."""
        rng, offsets, at = np.random.default_rng(2), np.array(blank.offsets), np.flatnonzero(usable)
        mean, matrix = self._whitening
        positives = self._white(np.concatenate([t.frames[:, REACH + late - offsets] for t in takes for late in range(LATE)]))

        wrong = blank.wrong[:, REACH + np.arange(blank.wrong.shape[1] - REACH)[:, None] - offsets].reshape(-1, len(offsets), len(mean))
        wrong = np.repeat(wrong, WRONG_WEIGHT, axis=0)

        def draw() -> np.ndarray:
            return rng.choice(at, min(DRAWN, len(at)), replace=False)

        def fitted(negatives: np.ndarray) -> UserWord:
            weights, bias = self._regress(positives, self._white(np.concatenate([self.negatives.high[negatives[:, None] - offsets], wrong])))
            raw = weights.reshape(len(offsets), -1) @ matrix / np.sqrt(len(mean))
            return replace(blank, weights=raw.astype(np.float32), bias=float(bias - (raw @ mean).sum()))

        logits = self._logits(fitted(draw()))[at]
        hardest = at[np.argpartition(logits, -HARDEST)[-HARDEST:]]
        return fitted(np.union1d(draw(), hardest))

    def _white(self, frames: np.ndarray) -> np.ndarray:
        """`[n, offset, dim]` to float32 `[n, offset * dim]`."""
        mean, matrix = self._whitening
        return np.asarray(((frames - mean) @ matrix).reshape(len(frames), -1) / np.float32(np.sqrt(len(mean))))

    @staticmethod
    def _regress(positives: np.ndarray, negatives: np.ndarray, steps: int = 12) -> tuple[np.ndarray, float]:
        """Ridge logistic regression by Newton's method: weights `[dim]` and bias. Sums over rows in 32 bit, what is solved in 64."""
        x = np.concatenate([positives, negatives]).astype(np.float32)
        x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
        y = np.repeat(np.array([1.0, 0.0], np.float32), [len(positives), len(negatives)])
        ridge = np.full(x.shape[1], RIDGE)
        ridge[-1] = 1e-3
        w = np.zeros(x.shape[1])
        for _ in range(steps):
            p = 1 / (1 + np.exp(-np.clip(x @ w.astype(np.float32), -30, 30)))
            rooted = x * np.sqrt(p * (1 - p) + np.float32(1e-9))[:, None]
            step = np.linalg.solve((rooted.T @ rooted).astype(np.float64) + np.diag(ridge), x.T @ (p - y) + ridge * w)
            w -= step
            if np.abs(step).max() < 1e-4:
                break
        return w[:-1], float(w[-1])

    def _logits(self, word: UserWord) -> np.ndarray:
        """Of every frame of the bank, `[frame]`; the first of a segment look into the one before, and are not used."""
        return word.logits(np.pad(self.negatives.high, ((REACH, 0), (0, 0))))

    def smoothed(self, logits: np.ndarray) -> np.ndarray:
        """Scores of consecutive chunks `[chunk]`: the mean of the last posteriors, as the trigger takes it."""
        n = self.bundle.smoothing_chunks
        sums = np.cumsum(np.pad(1 / (1 + np.exp(-np.clip(logits, -30, 30))), (n, 0)))
        return np.asarray((sums[n:] - sums[:-n]) / np.minimum(np.arange(1, len(logits) + 1), n))

    def score(self, word: UserWord, frames: np.ndarray) -> float:
        """The highest score of `word` at a take or a wrong clip, of whose frames `[REACH + k, dim]`."""
        return float(self.smoothed(word.logits(frames.astype(np.float32))).max())

    def _peaks(self, word: UserWord, usable: np.ndarray) -> list[float]:
        """The peaks of the word's scores over the usable frames of the bank."""
        scores = self.smoothed(self._logits(word))
        scores[~usable] = 0
        return false_accept_peaks(scores)


def _several(takes: Sequence[WordTake]) -> bool:
    """Whether at most half of the takes sound like the one that the others resemble most."""
    voices = [take.voice for take in takes if take.voice is not None]
    if len(voices) < MIN_TAKES:
        return False
    alike = np.stack(voices) @ np.stack(voices).T >= SAME_VOICE
    return bool(alike.sum(axis=1).max() <= len(voices) / 2)


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power that falls with frequency, more or less steeply."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1) ** -rng.uniform(0, 1), samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))
