"""Speaker identification: the nearest voiceprint, and scores that are probabilities."""

from __future__ import annotations

import numpy as np
from test_voiceprints import voiceprint

from kwsd.detect.speaker_id import SpeakerScorer, best_match, read_cohort
from kwsd.metrics import cosine
from kwsd.model.bundle import Bundle


def test_the_nearest_is_reported_with_its_score() -> None:
    ann = voiceprint("ann", 0)
    bob = voiceprint("bob", 1)
    match = best_match(bob.mean, {"ann": ann, "bob": bob}, 0.9, cosine)
    assert (match.name, match.score, match.verified) == ("bob", 1.0, True)
    assert best_match(-bob.mean, {"bob": bob}, 0.9, cosine).verified is False


def test_a_score_is_a_probability(bundle: Bundle) -> None:
    scorer = SpeakerScorer(bundle)
    strangers = read_cohort(bundle, "strangers")
    scores = scorer(strangers[:40], strangers[:40])
    assert scores.shape == (40, 40)
    assert (np.diag(scores) > 0.99).all()  # a take and itself
    others = scores[~np.eye(40, dtype=bool)]
    assert ((others > 0) & (others < 1)).all()
    assert (others > bundle.speaker_threshold).mean() < 0.05
    assert np.median(others) < 0.02
