"""The verbs: output that scripts can read, errors that name the fix, exit codes of sysexits.h."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from conftest import PHRASE, RATE, VOICES, say

from kwsd import config_file
from kwsd.cli import main as cli
from kwsd.config import Config, WordConfig


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


def test_detect_prints_a_json_line_an_event_and_traces(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path, scene: np.ndarray
) -> None:
    other = tmp_path / "other.flac"
    soundfile.write(other, say("good evening"), RATE)
    trace = tmp_path / "t.npz"
    status, out, err = run(
        capsys, "detect", "--words", "computer,alexa", "--trace", trace, scene_wav, other
    )
    assert (status, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [(e["file"], e["word"]) for e in events if e["type"] == "wake"] == [
        (str(scene_wav), "computer")
    ] * 2
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


def test_detect_goes_on_after_a_bad_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    status, out, err = run(capsys, "detect", bad, tmp_path / "missing.wav", scene_wav)
    assert status == 66
    assert f"kwsd: {bad}: not a recording" in err
    assert "missing.wav: no such file" in err
    assert '"wake"' in out


def test_embed_writes_one_row_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = []
    for n, (voice, text) in enumerate(
        [
            ("en-us", "good evening to you"),
            ("en-us", "it is nice today"),
            ("en-us+f4", "it is nice today"),
        ]
    ):
        files.append(tmp_path / f"{n}.wav")
        soundfile.write(files[-1], say(text, voice), RATE)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE, np.int16), RATE)
    status, _, err = run(capsys, "embed", *files, silent, "--out", tmp_path / "e.npz")
    assert status == 65
    assert "silent.wav: contains no voice" in err
    with np.load(tmp_path / "e.npz") as kept:
        e = kept["embeddings"]
        assert kept["files"].tolist() == [str(f) for f in files]
    assert e.shape[0] == 3
    assert e[0] @ e[1] > e[0] @ e[2]


def test_who_speaks_in_recordings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """There is a line for every file, whatever is in it."""
    said = ("computer", "the weather is nice today", "turn on the light please", "good evening")
    for n, text in enumerate(said):
        soundfile.write(tmp_path / f"{n}.wav", say(text), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, np.int16), RATE)
    soundfile.write(tmp_path / "other.wav", say("the weather is nice today", "en-us+f4"), RATE)
    narrow = soxr.resample(say(said[1]).astype(np.float32), RATE, RATE // 2)
    soundfile.write(tmp_path / "narrow.wav", np.round(narrow).astype(np.int16), RATE // 2)
    names = ("3.wav", "other.wav", "narrow.wav", "silent.wav", "missing.wav")
    files = [tmp_path / name for name in names]
    state = tmp_path / "voices"
    state.mkdir()
    status, out, err = run(capsys, "speakers", "test", "--state", state, "--json", files[0])
    assert status == 65
    assert json.loads(out)["reason"] == "nobody is enrolled; `kwsd enroll NAME` enrolls a speaker"
    takes = [tmp_path / f"{n}.wav" for n in range(3)]
    assert run(capsys, "enroll", "ann", "--state", state, "--wav", *takes)[0] == 0
    status, out, err = run(capsys, "speakers", "--state", state, "test", "--json", *files)
    assert status == 66
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in files]
    assert {tuple(line) for line in lines} == {
        ("file", "name", "score", "threshold", "verified", "reason")
    }
    known, stranger, narrow_band, silent, missing = lines
    assert (known["name"], known["verified"], known["reason"]) == ("ann", True, None)
    assert known["score"] >= known["threshold"] > stranger["score"]
    assert (stranger["name"], stranger["verified"], stranger["reason"]) == (None, False, None)
    assert (narrow_band["name"], narrow_band["verified"]) == (None, None)
    assert narrow_band["reason"] == "cannot tell: telephone band"
    assert narrow_band["score"] is not None
    assert (silent["verified"], silent["score"]) == (None, None)
    assert silent["reason"] == "contains no voice"
    assert "no such file" in missing["reason"]
    status, out, err = run(capsys, "speakers", "test", "--state", state, *files)
    assert [line.partition(": ")[2].partition(",")[0] for line in out.splitlines()] == [
        "ann",
        "a stranger",
        "cannot tell: telephone band",
    ]
    assert err.count("\n") == 2


def test_enroll_without_a_daemon_and_detect_who_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path
) -> None:
    takes = []
    for n, text in enumerate(("computer", "the weather is nice today", "turn on the light please")):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(text), RATE)
    state = tmp_path / "voices"
    status, out, err = run(
        capsys, "enroll", "ann", "--state", state, "--wav", *takes, tmp_path / "no.wav"
    )
    assert status == 0
    assert "ann is enrolled, from 3 takes." in out
    assert "no.wav: no such file" in err
    _, out, _ = run(capsys, "detect", "--state", state, scene_wav)
    wakes = [e for e in map(json.loads, out.splitlines()) if e["type"] == "wake"]
    assert [w["speaker"]["name"] for w in wakes] == ["ann", None]
    assert wakes[0]["speaker"]["score"] > wakes[1]["speaker"]["score"]
    status, _, err = run(capsys, "enroll", "bob", "--state", state, "--wav", takes[0])
    assert status == 65
    assert "at least 2 are needed" in err
    assert [p.name for p in state.iterdir()] == ["ann-49915e.voiceprint"]
    assert run(capsys, "enroll", "bob", "--state", state)[0] == 64


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["detect", "--words", "hal", "x.wav"], 65, "has no model of 'hal'; it has alexa"),
        (["run", "--source", "no.wav"], 66, "no.wav: no such file"),
        (["run", "--config", "no.yaml"], 78, "cannot read the configuration no.yaml"),
        (
            ["events", "--socket", "/nonexistent/k.sock"],
            69,
            "no daemon runs there; start it with `kwsd run`",
        ),
        (["speakers", "--socket", "/nonexistent/k.sock"], 69, "no daemon runs there"),
        (["dance"], 64, "invalid choice: 'dance'"),
        ([], 64, "usage: kwsd "),
    ],
)
def test_errors_and_exit_codes(
    capsys: pytest.CaptureFixture[str], argv: list[str], status: int, message: str
) -> None:
    got, _, err = run(capsys, *argv)
    assert got == status
    assert message in err
    assert "Traceback" not in err


def test_a_folder_without_a_bundle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_wav: Path
) -> None:
    (tmp_path / "c.yaml").write_text(f"models: {tmp_path}\n")
    status, _, err = run(capsys, "detect", "--config", tmp_path / "c.yaml", scene_wav)
    assert status == 65
    assert "no model bundle there" in err


def test_the_effective_configuration_can_be_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("words: {alexa: {threshold: 0.7}}\n")
    status, out, _ = run(capsys, "config", "show", "--config", tmp_path / "c.yaml")
    assert status == 0
    assert config_file.parse(out).words == {"alexa": WordConfig(threshold=0.7)}


def test_doctor_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("wrds: 3\n")
    status, out, _ = run(
        capsys, "doctor", "--config", tmp_path / "c.yaml", "--socket", tmp_path / "k.sock", "--json"
    )
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert status == 69
    assert "unknown key 'wrds'" in findings["configuration"]["detail"]
    assert findings["models"]["ok"]
    assert not findings["daemon"]["ok"]
    assert all(f["fix"] for f in findings.values() if not f["ok"])
    assert set(findings["models"]) == {"check", "ok", "detail", "fix"}


def test_doctor_checks_words_as_the_daemon_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"words: {{hal: }}\nstate: {tmp_path / 'state'}\n")
    where = ["--config", config, "--socket", tmp_path / "k.sock", "--json"]
    status, out, _ = run(capsys, "doctor", *where)
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert status == 69
    assert "has no model of 'hal'; it has alexa" in findings["words"]["detail"]
    assert not findings["words"]["ok"]
    config.write_text(f"words: {{computer: }}\nstate: {tmp_path / 'state'}\n")
    assert '"words"' not in run(capsys, "doctor", *where)[1]


def test_the_schema_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "config", "schema")
    schema = json.loads(out)
    assert status == 0
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"] == "#/$defs/Config"
    root = schema["$defs"]["Config"]
    assert list(root["properties"]) == list(Config.__struct_fields__)
    assert root["additionalProperties"] is False
    word = schema["$defs"]["WordConfig"]["properties"]
    assert word["refractory_s"]["maximum"] == 60
    assert "Score from which the word fires" in word["threshold"]["description"]
    for node in _nodes(schema):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def _nodes(value: object) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [node for each in value for node in _nodes(each)]
    if isinstance(value, dict):
        return [value, *(node for each in value.values() for node in _nodes(each))]
    return []


def test_the_effective_configuration_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("words: {alexa: {threshold: 0.7}}\nclips: on\n")
    status, out, _ = run(capsys, "config", "show", "--json", "--config", tmp_path / "c.yaml")
    assert status == 0
    body = json.loads(out)
    assert body["words"] == {"alexa": {"threshold": 0.7, "refractory_s": 2.0, "enabled": True}}
    assert body["clips"]["enabled"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_json_over_a_state_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--state", tmp_path / "state", "--json"]

    def answer(*argv: object) -> dict[str, Any]:
        status, out, _ = run(capsys, *argv, *options)
        assert status == 0
        body: dict[str, Any] = json.loads(out)
        return body

    takes = []
    for n, text in enumerate(("computer", "it is nice today", "turn on the light please")):
        takes.append(tmp_path / f"{n}.wav")
        soundfile.write(takes[-1], say(text), RATE)
    missing = tmp_path / "no.wav"
    enrolled = answer("enroll", "ann", "--wav", *takes, missing)
    refused = [f"{missing}: no such file; check its name and folder"]
    assert enrolled == {
        "name": "ann",
        "takes": 3,
        "refused": refused,
        "known_as": [],
        "reference": "",
        "unlike": False,
        "kept": True,
        "warning": None,
    }
    assert answer("speakers")["speakers"][0]["name"] == "ann"
    assert answer("speakers", "--delete", "ann") == {"speakers": [], "unusable": []}

    recordings = []
    for n, voice in enumerate(VOICES):
        recordings.append(tmp_path / f"{n}.flac")
        soundfile.write(recordings[-1], say(PHRASE, voice), RATE)
    name = "hey_banana"
    added = answer("word", "add", PHRASE, "--yes", "--wav", *recordings)
    assert (added["word"], added["added"], added["left_out"]) == (name, True, [])
    assert added["quality"]["takes"] == len(VOICES)
    assert 0 < added["threshold"] < 1
    (word,) = answer("word", "list")["words"]
    assert (word["name"], word["made"]["takes"], word["made"]["of"]) == (name, 6, "recordings")
    trial = answer("word", "test", PHRASE, recordings[0])
    assert (trial["file"], trial["wakes"]) == (str(recordings[0]), True)
    file = tmp_path / "out.word"
    assert answer("word", "export", PHRASE, file) == {"word": name, "file": str(file)}
    assert answer("word", "remove", PHRASE) == {"deleted": name}
    assert answer("word", "import", file) == {"word": name, "added": True}

    assert answer("clips", "list") == {
        "clips": [],
        "enabled": False,
        "max_bytes": 33554432,
        "max_count": 200,
    }
    assert answer("clips", "clear", "--all") == {"deleted": 0}
    found = answer("calibrate", "--wav", takes[1], "--words", "computer", "--yes")
    (result,) = found["words"]
    assert (result["word"], result["choice"]["seen"], result["assumed_right"]) == ("computer", 0, 0)
    assert result["outcomes"][0]["threshold"] == 0.05
    assert answer("calibrate", "--undo") == {"words": {}, "speaker": None}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_trace_has_columns_for_added_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recordings = []
    for n, voice in enumerate(VOICES[:3]):
        recordings.append(tmp_path / f"{n}.wav")
        soundfile.write(recordings[-1], say(PHRASE, voice), RATE)
    state = ["--state", tmp_path / "state"]
    assert run(capsys, "word", "add", PHRASE, *state, "--yes", "--wav", *recordings)[0] == 0
    trace = tmp_path / "t.npz"
    status, out, _ = run(capsys, "detect", *state, "--trace", trace, *recordings[:2])
    assert status == 0
    wakes = [json.loads(line) for line in out.splitlines()]
    with np.load(trace) as kept:
        assert kept["words"].tolist() == ["computer", "hey_banana"]
        for n, recording in enumerate(recordings[:2]):
            scores = kept[f"scores_{n}"]
            assert scores.shape == (len(kept[f"end_{n}"]), 2)
            (wake,) = [one for one in wakes if one["file"] == str(recording)]
            assert wake["word"] == "hey_banana"
            assert np.abs(scores[:, 1] - wake["score"]).min() < 1e-6
            assert scores[:, 0].max() < wake["score"]


def test_embed_reports_what_it_wrote(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, say("good evening to you"), RATE)
    out = tmp_path / "e.npz"
    missing = tmp_path / "no.wav"
    status, summary, _ = run(capsys, "embed", voice, missing, voice, "--out", out, "--json")
    assert status == cli.NO_INPUT
    with np.load(out) as kept:
        dim = kept["embeddings"].shape[1]
    body = {"out": str(out), "dim": dim, "files": [str(voice)] * 2, "left_out": [str(missing)]}
    assert json.loads(summary) == body


@pytest.mark.parametrize("verb", ["events", "status", "reload", "speakers", "config"])
def test_light_verbs_load_no_numpy(verb: str) -> None:
    program = (
        "import sys\n"
        "from kwsd.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "print(status, 'numpy' in sys.modules, 'onnxruntime' in sys.modules)\n"
    )
    argv = [verb, "schema"] if verb == "config" else [verb, "--socket", "/nonexistent/k.sock"]
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
        timeout=60,
    )
    status = 0 if verb == "config" else cli.UNAVAILABLE
    assert done.stdout.splitlines()[-1] == f"{status} False False"
