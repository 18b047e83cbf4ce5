"""Which words a clip holds, and where: its label, or what Whisper has found in the sentence (`kwsd train align`)."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kwsd.training.data.corpora import Clip

ENGLISH_NAMES = ("arabic", "dsp20")
"""Corpora whose labels name words of another language: they are words of their own."""


class Said(NamedTuple):
    text: str
    start: int
    """Samples, of the clip or of the scene that holds it."""
    end: int


def labelled(clip: Clip) -> str:
    """The word or phrase that a labelled clip is: lower case; "" where the label names none."""
    text = clip.label.removeprefix("near ").replace("_", " ").lower()
    if text.startswith("neg-"):
        return ""
    return f"{clip.corpus}/{text}" if clip.corpus in ENGLISH_NAMES else text


class Spoken:
    """The words of labelled and of aligned clips."""

    def __init__(self, aligned: Path) -> None:
        """`aligned`: what `kwsd train align` wrote; without it, labels alone are known."""
        self._found: list[tuple[str, int, int, str]] = []
        if aligned.exists():
            with aligned.open(encoding="utf-8") as lines:
                self._found = sorted((r["store"], int(r["start"]), int(r["samples"]), r["label"]) for r in csv.DictReader(lines, delimiter="\t"))

    @property
    def stores(self) -> set[str]:
        """The stores of the aligned words."""
        return {store for store, *_ in self._found}

    def within(self, clip: Clip, begin: int, end: int) -> list[Said]:
        """The words of a sentence that lie wholly in its samples `begin … end`, counted from `begin`."""
        first = bisect_left(self._found, (clip.store, clip.start + begin))
        last = bisect_left(self._found, (clip.store, clip.start + end))
        found = [Said(text, at - clip.start - begin, at - clip.start - begin + samples) for _, at, samples, text in self._found[first:last]]
        return [said for said in found if said.end <= end - begin]

    def words(self, clip: Clip) -> set[str]:
        """All single words that are known to be said in it."""
        if clip.label:
            return set(labelled(clip).split()) if clip.corpus not in ENGLISH_NAMES else set()
        return {said.text for said in self.within(clip, 0, clip.samples)}

    def types(self, clips: Iterable[Clip], least: int = 4) -> list[str]:
        """The words and phrases of which `clips` hold so many takes, in alphabetical order."""
        counts = Counter[str]()
        for clip in clips:
            if clip.label:
                counts[labelled(clip)] += 1
            else:
                counts.update(said.text for said in self.within(clip, 0, clip.samples))
        return sorted(text for text, takes in counts.items() if text and takes >= least)
