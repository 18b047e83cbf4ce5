"""The verbs: output that scripts can read, errors that name the fix, exit codes of sysexits.h."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
import soxr
from conftest import PHRASE, RATE, VOICES, Daemon, Start, hiss, say

from kwsd import config_file
from kwsd.cli import checks
from kwsd.cli import main as cli
from kwsd.config import Config, WordConfig
from kwsd.protocol.commands import CalibrationPut, GetCalibration, Reload
from kwsd.protocol.data import SpeakerThreshold, WordThreshold


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

    assert answer("clips", "list") == {"clips": [], "enabled": False}
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


def test_verbs_of_a_running_daemon(capsys: pytest.CaptureFixture[str], start: Start) -> None:
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    socket = ["--socket", daemon.socket]
    status, out, _ = run(capsys, "status", *socket, "--json")
    assert status == 0
    assert list(json.loads(out)["words"]) == ["computer"]
    status, out, _ = run(capsys, "status", *socket)
    assert "listens for computer (threshold 0." in out
    assert "no speaker is enrolled; 1 client(s)" in out
    assert run(capsys, "reload", *socket) == (0, "", "")
    assert json.loads(run(capsys, "reload", *socket, "--json")[1]) == {"reloaded": True}
    command = ["-m", "kwsd", "events", *map(str, socket), "--types", "wake", "--json"]
    kept = forked.Process(command, stdout=forked.PIPE, text=True)
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(0.2):
            daemon.hear(np.concatenate([hiss(1.5), say("computer")]))
        assert daemon.process.stdin is not None
        daemon.process.stdin.close()

    with ThreadPoolExecutor(1) as threads:
        talking = threads.submit(talk)
        assert kept.stdout is not None
        lines = [kept.stdout.readline()]
        status, out, _ = run(capsys, "events", *socket, "--types", "wake", "--count", "1")
        ended.set()
        talking.result()
    assert status == 0
    assert out.startswith("wake: “computer”, score 0.")
    lines += kept.communicate(timeout=60)[0].splitlines()
    assert kept.returncode == 0
    assert len(lines) >= 2
    assert [(e["type"], e["word"], e["seq"]) for e in map(json.loads, lines)] == [
        ("wake", "computer", n) for n in range(1, len(lines) + 1)
    ]


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


def test_what_is_in_force_has_sources(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: Start, scene_wav: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("vad: off\nwords:\n  alexa: {threshold: strict}\n  computer:\n")
    at = ["--source", str(scene_wav), "--wait-for-client", "--config", str(config)]
    daemon = start(*at)
    daemon.connect().close()
    socket = ["--socket", daemon.socket]
    status, out, _ = run(capsys, "config", "show", *socket)
    assert status == 0
    assert out.startswith(f"# in force in the daemon at {daemon.socket}\n")
    lines = [line.strip() for line in out.splitlines()]
    assert f"enabled: false  # {config}, line 1" in lines
    assert f'state: "{daemon.state}"  # command line' in lines
    assert "lookback_s: 10.0  # default" in lines
    body = json.loads(run(capsys, "config", "show", *socket, "--json")[1])
    sources = body["sources"]
    assert body["daemon"] == str(daemon.socket)
    for word in ("computer", "alexa"):
        assert 0.01 < body["words"][word]["threshold"] < 1
    assert sources["words.alexa.threshold"] == f"{config}, line 3"
    assert sources["words.computer.threshold"] == "model"
    assert sources["words.computer.refractory_s"] == "default"
    assert sources["speaker.threshold"] == "model"
    calibrated = CalibrationPut(
        words={"computer": _threshold(daemon, 0.77)},
        speaker=SpeakerThreshold(threshold=0.66, false_accept_rate=0.01, time=1),
    )
    config.write_text("clips: on\nwords:\n  computer:\n")
    with daemon.connect() as client:
        client.request(calibrated)
        client.request(Reload())
    body = json.loads(run(capsys, "config", "show", *socket, "--json")[1])
    assert body["words"] == {"computer": {"threshold": 0.77, "refractory_s": 2.0, "enabled": True}}
    assert body["sources"]["words.computer.threshold"] == "calibrated"
    assert (body["speaker"]["threshold"], body["sources"]["speaker.threshold"]) == (
        0.66,
        "calibrated",
    )
    assert body["sources"]["clips.enabled"] == f"{config}, line 1"
    daemon.kill()
    # Without a daemon: what one that is started now would do.
    options = ["--config", config, "--state", daemon.state]
    local = json.loads(run(capsys, "config", "show", *options, "--json")[1])
    assert local["daemon"] is None
    assert local["words"] == body["words"]
    assert local["sources"]["state"] == "command line"


def _threshold(daemon: Daemon, value: float) -> WordThreshold:
    """Return a calibrated threshold of the model that a daemon has of "computer"."""
    with daemon.connect() as client:
        model = client.request(GetCalibration()).words["computer"].model
    return WordThreshold(threshold=value, model=model, rate=1, hours=1, time=1)


def test_doctor_judges_the_daemon_that_runs(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
    scene_wav: Path,
) -> None:
    used = tmp_path / "used.yaml"
    used.write_text("words: {alexa: }\nsocket: {admin_group: nobody-is-in-it}\n")
    own = tmp_path / "own" / "kwsd" / "kwsd.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("wrods: 3")
    at = ["--source", str(scene_wav), "--wait-for-client", "--config", str(used)]
    daemon = start(*at)
    daemon.connect().close()
    _, out, _ = run(capsys, "doctor", "--socket", daemon.socket, "--json")
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert findings["configuration"]["ok"]
    assert findings["configuration"]["detail"].startswith(str(used))
    assert f"it does not read {own}" in findings["configuration"]["detail"]
    assert findings["voiceprints"]["detail"] == f"0 in {daemon.state}"
    assert str(daemon.socket) in findings["daemon"]["detail"]
    assert findings["rights"]["detail"] == "you may make every request"
    assert findings["groups"]["fix"] == "sudo groupadd --system nobody-is-in-it"
    daemon.kill()
    _, out, _ = run(capsys, "doctor", "--socket", daemon.socket, "--json")
    findings = {f["check"]: f for f in map(json.loads, out.splitlines())}
    assert "unknown key 'wrods'" in findings["configuration"]["detail"]
    assert "; a daemon that you start now uses it" in findings["voiceprints"]["detail"]


@pytest.mark.parametrize(
    ("states", "bad"),
    [
        ({}, []),
        ({"": ("active", "enabled")}, []),
        ({"": ("failed", "enabled")}, ["journalctl -u kwsd -n 50"]),
        ({"--user": ("failed", "enabled")}, ["journalctl --user -u kwsd -n 50"]),
        ({"--user": ("inactive", "enabled")}, ["systemctl --user start kwsd"]),
        ({"": ("inactive", "disabled"), "--user": ("active", "enabled")}, []),
        (
            {"": ("active", "enabled"), "--user": ("active", "enabled")},
            ["systemctl --user disable --now kwsd   (or: sudo systemctl disable --now kwsd)"],
        ),
    ],
)
def test_doctor_asks_both_managers(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, tuple[str, str]], bad: list[str]
) -> None:
    def systemctl(verb: str, *more: str) -> str:
        which = "--user" if "--user" in more else ""
        active, enabled = states.get(which, ("inactive", "not-found"))
        return active if verb == "is-active" else enabled

    monkeypatch.setattr(checks, "_systemctl", systemctl)
    monkeypatch.setattr(checks, "_has_systemd", lambda: True)
    assert [finding.fix for finding in checks._services(None) if not finding.ok] == bad


def test_the_demo_says_when_it_has_ended(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene_wav: Path,
) -> None:
    monkeypatch.setattr("kwsd.cli.demo.source", lambda: str(scene_wav))
    where = ["--socket", tmp_path / "k.sock", "--state", tmp_path / "state"]
    status, out, _ = run(capsys, "run", "--source", "auto", *where)
    assert status == 0
    first, *events, last = out.splitlines()
    assert first.startswith("This machine has no microphone.")
    assert sum(line.startswith("wake: “computer”") for line in events) == 2
    assert last.startswith("The recording has ended, and so has the demo. Plug a microphone in")
