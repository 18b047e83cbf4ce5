"""The setup is resolved once: unknown words, named thresholds, and who sets a threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from kwsd.config import Config, ConfigError, OperatingPointName, SpeakerConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.in_force import describe
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.model.bundle import COHORT, Bundle, BundleError
from kwsd.model.runtime import Runtime
from kwsd.names import identifier
from kwsd.protocol.data import SpeakerThreshold, WordThreshold
from kwsd.state.calibration import Calibration
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint
from kwsd.state.words import AddedWord


def threshold(setup: DetectorSetup, word: str) -> float:
    """Return the threshold in force of a word."""
    return setup.words[word].threshold


def calibrated(bundle: Bundle, model: str) -> Library:
    """Return a library with a calibration of `computer`, found for `model`, and of speakers."""
    word = WordThreshold(0.77, model, 0.1, 3.0, 1)
    speaker = SpeakerThreshold(0.4, 0.01, 1)
    calibration = Calibration(bundle.encoder_id, {"computer": word}, speaker)
    return Library(calibration=calibration)


def test_an_unknown_word_is_refused_by_name(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"no model of 'hal'; it has alexa, computer"):
        resolve(Config(words={"hal": WordConfig()}), bundle)


def test_the_nearest_word_is_suggested(bundle: Bundle, deaf_banana: AddedWord) -> None:
    message = "no model of 'computr'; did you mean 'computer'? it has alexa, computer"
    with pytest.raises(ConfigError) as caught:
        resolve(Config(words={"computr": WordConfig()}), bundle)
    assert message in str(caught.value)
    assert "and none added; `kwsd word add` makes others" in str(caught.value)
    library = Library(words={deaf_banana.name: deaf_banana})
    with pytest.raises(ConfigError, match=r"did you mean 'hey_banana'\? .* and hey_banana added"):
        resolve(Config(words={"hey_banan": WordConfig()}), bundle, library)


def test_no_word_at_all_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="words: at least one wake word is needed"):
        resolve(Config(words={}), bundle)


def test_a_threshold_may_be_named(bundle: Bundle) -> None:
    computer = bundle.words["computer"]
    names: list[OperatingPointName] = ["strict", "balanced", "lenient"]
    found = [
        threshold(
            resolve(Config(words={"computer": WordConfig(threshold=name)}), bundle), "computer"
        )
        for name in names
    ]
    assert found == [point.threshold for point in computer.operating_points]
    assert computer.threshold == found[0] > found[1] > found[2]
    bare = replace(bundle, words={"computer": replace(computer, operating_points=())})
    with pytest.raises(ConfigError, match="'strict' was not measured for this word"):
        resolve(Config(words={"computer": WordConfig(threshold="strict")}), bare)


def test_a_threshold_has_the_decimals_of_a_score(bundle: Bundle, deaf_banana: AddedWord) -> None:
    long = float(np.float32(0.3))  # 0.30000001192092896
    assert (
        threshold(resolve(Config(words={"computer": WordConfig(long)}), bundle), "computer") == 0.3
    )
    library = Library(words={deaf_banana.name: replace(deaf_banana, threshold=long)})
    assert threshold(resolve(Config(), bundle, library), deaf_banana.name) == 0.3
    word = WordThreshold(long, bundle.words["computer"].id, 0.1, 3.0, 1)
    speaker = SpeakerThreshold(long, 0.01, 1)
    calibration = Calibration(bundle.encoder_id, {"computer": word}, speaker)
    setup = resolve(Config(), bundle, Library(calibration=calibration))
    assert (threshold(setup, "computer"), setup.speakers.threshold) == (0.3, 0.3)


def test_a_rounded_threshold_stays_within_its_bounds(bundle: Bundle) -> None:
    for given, expected in ((1e-9, 1e-6), (1.0, 1.0), (1 - 1e-9, 1 - 1e-6)):
        config = Config(words={"computer": WordConfig(given)})
        assert threshold(resolve(config, bundle), "computer") == expected


def test_an_added_words_threshold_is_said_to_come_from_its_file(
    bundle: Bundle, deaf_banana: AddedWord, tmp_path: Path
) -> None:
    config = Config(
        words={"computer": WordConfig(), "hey_banana": WordConfig()}, state=str(tmp_path)
    )
    library = Library(words={"hey_banana": deaf_banana, "two": replace(deaf_banana, name="two")})
    text, sources = describe(config, resolve(config, bundle, library), bundle, {})
    assert sources["words.computer.threshold"] == "model"
    for name in ("hey_banana", "two"):
        file = tmp_path / f"{identifier(name)}.word"
        assert sources[f"words.{name}.threshold"] == str(file)
        assert sources[f"words.{name}.refractory_s"] == "default"
        assert f"threshold: 0.5  # {file}\n" in text


def test_the_configuration_precedes_a_calibration_and_that_the_model(bundle: Bundle) -> None:
    computer = bundle.words["computer"]
    library = calibrated(bundle, computer.id)
    word = resolve(Config(), bundle).words["computer"]
    assert (word.threshold, word.origin) == (computer.threshold, "model")
    word = resolve(Config(), bundle, library).words["computer"]
    assert (word.threshold, word.origin) == (0.77, "calibrated")
    configured = Config(words={"computer": WordConfig(threshold=0.6)})
    word = resolve(configured, bundle, library).words["computer"]
    assert (word.threshold, word.origin) == (0.6, "configured")
    other = calibrated(bundle, "another model")
    word = resolve(Config(), bundle, other).words["computer"]
    assert (word.threshold, word.origin) == (computer.threshold, "model")


def test_the_same_holds_for_speakers(bundle: Bundle) -> None:
    library = calibrated(bundle, bundle.words["computer"].id)
    speakers = resolve(Config(), bundle).speakers
    assert (speakers.threshold, speakers.origin) == (bundle.speaker_threshold, "model")
    speakers = resolve(Config(), bundle, library).speakers
    assert (speakers.threshold, speakers.origin) == (0.4, "calibrated")
    configured = Config(speaker=SpeakerConfig(threshold=0.9))
    speakers = resolve(configured, bundle, library).speakers
    assert (speakers.threshold, speakers.origin) == (0.9, "configured")


def test_who_cannot_wake_it_though_the_configuration_means_it(bundle: Bundle) -> None:
    def warnings(require: Literal["anyone", "enrolled"] | list[str], *enrolled: str) -> list[str]:
        takes = np.eye(3, 192, dtype=np.float32)
        people = {name: Voiceprint(name, bundle.encoder_id, takes, 0.0) for name in enrolled}
        config = Config(speaker=SpeakerConfig(require=require))
        return resolve(config, bundle, Library(voiceprints=people)).speakers.warnings

    assert warnings("anyone") == warnings("enrolled", "ann") == warnings(["ann"], "ann") == []
    assert warnings(["Ann"], "ann") == warnings(["ANITA\u0301"], "anit\u00e1") == []
    for require in ("enrolled", ["ann"]):
        (nobody,) = warnings(require)
        assert "none is enrolled: every wake will be rejected; run `kwsd enroll NAME`" in nobody
    (one,) = warnings(["ann", "bob"], "ann")
    assert "names 'bob', who is not enrolled (enrolled: ann): that voice cannot wake it" in one
    assert "run `kwsd enroll bob`, or correct the name" in one
    both = warnings(["Anna", "bob"], "ann")
    assert [("every wake will be rejected" in text) for text in both] == [True, True]


def test_a_word_in_the_configuration_must_be_there(
    bundle: Bundle, runtime: Runtime, deaf_banana: AddedWord
) -> None:
    config = Config(words={"hey_banana": WordConfig(threshold=0.9)})
    library = Library(words={"hey_banana": deaf_banana})
    with pytest.raises(ConfigError, match="no model of 'hey_banana'"):
        resolve(config, bundle)
    setup = resolve(config, bundle, library)
    assert Detector(bundle, setup, runtime).setup.words["hey_banana"].threshold == 0.9
    without = resolve(Config(added_words=False), bundle, library)
    assert list(without.words) == ["computer"]
    assert list(resolve(Config(), bundle, library).words) == ["computer", "hey_banana"]


def test_a_file_with_the_name_of_a_built_in_word_does_not_take_its_place(
    bundle: Bundle, deaf_banana: AddedWord
) -> None:
    library = Library(words={"computer": replace(deaf_banana, name="computer")})
    assert resolve(Config(), bundle, library).words["computer"].model is bundle.words["computer"]


def test_a_damaged_cohort_is_named_only_where_somebody_is_enrolled(bundle: Bundle) -> None:
    damaged = replace(bundle, hashes={**bundle.hashes, COHORT: "0" * 64})
    assert resolve(Config(), damaged).speakers.scorer is None
    takes = np.eye(3, 192, dtype=np.float32)
    ann = Voiceprint("ann", bundle.encoder_id, takes, 0.0)
    with pytest.raises(BundleError, match="cohort"):
        resolve(Config(), damaged, Library(voiceprints={"ann": ann}))
