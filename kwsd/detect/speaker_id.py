"""Who spoke: scores of voices against voiceprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from kwsd.bounded.npz import Kinds
from kwsd.events import SpeakerMatch, SpeakerScore
from kwsd.metrics import Scorer, as_norm
from kwsd.model.bundle import COHORT, COHORT_ARRAYS, RESTORE, Bundle, BundleError
from kwsd.state.voiceprints import Voiceprint


class SpeakerScorer:
    """The probability, 0 to 1, that two voices are one person's, at even prior odds.

    Cosines are normalized by a cohort (AS-norm, Matějka et al. 2017) and calibrated by logistic
    regression, so that a threshold means the same for every voice.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError."""
        self._cohort = read_cohort(bundle, "cohort")
        self._slope, self._offset = bundle.speaker_calibration

    def __call__(self, takes: np.ndarray, references: np.ndarray) -> np.ndarray:
        """Return the scores `[take, reference]`.

        `takes [take, dim]` and `references [reference, dim]` are of unit length.
        """
        logits = self._slope * as_norm(takes, references, self._cohort) + self._offset
        return np.asarray(1 / (1 + np.exp(-logits)))


def best_match(
    embedding: np.ndarray,
    voiceprints: Mapping[str, Voiceprint],
    threshold: float,
    scorer: Scorer,
) -> SpeakerMatch:
    """Return whose voice `embedding [dim]` is, with the nearest speaker and the runner-up."""
    references = list(voiceprints.values())
    scores = scorer(embedding[None], np.stack([one.mean for one in references]))[0]
    nearest, *others = (
        SpeakerScore(references[n].name, round(float(scores[n]), 4))
        for n in np.argsort(-scores, kind="stable")[:2]
    )
    return SpeakerMatch(
        name=nearest.name,
        score=nearest.score,
        threshold=threshold,
        verified=bool(scores.max() >= threshold),
        nearest=nearest,
        runner_up=others[0] if others else None,
    )


def read_cohort(bundle: Bundle, which: Literal["cohort", "strangers"]) -> np.ndarray:
    """Return voices of people who are not enrolled here, float32 `[person, dim]` of unit length.

    `cohort` is what scores are normalized by. `strangers` are people whom neither the speaker head
    nor the cohort has seen. Raises BundleError.
    """
    kinds: Kinds = {which: COHORT_ARRAYS[which]}
    voices = bundle.arrays(COHORT, kinds)[which].astype(np.float32)
    lengths = np.linalg.norm(voices, axis=1, keepdims=True)
    if not voices.size or not lengths.all():
        raise BundleError(f"{bundle.path / COHORT}: damaged (it holds no voices); {RESTORE}")
    return np.asarray(voices / lengths)
