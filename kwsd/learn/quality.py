"""How good an added word is, before it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from kwsd.learn.second_stage import CHECKS_PER_HOUR, Candidates

FEW_TAKES = 3
"""A word of fewer takes than this is one to be warned of."""
SHORT_S = 0.4
PARTS_WOKEN = 4
"""One in so many parts may wake a word without a warning."""


@dataclass(frozen=True)
class Quality:
    """How good a word is, before it is kept."""

    missed: int
    """Takes that a detector made from the others misses at its default threshold."""
    missed_in_noise: int
    takes: int
    length_s: float
    false_accepts_per_hour: float
    """Expected at that threshold, of continuous speech."""
    interval: tuple[float, float]
    """95 % bounds of these."""
    asked: float
    """Those that were asked for."""
    traded: bool
    """Whether it is set to more than these for the sake of its takes: nobody asked for a rate."""
    bank_hours: float
    outliers: tuple[int, ...]
    """Takes that the others hardly resemble."""
    also_wakes: dict[str, float]
    """Share of the takes at which other words of this device fire."""
    several_voices: bool = False
    """Whether the takes sound like several people."""
    woken: tuple[bool, ...] = ()
    """Whether each wrong clip still wakes a detector that was made without it."""
    parts_woken: tuple[bool, ...] = ()
    """The same of each part of the takes."""
    candidates: Candidates | None = None
    """What its streaming score lets through to the checker; None without a second stage."""

    @property
    def warnings(self) -> list[str]:
        """What a person should know before the word is kept."""
        warnings = [
            f"take {n + 1} hardly resembles the others: is it the same word?" for n in self.outliers
        ]
        if self.takes < FEW_TAKES:
            warnings.append(
                f"it is made from {self.takes} takes alone, and will miss more and wake by mistake "
                "more often: `kwsd word remove` it and add it again from three at least, better ten"
            )
        if (woken := sum(self.parts_woken)) > len(self.parts_woken) / PARTS_WOKEN:
            text = f"{woken} of {len(self.parts_woken)} parts that were cut from the takes"
            warnings.append(f"{text} also wake it: say it without a pause, or choose other words")
        for word, share in self.also_wakes.items():
            fix = "choose a word that sounds less like it"
            warnings.append(f"{share:.0%} of the takes also wake {word!r}: {fix}")
        if self.candidates and self.candidates.lost > 1:
            warnings.append(
                f"{self.candidates.lost} of the takes might not even be heard by the checker, "
                f"which is asked {CHECKS_PER_HOUR:.0f} times an hour of continuous speech at most: "
                "more takes, or a longer phrase, help"
            )
        if self.several_voices:
            warnings.append(
                "the takes sound like several people: it will wake for each of them; "
                "where only one voice should wake it, use that voice's takes alone"
            )
        if self.length_s < SHORT_S:
            warnings.append(
                f"it lasts {self.length_s:.1f} s; words of two syllables or more, "
                "0.5 s at least, are recognized far better"
            )
        held = self.false_accepts_per_hour
        remedy = "a longer phrase, or more takes, bear a stricter threshold"
        if self.traded:
            warnings.append(
                f"at {self.asked:g} false wakes an hour of continuous speech it would miss more "
                f"than a third of its takes; it is set to {held:.2g}, which `--rate` and `kwsd "
                f"calibrate` change: {remedy}"
            )
        elif held > self.asked:
            low, high = self.interval
            warnings.append(
                f"no threshold holds it to {self.asked:.2g} false wakes an hour of continuous "
                f"speech; {held:.2g} are to be expected ({low:.1g} to {high:.1g}): {remedy}"
            )
        if self.missed > self.takes / 3:
            warnings.append(
                "more than a third of its own takes would be missed: it is too short, too common "
                "in speech, or its takes differ too much; more takes, or a longer phrase, help"
            )
        return warnings
