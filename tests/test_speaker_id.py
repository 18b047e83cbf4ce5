"""Speaker identification: the nearest voiceprint, and scores that are probabilities."""

from __future__ import annotations

import msgspec
import numpy as np
from test_voiceprints import voiceprint

from kwsd.detect.speaker_id import SpeakerScorer, best_match, read_cohort
from kwsd.events import SpeakerMatch, SpeakerScore
from kwsd.metrics import cosine
from kwsd.model.bundle import Bundle


def test_the_nearest_is_reported_with_its_score() -> None:
    ann = voiceprint("ann", 0)
    bob = voiceprint("bob", 1)
    match = best_match(bob.mean, {"ann": ann, "bob": bob}, 0.9, cosine)
    assert (match.name, match.score, match.verified) == ("bob", 1.0, True)
    assert match.nearest == SpeakerScore("bob", 1.0)
    assert match.runner_up is not None
    assert match.runner_up.name == "ann"
    assert match.runner_up.score < 0.9


def test_a_stranger_has_no_name() -> None:
    bob = voiceprint("bob", 1)
    match = best_match(-bob.mean, {"bob": bob}, 0.9, cosine)
    assert (match.name, match.score, match.verified) == (None, -1.0, False)
    assert (match.nearest, match.runner_up) == (SpeakerScore("bob", -1.0), None)
    plain = {"name": None, "score": -1.0, "threshold": 0.9, "verified": False}
    assert msgspec.to_builtins(match.without_details()) == plain
    named = SpeakerMatch("bob", 0.1, 0.9, verified=False)  # as 0.1.0 stored it
    assert named.name is None
    assert msgspec.convert({**plain, "name": "bob"}, SpeakerMatch).name is None


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
