"""Stage: where words lie, found by Whisper (through faster-whisper): those of unlabelled sentences, and the wake word of a noisy take.

Sentences are joined to nearly thirty seconds, which is what Whisper takes at once whatever it is given. A word is kept where
Whisper is sure of it and it lies within one sentence. Of the takes of a wake word those are looked at in which what stands out is
too short or too long to be the word.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kwsd.audio.files import RATE
from kwsd.audio.speech_span import speech_span
from kwsd.training.data.corpora import Clip, Corpora
from kwsd.training.data.transcripts import labelled

log = logging.getLogger(__name__)
WINDOW_S, GAP_S = 28.0, 0.5
SURE = 0.6
"""Whisper's probability from which on a word is believed."""
LIKELY_S = (0.4, 1.2)
"""How long a wake word lasts."""
EARLY_S = 0.19
"""By how much Whisper ends a lone word too early: the median over 120 takes in which the word stands out, 90 % of them within 0.15 s of it."""
FIELDS = ["store", "start", "samples", "corpus", "speaker", "label"]


@dataclass(frozen=True)
class Settings:
    whisper: str = "base"
    """A model's name or its folder."""


def align(stores: list[Path], out: Path, settings: Settings) -> None:
    """Write `out`, a row a word, of all sentences in the stores. Goes on where it was cut off."""
    from faster_whisper import WhisperModel

    corpora = Corpora(*stores)
    clips = [clip for clip in corpora.clips if (clip.person and not clip.label) or _doubtful(corpora, clip)]
    last = _last(out)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    model = WhisperModel(settings.whisper, device="auto", compute_type="int8")
    with out.open("a", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines, delimiter="\t", lineterminator="\n")
        if last is None:
            table.writerow(FIELDS)
        for n, group in enumerate(_groups(clips)):
            if last and (group[0].store, group[0].start) <= last:
                continue
            audio, starts = _joined(corpora, group)
            segments, _ = model.transcribe(audio, language="en", beam_size=1, word_timestamps=True, condition_on_previous_text=False)
            words = [w for segment in segments for w in segment.words or ()]
            rows = [_row(w.word, w.start, w.end, w.probability, group, starts) for w in words]
            if group[0].word >= 0:
                rows = [_take_row(w.end, group[0], *speech_span(corpora.read(group[0]))) for w in words[-1:]]
            table.writerows(row for row in rows if row)
            lines.flush()
            if n % 20 == 0:
                log.info("aligned to clip %s/%d, %d windows", group[-1].corpus, group[-1].start, n + 1)


def _last(out: Path) -> tuple[str, int] | None:
    """Store and position of the last word found so far."""
    if not out.exists():
        return None
    with out.open(encoding="utf-8") as lines:
        rows = [(r["store"], int(r["start"])) for r in csv.DictReader(lines, delimiter="\t")]
    return max(rows, default=None)


def _doubtful(corpora: Corpora, clip: Clip) -> bool:
    """Whether `clip` is a recorded take of a wake word in which the word does not stand out."""
    if clip.word < 0 or clip.synthetic:
        return False
    start, end = speech_span(corpora.read(clip))
    return not LIKELY_S[0] < (end - start) / RATE < LIKELY_S[1]


def _groups(clips: list[Clip]) -> Iterator[list[Clip]]:
    """Sentences together, takes of wake words each by itself."""
    group: list[Clip] = []
    length = 0.0
    for clip in clips:
        seconds = clip.samples / RATE + GAP_S
        if group and (length + seconds > WINDOW_S or clip.word >= 0 or group[-1].word >= 0):
            yield group
            group, length = [], 0.0
        group.append(clip)
        length += seconds
    if group:
        yield group


def _joined(corpora: Corpora, group: list[Clip]) -> tuple[np.ndarray, list[float]]:
    """float32 `[sample]` in -1…1 of the sentences, each at the same level, and where each begins, in seconds."""
    parts: list[np.ndarray] = []
    starts, at = [], 0
    gap = np.zeros(int(GAP_S * RATE), np.float32)
    for clip in group:
        samples = corpora.read(clip)
        starts.append(at / RATE)
        parts += [0.5 * samples / max(float(np.abs(samples).max()), 1.0), gap]
        at += len(samples) + len(gap)
    return np.concatenate(parts).astype(np.float32), starts


def _row(word: str, begin_s: float, end_s: float, probability: float, group: list[Clip], starts: list[float]) -> list[object] | None:
    text = re.sub(r"[^a-z']", "", word.lower()).strip("'")
    n = int(np.searchsorted(starts, begin_s, side="right")) - 1
    clip = group[n]
    begin, end = round((begin_s - starts[n]) * RATE), round((end_s - starts[n]) * RATE)
    if probability < SURE or len(text) < 3 or end > clip.samples or end - begin < 0.15 * RATE:
        return None
    return [clip.store, clip.start + begin, end - begin, clip.corpus, clip.speaker, text]


def _take_row(end_s: float, clip: Clip, start: int, end: int) -> list[object] | None:
    """The row of a wake word that Whisper heard end at `end_s` of `clip`; none where that is about where what stands out, `start … end`, does."""
    heard = min(round((end_s + EARLY_S) * RATE), clip.samples)
    if abs(heard - end) < 0.3 * RATE:
        return None
    start = max(start if start < heard - LIKELY_S[0] * RATE else 0, round(heard - LIKELY_S[1] * RATE))
    return [clip.store, clip.start + start, heard - start, clip.corpus, clip.speaker, labelled(clip)]
