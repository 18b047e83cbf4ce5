"""Which words an utterance contains, and where: its label, or what `kwsd train align` has found."""

from __future__ import annotations

import csv
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kwsd.training.data.corpora import Place, Utterance, read_clips

LEAST_LETTERS = 3
"""Shorter words are no words to learn; they only make phrases."""


class SpokenWord(NamedTuple):
    """A word or phrase and where it lies, in samples of the utterance or of the scene around it."""

    text: str
    start: int
    end: int


class Transcripts:
    """The words of labeled and of aligned utterances."""

    def __init__(self, aligned: Path) -> None:
        """Read the file that `kwsd train align` wrote; without it, only labels are known."""
        self._rows: list[tuple[str, int, int, str, bool]] = []
        if aligned.exists():
            with aligned.open(encoding="utf-8") as lines:
                table = csv.DictReader(lines, delimiter="\t")
                self._rows = sorted(
                    (r["store"], int(r["start"]), int(r["samples"]), r["label"], _trusted(r))
                    for r in table
                )
        self._counts = Counter(text for *_, text, trusted in self._rows if trusted)

    def count(self, text: str) -> int:
        """Return how often the word `text` was aligned."""
        return self._counts[text]

    @property
    def texts(self) -> set[str]:
        """All aligned words, trusted or not."""
        return {text for *_, text, _ in self._rows}

    @property
    def stores(self) -> set[str]:
        """The names of the stores of the aligned words."""
        return {store for store, *_ in self._rows}

    def within(
        self, utterance: Utterance, begin: int, end: int, *, short: bool = False
    ) -> list[SpokenWord]:
        """Return the trusted words that lie wholly in the samples `begin … end` of `utterance`;
        `short`: with those of fewer than `LEAST_LETTERS` as well.

        Their positions count from `begin`."""
        origin = utterance.start + begin
        words = [
            SpokenWord(text, start - origin, start - origin + samples)
            for _, start, samples, text, trusted in self._between(
                utterance.store, origin, utterance.start + end
            )
            if trusted and (short or len(text) >= LEAST_LETTERS)
        ]
        return [word for word in words if word.end <= end - begin]

    def words(self, utterance: Utterance) -> set[str]:
        """Return all single words that are known to be in `utterance`, or may be."""
        if utterance.label:
            return set() if utterance.other_language else set(utterance.text.split())
        end = utterance.start + utterance.samples
        return {text for *_, text, _ in self._between(utterance.store, utterance.start, end)}

    def saying(self, phrases: Iterable[str], stores: Iterable[Path]) -> set[Place]:
        """Return the unlabeled utterances of `stores` in which one of `phrases` is said, or may be;
        its plural and its possessive contain it."""
        said = re.compile(rf"\b(?:{'|'.join(map(re.escape, phrases))})(?:'?s)?\b")
        aligned = self.stores
        found = set()
        for store in stores:
            for clip in read_clips(store) if store.name in aligned else ():
                rows = self._between(store.name, clip.start, clip.start + clip.samples)
                if not clip.label and said.search(" ".join(text for *_, text, _ in rows)):
                    found.add(Place(store.name, clip.start))
        return found

    def _between(self, store: str, begin: int, end: int) -> list[tuple[str, int, int, str, bool]]:
        """Return the rows that begin in the samples `begin … end` of a store."""
        first, last = (bisect_left(self._rows, (store, at)) for at in (begin, end))
        return self._rows[first:last]

    def types(self, utterances: Iterable[Utterance], least: int = 4) -> list[str]:
        """Return the words and phrases that occur at least `least` times, in alphabetical order."""
        counts = Counter[str]()
        for utterance in utterances:
            if utterance.label:
                counts[utterance.text] += 1
            else:
                counts.update(word.text for word in self.within(utterance, 0, utterance.samples))
        return sorted(text for text, count in counts.items() if text and count >= least)


def _trusted(row: dict[str, str | None]) -> bool:
    """Return whether a row's take can be used; in older files, only such rows are."""
    return row.get("trusted") != "0"
