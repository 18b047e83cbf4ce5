"""How often words wake by mistake: what was asked for, what holds, and the sum."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kwsd.cli import main as cli
from kwsd.cli.output import rate_sentence
from kwsd.client.alike import kept_rate
from kwsd.config import Config, WordConfig
from kwsd.detect.rates import rate_at
from kwsd.detect.setup import resolve
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.judged import Judged
from kwsd.learn.quality import Quality
from kwsd.metrics import HIGHEST_THRESHOLD, MOST_AN_HOUR, rate_between, tail_rate
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import Words
from kwsd.protocol.data import (
    MadeFrom,
    OperatingPoint,
    RateInfo,
    WordThreshold,
    all_together,
)
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.calibration import Calibration
from kwsd.state.library import Library
from kwsd.state.words import AddedWord, WordError, WordStore, from_bytes, to_bytes

POINTS = (
    OperatingPoint(0.9, 0.1, 0.2, 0.3, 0.01, 1.0),
    OperatingPoint(0.5, 1.0, 0.0, 0.0, 0.5, 2.0),
)


def test_a_rate_between_points_by_hand() -> None:
    """The logarithm is linear in the logit: 0 at 0.5, ln(9) at 0.9, twice that at 0.9878."""
    points = [(0.9, 0.1), (0.5, 1.0)]
    assert rate_between(points, 0.9) == pytest.approx(0.1)
    assert rate_between(points, 0.75) == pytest.approx(10 ** -(math.log(3) / math.log(9)))
    assert rate_between(points, 81 / 82) == pytest.approx(0.01)
    assert rate_between(points, 0.1) == pytest.approx(10.0)
    assert rate_between(points, 1e-9) == pytest.approx(MOST_AN_HOUR)
    assert rate_between(points[:1], 0.9) == pytest.approx(0.1)
    assert rate_between(points[:1], 0.8) is None
    assert rate_between([], 0.8) is None


def test_a_tail_has_the_rates_between_its_points() -> None:
    """What is read between the points of an exponential tail is what the tail itself says."""
    logits = -0.9 * np.log((np.arange(40) + 0.5) / 40)
    peaks = 1 / (1 + np.exp(-np.sort(logits)[::-1]))
    none = np.zeros(0)
    judged = Judged(np.full((3, 2), 0.99), none, none, peaks, 2.0)
    for threshold in (0.97, 0.99, 0.995):
        found = rate_at(judged.points(), threshold)
        assert found
        assert found.held == pytest.approx(tail_rate(peaks, 2.0, threshold), rel=0.01)
        assert found.low
        assert found.high
        low, high = judged.interval(threshold)
        assert found.low == pytest.approx(low, rel=0.3)
        assert found.high == pytest.approx(high, rel=0.3)


def test_a_rate_that_no_threshold_gives_is_not_claimed() -> None:
    peaks = np.full(40, 0.9995)
    none = np.zeros(0)
    judged = Judged(np.full((3, 2), 0.9999), none, none, peaks, 2.0)
    threshold, held = judged.choose(0.1)
    assert threshold == HIGHEST_THRESHOLD
    assert held == pytest.approx(20.0)
    assert judged.points()[0].false_accepts_per_hour == pytest.approx(20.0)
    quality = Quality(
        missed=0,
        missed_in_noise=0,
        takes=3,
        length_s=0.8,
        false_accepts_per_hour=held,
        interval=judged.interval(threshold),
        asked=0.1,
        traded=False,
        bank_hours=2.0,
        outliers=(),
        also_wakes={},
    )
    (warning,) = quality.warnings
    assert warning.startswith("no threshold holds it to 0.1 false wakes an hour of continuous")
    assert "; 20 are to be expected (" in warning
    assert replace(quality, false_accepts_per_hour=0.1).warnings == []


def test_what_was_asked_for_and_what_holds(bundle: Bundle, deaf_banana: AddedWord) -> None:
    model = bundle.words["computer"]
    strict = model.operating_points[0]
    banana = replace(deaf_banana, threshold=0.5, operating_points=POINTS)
    words = {banana.name: banana}
    setup = resolve(Config(words={"computer": WordConfig()}), bundle, Library(words=words))
    assert setup.words["computer"].rate == RateInfo(
        strict.false_accepts_per_hour, strict.false_accepts_per_hour, strict.low, strict.high
    )
    assert setup.words[banana.name].rate == RateInfo(0.1, 1.0, 0.5, 2.0)
    assert setup.false_accepts_per_hour == pytest.approx(1.0 + strict.false_accepts_per_hour)

    wanted = replace(banana, made=MadeFrom(rate=0.9))
    found = resolve(Config(), bundle, Library(words={banana.name: wanted}))
    assert (rate := found.words[banana.name].rate)
    assert (rate.asked, rate.held) == (0.9, 1.0)

    by_hand = Config(words={banana.name: WordConfig(threshold=0.75)})
    assert (rate := resolve(by_hand, bundle, Library(words=words)).words[banana.name].rate)
    assert rate.asked is None
    assert rate.held == pytest.approx(10**-0.5, abs=1e-3)
    assert rate.low == pytest.approx(math.sqrt(0.01 * 0.5), abs=1e-3)

    calibration = Calibration(
        bundle.encoder_id, {banana.name: WordThreshold(0.9, banana.id, 0.3, 5.0, 1)}
    )
    library = Library(words=words, calibration=calibration)
    assert (rate := resolve(Config(), bundle, library).words[banana.name].rate)
    assert (rate.asked, rate.held) == (0.3, 0.1)

    bare = Library(words={deaf_banana.name: deaf_banana})
    only = resolve(Config(words={deaf_banana.name: WordConfig()}), bundle, bare)
    assert only.words[deaf_banana.name].rate is None
    assert only.false_accepts_per_hour is None
    assert all_together([None, RateInfo(None, 0.5), RateInfo(0.1, 0.1)]) == 0.6


def test_said_for_a_person() -> None:
    assert rate_sentence(RateInfo(0.1, 0.1, 0.02, 0.4)) == (
        "0.1 false wakes an hour of speech (0.02 to 0.4)"
    )
    assert rate_sentence(RateInfo(0.1, 0.5)) == "0.5 false wakes an hour of speech, asked for 0.1"
    assert rate_sentence(RateInfo(None, 0.25)) == "0.25 false wakes an hour of speech"


def test_the_list_has_rates_and_their_sum(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord, capsys: pytest.CaptureFixture[str]
) -> None:
    store = WordStore(tmp_path, bundle.encoder_id, bundle.frame_dim)
    store.save(replace(deaf_banana, operating_points=POINTS, made=MadeFrom(takes=3, rate=0.25)))
    config = tmp_path / "kwsd.yaml"
    config.write_text("words: {computer: }\nchecker: off\n")
    at = ["--state", str(tmp_path), "--config", str(config)]
    assert cli.main(["word", "list", *at]) == 0
    printed = capsys.readouterr().out
    assert "threshold 0.50: 1 false wakes an hour of speech (0.5 to 2), asked for 0.25" in printed
    held = bundle.words["computer"].operating_points[0].false_accepts_per_hour
    assert f"all together: {1 + held:.2g} false wakes an hour of speech" in printed
    assert cli.main(["word", "list", *at, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["in_force"]["hey_banana"]["rate"] == {
        "asked": 0.25,
        "held": 1.0,
        "low": 0.5,
        "high": 2.0,
    }
    assert listed["false_accepts_per_hour"] == pytest.approx(1 + held)
    assert listed["words"][0]["made"]["rate"] == 0.25


def test_a_rate_is_checked(
    tmp_path: Path, deaf_banana: AddedWord, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in ("0", "often", "101"):
        at = ["--wav", "a.wav", "--yes", "--state", str(tmp_path)]
        assert cli.main(["word", "add", "hey banana", *at, "--rate", rate]) == cli.DATA
        assert f"{rate!r} is not a rate" in capsys.readouterr().err
    for wrong in (0.0, 101.0):
        damaged = to_bytes(replace(deaf_banana, made=MadeFrom(rate=wrong)))
        with pytest.raises(WordError, match="damaged"):
            from_bytes(damaged, deaf_banana.encoder_id, "it")


def test_a_word_that_cannot_be_used_tells_how_it_was_made(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord
) -> None:
    made = MadeFrom(takes=3, of="text", rate=0.25, clips=["a"])
    strange = replace(deaf_banana, encoder_id="another", made=made)
    store = WordStore(tmp_path, bundle.encoder_id, bundle.frame_dim)
    store.path(strange.name).write_bytes(to_bytes(strange))
    (tmp_path / "junk.word").write_bytes(b"junk")
    handlers = StateHandlers(tmp_path, bundle, Config)
    listed = handlers.request(Words())
    found = dict(zip(listed.unusable_words, listed.unusable_made, strict=True))
    assert found == {strange.name: made, "junk": MadeFrom()}


def test_a_rate_that_was_asked_for_is_kept(trainer: WordTrainer, deaf_banana: AddedWord) -> None:
    wanted = msgspec.structs.replace(deaf_banana.made, rate=0.004)
    word = replace(deaf_banana, made=wanted)
    assert kept_rate(trainer, word, word.threshold) == 0.004
