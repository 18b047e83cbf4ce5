"""`kwsd bench words`: the accuracy of words that are added from a few takes.

They are tried on a folder of recordings with one folder per word. For every word, number of shots
and seed, takes of as many different speakers make the word, as `kwsd word add` does. It is tried on
the recordings of the speakers that are left, and on all recordings of the other words. Hits are
those over the score that 1 % of the others reach; 0 shots are synthetic voices alone. The errors
at the word's own threshold are reported as well. Where the checker knows words, it hears them too,
and the recall of the candidates and that of the decision about them are told apart. Together, all
words are added to one device, and of those that a recording wakes the best counts. Negatives are
recordings of whatever else is said; there, false accepts are counted beside those that `kwsd word
add` promises.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from kwsd.audio.files import AudioFileError, read_all
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.bench.circumstances import Circumstances
from kwsd.bench.corpus import LabeledRecording, audio_under, check_words, labeled, transcript
from kwsd.bench.scenes import between_silence
from kwsd.client.words import from_text
from kwsd.detect.contest import Level
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.learn.word_takes import HeardStream, WordTake
from kwsd.metrics import false_accept_peaks
from kwsd.model import bundle as bundles
from kwsd.model.manifest import CHECKED_FLOOR
from kwsd.names import folded
from kwsd.state.words import AddedWord

log = logging.getLogger(__name__)
FALSE_ACCEPTS = 0.01
"""Share of the other words' recordings at which hits are read."""


class WordRun(TypedDict):
    """One word, made once; shares lie between 0 and 1."""

    word: str
    shots: int
    seed: int
    tried: int
    """Recordings of the word that it was tried on."""
    others: int
    """Recordings of other words."""
    hits: float
    """Share of the word's recordings over the score that `FALSE_ACCEPTS` of the others reach."""
    threshold: float
    """The word's own threshold."""
    hits_at_threshold: float
    false_accepts_at_threshold: float
    promised_per_hour: float
    """The false accepts of continuous speech that were expected of it when it was made."""
    negatives_hours: NotRequired[float]
    """Hours of the negatives in which it is not said."""
    false_accepts: NotRequired[int]
    """How often it woke in these."""
    left_out_misses: float
    """Share of its takes that a detector made from the others misses."""
    candidates: NotRequired[float]
    """Share of the word's recordings that the streaming stage has the checker hear."""
    decided: NotRequired[float]
    """Share of these that are hits."""
    others_checked: NotRequired[float]
    """Share of the other words' recordings that the checker hears."""
    checks_per_hour: NotRequired[float]
    """Checks in an hour of the bank of negatives, repeated ones counted."""


class TogetherRun(TypedDict):
    """One of several words that were added together; shares lie between 0 and 1."""

    word: str
    shots: int
    seed: int
    tried: int
    """Recordings of the word that it was tried on."""
    right: float
    """Share of them that woke this word: it alone, or further above its threshold than others."""
    wrong: float
    """Share of them that woke another word."""


class WordsReport(TypedDict):
    """The report of `kwsd bench words`, as it is written to JSON."""

    folder: str
    recordings: int
    shots: list[int]
    seeds: int
    runs: list[WordRun]
    together: NotRequired[list[TogetherRun]]
    circumstances: NotRequired[Circumstances]


class _EncodedRecordings:
    """The recordings that are used, encoded once."""

    def __init__(
        self, folder: Path, chosen: Sequence[LabeledRecording], trainer: WordTrainer
    ) -> None:
        """Errors name the `folder`."""
        self._folder = folder
        self.words = np.array([recording.word for recording in chosen])
        """str `[recording]`."""
        self.speakers = np.array([recording.group for recording in chosen])
        """str `[recording]`."""
        self._chosen = chosen
        self._trainer = trainer
        self._heard = [
            HeardStream(trainer.encoder, HighPass().step(between_silence(read_all(one.path))))
            for one in chosen
        ]
        self._takes: dict[int, WordTake | None] = {}

    def scores(self, word: AddedWord) -> np.ndarray:
        """Return the highest score of each recording, float64 `[recording]`."""
        return np.array([self._trainer.stream_scores(word, one).max() for one in self._heard])

    def shots(self, word: str, count: int, seed: int) -> tuple[list[WordTake], set[str]]:
        """Return usable takes of `word` by `count` different speakers, drawn by `seed`, and the
        speakers; for none, synthetic takes, of nobody.

        Raises AudioFileError where fewer speakers have usable takes.
        """
        if not count:
            return from_text(self._trainer, word).usable, set()
        rng = np.random.default_rng([seed, count])
        shots: list[WordTake] = []
        speakers: set[str] = set()
        for n in rng.permutation(np.flatnonzero(self.words == word)):
            if len(shots) == count or self.speakers[n] in speakers:
                continue
            if take := self._take(int(n)):
                shots.append(take)
                speakers.add(str(self.speakers[n]))
        if len(shots) < count:
            text = f"{word} has usable takes of {len(shots)} speakers; {count} shots need as many"
            raise AudioFileError(f"{self._folder}: {text}")
        return shots, speakers

    def _take(self, n: int) -> WordTake | None:
        """Return recording `n` as a take, or None where it cannot be used."""
        if n not in self._takes:
            try:
                samples = HighPass().step(read_all(self._chosen[n].path))
                self._takes[n] = self._trainer.encoder.take(samples, self._chosen[n].word)
            except TakeRejected:
                self._takes[n] = None
        return self._takes[n]


class _Negative:
    """A recording of other speech, encoded once."""

    def __init__(self, path: Path, trainer: WordTrainer) -> None:
        samples = read_all(path)
        self.heard = HeardStream(trainer.encoder, HighPass().step(samples))
        self.hours = len(samples) / SAMPLE_RATE / 3600
        self._text = f" {_plain(transcript(path))} "

    def says(self, word: str) -> bool:
        """Return whether its transcript has `word`."""
        return f" {_plain(word)} " in self._text


def _plain(text: str) -> str:
    """Return the words of a text, apart by one space each."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", folded(text)))


def words(
    folder: Path,
    shots: Sequence[int],
    seeds: int,
    only: Sequence[str] | None,
    most: int,
    *,
    together: bool = False,
    negatives: Sequence[Path] = (),
) -> WordsReport:
    """Return the report on the labeled recordings in `folder`.

    `shots` are numbers of takes, `seeds` the draws of takes for each; `only` these words are added,
    and `most` recordings of each word are used. With `together`, all of them are also added to one
    device. `negatives` are folders of recordings of other speech. Raises AudioFileError.
    """
    found: dict[str, list[LabeledRecording]] = {}
    for recording in labeled(folder):
        found.setdefault(recording.word, []).append(recording)
    wanted = list(only or found)
    check_words(folder, wanted, set(found))
    rng = np.random.default_rng(0)
    chosen = [
        found[word][n] for word in sorted(found) for n in rng.permutation(len(found[word]))[:most]
    ]
    bundle = bundles.load()
    trainer = WordTrainer(bundle, checker=bundle.checkers.get("small"))
    recordings = _EncodedRecordings(folder, chosen, trainer)
    others = [_Negative(path, trainer) for below in negatives for path in audio_under(below)]
    runs: list[WordRun] = []
    for word in wanted:
        for count in shots:
            draws = range(seeds if count else 1)  # synthetic voices are always the same
            same = [_run(trainer, recordings, word, count, seed, others) for seed in draws]
            hits = 100 * np.mean([run["hits"] for run in same])
            log.info("%s, %d shots: %.1f %% hits at 1 %% false accepts", word, count, hits)
            runs += same
    report: WordsReport = {
        "folder": str(folder),
        "recordings": len(chosen),
        "shots": list(shots),
        "seeds": seeds,
        "runs": runs,
    }
    if together:
        report["together"] = [
            run
            for count in shots
            for seed in range(seeds if count else 1)
            for run in _run_together(trainer, recordings, wanted, count, seed)
        ]
    return report


def _run(
    trainer: WordTrainer,
    recordings: _EncodedRecordings,
    word: str,
    count: int,
    seed: int,
    negatives: Sequence[_Negative],
) -> WordRun:
    """Make `word` from `count` takes, and try it on the recordings and on the `negatives`. Raises
    AudioFileError."""
    shots, speakers = recordings.shots(word, count, seed)
    made, quality = trainer.make(word, shots)
    made = made.heard_with(trainer.word_id)
    scores = recordings.scores(made)
    of_word = recordings.words == word
    tried = scores[of_word & ~np.isin(recordings.speakers, list(speakers))]
    others = scores[~of_word]
    strict = float(np.quantile(others, 1 - FALSE_ACCEPTS))
    run: WordRun = {
        "word": word,
        "shots": count,
        "seed": seed,
        "tried": len(tried),
        "others": len(others),
        "hits": float((tried > strict).mean()),
        "threshold": made.threshold,
        "hits_at_threshold": float((tried >= made.threshold).mean()),
        "false_accepts_at_threshold": float((others >= made.threshold).mean()),
        "promised_per_hour": quality.false_accepts_per_hour,
        "left_out_misses": quality.missed / quality.takes,
    }
    without = [negative for negative in negatives if not negative.says(word)]
    if without:
        peaks = [false_accept_peaks(trainer.stream_scores(made, one.heard)) for one in without]
        run["negatives_hours"] = sum(negative.hours for negative in without)
        run["false_accepts"] = sum(peak >= made.threshold for found in peaks for peak in found)
    if quality.candidates:
        is_candidate = tried >= CHECKED_FLOOR
        run["candidates"] = float(is_candidate.mean())
        run["decided"] = float((tried[is_candidate] > strict).mean()) if is_candidate.any() else 0.0
        run["others_checked"] = float((others >= CHECKED_FLOOR).mean())
        run["checks_per_hour"] = quality.candidates.checks_per_hour
    return run


def _run_together(
    trainer: WordTrainer,
    recordings: _EncodedRecordings,
    words: Sequence[str],
    count: int,
    seed: int,
) -> list[TogetherRun]:
    """Add `words` to one device, one after the other, and try all on the recordings of each.

    Of the words that reach their thresholds, the one furthest above it wakes, as in the daemon
    (`exclusive_words`). Raises AudioFileError.
    """
    made: list[AddedWord] = []
    drawn: list[set[str]] = []
    for word in words:
        shots, speakers = recordings.shots(word, count, seed)
        made.append(trainer.make(word, shots, made)[0].heard_with(trainer.word_id))
        drawn.append(speakers)
    scores = np.stack([recordings.scores(one) for one in made], axis=1)
    excess = np.array(
        [
            [Level(s, word.threshold).excess for s, word in zip(row, made, strict=True)]
            for row in scores
        ]
    )
    woken = np.where(excess.max(axis=1) >= 0, excess.argmax(axis=1), -1)
    runs: list[TogetherRun] = []
    for n, word in enumerate(words):
        unmet = ~np.isin(recordings.speakers, list(drawn[n]))
        found = woken[(recordings.words == word) & unmet]
        right = float((found == n).mean())
        runs.append(
            {
                "word": word,
                "shots": count,
                "seed": seed,
                "tried": len(found),
                "right": right,
                "wrong": float((found >= 0).mean()) - right,
            }
        )
    return runs
