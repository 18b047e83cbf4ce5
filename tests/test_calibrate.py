"""`kwsd calibrate`: from recordings, from the daemon, and for enrolled voices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from conftest import RATE, Start, hiss, say

from kwsd.cli import main as cli
from kwsd.client.calibrate import parse_rate
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import CalibrationPut, Status
from kwsd.protocol.data import WordThreshold
from kwsd.state.calibration import CalibrationStore

SENTENCES = (
    "good evening to all of you",
    "it is raining again today",
    "thank you very much indeed",
    "what a day it has been",
)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/week", 1 / 168),
        ("2/day", 2 / 24),
        ("0.5/hour", 0.5),
        ("0.5", 0.5),
        ("1 per day", 1 / 24),
        ("1 a month", 1 / 730.5),
    ],
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "never", "0", "1/year", "-1/day", "1000/hour", "1/"])
def test_what_is_not_a_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


def thresholds(state: Path, bundle: Bundle) -> dict[str, float]:
    """Return the calibrated thresholds of words in a state directory."""
    stored = CalibrationStore(state, bundle.encoder_id).current()
    return {name: one.threshold for name, one in stored.words.items()}


def test_recordings_of_the_room(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for n in range(8):
        said += [say("commuters in cars", "en-us"), hiss(1.5, seed=n)]
        said += [say("a computed sum", "en-gb+f3"), hiss(1.5, seed=n)]
    soundfile.write(tmp_path / "room.wav", np.concatenate(said), RATE)
    state = tmp_path / "state"
    options = ["--state", str(state), "--words", "computer", "--wav", str(tmp_path / "room.wav")]
    assert cli.main(["calibrate", *options]) == cli.DATA
    assert "--yes keeps it without asking" in capsys.readouterr().err
    assert thresholds(state, bundle) == {}
    assert cli.main(["calibrate", *options, "--yes", "--json", "--rate", "1/week"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["words"]
    choice = result["choice"]
    assert choice["seen"] == 0
    assert choice["hours"] == pytest.approx(sum(map(len, said)) / RATE / 3600, rel=0.05)
    assert choice["bounds"][1] == pytest.approx(2.9957 / choice["hours"], rel=1e-3)
    assert thresholds(state, bundle) == {"computer": choice["threshold"]}
    assert choice["threshold"] >= bundle.words["computer"].threshold
    # It is in force from now on, for `kwsd detect` too: what woke before no longer does.
    call = np.concatenate([hiss(1.0), say("computer"), hiss(1.0)])
    soundfile.write(tmp_path / "call.wav", call, RATE)
    assert cli.main(["detect", "--state", str(state), str(tmp_path / "call.wav")]) == 0
    event = json.loads(capsys.readouterr().out.splitlines()[0])
    assert event["threshold"] == choice["threshold"]
    assert cli.main(["calibrate", "--undo", "--state", str(state)]) == 0
    assert thresholds(state, bundle) == {}
    assert cli.main(["calibrate", "--undo", "--state", str(state)]) == cli.DATA
    assert "no calibration to undo" in capsys.readouterr().err
    assert cli.main(["calibrate", "--listen", "1m", "--state", str(state)]) == cli.USAGE
    assert cli.main(["calibrate", "--log", "--state", str(state), "--yes"]) == cli.DATA
    assert "nothing was heard" in capsys.readouterr().err
    assert cli.main(["calibrate", *options, "--words", "other"]) == cli.DATA
    assert "'other' is not listened for" in capsys.readouterr().err


def test_the_running_daemon(
    start: Start, capsys: pytest.CaptureFixture[str], talkative: Path
) -> None:
    daemon = start("--source", str(talkative), "--realtime")
    socket = ["--socket", str(daemon.socket)]
    daemon.connect().close()
    options = ["--listen", "3s", "--rate", "1/day", "--yes"]
    assert cli.main(["calibrate", *socket, *options]) == 0
    out = capsys.readouterr().out
    assert "computer: threshold" in out
    assert "false wake(s) at the new threshold" in out
    assert "In force now" in out
    with daemon.connect() as client:
        word = client.request(Status()).words["computer"]
        assert word.origin == "calibrated"
        assert cli.main(["calibrate", *socket, "--undo"]) == 0
        back = client.request(Status()).words["computer"]
        assert back.origin == "model"
        assert back.threshold == pytest.approx(word.threshold, abs=1)
        assert back != word
        other = WordThreshold(threshold=0.77, model="another", rate=1, hours=1, time=1)
        client.request(CalibrationPut(words={"computer": other}))
        # It was found for another model of the word.
        assert client.request(Status()).words["computer"] == back
    assert cli.main(["calibrate", *socket, "--speakers", "--yes"]) == cli.DATA
    assert "nobody is enrolled" in capsys.readouterr().err


def test_enrolled_voices(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state", str(tmp_path / "state")]
    for name, voice in (("ann", "en-us+f3"), ("bob", "en-us+m3")):
        files = []
        for n, text in enumerate(SENTENCES):
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
    voices = bundles.load().checkers["small"].voices
    assert voices is not None
    assert found["present"] == voices.threshold
    stored = CalibrationStore(tmp_path / "state", bundle.encoder_id).current()
    assert stored.speaker is not None
    assert stored.speaker.threshold == found["threshold"]


@pytest.fixture
def no_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a verb begins to listen."""

    def listen(*arguments: object) -> None:
        raise AssertionError("it listens already")

    monkeypatch.setattr("kwsd.client.calibrate.from_listening", listen)


@pytest.mark.usefixtures("no_listening")
def test_what_can_be_known_is_checked_before_the_listening(
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    endless: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "kwsd.yaml"
    config.write_text("log_peaks: false")
    daemon = start("--source", str(endless), "--realtime", "--config", str(config))
    daemon.connect().close()
    listen = ["calibrate", "--listen", "8h", "--socket", str(daemon.socket)]
    (tmp_path / "folder.png").mkdir()
    for more, status, message in (
        (["--plot", "x.jpg"], cli.DATA, "must end in .png or .svg"),
        (["--plot", str(tmp_path / "none" / "x.png")], cli.CANNOT_CREATE, "there is no folder"),
        (["--plot", str(tmp_path / "folder.png")], cli.CANNOT_CREATE, "it is a folder"),
        (["--words", "nope"], cli.DATA, "'nope' is not listened for"),
        ([], cli.DATA, "--yes keeps it without asking"),
        (["--yes"], cli.DATA, "log_peaks: false, so nothing that is heard would be kept"),
    ):
        assert cli.main([*listen, *more]) == status
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main([*listen, "--yes", "--plot", str(tmp_path / "x.png")]) == cli.UNAVAILABLE
    assert "--plot needs matplotlib" in capsys.readouterr().err


def test_a_picture_that_fails_loses_nothing(
    tmp_path: Path,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("kwsd.bench.plots.draw_calibration", fail)
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    soundfile.write(tmp_path / "room.wav", np.concatenate([hiss(2), say(SENTENCES[0])]), RATE)
    state = tmp_path / "state"
    options = ["--state", str(state), "--wav", str(tmp_path / "room.wav"), "--yes"]
    picture = ["--plot", str(tmp_path / "x.svg")]
    assert cli.main(["calibrate", *options, *picture]) == cli.CANNOT_CREATE
    captured = capsys.readouterr()
    assert "the picture could not be drawn (no fonts)" in captured.err
    assert "In force now" in captured.out
    assert list(thresholds(state, bundle)) == ["computer"]
