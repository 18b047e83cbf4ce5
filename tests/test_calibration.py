"""Calibration: thresholds against worked numbers, kept and undone, and no more claimed than was heard."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, Start, hiss, say

from kwsd.cli import main as cli
from kwsd.client import calibrate as calibrating
from kwsd.metrics import cosine
from kwsd.model.bundle import Bundle
from kwsd.state.calibration import (
    Calibration,
    CalibrationError,
    CalibrationStore,
    Heard,
    Label,
    SpeakerThreshold,
    WordThreshold,
    choose,
    choose_speaker,
    heard,
    of_body,
    speaker_trials,
    trade_off,
)
from kwsd.state.peak_log import WordPeaks


def logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_with_enough_heard_the_peaks_are_counted() -> None:
    peaks = np.linspace(0.9, 0.1, 81)
    choice = choose(Heard(peaks, 100.0), 0.1, present=0.5)
    assert choice.seen == 10  # of 100 h at 0.1 an hour
    assert peaks[10] < choice.threshold <= peaks[9]
    assert choice.bounds == (pytest.approx(0.04795, abs=1e-4), pytest.approx(0.1839, abs=1e-4))


def test_beyond_what_was_heard_an_exponential_tail_goes_on() -> None:
    """Excesses of the logits over -2 with mean 0.5, 20 of them in an hour: e^4 times fewer lie over 0."""
    logits = -2 - 0.5 * np.log((np.arange(20) + 0.5) / 20)
    found = Heard(np.sort(logistic(logits))[::-1], 1.0)
    choice = choose(found, 20 / math.e**4, present=0.1)
    assert math.log(choice.threshold / (1 - choice.threshold)) == pytest.approx(0.0, abs=0.35)
    assert choice.tail == pytest.approx(choice.rate, rel=0.05)
    assert choice.seen == 0
    assert choice.bounds == (0.0, pytest.approx(3.0, abs=0.01))
    assert choice.hours_needed == pytest.approx(-math.log(0.05) / choice.rate)
    assert [row[1] for row in trade_off(found, (0.01, 0.98))] == [20, 0]


def test_nothing_heard_is_no_evidence() -> None:
    assert choose(Heard(np.zeros(0), 2.0), 1 / 24, present=0.6).threshold == 0.6
    assert choose(Heard(np.array([0.7, 0.1]), 2.0), 1 / 24, present=0.6).threshold > 0.7
    with pytest.raises(CalibrationError, match="nothing was heard"):
        choose(Heard(np.zeros(0), 0.0), 1.0, present=0.6)


def test_what_counts_as_false() -> None:
    night = [WordPeaks("m", 3600.0, ((100.0, 0.9, True), (200.0, 0.8, True), (300.0, 0.3, False), (400.0, 0.2, False)))]
    labels = [Label("w", 100.4, True), Label("w", 300.9, False), Label("w", 401.0, True)]
    found = heard(night, labels, nobody_spoke=False)
    assert (found.peaks.tolist(), found.hours, found.taken_as_right) == ([0.3], 1.0, 1)
    found = heard(night, labels, nobody_spoke=True)
    assert (found.peaks.tolist(), found.taken_as_right) == ([0.8, 0.3], 0)


def test_speakers_by_hand() -> None:
    ann, bob = np.array([[1.0, 0], [1, 0], [0.6, 0.8]]), np.array([[0.0, 1]])
    own, strange = speaker_trials({"ann": ann, "bob": bob}, np.array([[-1.0, 0]]), cosine)
    mean = ann.mean(axis=0) / np.linalg.norm(ann.mean(axis=0))
    other = (ann[1] + ann[2]) / np.linalg.norm(ann[1] + ann[2])
    assert own == pytest.approx([ann[0] @ other, ann[0] @ other, 0.6])
    assert sorted(strange) == pytest.approx(sorted([-mean[0], mean[1], 0.0, 0.0, 0.0, 0.8]), abs=1e-6)
    choice = choose_speaker(np.array([0.9, 0.2, 0.8]), np.linspace(0, 1, 101), 1, 0.3)
    assert (choice.threshold, choice.missed, choice.takes) == (0.7, 1, 3)
    assert choice.bounds == (pytest.approx(0.0084, abs=1e-4), pytest.approx(0.9057, abs=1e-4))  # Clopper and Pearson's for 1 of 3
    with pytest.raises(CalibrationError, match="nobody is enrolled"):
        choose_speaker(np.zeros(0), np.zeros(5), 0, 0.01)


def test_kept_changed_and_undone(tmp_path: Path) -> None:
    store, one = CalibrationStore(tmp_path, "e"), WordThreshold(0.7, "m", 0.1, 3.0, 1)
    first = store.current().changed({"w": one}, None)
    store.save(first)
    store.save(store.current().changed({"v": one}, SpeakerThreshold(0.4, 0.01, 2)))
    kept = store.current()
    assert (kept.threshold("w", "m"), kept.threshold("w", "another"), kept.threshold("x", "m")) == (0.7, None, None)
    assert kept.speaker == SpeakerThreshold(0.4, 0.01, 2)
    assert kept.undone() == first
    assert kept.undone().undone() == Calibration("e")
    with pytest.raises(CalibrationError, match="no calibration to undo"):
        Calibration("e").undone()
    with pytest.raises(CalibrationError, match="run `kwsd calibrate` again"):
        CalibrationStore(tmp_path, "another").current()
    (tmp_path / "room.calibration").write_text("{")
    with pytest.raises(CalibrationError, match="damaged"):
        store.current()
    for body in ({"w": {"threshold": 0.5}}, {"w": {**one.__dict__, "threshold": 0.0}}, {"w": 1}):
        with pytest.raises(CalibrationError):
            of_body("e", body, None)


@pytest.mark.parametrize(
    ("text", "rate"), [("1/week", 1 / 168), ("2/day", 2 / 24), ("0.5/hour", 0.5), ("0.5", 0.5), ("1 per day", 1 / 24), ("1 a month", 1 / 730.5)]
)
def test_rates(text: str, rate: float) -> None:
    assert calibrating.rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "never", "0", "1/year", "-1/day", "1000/hour", "1/"])
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        calibrating.rate(text)


def thresholds(state: Path, bundle: Bundle) -> dict[str, float]:
    kept = CalibrationStore(state, bundle.encoder_id).current()
    return {name: one.threshold for name, one in kept.words.items()}


def test_recordings_of_the_room(tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    said = [part for n in range(8) for part in (say("commuters in cars", "en-us"), hiss(1.5, seed=n), say("a computed sum", "en-gb+f3"), hiss(1.5, seed=n))]
    soundfile.write(tmp_path / "room.wav", np.concatenate(said), RATE)
    state = tmp_path / "state"
    options = ["--state", str(state), "--words", "computer", "--wav", str(tmp_path / "room.wav")]
    assert cli.main(["calibrate", *options]) == cli.DATA
    assert "--yes says so" in capsys.readouterr().err
    assert thresholds(state, bundle) == {}
    assert cli.main(["calibrate", *options, "--yes", "--json", "--rate", "1/week"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["words"]
    assert result["choice"]["seen"] == 0
    assert result["choice"]["hours"] == pytest.approx(sum(map(len, said)) / RATE / 3600, rel=0.05)
    assert result["choice"]["bounds"][1] == pytest.approx(2.9957 / result["choice"]["hours"], rel=1e-3)
    assert thresholds(state, bundle) == {"computer": result["choice"]["threshold"]}
    assert result["choice"]["threshold"] >= bundle.words["computer"].threshold
    # It holds from now on, for `kwsd detect` too: what woke before no longer does.
    soundfile.write(tmp_path / "call.wav", np.concatenate([hiss(1.0), say("computer"), hiss(1.0)]), RATE)
    assert cli.main(["detect", "--state", str(state), str(tmp_path / "call.wav")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert told["threshold"] == result["choice"]["threshold"]
    assert cli.main(["calibrate", "--undo", "--state", str(state)]) == 0
    assert thresholds(state, bundle) == {}
    assert cli.main(["calibrate", "--undo", "--state", str(state)]) == cli.DATA
    assert "no calibration to undo" in capsys.readouterr().err
    assert cli.main(["calibrate", "--listen", "1m", "--state", str(state)]) == cli.USAGE
    assert cli.main(["calibrate", "--log", "--state", str(state), "--yes"]) == cli.DATA
    assert "nothing was heard" in capsys.readouterr().err
    assert cli.main(["calibrate", *options, "--words", "other"]) == cli.DATA
    assert "'other' is not listened for" in capsys.readouterr().err


def test_the_running_daemon(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], endless: Path) -> None:
    daemon = start("--source", str(endless), "--realtime")
    socket = ["--socket", str(daemon.socket)]
    daemon.connect().close()
    assert cli.main(["calibrate", *socket, "--listen", "8s", "--rate", "1/day", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "computer: threshold" in out
    assert "false wake(s) at the new threshold" in out
    assert "In force now" in out
    with daemon.connect() as client:
        word = client.request("status")["words"]["computer"]
        assert word["origin"] == "calibrated"
        assert cli.main(["calibrate", *socket, "--undo"]) == 0
        back = client.request("status")["words"]["computer"]
        assert (back["origin"], back["threshold"]) == ("model", pytest.approx(word["threshold"], abs=1)) != (word["origin"], word["threshold"])
        client.request("calibration.put", words={"computer": {"threshold": 0.77, "model": "another", "rate": 1, "hours": 1, "time": 1}})
        assert client.request("status")["words"]["computer"] == back  # found for another model of the word
    assert cli.main(["calibrate", *socket, "--speakers", "--yes"]) == cli.DATA
    assert "nobody is enrolled" in capsys.readouterr().err


def test_enrolled_voices(tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state")]
    for name, voice in (("ann", "en-us+f3"), ("bob", "en-us+m3")):
        files = []
        for n, text in enumerate(("good evening to all of you", "it is raining again today", "thank you very much indeed", "what a day it has been")):
            files.append(tmp_path / f"{name}{n}.wav")
            soundfile.write(files[-1], say(text, voice), RATE)
        assert cli.main(["enroll", name, *state, "--wav", *map(str, files)]) == 0
    capsys.readouterr()
    assert cli.main(["calibrate", *state, "--speakers", "--far", "2"]) == cli.DATA
    assert "one in a hundred" in capsys.readouterr().err
    assert cli.main(["calibrate", *state, "--speakers", "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["speakers"]
    assert (found["people"], found["takes"]) == (2, 8)
    assert found["strangers"] > 500
    assert -0.5 < found["threshold"] < 0.95
    assert found["present"] == bundle.speaker_threshold
    kept = CalibrationStore(tmp_path / "state", bundle.encoder_id).current()
    assert kept.speaker is not None
    assert kept.speaker.threshold == found["threshold"]
