"""The verbs: output that scripts can read, errors that name the thing and the mend, exit codes of sysexits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, say

from kwsd import cli, config


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "own"))


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        status = cli.main([str(a) for a in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_detect_prints_a_json_line_an_event_and_traces(capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path, scene: np.ndarray) -> None:
    other = tmp_path / "other.flac"
    soundfile.write(other, say("good evening"), RATE)
    trace = tmp_path / "t.npz"
    status, out, err = run(capsys, "detect", "--words", "computer,alexa", "--trace", trace, scene_wav, other)
    assert (status, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [(e["file"], e["word"]) for e in events if e["type"] == "wake"] == [(str(scene_wav), "computer")] * 2
    with np.load(trace) as kept:
        assert kept["files"].tolist() == [str(scene_wav), str(other)]
        assert kept["words"].tolist() == ["computer", "alexa"]
        assert (kept["scores_0"].dtype, kept["end_0"].dtype) == (np.float32, np.int64)
        assert kept["scores_0"].shape == (len(kept["end_0"]), 2)
        assert np.array_equal(kept["end_0"], 1280 * np.arange(1, len(kept["end_0"]) + 1))
        assert abs(kept["end_0"][-1] - len(scene)) <= RATE
        wakes = [e for e in events if e["type"] == "wake"]
        assert kept["scores_0"][:, 0].max() >= max(e["score"] for e in wakes) - 1e-4
        assert len(kept["scores_1"]) < len(kept["scores_0"])


def test_detect_goes_on_after_a_bad_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    status, out, err = run(capsys, "detect", bad, tmp_path / "missing.wav", scene_wav)
    assert status == 66
    assert f"kwsd: {bad}: not a recording" in err
    assert "missing.wav: no such file" in err
    assert '"wake"' in out


def test_embed_writes_one_row_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = []
    for n, (voice, text) in enumerate([("en-us", "good evening to you"), ("en-us", "it is nice today"), ("en-us+f4", "it is nice today")]):
        files.append(tmp_path / f"{n}.wav")
        soundfile.write(files[-1], say(text, voice), RATE)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE, np.int16), RATE)
    status, _, err = run(capsys, "embed", *files, silent, "--out", tmp_path / "e.npz")
    assert status == 65
    assert "silent.wav: holds no voice" in err
    with np.load(tmp_path / "e.npz") as kept:
        e = kept["embeddings"]
        assert kept["files"].tolist() == [str(f) for f in files]
    assert e.shape[0] == 3
    assert e[0] @ e[1] > e[0] @ e[2]


def test_enrol_without_a_daemon_and_detect_who_it_was(capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path) -> None:
    takes = []
    for n, text in enumerate(("computer", "the weather is nice today", "turn on the light please")):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(text), RATE)
    state = tmp_path / "voices"
    status, out, err = run(capsys, "enroll", "ann", "--state", state, "--wav", *takes, tmp_path / "no.wav")
    assert status == 0
    assert "ann is enrolled, from 3 takes." in out
    assert "no.wav: no such file" in err
    _, out, _ = run(capsys, "detect", "--state", state, scene_wav)
    wakes = [e for e in map(json.loads, out.splitlines()) if e["type"] == "wake"]
    assert [w["speaker"]["name"] for w in wakes] == ["ann", "ann"]
    assert wakes[0]["speaker"]["score"] > wakes[1]["speaker"]["score"]
    status, _, err = run(capsys, "enroll", "bob", "--state", state, "--wav", takes[0])
    assert status == 65
    assert "at least 3 are needed" in err
    assert [p.name for p in state.iterdir()] == ["ann.voiceprint"]
    assert run(capsys, "enroll", "bob", "--state", state)[0] == 64


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["detect", "--words", "hal", "x.wav"], 78, "has no model of 'hal'; it has alexa"),
        (["run", "--source", "no.wav"], 66, "no.wav: no such file"),
        (["run", "--config", "no.yaml"], 78, "cannot read the configuration no.yaml"),
        (["events", "--socket", "/nonexistent/k.sock"], 69, "no daemon runs there; start it with `kwsd run`"),
        (["speakers", "--socket", "/nonexistent/k.sock"], 69, "no daemon runs there"),
        (["dance"], 64, "invalid choice: 'dance'"),
        ([], 64, "required: VERB"),
    ],
)
def test_errors_and_exit_codes(capsys: pytest.CaptureFixture[str], argv: list[str], status: int, message: str) -> None:
    got, _, err = run(capsys, *argv)
    assert got == status
    assert message in err
    assert "Traceback" not in err


def test_a_bundle_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"models: {tmp_path}\n")
    status, _, err = run(capsys, "detect", "--config", tmp_path / "c.yaml", scene_wav)
    assert status == 65
    assert "no model bundle there" in err


def test_the_effective_configuration_can_be_read_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("words: {alexa: {threshold: 0.7}}\n")
    status, out, _ = run(capsys, "config", "show", "--config", tmp_path / "c.yaml")
    assert status == 0
    assert config.parse(out) == config.parse("words: {alexa: {threshold: 0.7}}")


def test_doctor_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("wrds: 3\n")
    status, out, _ = run(capsys, "doctor", "--config", tmp_path / "c.yaml", "--socket", tmp_path / "k.sock", "--json")
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert status == 69
    assert "unknown key 'wrds'" in findings["configuration"]["detail"]
    assert findings["models"]["ok"]
    assert not findings["daemon"]["ok"]
    assert all(f["mend"] for f in findings.values() if not f["ok"])
