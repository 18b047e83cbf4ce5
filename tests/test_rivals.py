"""What sounds like a word and is not it: parts of its phrase, and the other added words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import RATE, VOICES, hiss, say

from kwsd.audio.phrase import find_phrase, word_cuts
from kwsd.audio.speech_span import speech_span
from kwsd.client import alike
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.rivals import Rivals
from kwsd.learn.word_takes import FIRING_CHUNKS, VERSIONS, words_of
from kwsd.state.words import CONTEXT_FRAMES, AddedWord

TESTED = ("en-us+m4", "en-gb+f4", "en-us+f1", "en-gb-x-rp+m2", "en-gb", "en-us+m1")
"""Voices of which no take was made."""


def spoken(text: str) -> np.ndarray:
    """Return speech without the silence around it."""
    speech = say(text)
    start, end = speech_span(speech.astype(np.float32))
    return speech[start:end]


@pytest.mark.parametrize(
    "words", [("hey", "archie"), ("turn", "off"), ("good", "morning", "house")]
)
def test_a_phrase_without_a_pause_is_cut_between_its_words(words: Sequence[str]) -> None:
    parts = [spoken(word) for word in words]
    take = np.concatenate([hiss(0.5), *parts, hiss(0.5)])
    phrase = find_phrase(take.astype(np.float32))
    assert phrase is not None
    ends = RATE // 2 + np.cumsum([len(part) for part in parts])[:-1]
    cuts = word_cuts(take, phrase, words)
    assert len(cuts) == len(words) - 1
    assert np.abs(np.array(cuts) - ends).max() < 0.12 * RATE
    assert word_cuts(take, phrase, ["one"]) == word_cuts(take, phrase, []) == []


def test_a_pause_cuts_a_phrase_whatever_its_name_says() -> None:
    take = np.concatenate([hiss(0.5), spoken("hey"), hiss(0.5), spoken("archie"), hiss(0.5)])
    phrase = find_phrase(take.astype(np.float32))
    assert phrase is not None
    (cut,) = word_cuts(take, phrase, ["a", "very", "long", "name"])
    assert abs(cut - 0.75 * RATE - len(spoken("hey"))) < 0.05 * RATE


def test_the_words_of_a_name() -> None:
    assert words_of("hey_archie") == words_of("hey archie") == ["hey", "archie"]
    assert words_of("") == []


def test_rivals_are_the_takes_of_other_words(deaf_banana: AddedWord) -> None:
    other = replace(deaf_banana, name="apple")
    short = replace(deaf_banana, name="pear", takes=deaf_banana.takes[:, :, :9])
    rivals = Rivals.of("Hey_Banana", [deaf_banana, other, short])
    assert [each.shape for each in rivals.takes] == [deaf_banana.takes.shape]
    offsets = np.array([0, 3])
    takes, versions, frames, dim = deaf_banana.takes.shape
    numbered = np.arange(takes * versions * frames * dim, dtype=np.float32)
    one = Rivals((numbered.reshape(takes, versions, frames, dim),))
    (windows,) = one.windows(offsets)
    assert len(windows) == takes * versions * FIRING_CHUNKS
    assert (windows[0] == one.takes[0][0, 0, [CONTEXT_FRAMES, CONTEXT_FRAMES - 3]]).all()
    assert [len(one.outside(fold, 2).takes[0]) for fold in (0, 1)] == [1, 2]


def test_rivals_have_the_vectors_that_this_checker_heard() -> None:
    heard = np.ones((2, len(VERSIONS), FIRING_CHUNKS, 5), np.float32)
    takes = tuple(np.zeros((n, 1, 1, 1), np.float32) for n in (2, 3, 2))
    rivals = Rivals(takes, (heard, None, heard[..., :4]))
    scores = np.arange(7.0)[:, None]
    assert [each[:, 0].tolist() for each in rivals.by_word(scores)] == [[0, 1], [2, 3, 4], [5, 6]]
    vectors, of_heard = rivals.heard(5, scores)
    assert vectors.shape == heard.shape
    assert of_heard.tolist() == [[0], [1]]
    vectors, of_heard = rivals.those([False, True, True]).heard(4, scores[2:])
    assert vectors.shape[-1] == 4
    assert of_heard.tolist() == [[5], [6]]
    vectors, of_heard = Rivals().heard(5, scores[:0])
    assert (len(vectors), len(of_heard)) == (0, 0)


def test_one_phrase_under_two_names_is_not_told_apart() -> None:
    own = np.array([0.3, 0.5, 0.4])
    rivals = Rivals()
    assert rivals.told_apart(own, [own, np.array([0.1, 0.2]), np.array([0.1, 0.45])]) == [
        False,
        True,
        False,
    ]


def highest(trainer: WordTrainer, word: AddedWord, text: str) -> np.ndarray:
    """Return the highest scores of the tested voices that say `text`."""
    scores = []
    for voice in TESTED:
        samples = np.concatenate([hiss(0.5), say(text, voice), hiss(0.8)])
        frames = trainer.encoder.frames(samples)
        scores.append(float(trainer.smoothed(trainer.logits(word, frames)).max()))
    return np.array(scores)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_part_of_a_phrase_does_not_wake_it(trainer: WordTrainer) -> None:
    takes = [trainer.encoder.take(say("hey archie", voice), "hey_archie") for voice in VOICES[:5]]
    assert {len(take.parts) for take in takes} == {4}
    word, quality = trainer.make("hey archie", takes)
    assert len(quality.parts_woken) == 20
    assert (highest(trainer, word, "hey archie") >= word.threshold).sum() >= 5
    for part in ("hey", "archie"):
        assert (highest(trainer, word, part) >= word.threshold).sum() <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_words_that_sound_alike_are_made_again_to_tell_each_other_apart(
    trainer: WordTrainer,
) -> None:
    # Without a name there are no parts: the first word is one that others wake.
    takes = {
        text: [trainer.encoder.take(say(text, voice), name) for voice in VOICES[:5]]
        for text, name in (("turn on", ""), ("turn off", "turn off"))
    }
    first, _ = trainer.make("turn on", takes["turn on"])
    first = replace(first, threshold=first.threshold / 2)
    second, quality = trainer.make("turn off", takes["turn off"], [first])
    assert quality.also_wakes["turn_on"] >= 0.8
    (again,) = alike.made_again(trainer, second, takes["turn off"], [first])
    assert again.woken[0] >= 0.8
    assert again.woken[1] <= 0.2
    assert again.word.name == "turn_on"
    assert again.word.made == first.made
    assert "turn_on is made again" in alike.describe("turn_off", again)
    assert (highest(trainer, first, "turn off") >= first.threshold).sum() >= 5
    assert (highest(trainer, again.word, "turn off") >= again.word.threshold).sum() <= 2
    # The same takes under another name: nothing can tell them apart, and both stay as they are.
    twin = replace(first, name="twin")
    assert alike.made_again(trainer, twin, takes["turn on"], [first]) == []
