"""Trials of voices as recorded, in one room, and by telephone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import say, training_data

from kwsd.metrics import NEAREST, cosine
from kwsd.model.bundle import Bundle
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data.corpora import Recording, fold_of
from kwsd.training.development import Development
from kwsd.training.stages import verification


@pytest.fixture
def development(tmp_path: Path) -> Development:
    """Three people who say seven things each, and noise."""
    rng = np.random.default_rng(0)
    names = [name for n in range(60) if fold_of(f"gsc/{(name := f'g{n}')}") == 0]
    takes = [
        Recording(say(text, voice), "gsc", who, "")
        for who, voice in zip(names, ("en-us+m1", "en-us+f3", "en-us+croak"), strict=False)
        for text in ("nine of them", "a green tea", "lights on", "go home", "who is it", "it rains",
                     "good night")
    ]  # fmt: skip
    takes += [
        Recording(rng.normal(0, 300, 48000).astype(np.int16), "noise_fan", f"f{n}", "")
        for n in range(20)
    ]
    return Development(training_data(tmp_path, takes))


def test_one_room_is_the_same_for_everybody(development: Development) -> None:
    """The same take twice: the same spectrum but for the noise; another room, another spectrum."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1000, 32000).astype(np.float32)

    def bands(room: str, level: float) -> np.ndarray:
        heard = development.same_room(room)(level * x)
        power = np.square(np.abs(np.fft.rfft(heard)))[1:].reshape(64, -1).mean(axis=1)
        return np.asarray(10 * np.log10(power))

    once = bands("one room", 1.0)
    assert np.abs(once - bands("one room", 0.1)).max() < 2
    assert np.abs(once - bands("another room", 1.0)).max() > 6


def test_voices_are_tried_in_each_condition(development: Development, bundle: Bundle) -> None:
    report = verification.figures(BundleRuntime(bundle.path), development)
    assert report.keys() == {"speakers_gsc", "speakers_all"}
    assert "conditions" not in report["speakers_all"]
    found = report["speakers_gsc"]["conditions"]
    assert found.keys() == {"as recorded", "telephone", *verification.ROOMS}
    scale = report["speakers_all"]["scale"]
    logit = scale["slope"] * scale["normalized"] + scale["offset"]
    assert scale["threshold"] == pytest.approx(1 / (1 + np.exp(-logit)))
    assert scale["nearest"] == NEAREST
    assert scale["length"] == 0, "three people tell nothing of it"
    assert found["as recorded"]["owners_missed"] <= 0.1  # the same takes, in another order
    scale = {"normalized": 1e6, "length": 0.5}
    strict = verification.figures(BundleRuntime(bundle.path), development, scale)
    assert strict["speakers_all"]["scale"]["length"] == 0.5, "that of another split"
    for condition in strict["speakers_gsc"]["conditions"].values():
        assert (condition["strangers_pass"], condition["owners_missed"]) == (0, 1)
    for condition in found.values():
        assert condition["people"] == 3
        for share in ("eer_one", "eer_five", "strangers_pass", "owners_missed"):
            assert 0 <= condition[share] <= 1


def test_a_score_rises_with_the_length_of_a_take_by_what_was_put_in() -> None:
    """The spread falls with the length, so that the mean rises by less than what 5 % lie under."""
    rng = np.random.default_rng(1)
    evidence = rng.uniform(-0.9, 1.2, 20_000)
    spread = 1.5 - 0.5 * evidence
    target = 4 + 0.6 * evidence + spread * rng.normal(0, 1, 20_000)
    expected = 0.6 + 0.5 * 1.645  # the 5 % quantile of a normal variable is 1.645 spreads below
    assert verification.length_slope(target, evidence, 0.05) == pytest.approx(expected, abs=0.1)
    assert verification.length_slope(target - 3 * evidence, evidence, 0.05) == 0


def test_trials_of_long_takes_lose_what_length_gives() -> None:
    """Three people, of seven and eight takes; only the one that is tried counts."""
    rng = np.random.default_rng(3)
    people = []
    for count in (7, 8, 7):
        vectors = rng.normal(size=(count, 5))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        people.append(verification.Person(vectors, rng.uniform(0.3, 2, count)))
    _, target, impostor = verification.trials(people, cosine, 1.0)
    expected: dict[bool, list[float]] = {True: [], False: []}
    for person in people:
        for vector, seconds in zip(person.voices[5:], person.speech_s[5:], strict=True):
            for other in people:
                mean = other.voices[:5].mean(axis=0)
                score = vector @ mean / np.linalg.norm(mean) - np.log(seconds / 0.6)
                expected[other is person].append(score)
    assert target == pytest.approx(expected[True])
    assert impostor == pytest.approx(expected[False])


def test_a_telephone_takes_the_high_bands_of_every_take(development: Development) -> None:
    heard = development.by_telephone(say("nice sizzling sausages").astype(np.float32))
    power = np.square(np.abs(np.fft.rfft(heard)))
    hz = np.fft.rfftfreq(len(heard), 1 / 16000)
    assert power[hz > 5000].sum() < 1e-4 * power.sum()
    assert np.array_equal(heard, heard.round())
