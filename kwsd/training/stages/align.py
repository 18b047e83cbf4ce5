"""`kwsd train align`: finds words by Whisper (through faster-whisper): the words of unlabeled
sentences, and the wake word of a noisy utterance.

Sentences are joined to nearly thirty seconds: Whisper always processes a window of that length. A
word is used where Whisper is sure of it and it lies within one sentence. Of the utterances of a
wake word, those are aligned in which the part that stands out is too short or too long to be the
word.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.config import ConfigError
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.transcripts import LEAST_LETTERS
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)
WINDOW_S = 28.0
"""Greatest length of joined sentences."""
GAP_S = 0.5
"""Silence after each."""
MIN_PROBABILITY = 0.6
"""Whisper's probability below which a word is dropped."""
WORD_S = (0.4, 1.2)
"""How long a wake word lasts."""
EARLY_S = 0.19
"""How much too early Whisper ends a lone word: the median over 120 takes in which the word
stands out, 90 % of them within 0.15 s of it."""
FIELDS = ["store", "start", "samples", "corpus", "speaker", "label", "trusted"]
"""The columns of the file. A word that is not `trusted` (0) is said there, or one that sounds like
it, but its take may be another, or cut."""
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class AlignSettings(Settings, frozen=True):
    """The settings of `align.yaml`."""

    whisper: str = "base"
    """A model's name or its folder."""


def align(corpora: Corpora, out: Path, settings: AlignSettings) -> None:
    """Write `out`, one row per word, of all sentences in `corpora`; an interrupted run resumes.

    Raises ConfigError where the file has other columns."""
    from faster_whisper import WhisperModel

    utterances = [
        utterance
        for utterance in corpora.utterances
        if utterance.is_sentence or _is_doubtful(corpora, utterance)
    ]
    if out.exists() and out.read_text(encoding="utf-8").partition("\n")[0].split("\t") != FIELDS:
        raise ConfigError(
            f"{out} has other columns; remove it, and all sentences are aligned again"
        )
    last = _last_positions(out)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    model = WhisperModel(settings.whisper, device="auto", compute_type="int8")
    with out.open("a", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines, delimiter="\t", lineterminator="\n")
        if lines.tell() == 0:
            table.writerow(FIELDS)
        for n, group in enumerate(_groups(utterances)):
            if group[0].start <= last.get(group[0].store, -1):
                continue
            audio, starts = _join(corpora, group)
            segments, _ = model.transcribe(
                audio,
                language="en",
                beam_size=1,
                word_timestamps=True,
                condition_on_previous_text=False,
                temperature=0.0,  # what it is unsure of is dropped, not tried again
            )
            words = [word for segment in segments for word in segment.words or ()]
            if group[0].word >= 0:
                span = speech_span(corpora.read(group[0]))
                found = [_wake_word_row(word.end, group[0], *span) for word in words[-1:]]
                rows = [row for row in found if row]
            else:
                rows = [
                    row
                    for w in words
                    for row in _rows(w.word, w.start, w.end, w.probability, group, starts)
                ]
            table.writerows(rows)
            lines.flush()
            if n % 20 == 0:
                end = group[-1]
                log.info("aligned to %s/%d, %d windows", end.corpus, end.start, n + 1)


def _last_positions(out: Path) -> dict[str, int]:
    """Return the position of the last word found so far, by store."""
    last: dict[str, int] = {}
    if out.exists():
        with out.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                last[row["store"]] = max(last.get(row["store"], -1), int(row["start"]))
    return last


def _is_doubtful(corpora: Corpora, utterance: Utterance) -> bool:
    """Return whether `utterance` is a recorded wake word that does not stand out."""
    if utterance.word < 0 or utterance.synthetic:
        return False
    start, end = speech_span(corpora.read(utterance))
    return not WORD_S[0] < (end - start) / SAMPLE_RATE < WORD_S[1]


def _groups(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """Yield sentences that are transcribed together; wake words each by itself."""
    group: list[Utterance] = []
    length = 0.0
    for utterance in utterances:
        seconds = utterance.samples / SAMPLE_RATE + GAP_S
        full = length + seconds > WINDOW_S
        if group and (
            full or utterance.word >= 0 or group[-1].word >= 0 or group[-1].store != utterance.store
        ):
            yield group
            group = []
            length = 0.0
        group.append(utterance)
        length += seconds
    if group:
        yield group


def _join(corpora: Corpora, group: list[Utterance]) -> tuple[np.ndarray, list[float]]:
    """Return the sentences, float32 `[sample]` in -1…1 at one level each, and where each begins, in
    seconds."""
    parts: list[np.ndarray] = []
    starts = []
    at = 0
    gap = np.zeros(int(GAP_S * SAMPLE_RATE), np.float32)
    for utterance in group:
        samples = corpora.read(utterance)
        starts.append(at / SAMPLE_RATE)
        parts += [0.5 * samples / max(float(np.abs(samples).max()), 1.0), gap]
        at += len(samples) + len(gap)
    return np.concatenate(parts).astype(np.float32), starts


def _rows(
    word: str,
    begin_s: float,
    end_s: float,
    probability: float,
    group: list[Utterance],
    starts: list[float],
) -> list[list[object]]:
    """Return the rows of what Whisper writes as one word of joined sentences: of a number, each
    digit's."""
    text = re.sub(r"[^a-z']", "", word.lower()).strip("'")
    texts = [text] if text else [DIGITS[int(digit)] for digit in re.findall("[0-9]", word)]
    n = int(np.searchsorted(starts, begin_s, side="right")) - 1
    sentence = group[n]
    begin = min(round((begin_s - starts[n]) * SAMPLE_RATE), sentence.samples - 1)
    end = round((end_s - starts[n]) * SAMPLE_RATE)
    least_s = 0.15 if len(text) >= LEAST_LETTERS else 0.02
    sure = probability >= MIN_PROBABILITY and end <= sentence.samples
    trusted = int(bool(text) and sure and end - begin >= least_s * SAMPLE_RATE)
    samples = max(min(end, sentence.samples) - begin, 1)
    start = sentence.start + begin
    of = sentence.corpus, sentence.speaker
    return [[sentence.store, start, samples, *of, text, trusted] for text in texts]


def _wake_word_row(end_s: float, utterance: Utterance, start: int, end: int) -> list[object] | None:
    """Return the row of a wake word that, by Whisper, ends at `end_s` of `utterance`.

    None where that is about where the part that stands out, `start … end`, ends."""
    heard = min(round((end_s + EARLY_S) * SAMPLE_RATE), utterance.samples)
    if abs(heard - end) < 0.3 * SAMPLE_RATE:
        return None
    shortest, longest = WORD_S
    start = start if start < heard - shortest * SAMPLE_RATE else 0
    start = max(start, round(heard - longest * SAMPLE_RATE))
    at = utterance.start + start
    return [
        utterance.store,
        at,
        heard - start,
        utterance.corpus,
        utterance.speaker,
        utterance.text,
        1,
    ]
