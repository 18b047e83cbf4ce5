"""Added words: made from takes, heard by the detector, stored in one small file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PHRASE, RATE, VOICES, hiss, say

from kwsd.audio.speech_span import speech_span
from kwsd.client.takes import Recording
from kwsd.client.words import Takes
from kwsd.config import Config, VadConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.judged import RATES, Judged, above_parts
from kwsd.learn.negatives import Negatives
from kwsd.learn.regression import logistic_regression
from kwsd.learn.takes import TakeRejected
from kwsd.learn.word_takes import FIRING_CHUNKS, TakeStream
from kwsd.metrics import tail_threshold
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.protocol.data import MadeFrom
from kwsd.state.library import Library
from kwsd.state.words import (
    CONTEXT_FRAMES,
    AddedWord,
    WordError,
    WordStore,
    check_word_name,
    from_bytes,
    to_bytes,
)

UNHEARD = ("en-us+m4", "en-gb+f4", "en-us+f1", "en-gb-x-rp+m2")
"""Voices of which no take was made."""


class Hearing:
    """Listens for an added word beside `computer`."""

    def __init__(self, bundle: Bundle, runtime: Runtime, word: AddedWord) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._word = word

    def scores(self, samples: np.ndarray, cuts: list[int], *, gated: bool = True) -> np.ndarray:
        """Return the word's scores `[chunk]`, the samples fed in pieces."""
        words = {"computer": WordConfig(), self._word.name: WordConfig()}
        config = Config(words=words, vad=VadConfig(enabled=gated))
        library = Library(words={self._word.name: self._word})
        setup = resolve(config, self._bundle, library)
        detector = Detector(self._bundle, setup, self._runtime)
        steps = [detector.feed(part) for part in np.split(samples, cuts)]
        return np.concatenate([step.trace.scores for step in steps])[:, 1]


@pytest.mark.slow
def test_it_hears_unheard_voices_and_no_other_words(
    banana: AddedWord, bundle: Bundle, runtime: Runtime
) -> None:
    setup = resolve(Config(), bundle, Library(words={banana.name: banana}))
    detector = Detector(bundle, setup, runtime)
    found = []
    for voice in UNHEARD:
        for text in (PHRASE, "computer", "the weather is fine today", "thank you very much"):
            step = detector.feed(np.concatenate([hiss(1.5), say(text, voice), hiss(1.5)]))
            found += [(voice, text, w.word) for w in step.wakes if isinstance(w, Wake)]
    heard = [voice for voice, text, word in found if (text, word) == (PHRASE, "hey_banana")]
    assert len(heard) >= 3
    assert not [w for w in found if w[2] == "hey_banana" and w[1] != PHRASE]
    # The word of the bundle goes on as before.
    assert len([w for w in found if w[1:] == ("computer", "computer")]) >= 3


def test_online_equals_offline_and_gated_equals_ungated(
    deaf_banana: AddedWord, bundle: Bundle, runtime: Runtime
) -> None:
    weights = np.random.default_rng(0).normal(0, 0.1, deaf_banana.weights.shape)
    word = replace(deaf_banana, weights=weights.astype(np.float32), bias=-1.0)
    parts = [
        say(PHRASE),
        hiss(6.0),
        say(PHRASE, "en-us+f3"),
        hiss(0.3),
        say("good evening to you"),
        hiss(5.0),
        say(PHRASE),
        hiss(1.0),
    ]
    samples = np.concatenate(parts)
    hearing = Hearing(bundle, runtime, word)
    whole = hearing.scores(samples, [], gated=False)
    rng = np.random.default_rng(3)
    for _ in range(3):
        cuts = sorted(rng.integers(0, len(samples), 60).tolist())
        assert np.abs(hearing.scores(samples, cuts, gated=False) - whole).max() < 1e-4
    gated = hearing.scores(samples, [])
    assert (gated == 0).mean() > 0.1
    is_open = gated > 0
    assert np.abs(gated[is_open] - whole[is_open]).max() < 1e-4
    assert gated.max() == pytest.approx(whole.max(), abs=1e-4)


def test_logits_by_hand() -> None:
    weights = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    word = AddedWord(
        name="w",
        encoder_id="e",
        offsets=(0, 3),
        weights=weights,
        bias=0.5,
        threshold=0.5,
        length_s=0.6,
        operating_points=(),
        takes=np.zeros((0, 2)),
        made=MadeFrom(),
    )
    frames = np.arange(2 * (CONTEXT_FRAMES + 3), dtype=np.float32).reshape(-1, 2)
    # The present frame's first number, twice the second number of the frame three before, the bias.
    expected = [
        frames[k, 0] + 2 * frames[k - 3, 1] + 0.5 for k in range(CONTEXT_FRAMES, CONTEXT_FRAMES + 3)
    ]
    assert word.logits(frames).tolist() == expected


def test_regression_by_hand() -> None:
    """One feature, positives at 1 and negatives at -1: the gradient of the loss vanishes."""
    found = logistic_regression(np.ones((40, 1)), -np.ones((40, 1)))
    weights, bias = found.weights, found.bias
    again = logistic_regression(np.ones((40, 1)), -np.ones((1, 1)), np.array([40.0]), found)
    p = 1 / (1 + np.exp(-(weights[0] + bias)))
    assert 2 * 40 * (1 - p) == pytest.approx(20 * weights[0], rel=1e-3)
    assert bias == pytest.approx(0, abs=1e-3)
    assert again.weights == pytest.approx(weights, abs=1e-3)


def test_the_tail_continues_an_exponential() -> None:
    """Of 30 excesses an hour over 0, with mean 0.5, e^2 times fewer lie over 1."""
    logits = -0.5 * np.log((np.arange(30) + 0.5) / 30)
    peaks = 1 / (1 + np.exp(-np.sort(logits)[::-1]))
    threshold = tail_threshold(peaks, 1.0, 30 / np.e**2)
    assert np.log(threshold / (1 - threshold)) == pytest.approx(1.0, abs=0.1)
    assert tail_threshold(peaks, 1.0, 0.1) > tail_threshold(peaks, 1.0, 1.0)


def test_what_contains_the_word_is_not_a_negative() -> None:
    texts = ("yellow banana", "", "apple")
    bank = Negatives(np.zeros((60, 2), np.float32), np.array([0, 20, 40]), texts, np.ones(3, bool))
    first = [*range(CONTEXT_FRAMES, 20)]
    others = [*range(20 + CONTEXT_FRAMES, 40), *range(40 + CONTEXT_FRAMES, 60)]
    assert np.flatnonzero(bank.usable("banana")).tolist() == others
    assert np.flatnonzero(bank.usable("banana_yellow")).tolist() == others
    assert np.flatnonzero(bank.usable("hey_banana")).tolist() == first + others, "a part is not it"
    assert np.flatnonzero(bank.usable("pear")).tolist() == first + others


@pytest.mark.usefixtures("quick_fits")
def test_rates_are_of_continuous_speech(trainer: WordTrainer) -> None:
    """What wakes a word in noise or among single words counts as a negative, and in no rate."""
    bank = trainer.negatives
    takes = [trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES[:3]]
    speech = np.arange(len(bank.speech)) < len(bank.speech) // 3
    some = WordTrainer(trainer.bundle, trainer.encoder.runtime, replace(bank, speech=speech))
    word, quality = some.make("yellow pear", takes)
    frames = (speech[bank.segment] & bank.usable("yellow pear")).sum()
    assert quality.bank_hours == pytest.approx(frames * 0.08 / 3600)
    everywhere, _ = trainer.make("yellow pear", takes)
    assert np.array_equal(word.weights, everywhere.weights), "all of it is learned from"
    assert word.threshold != everywhere.threshold
    assert replace(bank, speech=np.zeros(len(speech), bool)).is_speech.all(), "without any: all"


LONG = "hey banana what will the weather be like in the afternoon"


@pytest.mark.parametrize(
    ("samples", "reason", "message"),
    [
        (hiss(1.0), "silent", "silent"),
        (np.zeros(0, np.int16), "too_short", "contains no samples"),
        (say(LONG), "take_too_long", "a word lasts at most 2.4 s: say it alone, or choose"),
        (
            np.clip(say(PHRASE).astype(int) * 60, -32768, 32767).astype(np.int16),
            "clipped",
            "clipped",
        ),
        (hiss(7.0, 300), "take_too_long", "at most 6 s"),
    ],
)
def test_takes_that_cannot_be_used(
    trainer: WordTrainer, samples: np.ndarray, reason: str, message: str
) -> None:
    with pytest.raises(TakeRejected, match=message) as caught:
        trainer.encoder.take(samples)
    assert caught.value.reason == reason


def stretched(text: str, seconds: float) -> np.ndarray:
    """Return speech that lasts so long, with half a second of hiss around it."""
    speech = say(text)
    start, end = speech_span(speech.astype(np.float32))
    at = np.linspace(start, end - 1, int(seconds * RATE))
    slow = np.interp(at, np.arange(len(speech)), speech)
    return np.concatenate([hiss(0.5), slow.astype(np.int16), hiss(0.5)])


@pytest.mark.parametrize("seconds", [1.7, 2.0, 2.4])
def test_phrases_of_up_to_2_4_s_are_words(trainer: WordTrainer, seconds: float) -> None:
    take = trainer.encoder.take(stretched("good morning my dear computer", seconds))
    assert take.length_s == pytest.approx(seconds, abs=0.06)
    assert take.warning is None
    assert np.isfinite(take.frames).all()
    with pytest.raises(TakeRejected, match=r"2\.[78] s of speech; a word lasts at most 2\.4 s"):
        trainer.encoder.take(stretched("good morning my dear computer", 2.75))


def paused(voice: str, pause_s: float) -> np.ndarray:
    """Return "okay … banana" with a pause."""
    halves = []
    for text in ("okay", "banana"):
        speech = say(text, voice)
        start, end = speech_span(speech.astype(np.float32))
        halves.append(speech[start:end])
    return np.concatenate([hiss(0.4), halves[0], hiss(pause_s), halves[1], hiss(0.4)])


def test_what_is_left_out_of_a_take_is_said(trainer: WordTrainer) -> None:
    samples = paused("en-us", 1.3)
    take = trainer.encoder.take(samples)
    assert take.parts == ()
    assert take.warning is not None
    assert "is left out, and the word is what is said at" in take.warning
    takes = Takes()
    takes.add(take, Recording.of(samples, take, "a.wav"), "a.wav")
    assert takes.warnings == [f"a.wav: {take.warning}"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_half_of_a_phrase_with_a_pause_does_not_wake_it(trainer: WordTrainer) -> None:
    takes = [trainer.encoder.take(paused(voice, 0.45)) for voice in VOICES[:5]]
    assert {len(take.parts) for take in takes} == {4}
    word, quality = trainer.make("okay banana", takes)
    assert len(word.wrong) == len(quality.parts_woken) == 20
    assert quality.woken == ()

    def highest(samples: np.ndarray) -> float:
        frames = trainer.encoder.frames(np.pad(samples, (0, 2 * RATE)))
        return float(trainer.smoothed(trainer.logits(word, frames)).max())

    assert highest(paused(VOICES[5], 0.45)) >= word.threshold
    okay = [highest(np.concatenate([hiss(0.4), say("okay", voice)])) for voice in VOICES]
    assert (np.array(okay) >= word.threshold).sum() == 0
    assert quality.missed <= 1


def test_a_threshold_lies_above_the_parts_where_no_take_is_lost() -> None:
    takes = np.array([0.1, 0.5, 0.6])
    assert above_parts(np.array([]), takes, 0.3) == 0.0
    assert above_parts(np.array([0.2, 0.4]), takes, 0.3) == pytest.approx(0.44)
    assert above_parts(np.array([0.2, 0.49]), takes, 0.3) == 0.5
    assert above_parts(np.array([0.2, 0.7]), takes, 0.3) == pytest.approx(0.22)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_two_takes_make_a_word_and_a_warning(trainer: WordTrainer) -> None:
    takes = [trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES[:2]]
    _, quality = trainer.make(PHRASE, takes)
    assert any("it is made from 2 takes alone" in text for text in quality.warnings)
    with pytest.raises(WordError, match=r"1 take\(s\) can be used; at least 2 are needed"):
        trainer.make(PHRASE, takes[:1])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_another_word_among_the_takes_is_reported(trainer: WordTrainer) -> None:
    take = trainer.encoder.take
    takes = [take(say(PHRASE, voice)) for voice in VOICES[:5]]
    assert takes[0].frames.shape[1] == CONTEXT_FRAMES + FIRING_CHUNKS
    _, quality = trainer.make(PHRASE, [*takes, take(say("smart mirror"))])
    assert 5 in quality.outliers
    assert any("take 6 hardly resembles" in w for w in quality.warnings)
    assert not quality.several_voices
    voices = np.eye(5)
    strangers = [replace(one, voice=voices[n]) for n, one in enumerate(takes)]
    _, quality = trainer.make(PHRASE, strangers)
    assert any("sound like several people" in w for w in quality.warnings)
    of_computer = [take(say("computer", voice)) for voice in VOICES[:3]]
    _, quality = trainer.make("dear computer", of_computer)
    assert "computer" in quality.also_wakes


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_another_word_wakes_only_where_its_trigger_would(
    trainer: WordTrainer, deaf_banana: AddedWord
) -> None:
    threshold = trainer.bundle.words["computer"].threshold
    smoothing = trainer.bundle.smoothing_chunks
    assert 1 / smoothing < threshold, "one chunk alone must not reach it"
    column = list(trainer.bundle.words).index("computer")
    takes = [trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES[:3]]
    stream = takes[0].stream
    assert stream is not None
    assert len(stream.embedding) == len(stream.logits) >= 6 + smoothing
    weights = np.zeros_like(deaf_banana.weights)
    weights[0, 0] = 40.0  # it fires at frames whose first value is 1
    other = replace(deaf_banana, weights=weights)
    for chunks in (1, smoothing):
        loud = slice(6, 6 + chunks)
        embedding = np.zeros_like(stream.embedding)
        embedding[loud, 0] = 1
        logits = np.full_like(stream.logits, -20)
        logits[loud, column] = 20
        changed = [replace(takes[0], stream=TakeStream(embedding, logits)), *takes[1:]]
        _, quality = trainer.make("some phrase", changed, [other])
        fired = {} if chunks == 1 else {"hey_banana": 1 / 3, "computer": 1 / 3}
        assert quality.also_wakes == pytest.approx(fired)


def test_stored_and_read_again(tmp_path: Path, deaf_banana: AddedWord) -> None:
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    store.save(deaf_banana)
    again = store.load("hey_banana")
    assert again.info() == deaf_banana.info()
    assert (again.weights == deaf_banana.weights).all()
    assert (tmp_path / "hey_banana-9f80e5.word").stat().st_mode & 0o777 == 0o600
    (tmp_path / "bad.word").write_bytes(b"no word")
    good, bad = store.load_all()
    assert list(good) == ["hey_banana"]
    assert "bad.word: damaged" in str(bad[0])
    with pytest.raises(WordError, match=r"made for the encoder .*`kwsd word add 'hey banana'"):
        WordStore(tmp_path, "another").load("hey_banana")
    with pytest.raises(WordError, match="damaged, or not a kwsd word file"):
        from_bytes(to_bytes(replace(deaf_banana, offsets=(0, 99))), deaf_banana.encoder_id, "it")
    for name in ("a/b", "..", "", ".x"):
        with pytest.raises(WordError, match="cannot be a word's name"):
            check_word_name(name)


def test_a_word_that_would_miss_its_takes_wakes_more_often() -> None:
    """The strictest rate at which two thirds of the takes are found; a rate that is asked for is
    not traded."""
    logits = -0.9 * np.log((np.arange(40) + 0.5) / 40)
    peaks = 1 / (1 + np.exp(-np.sort(logits)[::-1]))

    def judged(*takes: float) -> Judged:
        none = np.zeros(0)
        return Judged(np.tile(np.array(takes)[:, None], 2), none, none, peaks, 2.0)

    at = {rate: tail_threshold(peaks, 2.0, rate) for rate in RATES}
    assert at[1.0] < at[0.5] < at[0.1]
    clear = judged(0.999, 0.999, at[0.5])
    assert clear.choose(None) == (at[0.1], 0.1)
    unclear = judged(0.999, at[0.5], at[1.0])
    assert unclear.choose(None) == (at[0.5], 0.5)
    assert unclear.choose(0.1) == (at[0.1], 0.1)
    hopeless = judged(0.01, 0.01, 0.01)
    assert hopeless.choose(None) == (at[1.0], 1.0)
    for point in unclear.points():
        assert point.low is not None
        assert point.high is not None
        assert point.low < point.false_accepts_per_hour < point.high
