"""`kwsd train homophones`: what sounds nearly like a wake word, found by rule.

Phrases of up to four words of the aligned sentences, and words of a pronunciation dictionary, are
near a wake word where at most two edits of phones make it of a part of them. The phrases are cut
from their recordings into the store WORK/homophones, as `near PHRASE`; WORK/homophones.tsv lists
all, for `kwsd train synthesize` to speak.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.state.store import write_atomically
from kwsd.training.data.corpora import Recording, write_store
from kwsd.training.data.phones import Phones, distance, phones_of
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.transcripts import SpokenWord
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)
FIELDS = ("word", "text", "edits")
"""The columns of WORK/homophones.tsv."""
STORE = "homophones"
MARGIN_SAMPLES = SAMPLE_RATE // 5
"""Kept on either side of a phrase: 0.2 s."""


class HomophoneSettings(Settings, frozen=True):
    """The settings of `homophones.yaml`."""

    edits: float = 2.0
    """Edits of phones up to which a phrase is near."""
    most_words: int = 4
    """Words of a phrase at most."""
    gap_s: float = 0.15
    """Longest pause within a phrase."""
    per_word: int = 60
    """Phrases of each wake word that are listed to be spoken, the nearest first."""
    dictionary: str | None = None
    """A file whose lines begin with a word, like that of CMU's dictionary."""


class Near(NamedTuple):
    """A phrase near a wake word."""

    edits: float
    text: str
    word: str


def homophones(data: TrainingData, work: Path, settings: HomophoneSettings) -> None:
    """Write WORK/homophones.tsv and the store WORK/homophones.

    Phrases of both splits are cut, each with its corpus and speaker, so that it stays on its side.
    Raises ValueError where nothing is aligned and there is no dictionary."""
    corpora = data.corpora()
    transcripts = data.transcripts()
    sentences = [u for u in corpora.utterances if not u.label and not u.noise]
    spoken = {
        (u.store, u.start): transcripts.within(u, 0, u.samples, short=True) for u in sentences
    }
    vocabulary = {word.text for words in spoken.values() for word in words}
    listed = _dictionary(settings.dictionary)
    if not vocabulary and not listed:
        raise ValueError(
            f"{data.aligned} holds no words: run `kwsd train align` first, or name a dictionary: "
            "--set dictionary=FILE"
        )
    phones = phones_of(sorted(vocabulary | set(listed)))
    rule = _Rule(data.words.texts, settings.edits)
    near = [found for text in listed for found in rule.near(text, phones[text])]

    def cut() -> Iterator[Recording]:
        for u in sentences:
            for first, last in _phrases(spoken[u.store, u.start], settings):
                words = spoken[u.store, u.start][first : last + 1]
                text = _text(words)
                found = rule.near(text, _phones(words, phones))
                # A word that makes the phrase no nearer is left off.
                if not found or _needless(rule, words, phones, found[0].edits):
                    continue
                near.extend(found)
                begin = max(words[0].start - MARGIN_SAMPLES, 0)
                samples = corpora.read(u, begin, words[-1].end + MARGIN_SAMPLES)
                # Without a speaker, the checksum of the sentence is what it is split by.
                who = u.speaker or str(corpora.checksum(u))
                yield Recording(samples.astype(np.int16), u.corpus, who, f"near {text}")

    count = write_store(work / STORE, cut())
    _write(work / "homophones.tsv", near, settings.per_word)
    log.info("%d phrases are cut from %d sentences into %s", count, len(sentences), work / STORE)


class _Rule:
    """What is near the wake words."""

    def __init__(self, texts: dict[str, str], edits: float) -> None:
        self._words = dict(zip(texts, phones_of(list(texts.values())).values(), strict=True))
        self._texts = texts
        self._edits = edits

    def near(self, text: str, heard: Phones) -> list[Near]:
        """Return the wake words that `text` is near; none that it holds."""
        if any(f" {word} " in f" {text} " for word in self._texts.values()):
            return []
        return [
            Near(edits, text, word)
            for word, phones in self._words.items()
            if len(heard) + self._edits >= len(phones)
            and (edits := distance(phones, heard)) <= self._edits
        ]


def _needless(
    rule: _Rule, words: Sequence[SpokenWord], phones: dict[str, Phones], edits: float
) -> bool:
    """Return whether the phrase is as near without its first or its last word."""
    return any(
        any(found.edits <= edits for found in rule.near(_text(part), _phones(part, phones)))
        for part in (words[1:], words[:-1])
        if part
    )


def _text(words: Sequence[SpokenWord]) -> str:
    return " ".join(word.text for word in words)


def _phones(words: Sequence[SpokenWord], phones: dict[str, Phones]) -> Phones:
    return tuple(phone for word in words for phone in phones[word.text])


def _phrases(words: list[SpokenWord], settings: HomophoneSettings) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of words without a pause."""
    longest = settings.gap_s * SAMPLE_RATE
    for first in range(len(words)):
        for last in range(first, min(first + settings.most_words, len(words))):
            if last > first and words[last].start - words[last - 1].end > longest:
                break
            yield first, last


def _dictionary(path: str | None) -> list[str]:
    """Return the words of a pronunciation dictionary, without their variants like `read(2)`."""
    if path is None:
        return []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    words = {line.split()[0].lower() for line in lines if line.split()}
    return sorted(word for word in words if word.replace("'", "").isalpha())


def _write(path: Path, near: Sequence[Near], per_word: int) -> None:
    """Write the nearest phrases of each word."""
    rows = []
    for word in sorted({found.word for found in near}):
        of_word = sorted({found for found in near if found.word == word})
        rows += [f"{word}\t{text}\t{edits:g}" for edits, text, _ in of_word[:per_word]]
        log.info("%s: %d phrases, %s …", word, len(of_word), [n.text for n in of_word[:8]])
    write_atomically(path, "\n".join(["\t".join(FIELDS), *rows, ""]).encode())


def listed(work: Path) -> list[str]:
    """Return the phrases that WORK/homophones.tsv lists, none where it is missing."""
    path = work / "homophones.tsv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t")
        return list(dict.fromkeys(row["text"] for row in table))
