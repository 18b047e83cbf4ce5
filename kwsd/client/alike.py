"""Added words that a new one sounds like: they are made again, and learn that it is not them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kwsd.learn.few_shot import WordTrainer, stored_clips, stored_takes
from kwsd.learn.word_takes import WordTake
from kwsd.metrics import SCORE_DIGITS
from kwsd.state.words import AddedWord

RATES = 0.01, 20.0
"""False accepts per hour of continuous speech between which a word that is made again keeps its
own."""


@dataclass(frozen=True)
class MadeAgain:
    """A word that the takes of another have woken, made again with them as negatives."""

    word: AddedWord
    woken: tuple[float, float]
    """Share of the takes of the other that wake it, before and after."""
    missed: tuple[int, int]
    """Its own takes that it misses, before and after, each judged by a detector without it."""
    takes: int


def kept_rate(trainer: WordTrainer, word: AddedWord, threshold: float) -> float:
    """Return the false accepts per hour of a word at `threshold`, as it is to keep them: those
    that its user has asked for, where that is its own threshold."""
    if word.made.rate is not None and abs(threshold - word.threshold) < 10**-SCORE_DIGITS:
        return word.made.rate
    return float(np.clip(trainer.rate(word, threshold), *RATES))


def made_again(
    trainer: WordTrainer,
    new: AddedWord,
    takes: Sequence[WordTake],
    others: Sequence[AddedWord],
) -> list[MadeAgain]:
    """Return those of the `others` that `takes` of the word `new` wake, made again with its takes.

    One that is no better then is left out: both are one phrase. So is one that another checker
    hears than the trainer's: it would be lost for that one.
    """
    found = []
    for name, share in trainer.also_wakes(new.name, takes, others).items():
        old = next((other for other in others if other.name == name), None)
        if old is None or not len(old.takes):
            continue
        if old.second and old.second.word_id != trainer.word_id:
            continue
        rest = [other for other in others if other is not old]
        heard = old.heard_with(trainer.word_id)
        own = stored_takes(heard)
        rate = kept_rate(trainer, heard, heard.threshold)
        wrong = stored_clips(heard)
        made, quality = trainer.make(name, own, [*rest, new], wrong=wrong, rate=rate)
        left = trainer.also_wakes(new.name, takes, [made]).get(name, 0.0)
        if left < share:
            before = int((heard.scores[:, 0] < heard.threshold).sum())
            missed = before, quality.missed
            again = replace(made, made=old.made)
            found.append(MadeAgain(again, (share, left), missed, len(own)))
    return found


def describe(new: str, again: MadeAgain) -> str:
    """Return what making a word again has changed, for a person."""
    before, after = again.woken
    return (
        f"{again.word.name} is made again, because {before:.0%} of the takes of {new!r} woke it, "
        f"and {after:.0%} do now; it misses {again.missed[0]} → {again.missed[1]} of its own "
        f"{again.takes}"
    )
