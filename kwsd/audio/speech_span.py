"""Where somebody speaks in a short take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
BRIDGED_FRAMES = 30
"""Gaps of up to so many frames of 10 ms are bridged: 0.3 s."""
PAUSE_FRAMES = 70
"""The longest pause within a phrase: 0.7 s."""
MIN_PART_FRAMES = 10
"""The shortest part of a phrase that is apart from the others: 0.1 s. A click is shorter."""
QUIETER_DB = 20.0
"""How far below the loudest frame of a phrase the loudest of such a part may lie."""


class Phrase(NamedTuple):
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


class _Run(NamedTuple):
    """A run of loud frames, from `first` to `last`."""

    first: int
    last: int
    energy: float
    peak_db: float


def speech_span(samples: np.ndarray) -> tuple[int, int]:
    """Return `(start, end)` of the speech in a short clip, in samples.

    The span is the loudest run of 10 ms frames above both 30 dB below the peak and 9 dB above the
    quietest tenth, gaps of up to 0.3 s bridged; the whole clip where nothing stands out.
    """
    runs = _runs(samples)
    if not runs:
        return 0, len(samples)
    best = max(runs, key=lambda run: run.energy)
    return _samples(best.first, best.last, len(samples))


def phrase_span(samples: np.ndarray) -> Phrase:
    """Return where a phrase lies in a short clip, with the pauses that its speaker makes.

    It is the loudest of the runs among which `speech_span` chooses, and those before and after it
    that are at most 0.7 s apart. Runs of less than 0.1 s are clicks where there is a longer one.
    The whole clip counts where nothing stands out.
    """
    runs = _runs(samples)
    if not runs:
        return Phrase(((0, len(samples)),), ())
    long = [run for run in runs if run.last - run.first >= MIN_PART_FRAMES] or runs
    best = max(long, key=lambda run: run.energy)
    loud = best.peak_db - QUIETER_DB
    first, last = best.first, best.last
    for run in reversed(long):
        if run.last < first and run.peak_db >= loud and first - run.last <= PAUSE_FRAMES:
            first = run.first
    for run in long:
        if run.first > last and run.peak_db >= loud and run.first - last <= PAUSE_FRAMES:
            last = run.last
    spans = [
        (_samples(run.first, run.last, len(samples)), first <= run.first <= last) for run in long
    ]
    return Phrase(
        tuple(span for span, within in spans if within),
        tuple(span for span, within in spans if not within),
    )


def _runs(samples: np.ndarray) -> list[_Run]:
    """Return the runs of loud frames in a clip, in order; none where nothing stands out."""
    if len(samples) >= WINDOW_SAMPLES:
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)
        frames = windows[::HOP_SAMPLES]
    else:
        frames = samples[None]
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1.0)
    peak = level.max()
    active = level > max(peak - 30.0, min(np.percentile(level, 10) + 9.0, peak - 12.0))
    at = np.flatnonzero(active)
    if len(at) == 0:
        return []
    parts = np.split(at, np.flatnonzero(np.diff(at) > BRIDGED_FRAMES) + 1)
    return [
        _Run(
            int(part[0]),
            int(part[-1]),
            float(np.sum(10 ** (level[part] / 10))),
            float(level[part].max()),
        )
        for part in parts
    ]


def _samples(first: int, last: int, length: int) -> tuple[int, int]:
    """Return the samples of frames `first` to `last` of a clip of so many samples."""
    return first * HOP_SAMPLES, min(last * HOP_SAMPLES + WINDOW_SAMPLES, length)
