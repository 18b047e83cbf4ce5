"""The trigger's rules, as tables and as invariants."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.detect.trigger import Firing, Trigger
from kwsd.detect.word_stream import Smoother

CHUNK = 1280


def drive(
    scores: list[float],
    *,
    threshold: float = 0.5,
    refractory: int = 10,
    near: float = 0.5,
    refused: int = 0,
) -> list[Firing]:
    """Return the firings; of the wakes, the first `refused` are not let through."""
    trigger = Trigger(threshold, refractory * CHUNK, near)
    firings = []
    for k, score in enumerate(scores):
        firing = trigger.step(score, (k + 1) * CHUNK)
        if firing is None:
            continue
        firings.append(firing)
        if firing.kind == "wake" and refused:
            refused -= 1
        elif firing.kind == "wake":
            trigger.accepted(firing.at)
    return firings


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.1], []),
        ([0.1, 0.9, 0.9, 0.1], [("wake", 2)]),
        ([0.1, 0.5, 0.1], [("wake", 2)]),
        ([0.1, 0.3, 0.4, 0.3, 0.1], [("near_miss", 3)]),
        ([0.1, 0.3, 0.4], []),  # it has not ended yet
        ([0.9, 0.1, 0.9, 0.9, 0.1], [("wake", 1), ("refractory", 3)]),
        ([0.9] + [0.1] * 10 + [0.9], [("wake", 1), ("wake", 12)]),
        ([0.9] * 15, [("wake", 1)]),  # one excursion, however long
    ],
)
def test_table(scores: list[float], expected: list[tuple[str, int]]) -> None:
    assert [(f.kind, f.at // CHUNK) for f in drive(scores)] == expected


def test_only_an_accepted_wake_starts_the_refractory_time() -> None:
    stranger_then_owner = [0.9, 0.1, 0.9, 0.1, 0.9, 0.1]
    firings = drive(stranger_then_owner, refused=1)
    assert [f.kind for f in firings] == ["wake", "wake", "refractory"]


def test_smoothing_is_the_mean_of_the_last_posteriors() -> None:
    smoother = Smoother(3)
    scores = [smoother.step(p) for p in (0.3, 0.6, 0.9, 0.0)]
    assert scores == pytest.approx([0.3, 0.45, 0.6, 0.5])


def test_a_near_miss_reports_its_peak() -> None:
    (firing,) = drive([0.26, 0.45, 0.3, 0.0])
    assert (firing.kind, firing.score, firing.at) == ("near_miss", 0.45, 2 * CHUNK)


def test_clearing_forgets_the_excursion_but_not_the_refractory_time() -> None:
    trigger = Trigger(0.5, 10 * CHUNK, 0.5)
    assert trigger.step(0.9, CHUNK) is not None
    trigger.accepted(CHUNK)
    trigger.clear()
    firing = trigger.step(0.9, 3 * CHUNK)
    assert firing is not None
    assert firing.kind == "refractory"


@given(st.lists(st.floats(0, 1), max_size=200), st.integers(0, 30))
def test_invariants(scores: list[float], refractory: int) -> None:
    firings = drive(scores, refractory=refractory)
    wakes = [f for f in firings if f.kind == "wake"]
    assert all(f.score >= 0.5 for f in firings if f.kind != "near_miss")
    assert all(0.25 <= f.score < 0.5 for f in firings if f.kind == "near_miss")
    assert all(b.at - a.at >= max(refractory, 1) * CHUNK for a, b in pairwise(wakes))
