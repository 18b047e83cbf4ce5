"""Who spoke: scores of voices against voiceprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from kwsd.bounded.npz import Kinds
from kwsd.events import SpeakerMatch, SpeakerScore
from kwsd.metrics import WORD_SPEECH_S, Scorer, as_norm, length_evidence
from kwsd.model.bundle import (
    COHORT,
    COHORT_ARRAYS,
    RESTORE,
    Bundle,
    BundleError,
    CheckerModel,
)
from kwsd.model.manifest import Speaker
from kwsd.protocol.data import Band
from kwsd.state.voiceprints import Voiceprint

TELEPHONE = "cannot tell: telephone band"
"""Why nobody is verified in audio without anything above 4 kHz."""


class SpeakerScorer:
    """The probability, 0 to 1, that two voices are one person's, at even prior odds.

    Cosines are normalized by a cohort (AS-norm, Matějka et al. 2017) and calibrated by logistic
    regression, so that a threshold means the same for every voice and every length of a take.
    Voices are those of the speaker head, or joined of its and a checker's. Two are compared by the
    parts that both have.
    """

    def __init__(self, bundle: Bundle, checker: CheckerModel | None = None) -> None:
        """Voices that are joined have a cohort of their own with the `checker`, if at all.

        Raises BundleError.
        """
        self._head = _Space(_stored(bundle, "cohort", COHORT), bundle.speaker_calibration)
        self._joined: _Space | None = None
        if checker is not None and checker.voices is not None:
            voices = checker.voices
            cohort = _stored(bundle, "cohort", voices.cohort)
            self._joined = _Space(cohort, voices.calibration)

    def of(self, speech_s: float) -> Scorer:
        """Return the scores of takes of so many seconds of speech."""
        return partial(self, speech_s=speech_s)

    def __call__(
        self, takes: np.ndarray, references: np.ndarray, speech_s: float = WORD_SPEECH_S
    ) -> np.ndarray:
        """Return the scores `[take, reference]`.

        `takes [take, dim]` and `references [reference, dim]` are of unit length; `speech_s` are the
        seconds of speech in each take.
        """
        dim = min(takes.shape[1], references.shape[1])
        space = self._head
        if self._joined is not None and dim == self._joined.cohort.shape[1]:
            space = self._joined
        known = space.calibration
        dim = space.cohort.shape[1]
        takes, references = first_part(takes, dim), first_part(references, dim)
        normalized = as_norm(takes, references, space.cohort, known.nearest)
        normalized = normalized - known.length * length_evidence(speech_s)
        return np.asarray(1 / (1 + np.exp(-(known.slope * normalized + known.offset))))


class _Space(NamedTuple):
    """Voices of one kind, and how their scores are calibrated."""

    cohort: np.ndarray
    """int8 `[voice, dim]`, as it is stored."""
    calibration: Speaker


def first_part(voices: np.ndarray, dim: int) -> np.ndarray:
    """Return the first `dim` numbers of `voices [voice, …]`, of unit length again."""
    if voices.shape[1] == dim:
        return voices
    part = voices[:, :dim]
    return np.asarray(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9))


def best_match(
    embedding: np.ndarray,
    voiceprints: Mapping[str, Voiceprint],
    threshold: float,
    scorer: Scorer,
    band: Band = "unknown",
) -> SpeakerMatch:
    """Return whose voice `embedding [dim]` is, with the nearest speaker and the runner-up.

    Of several references of a speaker, the one that resembles it most counts. Nobody is verified in
    the `band` of a telephone, where most voices score as one.
    """
    people = list(voiceprints.values())
    scores = _nearest_scores(embedding, people, scorer)
    nearest, *others = (
        SpeakerScore(people[n].name, round(float(scores[n]), 4))
        for n in np.argsort(-scores, kind="stable")[:2]
    )
    return SpeakerMatch(
        name=nearest.name,
        score=nearest.score,
        threshold=threshold,
        verified=bool(scores.max() >= threshold) and band != "telephone",
        nearest=nearest,
        runner_up=others[0] if others else None,
        margin=round(nearest.score - others[0].score, 4) if others else None,
        reason=TELEPHONE if band == "telephone" else None,
    )


def _nearest_scores(
    embedding: np.ndarray, people: Sequence[Voiceprint], scorer: Scorer
) -> np.ndarray:
    """Return the scores `[person]` of one voice as `person_scores` has them, all references of one
    length at once: each call looks through the whole cohort."""
    scores = np.full(len(people), -np.inf)
    means = [(n, one.mean) for n, person in enumerate(people) for one in person.references]
    for dim in {len(mean) for _, mean in means}:
        chosen = [(n, mean) for n, mean in means if len(mean) == dim]
        found = scorer(embedding[None], np.stack([mean for _, mean in chosen]))[0]
        np.maximum.at(scores, [n for n, _ in chosen], found)
    return scores


def person_scores(takes: np.ndarray, person: Voiceprint, scorer: Scorer) -> np.ndarray:
    """Return the scores `[take]` of `takes [take, dim]` against a speaker: of the speaker's
    references, the one that resembles a take most counts."""
    each = [scorer(takes, one.mean[None])[:, 0] for one in person.references]
    return np.asarray(np.max(each, axis=0))


def read_cohort(
    bundle: Bundle, which: Literal["cohort", "strangers"], file: str = COHORT
) -> np.ndarray:
    """Return voices of people who are not enrolled here, float32 `[person, dim]` of unit length.

    `cohort` is what scores are normalized by. `strangers` are people whom neither the speaker head
    nor the cohort has seen. Raises BundleError.
    """
    voices = _stored(bundle, which, file).astype(np.float32)
    return np.asarray(voices / np.linalg.norm(voices, axis=1, keepdims=True))


def _stored(bundle: Bundle, which: Literal["cohort", "strangers"], file: str) -> np.ndarray:
    """Return such voices as they are stored, int8 `[person, dim]`, none of them zero."""
    kinds: Kinds = {which: COHORT_ARRAYS[which]}
    voices: np.ndarray = bundle.arrays(file, kinds)[which]
    if not voices.size or not voices.any(axis=1).all():
        raise BundleError(f"{bundle.path / file}: damaged (it holds no voices); {RESTORE}")
    return voices
