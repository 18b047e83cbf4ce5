"""The level and the SNR of a word: what they are for known noise, and in events."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import RATE, hiss, say

from kwsd.audio.ring import Ring
from kwsd.config import Config
from kwsd.detect.detector import Detector
from kwsd.detect.loudness import LEAST_POWER, Loud, Loudness
from kwsd.detect.setup import resolve
from kwsd.events import Rejected, Wake, to_dict
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime

CHUNK = 1280


def loudness_of(samples: np.ndarray, start: int, end: int) -> Loud:
    """Return the loudness of a word in a stream that is heard up to its end."""
    whole = samples[: -(-end // CHUNK) * CHUNK]
    audio = Ring(len(whole), np.int16)
    audio.append(whole)
    loudness = Loudness(CHUNK, 25)
    loudness.hear(whole)
    return loudness.of(audio, start, end)


def tone(seconds: float, rms: float) -> np.ndarray:
    """Return a tone with this RMS, int16."""
    at = np.arange(int(seconds * RATE))
    return np.round(rms * np.sqrt(2) * np.sin(2 * np.pi * 440 * at / RATE)).astype(np.int16)


@pytest.mark.parametrize("snr_db", [-5, 0, 5, 10, 20, 40])
def test_the_snr_of_a_tone_in_noise_is_what_was_mixed(snr_db: float) -> None:
    noise_rms = 50.0
    mixed = hiss(7, noise_rms)
    start, end = 5 * RATE + 333, 5 * RATE + 333 + RATE // 2
    mixed[start:end] += tone(0.5, noise_rms * 10 ** (snr_db / 20))
    found = loudness_of(mixed, start, end)
    assert found.snr_db == pytest.approx(snr_db, abs=1.2)
    expected = 10 * np.log10(noise_rms**2 * (1 + 10 ** (snr_db / 10)) / 32768**2)
    assert found.level_dbfs == pytest.approx(expected, abs=0.2)


def test_gain_changes_the_level_and_not_the_snr() -> None:
    samples = np.concatenate([hiss(5, 20), tone(0.5, 500) + hiss(0.5, 20), hiss(0.5, 20)])
    start, end = 5 * RATE, 5 * RATE + RATE // 2
    once, twice = (loudness_of(gain * samples, start, end) for gain in (1, 4))
    assert twice.level_dbfs - once.level_dbfs == pytest.approx(12.04, abs=0.11)
    assert once.snr_db == pytest.approx(twice.snr_db)


def test_a_sentence_before_the_word_is_no_noise() -> None:
    sentence = say("good evening, it is raining, and it will go on")[: 4 * RATE]
    noise = hiss(8, 10)
    plain = noise.copy()
    spoken = noise.copy()
    spoken[RATE : RATE + len(sentence)] += sentence
    for samples in (plain, spoken):
        samples[6 * RATE : 6 * RATE + RATE // 2] += tone(0.5, 1000)
    start, end = 6 * RATE, 6 * RATE + RATE // 2
    alone, after = loudness_of(plain, start, end), loudness_of(spoken, start, end)
    assert alone.snr_db is not None
    assert after.snr_db == pytest.approx(alone.snr_db, abs=3)


def test_the_edges_are_honest() -> None:
    word = tone(0.5, 1000)
    silence = np.zeros(RATE, np.int16)
    ideal = 10 * np.log10(1000**2 / LEAST_POWER - 1)
    in_silence = np.concatenate([silence, word, silence])
    assert loudness_of(in_silence, RATE, RATE * 3 // 2).snr_db == pytest.approx(ideal, abs=0.2)
    assert loudness_of(in_silence, RATE // 8, RATE // 4) == (-100, None)  # too early to tell
    assert (
        loudness_of(np.concatenate([hiss(2, 100), silence, silence]), 2 * RATE, 3 * RATE).snr_db
        == -20
    )


def test_events_have_both_and_a_gap_forgets_the_noise(
    bundle: Bundle, runtime: Runtime, scene: np.ndarray
) -> None:
    setup = resolve(Config(), bundle)
    noisy = (scene + hiss(len(scene) / RATE, 200)[: len(scene)]).astype(np.int16)
    wakes = {
        name: [one for one in Detector(bundle, setup, runtime).feed(samples).wakes if wake(one)]
        for name, samples in (("clean", scene), ("noisy", noisy))
    }
    for clean, worse in zip(*wakes.values(), strict=True):
        assert clean.snr_db is not None
        assert worse.snr_db is not None
        assert clean.snr_db > worse.snr_db + 15
        assert worse.snr_db == pytest.approx(20, abs=6)  # speech of 2,300 in noise of 200
        assert clean.level_dbfs == pytest.approx(worse.level_dbfs, abs=1.5)
        assert to_dict(clean).items() >= {"level_dbfs": clean.level_dbfs}.items()
    detector = Detector(bundle, setup, runtime)
    detector.feed(scene[: 3 * RATE])
    detector.discontinuity(RATE)
    detector.feed(hiss(0.3))
    assert detector.loudness.noise(detector.end) is None


def wake(event: Wake | Rejected) -> bool:
    """Return whether an event is a wake."""
    return isinstance(event, Wake)
