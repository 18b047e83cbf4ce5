"""Help, "did you mean", options anywhere, and what a person sees."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from test_clients import STATUS

from kwsd.cli import main as cli
from kwsd.cli import output, status
from kwsd.cli.options import duration, word_list
from kwsd.cli.verbs import VERBS, load
from kwsd.events import Event, MicrophoneChange, Rejected, SpeakerMatch, SpeakerScore, Wake
from kwsd.protocol.data import ClipInfo, MicrophoneInfo


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        status = cli.main([str(a) for a in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    status, listed, _ = run(capsys, "--help")
    assert status == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb:<10} +{re.escape(load(verb).HELP)}$", listed, re.MULTILINE)
    assert run(capsys, "help") == (0, listed, "")
    assert run(capsys) == (cli.USAGE, "", listed)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    status, out, _ = run(capsys, verb, "--help")
    assert status == 0
    assert out.startswith(f"usage: kwsd {verb} ")
    assert len(out.split("\n\n")) > 2, "it has a description"
    line = load(verb).HELP
    assert line[0].islower()
    assert len(line) <= 88
    assert not line.endswith(".")
    assert run(capsys, "help", verb) == (0, out, "")


def test_help_on_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "help", "word", "add")
    assert status == 0
    assert out.startswith("usage: kwsd word add ")
    assert "--text-only" in out
    assert run(capsys, "word", "add", "--help") == (0, out, "")


@pytest.mark.parametrize(
    ("argv", "usage", "hint"),
    [
        (["evnts"], "kwsd ", "did you mean 'events'?"),
        (["word", "ad", "x"], "kwsd word ", "did you mean 'add'?"),
        (["config", "shw"], "kwsd config ", "did you mean 'show'?"),
        (["clips", "label", "rigth", "x"], "kwsd clips label ", "did you mean 'right'?"),
        (["events", "--types", "wke"], "kwsd events ", "did you mean 'wake'?"),
        (["events", "--jsn"], "kwsd events ", "--jsn; did you mean --json?"),
        (["embed", "x.wav", "--oot=e.npz"], "kwsd embed ", "--oot; did you mean --out?"),
        (["help", "evnts"], "kwsd ", "did you mean 'events'?"),
        (["help", "word", "ad"], "kwsd word ", "did you mean 'add'?"),
        (["events", "x"], "kwsd events ", "unrecognized arguments: x"),
        (["clips", "clear", "x", "--all", "--state", "y"], "", "either IDs or --all"),
        (["clips", "clear", "--state", "y"], "", "either IDs or --all"),
    ],
)
def test_did_you_mean(
    capsys: pytest.CaptureFixture[str], argv: list[str], usage: str, hint: str
) -> None:
    status, out, err = run(capsys, *argv)
    assert (status, out) == (cli.USAGE, "")
    assert hint in err
    assert f"usage: {usage}" in err if usage else "usage:" not in err


@pytest.mark.parametrize(
    "argv", [["-v", "config", "show"], ["config", "-v", "show"], ["config", "show", "--verbose"]]
)
def test_verbose_stands_anywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    levels = []
    monkeypatch.setattr("logging.basicConfig", lambda **options: levels.append(options["level"]))
    assert run(capsys, *argv)[0] == 0
    assert run(capsys, "config", "show")[0] == 0
    assert levels == [logging.DEBUG, logging.INFO]


def test_verbose_after_an_action(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "word", "list", "-v", "--state", tmp_path)[0] == 0
    assert run(capsys, "word", "-v", "list", "--state", tmp_path)[0] == 0


def test_the_package_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "kwsd", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("usage: kwsd ")
    assert "--version" in done.stdout


ANN = SpeakerMatch(name="ann", score=0.91, threshold=0.75, verified=True)
STRANGER = SpeakerMatch(
    name=None,
    score=0.2,
    threshold=0.75,
    verified=False,
    nearest=SpeakerScore("ann", 0.2),
    runner_up=SpeakerScore("bob", 0.1),
)
WAKE = Wake(word="hey_banana", score=0.9, threshold=0.5, start=16000, end=24000)


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (WAKE, "wake: “hey banana”, score 0.900 of 0.500, 1.00–1.50 s"),
        (
            Wake(word="a", score=0.9, threshold=0.5, start=0, end=8000, speaker=ANN),
            "wake: “a” by ann (0.91), score 0.900 of 0.500, 0.00–0.50 s",
        ),
        (
            Rejected(
                word="a",
                score=0.9,
                threshold=0.5,
                start=0,
                end=8000,
                speaker=STRANGER,
                reason="wrong_speaker",
            ),
            "rejected (wrong speaker): “a” by a stranger (0.20), score 0.900 of 0.500, 0.00–0.50 s",
        ),
        (MicrophoneChange(state="lost", detail="unplugged"), "microphone lost: unplugged"),
        (
            MicrophoneChange(state="overflow", detail="USB", samples_lost=12),
            "microphone overflow: USB (12 samples lost)",
        ),
    ],
)
def test_events_as_sentences_and_as_json(
    capsys: pytest.CaptureFixture[str], event: Event, sentence: str
) -> None:
    output.print_event(event, as_json=False)
    output.print_event(event, as_json=True)
    said, line = capsys.readouterr().out.splitlines()
    assert said == sentence
    body = json.loads(line)
    assert body.pop("type") == event.__struct_config__.tag
    found = body.pop("speaker", None)
    assert all(getattr(event, key) == value for key, value in body.items())
    expected = getattr(event, "speaker", None)
    assert found == (expected and msgspec.to_builtins(expected.without_details()))


def test_details_are_shown_to_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    stranger = replace(WAKE, speaker=STRANGER)
    known = replace(ANN, nearest=SpeakerScore("ann", 0.91), runner_up=SpeakerScore("bob", 0.1))
    output.print_event(stranger, as_json=False, details=True)
    output.print_event(replace(WAKE, speaker=known), as_json=False, details=True)
    output.print_event(stranger, as_json=True, details=True)
    of_stranger, of_ann, line = capsys.readouterr().out.splitlines()
    assert "“hey banana” by a stranger (0.20), nearest ann, then bob (0.10), score" in of_stranger
    assert "“hey banana” by ann (0.91), then bob (0.10), score" in of_ann
    assert json.loads(line)["speaker"]["nearest"] == {"name": "ann", "score": 0.2}
    assert json.loads(line)["speaker"]["runner_up"] == {"name": "bob", "score": 0.1}


def test_a_microphone_without_a_name_yet_is_only_lost() -> None:
    lost = replace(STATUS, microphone=MicrophoneInfo("lost", ""))
    assert status._sentences(lost)[0] == "up for 1 s, microphone lost"
    assert status._sentences(STATUS)[0] == "up for 1 s, microphone ok: mic"


def test_clips_as_sentences() -> None:
    clip = ClipInfo(
        id="x-computer",
        word="computer",
        model="m",
        kind="near_miss",
        time=0.0,
        score=0.3,
        threshold=0.5,
        start=0,
        end=1,
        speaker=ANN,
        label="wrong",
    )
    sentence = "x-computer: near miss, score 0.300 of 0.500 by ann, labeled wrong"
    assert output.clip_sentence(clip) == sentence
    woken = replace(clip, kind="wake", score=0.6, peak=0.9, speaker=STRANGER, label=None)
    sentence = "x-computer: wake, score 0.600 of 0.500, peak 0.900 by a stranger"
    assert output.clip_sentence(woken) == sentence


def test_json_of_dataclasses_paths_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass
    class Pair:
        file: Path
        score: np.float32

    output.print_json([Pair(Path("é.wav"), np.float32(0.5)), float("inf")])
    assert capsys.readouterr().out == '[{"file": "é.wav", "score": 0.5}, null]\n'


def test_lengths_of_time_and_lists_of_words() -> None:
    assert [duration(text) for text in ("90s", "45m", "8h", " 2 d")] == [90, 2700, 28800, 172800]
    for text in ("", "5", "5x", "0s", "-1h", "1.2.3s", "."):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a length of time"):
            duration(text)
    assert word_list("hey banana, alexa,") == ["hey_banana", "alexa"]


def test_nobody_can_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.confirmed(yes=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, kept in (("", True), ("Y", True), ("n", False), ("what", False)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert output.confirmed(yes=False) is kept
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ValueError, match="--yes keeps it without asking"):
        output.confirmed(yes=False)
