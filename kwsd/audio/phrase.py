"""Where a word or phrase lies in a take: by its voice, whatever else is in the recording.

A word is voiced for 60 ms at least, which no click is, and no beep. Its unvoiced sounds and
closures lie close to what is voiced. Where the encoder says when somebody speaks, music is no voice
either.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kwsd.audio.voicing import HOP_SAMPLES, frames_of, tone_frames, voiced_frames

MIN_VOICED_FRAMES = 6
"""Frames of 10 ms of a word, or of a part of a phrase, that are voiced at least."""
MIN_WORD_FRAMES = 25
"""Frames of the shortest word, from its onset to its end: 0.25 s."""
BRIDGED_FRAMES = 30
"""Gaps of up to so many frames are bridged: 0.3 s."""
PAUSE_FRAMES = 70
"""The longest pause within a phrase: 0.7 s."""
QUIETER_DB = 20.0
"""How far below the loudest frame of a phrase the loudest of such a part may lie."""
UNVOICED_FRAMES = 25
"""How far from what is voiced an unvoiced sound of a word may be."""
CLOSURE_FRAMES = 20
"""The longest closure before or after an unvoiced sound."""
BURST_FRAMES = 8
"""A sound that is shorter is a burst, as of a plosive, or a click."""
BURST_DB = 6.0
"""How far below the loudest voiced frame a burst lies at least."""
VOICED_ATOM_FRAMES = 3
"""Voiced frames of a sound that is voiced."""
TONE_MARGIN_FRAMES = 8
"""Frames around a beep that are part of it: it swells, and the high-pass lets it ring."""
FAINTEST_DB = 50.0
"""How far below the loudest frame of a clip a voice may lie: what is fainter is an echo."""
SPEECH_MARGIN_FRAMES = 12
"""Frames around what the encoder takes for speech that may be speech: it tells chunks apart."""
SPEECH_FROM = 0.5
"""Probability of speech from which it is."""
RANGE_DB = 30.0
"""How far below the loudest voiced frame the quietest sound of a word lies."""
ABOVE_FLOOR_DB = 4.0
"""How far above the background it lies, except where that is as loud as a quiet voice."""
QUIET_VOICE_DB = 6.0
CUT_NEAR = 0.12
"""How far from where its letters say, as a share of the phrase, a word may end."""
CUT_SAMPLES = 400


@dataclass(frozen=True)
class Phrase:
    """Where a phrase lies in a clip, in samples."""

    parts: tuple[tuple[int, int], ...]
    """`(start, end)` of what its speaker's pauses part, in order."""
    left_out: tuple[tuple[int, int], ...]
    """`(start, end)` of other speech in the clip."""

    @property
    def start(self) -> int:
        """Where it begins."""
        return self.parts[0][0]

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.parts[-1][1]

    def within(self, start: int, end: int) -> Phrase:
        """Return the phrase from `start` to `end`, with the pauses that lie between them."""
        inside = [part for part in self.parts if part[0] < end and part[1] > start]
        bounds = [start, *[at for part in inside for at in part][1:-1], end]
        return Phrase(tuple(zip(bounds[::2], bounds[1::2], strict=True)), ())


class _Run(NamedTuple):
    """A run of sounds, from frame `first` to `last`."""

    first: int
    last: int
    energy: float
    peak_db: float


def find_phrase(samples: np.ndarray, speech: np.ndarray | None = None) -> Phrase | None:
    """Return where a phrase lies in a short clip, int16-scaled; None where nobody speaks.

    `speech` is the probability that somebody does, `[frame]` of 10 ms, where that is known; where
    it leaves less than a word, the voice alone counts, which the encoder may never have heard. The
    phrase is the run with the most energy, and those before and after it that are at most 0.7 s
    apart and not 20 dB quieter.
    """
    found = _loudest(_runs(samples, speech), len(samples))
    if speech is None or (found and found.end - found.start >= MIN_WORD_FRAMES * HOP_SAMPLES):
        return found
    return _loudest(_runs(samples, None), len(samples)) or found


def _loudest(runs: list[_Run], length: int) -> Phrase | None:
    """Return the phrase that the loudest of the runs is part of."""
    if not runs:
        return None
    best = max(runs, key=lambda run: run.energy)
    loud = best.peak_db - QUIETER_DB
    first, last = best.first, best.last
    for run in reversed(runs):
        if run.last < first and run.peak_db >= loud and first - run.last <= PAUSE_FRAMES:
            first = run.first
    for run in runs:
        if run.first > last and run.peak_db >= loud and run.first - last <= PAUSE_FRAMES:
            last = run.last
    spans = [
        (
            (run.first * HOP_SAMPLES, min((run.last + 1) * HOP_SAMPLES, length)),
            first <= run.first <= last,
        )
        for run in runs
    ]
    return Phrase(
        tuple(span for span, within in spans if within),
        tuple(span for span, within in spans if not within),
    )


def word_cuts(samples: np.ndarray, phrase: Phrase, words: Sequence[str]) -> list[int]:
    """Return where a phrase is cut into parts, in samples: in its pauses.

    One without pauses is cut between its `words`: at the quietest moment near where their letters
    say that one ends.
    """
    if len(phrase.parts) > 1:
        pairs = itertools.pairwise(phrase.parts)
        return [(before + after) // 2 for (_, before), (after, _) in pairs]
    letters = np.cumsum([len(word) for word in words])
    length = phrase.end - phrase.start
    near = int(CUT_NEAR * length)
    cuts = []
    for share in letters[:-1] / letters[-1] if len(words) > 1 else ():
        expected = phrase.start + int(share * length)
        around = samples[max(expected - near, 0) : expected + near].astype(np.float64)
        power = np.convolve(around**2, np.ones(CUT_SAMPLES), "same")
        cuts.append(max(expected - near, 0) + int(power.argmin()))
    return cuts


def _runs(samples: np.ndarray, speech: np.ndarray | None) -> list[_Run]:
    """Return the runs of sounds that are speech, in order."""
    level = 10 * np.log10(np.mean(frames_of(samples) ** 2, axis=1) + 1.0)
    tone = _widened(tone_frames(samples), TONE_MARGIN_FRAMES)
    may_be = ~tone
    floor = float(np.percentile(level, 10))
    if speech is not None:
        said = speech[: len(level)] >= SPEECH_FROM
        may_be &= _widened(said, SPEECH_MARGIN_FRAMES)
        silent = ~_widened(said, SPEECH_MARGIN_FRAMES) & ~tone
        floor = float(np.percentile(level[silent], 75)) if silent.any() else floor
    voiced = voiced_frames(samples) & may_be & (level > level.max() - FAINTEST_DB)
    if voiced.sum() < MIN_VOICED_FRAMES:
        return []
    loud = float(level[voiced].max())
    floor = min(floor + ABOVE_FLOOR_DB, loud - QUIET_VOICE_DB)
    active = may_be & (level > max(loud - RANGE_DB, floor))
    voiced &= active
    active &= _widened(voiced, UNVOICED_FRAMES)
    kept = _with_its_unvoiced_sounds(_split(active, 2), voiced, level)
    runs = []
    for first, last in _joined(kept, BRIDGED_FRAMES):
        if voiced[first : last + 1].sum() >= MIN_VOICED_FRAMES:
            heard = level[first : last + 1][active[first : last + 1]]
            energy = float(np.sum(10 ** (heard / 10)))
            runs.append(_Run(first, last, energy, float(heard.max())))
    return runs


def _with_its_unvoiced_sounds(
    sounds: list[tuple[int, int]], voiced: np.ndarray, level: np.ndarray
) -> list[tuple[int, int]]:
    """Return the voiced sounds, and unvoiced ones that are close to one and no louder.

    A click is far away, or too loud for a burst.
    """
    loudest = [
        (first, last, float(level[first : last + 1].max()))
        for first, last in sounds
        if voiced[first : last + 1].sum() >= VOICED_ATOM_FRAMES
    ]
    kept = []
    for first, last in sounds:
        peak = float(level[first : last + 1].max())
        if last - first < BURST_FRAMES and not voiced[first : last + 1].any():
            peak += BURST_DB
        if any(
            first - end <= CLOSURE_FRAMES and begin - last <= CLOSURE_FRAMES and peak <= top
            for begin, end, top in loudest
        ):
            kept.append((first, last))
    return kept


def _split(flags: np.ndarray, bridged: int) -> list[tuple[int, int]]:
    """Return `(first, last)` of the runs of `flags [frame]`, gaps of so many frames bridged."""
    at = np.flatnonzero(flags)
    if len(at) == 0:
        return []
    parts = np.split(at, np.flatnonzero(np.diff(at) > bridged + 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


def _joined(spans: list[tuple[int, int]], bridged: int) -> list[tuple[int, int]]:
    """Return spans in which gaps of up to so many frames are bridged."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and first - joined[-1][1] <= bridged:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return joined


def _widened(flags: np.ndarray, frames: int) -> np.ndarray:
    """Return `flags [frame]` that also holds for so many frames before and after."""
    counts = np.convolve(flags.astype(int), np.ones(2 * frames + 1, int), "same")
    return np.asarray(counts[: len(flags)] > 0)
