"""Speaker verification on labeled recordings: one take against one, and five against one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from kwsd.audio.files import read_all
from kwsd.bench import speaker_encoders
from kwsd.bench.corpus import LabeledRecording
from kwsd.metrics import Trials, equal_error_rate, error_curves, verification_trials

log = logging.getLogger(__name__)
MIN_TAKES = 6
"""Takes that a speaker needs: five to enroll, one to try."""
MAX_TAKES = 12
"""Takes of a speaker that are used."""


class TrialStats(TypedDict):
    """The errors of one kind of trial; shares lie between 0 and 1."""

    eer: float
    """Equal error rate."""
    trials: int
    curve: list[list[float]]
    """Pairs of false accept rate and false reject rate, by rising threshold; 2000 or so of them."""


class VerificationStats(TypedDict):
    """The figures of one speaker encoder."""

    engine: str
    speakers: int
    takes: int
    one: TrialStats
    """One take against one."""
    five: TrialStats
    """The mean of five takes against one."""


def verification(recordings: Sequence[LabeledRecording]) -> list[VerificationStats]:
    """Return the figures of every installed speaker encoder.

    The speakers are those with at least `MIN_TAKES` recordings; the list is empty where fewer than
    two have them. Raises AudioFileError.
    """
    people: dict[str, list[Path]] = {}
    for recording in recordings:
        if recording.speaker:
            people.setdefault(recording.speaker, []).append(recording.path)
    rng = np.random.default_rng(0)
    chosen = [
        [paths[n] for n in rng.permutation(len(paths))[:MAX_TAKES]]
        for _, paths in sorted(people.items())
        if len(paths) >= MIN_TAKES
    ]
    if len(chosen) < 2:
        return []
    found: list[VerificationStats] = []
    for name, make in speaker_encoders.installed().items():
        embed = make()
        embeddings = [np.stack([embed(read_all(path)) for path in paths]) for paths in chosen]
        log.info("%s: %d speakers embedded", name, len(embeddings))
        one, five = verification_trials(embeddings)
        found.append(
            {
                "engine": name,
                "speakers": len(chosen),
                "takes": sum(map(len, chosen)),
                "one": _figures(one),
                "five": _figures(five),
            }
        )
    return found


def _figures(trials: Trials) -> TrialStats:
    target, impostor = trials
    rejects, accepts, _ = error_curves(target, impostor)
    every = max(len(rejects) // 2000, 1)
    return {
        "eer": equal_error_rate(target, impostor)[0],
        "trials": len(target) + len(impostor),
        "curve": np.stack([accepts, rejects], axis=1)[::every].round(6).tolist(),
    }
