"""Of words that fire on one utterance only the best wakes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from conftest import RATE, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kwsd.config import Config, VadConfig, WordConfig
from kwsd.detect.contest import WAIT_SAMPLES, Contest, Entry, Level
from kwsd.detect.detector import Detector
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.detect.trigger import Firing
from kwsd.events import Detection, Rejected, Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.state.library import Library
from kwsd.state.words import CONTEXT_FRAMES, AddedWord

CHUNK = 1280
WORD = 8 * CHUNK
"""Length of the words here."""


def run(scores: dict[str, list[float]], threshold: float = 0.4) -> list[tuple[str, int, bool]]:
    """Return what is decided, as `(word, chunk, won)`; words fire at the threshold."""
    contest = Contest()
    decided = []
    for chunk, row in enumerate(zip(*scores.values(), strict=True), 1):
        at = chunk * CHUNK
        levels = {word: Level(score, threshold) for word, score in zip(scores, row, strict=True)}
        for word, level in levels.items():
            past = scores[word][: chunk - 1]
            if level.score >= threshold and (not past or past[-1] < threshold):
                firing = Firing("wake", level.score, at)
                contest.enter(Entry(word, firing, at - WORD, at, level.excess))
        for entry, won in contest.step(levels, at):
            decided.append((entry.word, chunk, won))
    return decided


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        # Nobody else is near its threshold: at once.
        ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [("one", 1, True)]),
        # Somebody is, and does not fire: two chunks later.
        ([0.5, 0.5, 0.5], [0.2, 0.3, 0.3], [("one", 3, True)]),
        # It gives up before.
        ([0.5, 0.5, 0.5], [0.2, 0.0, 0.0], [("one", 2, True)]),
        # Both fire, and nobody is left to wait for. The second is better.
        ([0.5, 0.5, 0.5], [0.3, 0.9, 0.9], [("one", 2, False), ("two", 2, True)]),
        # The first rises above the second before a third of them would have to be waited for.
        ([0.5, 0.9, 0.9], [0.5, 0.6, 0.6], [("one", 1, True), ("two", 1, False)]),
        # The second fires too late for its score to count.
        ([0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 0.9, 0.9], [("one", 1, True), ("two", 3, False)]),
        # Another utterance.
        (
            [0.5, *[0.0] * 8],
            [*[0.0] * 8, 0.5],
            [("one", 1, True), ("two", 9, True)],
        ),
    ],
)
def test_table(one: list[float], two: list[float], expected: list[tuple[str, int, bool]]) -> None:
    assert run({"one": one, "two": two}) == expected


def test_scores_are_compared_by_how_far_they_are_above_their_own_thresholds() -> None:
    assert Level(0.3, 0.1).excess > Level(0.6, 0.5).excess
    assert Level(1.0, 1.0).excess == 0.0
    assert Level(1.0, 0.5).excess < 20


def test_a_word_in_its_refractory_time_keeps_others_from_waking() -> None:
    contest = Contest()
    contest.enter(Entry("own", Firing("refractory", 0.9, WORD), 0, WORD, 2.0))
    contest.enter(Entry("twin", Firing("wake", 0.8, WORD), 0, WORD, 1.0))
    decided = contest.step({}, WORD)
    assert [(one.entry.word, one.won) for one in decided] == [("own", True), ("twin", False)]


def test_a_word_at_the_very_beginning_is_one_utterance_with_itself() -> None:
    contest = Contest()
    contest.enter(Entry("one", Firing("wake", 0.9, CHUNK), 0, 0, 2.0))
    assert [one.won for one in contest.step({}, CHUNK)] == [True]


score = st.sampled_from([0.0, 0.05, 0.2, 0.4, 0.5, 0.7, 0.9])


@given(st.lists(st.tuples(score, score, score), min_size=1, max_size=60))
def test_invariants(rows: list[tuple[float, float, float]]) -> None:
    scores = {word: [row[n] for row in rows] for n, word in enumerate("abc")}
    fired = {
        (word, chunk)
        for word, own in scores.items()
        for chunk, score in enumerate(own, 1)
        if score >= 0.4 and (chunk == 1 or own[chunk - 2] < 0.4)
    }
    decided = run(scores)
    wait = WAIT_SAMPLES // CHUNK
    assert len(decided) <= len(fired)
    due = [each for each in fired if each[1] + wait <= len(rows)]
    assert len(decided) >= len(due), "nobody waits longer than 160 ms"
    winners = [(word, chunk) for word, chunk, won in decided if won]
    for (word, chunk), (after, later) in pairwise(winners):
        # Two different words that woke within half a word of each other heard one utterance.
        assert word == after or later - chunk + wait >= WORD // CHUNK // 2


@pytest.fixture(scope="module")
def twins(bundle: Bundle, runtime: Runtime, deaf_banana: AddedWord) -> dict[str, AddedWord]:
    """Two words that fire at the end of "computer" as one voice says it; the second is surer."""
    speech = np.concatenate([hiss(2.0), say("computer"), hiss(2.0)])
    front_end = bundle.front_end
    whole = speech[: len(speech) // CHUNK * CHUNK].astype(np.float32)
    mel = front_end(np.pad(whole, (front_end.history_samples, 0)))
    frames = runtime.encoder.step(mel, runtime.encoder.zero_state())[0].embedding
    end = int(np.flatnonzero(np.abs(speech) > 300)[-1]) // CHUNK
    towards = frames[end : end + 3].mean(axis=0) - frames.mean(axis=0)
    weights = np.zeros_like(deaf_banana.weights)
    weights[0] = 12 * towards / (towards @ towards)
    blank = replace(deaf_banana, weights=weights, bias=0.0)
    logits = blank.logits(np.pad(frames, ((CONTEXT_FRAMES, 0), (0, 0))))
    bias = -float(np.sort(logits)[-6:].mean())
    words = {"ann": bias, "bob": bias + 1.0}
    return {name: replace(blank, name=name, bias=own) for name, own in words.items()}


def detector(
    bundle: Bundle, runtime: Runtime, words: dict[str, AddedWord], config: Config
) -> Detector:
    """Return a detector that listens for these words alone."""
    own = {name: WordConfig(threshold=0.3) for name in words}
    config = structs.replace(config, words=own)
    return Detector(bundle, resolve(config, bundle, Library(words=words)), runtime)


UNGATED = Config(vad=VadConfig(enabled=False), near_miss=1.0)


def told(events: list[Detection]) -> list[tuple[str, str, int]]:
    """Return the word, what became of it, and where it ended, of each event."""
    return [(e.word, e.reason if isinstance(e, Rejected) else "wake", e.end) for e in events]


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """Three utterances."""
    return np.concatenate([hiss(2.0), *[say("computer"), hiss(3.0)] * 3])


def test_of_two_names_of_one_phrase_one_wakes(
    bundle: Bundle, runtime: Runtime, twins: dict[str, AddedWord], spoken: np.ndarray
) -> None:
    exclusive = detector(bundle, runtime, twins, UNGATED).feed(spoken).wakes
    assert [e.word for e in exclusive if isinstance(e, Wake)] == ["bob"] * 3
    assert [what for word, what, _ in told([*exclusive]) if word == "ann"] == ["other_word"] * 3
    both = structs.replace(UNGATED, exclusive_words=False)
    wakes = [*detector(bundle, runtime, twins, both).feed(spoken).wakes]
    assert sorted(e.word for e in wakes) == ["ann"] * 3 + ["bob"] * 3
    assert all(isinstance(e, Wake) for e in wakes)
    alone = {"ann": twins["ann"]}
    wakes = [*detector(bundle, runtime, alone, UNGATED).feed(spoken).wakes]
    assert [(e.word, isinstance(e, Wake)) for e in wakes] == [("ann", True)] * 3


@settings(deadline=None, max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("vad", [VadConfig(enabled=False), VadConfig(mode=3, hangover_s=0.2)])
def test_online_equals_offline(
    bundle: Bundle,
    runtime: Runtime,
    twins: dict[str, AddedWord],
    spoken: np.ndarray,
    vad: VadConfig,
    data: st.DataObject,
) -> None:
    config = structs.replace(UNGATED, vad=vad)
    offline = told([*detector(bundle, runtime, twins, config).feed(spoken).wakes])
    assert len(offline) == 6
    cuts = sorted(data.draw(st.lists(st.integers(0, len(spoken)), max_size=40)))
    online = detector(bundle, runtime, twins, config)
    pieces = np.split(spoken, cuts)
    assert told([e for piece in pieces for e in online.feed(piece).wakes]) == offline


class Doubt(NamedTuple):
    """A stream in which "ann" fires, and "bob", which is near its threshold, may be better."""

    chunks: np.ndarray
    setup: DetectorSetup
    fires: int
    """The chunk at which "ann" reaches its threshold."""


@pytest.fixture(scope="module")
def doubt(
    bundle: Bundle, runtime: Runtime, twins: dict[str, AddedWord], spoken: np.ndarray
) -> Doubt:
    chunks = spoken[: 62 * CHUNK].reshape(-1, CHUNK)
    alone = detector(bundle, runtime, {"ann": twins["ann"]}, UNGATED)
    fires = [len(alone.feed(chunk).wakes) for chunk in chunks].index(1)
    own = {"ann": WordConfig(threshold=0.3), "bob": WordConfig(threshold=1.0)}
    library = Library(words=twins)
    setup = resolve(structs.replace(UNGATED, words=own), bundle, library)
    return Doubt(chunks, setup, fires)


def test_the_decision_comes_within_160_ms(bundle: Bundle, runtime: Runtime, doubt: Doubt) -> None:
    waits = Detector(bundle, doubt.setup, runtime)
    decided = [len(waits.feed(chunk).wakes) for chunk in doubt.chunks].index(1)
    assert 0 < decided - doubt.fires <= WAIT_SAMPLES // CHUNK


@pytest.mark.parametrize(
    ("lost", "expected"), [(0, ["ann"]), (RATE // 10, ["ann"]), (60 * RATE, [])]
)
def test_what_waits_survives_a_short_loss(
    bundle: Bundle, runtime: Runtime, doubt: Doubt, lost: int, expected: list[str]
) -> None:
    broken = Detector(bundle, doubt.setup, runtime)
    for chunk in doubt.chunks[: doubt.fires + 1]:
        assert not broken.feed(chunk).wakes
    assert broken.max_chunks_per_call == 1
    broken.discontinuity(lost)
    assert [e.word for e in broken.feed(doubt.chunks[0]).wakes] == expected
    assert not broken.feed(doubt.chunks[0]).wakes


def test_a_word_that_is_disabled_while_it_waits_does_not_wake(
    bundle: Bundle, runtime: Runtime, twins: dict[str, AddedWord], doubt: Doubt
) -> None:
    config = structs.replace(UNGATED, words={name: WordConfig(threshold=0.3) for name in twins})
    library = Library(words=twins)
    listening = Detector(bundle, doubt.setup, runtime)
    for chunk in doubt.chunks[: doubt.fires + 1]:
        assert not listening.feed(chunk).wakes
    listening.configure(resolve(config, bundle, library, enabled={"ann": False, "bob": False}))
    assert not [e for chunk in doubt.chunks for e in listening.feed(chunk).wakes]


def test_only_the_words_that_are_listened_for_take_part(
    bundle: Bundle, runtime: Runtime, twins: dict[str, AddedWord], spoken: np.ndarray
) -> None:
    config = structs.replace(UNGATED, words={name: WordConfig(threshold=0.3) for name in twins})
    setup = resolve(config, bundle, Library(words=twins), enabled={"bob": False})
    wakes = Detector(bundle, setup, runtime).feed(spoken).wakes
    assert [what[:2] for what in told([*wakes])] == [("ann", "wake")] * 3
