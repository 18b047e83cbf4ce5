"""Where a phrase lies in a take: with its speaker's pauses, without clicks and other speech."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, VOICES, hiss, say

from kwsd.audio.phrase import Phrase, find_phrase
from kwsd.audio.speech_span import speech_span
from kwsd.audio.voicing import tone_frames, voiced_frames
from kwsd.client.words import from_recordings
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.speech import SpeechProbe, read_probe
from kwsd.model.bundle import SPEECH, Bundle


def spoken(text: str) -> np.ndarray:
    """Return speech without the silence around it."""
    speech = say(text)
    start, end = speech_span(speech.astype(np.float32))
    return speech[start:end]


def found(take: np.ndarray, speech: np.ndarray | None = None) -> Phrase:
    """Return where the phrase lies in a take in which there is one."""
    phrase = find_phrase(take, speech)
    assert phrase is not None
    return phrase


def with_pause(pause_s: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return two parts with a pause between them, and half a second around them."""
    return np.concatenate([hiss(0.5), first, hiss(pause_s), second, hiss(0.5)])


@pytest.mark.parametrize("pause_s", [0.05, 0.2, 0.36, 0.45, 0.6, 0.66])
@pytest.mark.parametrize("quieter", [1, 4])
def test_a_phrase_with_a_pause_is_whole_whichever_half_is_louder(
    pause_s: float, quieter: int
) -> None:
    okay, banana = spoken("okay"), spoken("banana")
    for first, second in ((okay, banana // quieter), (okay // quieter, banana)):
        take = with_pause(pause_s, first, second)
        phrase = found(take.astype(np.float32))
        assert phrase.left_out == ()
        assert abs(phrase.start - RATE // 2) < RATE // 20
        assert abs(len(take) - RATE // 2 - phrase.end) < RATE // 20
        if pause_s >= 0.36:
            (_, end), (start, _) = phrase.parts
            assert (start - end) / RATE == pytest.approx(pause_s, abs=0.1)


@pytest.mark.parametrize(("pause_s", "quieter"), [(0.9, 3), (1.5, 3), (0.5, 16)])
def test_what_is_further_apart_or_far_quieter_is_left_out_and_said(
    pause_s: float, quieter: int
) -> None:
    okay, banana = spoken("okay") // quieter, spoken("banana")
    phrase = found(with_pause(pause_s, okay, banana).astype(np.float32))
    ((start, end),) = phrase.left_out
    assert abs(start - RATE // 2) < RATE // 10
    assert abs(end - RATE // 2 - len(okay)) < RATE // 5
    assert (phrase.end - phrase.start) / RATE == pytest.approx(len(banana) / RATE, abs=0.1)


def test_what_is_close_to_a_word_is_of_it_and_what_is_not_is_a_click() -> None:
    click = np.zeros(RATE // 50, np.int16)
    click[::4], click[2::4] = 20000, -20000
    banana = spoken("banana")
    for before_s in (0.15, 0.5, 1.2):
        take = with_pause(before_s, click, banana)
        phrase = found(take.astype(np.float32))
        assert abs(phrase.start - (0.5 + before_s) * RATE - len(click)) < RATE // 20
        assert phrase.left_out == ()


def beep(hertz: float, seconds: float = 0.32, level: float = 6000.0) -> np.ndarray:
    """Return a beep that swells and ebbs within 10 ms."""
    at = np.arange(int(seconds * RATE)) / RATE
    swell = np.minimum(1, np.minimum(at, at[::-1]) / 0.01)
    return (level * swell * np.sin(2 * np.pi * hertz * at)).astype(np.int16)


@pytest.mark.parametrize("hertz", [400, 620, 1000, 2400, 3700])
@pytest.mark.parametrize("gap_s", [0.15, 0.4])
def test_a_beep_is_no_part_of_a_phrase(hertz: float, gap_s: float) -> None:
    banana = spoken("banana")
    take = with_pause(gap_s, beep(hertz), banana)
    phrase = found(take.astype(np.float32))
    assert abs(phrase.start - (0.5 + 0.32 + gap_s) * RATE) < RATE // 20
    assert len(phrase.parts) == 1
    assert phrase.left_out == ()


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE, np.int16),
        np.zeros(100, np.int16),
        hiss(1.0, 1000),
        np.concatenate([hiss(0.5), beep(1000), hiss(0.5)]),
        np.concatenate([hiss(0.5), beep(700) // 2 + beep(1100) // 2, hiss(0.5)]),
        np.concatenate([hiss(0.5), hiss(0.05, 8000), hiss(0.5)]),
    ],
    ids=["silence", "little", "noise", "beep", "two tones", "click"],
)
def test_what_is_not_voiced_is_no_word(samples: np.ndarray) -> None:
    assert find_phrase(samples.astype(np.float32)) is None


@pytest.mark.parametrize("text", ["up", "eight", "stop", "six"])
def test_a_short_word_has_its_unvoiced_sounds_and_closures(text: str) -> None:
    word = spoken(text)
    take = np.concatenate([hiss(0.5), word, hiss(0.5)])
    phrase = found(take.astype(np.float32))
    assert abs(phrase.start - RATE // 2) < RATE // 20
    assert abs(phrase.end - RATE // 2 - len(word)) < RATE // 16


def test_a_fan_makes_no_word_longer() -> None:
    banana = spoken("banana")
    clean = found(np.concatenate([hiss(1.5), banana, hiss(1.5)]).astype(np.float32))
    power = float(np.mean(banana.astype(np.float64) ** 2))
    fan = hiss(3 + len(banana) / RATE, 10 ** (-8 / 20) * power**0.5, seed=1)
    noisy = fan.astype(np.float32)
    noisy[3 * RATE // 2 : 3 * RATE // 2 + len(banana)] += banana
    phrase = found(noisy)
    assert abs(phrase.start - clean.start) < 0.15 * RATE
    assert abs(phrase.end - clean.end) < 0.15 * RATE


def test_what_the_encoder_does_not_take_for_speech_is_left_out() -> None:
    banana = spoken("banana")
    take = with_pause(0.5, banana, banana).astype(np.float32)
    speech = np.zeros(len(take) // 160)
    speech[: 60 + len(banana) // 160] = 1.0
    phrase = found(take, speech)
    assert abs(phrase.end - RATE // 2 - len(banana)) < RATE // 5
    # A voice that it takes for nothing is found all the same.
    assert len(found(take, np.zeros_like(speech)).parts) == 2


def test_voiced_and_tones() -> None:
    assert voiced_frames(spoken("banana").astype(np.float32)).mean() > 0.7
    assert tone_frames(spoken("banana").astype(np.float32)).sum() == 0
    assert tone_frames(beep(1000).astype(np.float32)).mean() > 0.8
    assert voiced_frames(hiss(1.0, 1000).astype(np.float32)).mean() < 0.02


def test_takes_with_one_beep_are_several_takes_of_a_word(
    trainer: WordTrainer, tmp_path: Path
) -> None:
    """The beep is louder than the word, and the same in each."""
    paths = [tmp_path / f"{n}.wav" for n in range(3)]
    words = [say("banana", voice) // 2 for voice in VOICES[:2]]
    for path, word in zip(paths, [*words, words[0]], strict=True):
        take = np.concatenate([hiss(0.3), beep(1000, level=12000), hiss(0.4), word, hiss(0.4)])
        soundfile.write(path, take, RATE)
    takes = from_recordings(trainer, "banana", paths)
    assert len(takes.usable) == 2
    assert [text.split(": ")[1] for text in takes.refused] == [
        f"the same recording as {paths[0]}; it is one take"
    ]
    assert [span.take for span in takes.spans] == [str(path) for path in paths[:2]]
    assert all(span.start_s > 0.9 for span in takes.spans)
    assert "the word is at 1." in str(takes.spans[0])
    only = tmp_path / "only.wav"
    soundfile.write(only, np.concatenate([hiss(0.5), beep(1000), hiss(0.5)]), RATE)
    (why,) = from_recordings(trainer, "banana", [only]).refused
    assert "contains no voice" in why
    assert "a beep" in why


def test_music_behind_a_take_is_no_part_of_the_word(trainer: WordTrainer) -> None:
    """Chords that change, 12 dB below the word: harmonic, and as loud in the pauses."""
    at = np.arange(4 * RATE) / RATE
    chords = [[220, 277, 330], [196, 247, 294], [175, 220, 262], [247, 311, 370]] * 2
    music = np.concatenate(
        [
            sum(
                np.sin(2 * np.pi * k * hertz * at[: RATE // 2]) / k
                for hertz in chord
                for k in range(1, 6)
            )
            * np.exp(-3 * at[: RATE // 2])
            for chord in chords
        ]
    )
    banana = spoken("hey banana")
    power = float(np.mean(banana.astype(np.float64) ** 2))
    take = music * (power / 10**1.2 / np.mean(music**2)) ** 0.5
    begin = 3 * RATE // 2
    take[begin : begin + len(banana)] += banana
    found_in = trainer.encoder.take(take.astype(np.int16), "hey banana")
    assert abs(found_in.start_s - begin / RATE) < 0.3
    assert abs(found_in.end_s - (begin + len(banana)) / RATE) < 0.3


def test_a_bundle_without_a_probe_finds_words_without(bundle: Bundle) -> None:
    probe = read_probe(bundle)
    assert probe is not None
    assert probe.weights.shape == (2, bundle.frame_dim)
    hashes = {name: each for name, each in bundle.hashes.items() if name != SPEECH}
    assert read_probe(dataclasses.replace(bundle, hashes=hashes)) is None


def test_the_probe_by_hand() -> None:
    probe = SpeechProbe(np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), -1.0)
    found = probe(np.array([[1.0, 9.0], [0.0, 1.0], [0.0, 0.0]]))
    # 2 * 1 + 1 - 1, and 0 + 0 - 1.
    assert found == pytest.approx([1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(1.0))])
