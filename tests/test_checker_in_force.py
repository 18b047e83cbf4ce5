"""Which checker is in force: chosen by the configuration, told by every verb, part of what
thresholds are calibrated for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import checkers
import numpy as np
import pytest
import soundfile
from conftest import RATE, Daemon, Start, hiss, say
from test_cli import own_folders, run

from kwsd import config_file
from kwsd.config import Config, ConfigError
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.metrics import HIGHEST_THRESHOLD
from kwsd.model import bundle as bundles
from kwsd.model.bundle import BundleError
from kwsd.protocol.commands import CalibrationPut, Peaks, Reload, Status
from kwsd.protocol.data import CheckerInfo, WordThreshold
from kwsd.protocol.errors import DaemonError
from kwsd.state.calibration import Calibration
from kwsd.state.library import Library
from kwsd.state.words import AddedWord

__all__ = ["own_folders"]  # a fixture that every test here uses


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with both checkers, which nearly always agree with what they hear."""
    return checkers.write(tmp_path_factory.mktemp("models"), "small", "large", scale=0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("small", "small"), ("large", "large"), ("off", "off"), ("'off'", "off"), ("no", "off")],
)
def test_the_key_as_people_write_it(text: str, expected: str) -> None:
    assert config_file.parse(f"checker: {text}").checker == expected


@pytest.mark.parametrize("text", ["on", "tiny", "3", "{size: small}"])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1: checker: .* is not 'large', 'off' or 'small'"):
        config_file.parse(f"checker: {text}")


def test_what_is_in_force_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, models: Path
) -> None:
    config = tmp_path / "c.yaml"

    def shown(text: str) -> str:
        config.write_text(text)
        status, out, err = run(capsys, "config", "show", "--config", config, "--state", tmp_path)
        assert (status, err) == (0, "")
        assert config_file.parse(out)
        return next(line for line in out.splitlines() if line.startswith("checker:"))

    line = f"{config}, line 2"
    assert shown(f"models: {models}\n") == 'checker: "small"  # default'
    assert shown(f"models: {models}\nchecker: large\n") == f'checker: "large"  # {line}'
    assert shown(f"models: {models}\nchecker: off\n") == f'checker: "off"  # {line}'
    bare = checkers.write(tmp_path / "bare")
    assert shown(f"models: {bare}\nchecker: small\n") == 'checker: "off"  # model'
    config.write_text(f"models: {bare}\nchecker: large\n")
    status, _, err = run(capsys, "config", "show", "--config", config, "--state", tmp_path)
    assert status
    assert "has no checker 'large'; it has none: set `checker: off`" in err


def test_doctor_says_what_it_uses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, models: Path
) -> None:
    config = tmp_path / "c.yaml"
    where = ["--config", config, "--socket", tmp_path / "k.sock"]

    def found(text: str) -> list[tuple[bool, str]]:
        config.write_text(f"state: {tmp_path / 'state'}\n{text}")
        lines = run(capsys, "doctor", *where, "--json")[1].splitlines()
        findings = [json.loads(line) for line in lines]
        assert not [f for f in findings if f["check"] == "words"], "it is said once"
        return [(f["ok"], f["detail"]) for f in findings if f["check"] == "checker"]

    assert found(f"models: {models}\n") == [(True, "small, checker.onnx")]
    assert found(f"models: {models}\nchecker: large\n") == [(True, "large, checker_large.onnx")]
    ((ok, detail),) = found(f"models: {models}\nchecker: off\n")
    assert (ok, "checker: off" in detail) == (True, True)
    bare = f"models: {checkers.write(tmp_path / 'bare')}\n"
    ((ok, detail),) = found(bare)
    assert (ok, "the models have none" in detail) == (True, True)
    ((ok, detail),) = found(f"{bare}checker: large\n")
    assert (ok, "no checker 'large'" in detail) == (False, True)
    broken = checkers.write(tmp_path / "broken", "small")
    (broken / "checker.onnx").write_bytes(b"cut off")
    ((ok, detail),) = found(f"models: {broken}\n")
    assert (ok, "checker.onnx: 7 bytes" in detail) == (False, True)


def wakes(daemon: Daemon) -> list[Wake]:
    """Return the wakes of a daemon that listens to a recording, and waits for a client."""
    with daemon.connect() as client:
        return [event for event in client.events(types=["wake"]) if isinstance(event, Wake)]


def test_a_wake_on_the_wire_has_both_stages(
    start: Start, tmp_path: Path, models: Path, scene_wav: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"models: {models}\nwords: {{computer: {{threshold: 0.2}}}}\n")
    source = ["--source", str(scene_wav), "--wait-for-client", "--words", "computer"]
    (one, two) = wakes(start("--config", str(config), *source))
    for event in (one, two):
        assert event.stages is not None
        assert 0 < event.stages.streaming <= 1
        assert 0 < event.stages.checker < 1


def test_a_reload_changes_the_checker(start: Start, tmp_path: Path, models: Path) -> None:
    config = tmp_path / "c.yaml"
    part = np.concatenate([hiss(1.0), say("computer")])
    soundfile.write(tmp_path / "talk.wav", np.tile(part, 60), RATE)
    config.write_text(f"models: {models}\nchecker: off\n")
    daemon = start("--config", str(config), "--source", str(tmp_path / "talk.wav"), "--realtime")
    with daemon.connect() as client:

        def reloaded(text: str) -> CheckerInfo | None:
            config.write_text(f"models: {models}\n{text}")
            client.request(Reload())
            return client.request(Status()).checker

        assert client.request(Status()).checker is None
        assert reloaded("checker: large\n") == CheckerInfo("large", 0)
        assert reloaded("") == CheckerInfo("small", 0)
        with pytest.raises(DaemonError, match=r"words.computer.threshold: 0.01 is among the"):
            reloaded("words: {computer: {threshold: 0.01}}\n")
        status = client.request(Status())
        assert status.checker is not None
        assert status.checker.size == "small"
        assert status.words["computer"].threshold == 0.5
        model = resolve(Config(), bundles.load(models)).words["computer"].model.id
        deadline = time.monotonic() + 10
        while "computer" not in (logged := client.request(Peaks()).words):
            assert time.monotonic() < deadline
            time.sleep(1.1)  # a stretch lasts a second at least
        assert logged["computer"][-1].model == model
        small = models / "checker.onnx"
        data = small.read_bytes()
        try:
            small.write_bytes(data[:-1])
            assert reloaded("checker: off\n") is None
            with pytest.raises(DaemonError, match=r"checker.onnx: \d+ bytes .* truncated"):
                reloaded("")
        finally:
            small.write_bytes(data)
        assert client.request(Status()).checker is None


def test_a_daemon_does_not_start_with_a_checker_that_is_damaged(
    start: Start, tmp_path: Path
) -> None:
    folder = checkers.write(tmp_path / "models", "small")
    (folder / "checker.onnx").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        bundles.load(folder).file("checker.onnx")
    config = tmp_path / "c.yaml"
    config.write_text(f"models: {folder}\n")
    daemon = start("--config", str(config), "--source", "-")
    assert daemon.wait() > 1
    assert "checker.onnx: cannot be read" in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


def test_a_calibration_belongs_to_the_checker(models: Path, deaf_banana: AddedWord) -> None:
    bundle = bundles.load(models)
    ids = {"off": bundle.words["computer"].id}
    ids |= {str(size): one.words["computer"].id for size, one in bundle.checkers.items()}
    for made_with, id in ids.items():
        word = WordThreshold(0.77, id, 0.1, 3.0, 1)
        banana = WordThreshold(0.66, deaf_banana.id, 0.1, 3.0, 1)
        words = {"computer": word, deaf_banana.name: banana}
        library = Library(
            words={deaf_banana.name: deaf_banana},
            calibration=Calibration(bundle.encoder_id, words),
        )
        for size in ids:
            config = config_file.parse(f"checker: {size}")
            setup = resolve(config, bundle, library)
            same = size == made_with
            assert (setup.words["computer"].origin == "calibrated") is same
            assert setup.words[deaf_banana.name].origin == "calibrated"
            assert len(setup.warnings) == (0 if same else 1)
            own = config_file.parse(f"checker: {size}\nwords: {{computer: {{threshold: 0.4}}}}")
            assert resolve(own, bundle, library).warnings == []


def test_a_stale_calibration_is_told_with_its_remedy(
    capsys: pytest.CaptureFixture[str], start: Start, tmp_path: Path, models: Path, endless: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"models: {models}\n")
    bundle = bundles.load(models)
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    stale = WordThreshold(0.9, bundle.words["computer"].id, 0.1, 3.0, 1)
    with daemon.connect() as client:
        client.request(CalibrationPut(words={"computer": stale}))
        (warning,) = client.request(Status()).warnings
        assert warning.startswith("words.computer: its calibrated threshold was found for another")
        assert warning.endswith("run `kwsd calibrate` again")
        assert warning in daemon.log.read_text()
        where = ["--config", config, "--socket", daemon.socket]
        lines = run(capsys, "doctor", *where, "--json")[1].splitlines()
        named = [f for f in map(json.loads, lines) if f["check"] == "calibration"]
        assert [(f["ok"], f["detail"], f["fix"]) for f in named] == [
            (False, warning, "kwsd calibrate")
        ]
        id = bundle.checkers["small"].words["computer"].id
        right = WordThreshold(0.9, id, 0.1, 3.0, 1)
        client.request(CalibrationPut(words={"computer": right}))
        status = client.request(Status())
        assert status.warnings == []
        assert status.words["computer"].threshold == 0.9


@pytest.mark.parametrize("size", ["small", "large", "off"])
def test_recordings_are_calibrated_by_the_scores_in_force(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, models: Path, size: str
) -> None:
    room = tmp_path / "room.wav"
    soundfile.write(room, np.concatenate([hiss(1.0), say("computer"), hiss(1.5)] * 3), RATE)
    config = tmp_path / "c.yaml"
    config.write_text(f"models: {models}\nchecker: {size}\nwords: {{computer: }}\n")
    state = tmp_path / "state"
    state.mkdir()
    where = ["--config", config, "--state", state]
    status, out, err = run(capsys, "calibrate", *where, "--wav", room, "--json", "--yes")
    assert status == 0, err
    loaded = config_file.load(config)
    setup = resolve(loaded, bundles.load(models), Library.load(state, "baf4c181dc45683c")[0])
    assert setup.words["computer"].origin == "calibrated"
    detect = ["detect", "--config", config, "--trace", tmp_path / "t.npz", room]
    assert run(capsys, *detect)[0] == 0
    with np.load(tmp_path / "t.npz") as kept:
        highest = float(kept["scores_0"].max())
        assert (highest == float(kept["stream_scores_0"].max())) is (size == "off")
    assert out
    assert setup.words["computer"].threshold >= min(round(highest, 6), HIGHEST_THRESHOLD)
