"""The benchmarks: what is measured, the layouts that are read, and figures from scores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import checkers
import numpy as np
import pytest
import soundfile
from conftest import RATE, hiss, say

from kwsd.audio.files import AudioFileError
from kwsd.bench import accuracy, breakdown, corpus, peers, report, scenes, soak
from kwsd.bench.accuracy import EngineScores
from kwsd.bench.circumstances import circumstances
from kwsd.cli import bench as verb
from kwsd.learn.second_stage import CHECKS_PER_HOUR
from kwsd.model import bundle as bundles
from kwsd.model.runtime import Runtime


def bench(*argv: str) -> int:
    """Run `kwsd bench` in this process; return the exit status."""
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args(argv))


@pytest.mark.slow
def test_cost_measures_every_stage_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    options = ["--seconds", "15", "--repeats", "1", "--wakes", "2", "--engines", "kwsd"]
    assert bench("cost", *options, "--json", str(out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    rows = {(row["engine"], row["scene"]): row for row in found["engines"]}
    assert set(rows) == {
        (engine, scene) for engine in ("kwsd", "kwsd detect") for scene in ("idle", "day", "speech")
    }
    for row in rows.values():
        columns = ("audio_s", "cpu_per_audio_s", "startup_cpu_s", "startup_s", "peak_mib")
        assert min(row[column] for column in columns) > 0
    names = ("high_pass", "vad", "features", "encoder", "wake_head", "trigger_and_rings", "all")
    checks = ("checks_per_hour", "check_ms", "checks_s_per_hour")
    # Where the checker knows words:
    of_added = {"added_checks_per_hour", "added_checks_s_per_hour", "added_budget_per_hour"}
    assert set(found["stages"]) - of_added == {
        *(f"{n}_us_per_chunk" for n in names),
        "verification_ms_per_wake",
        "hub_us_per_event",
        *checks,
    }
    assert min(value for name, value in found["stages"].items() if name not in checks) > 0
    assert min(found["stages"][name] for name in checks) >= 0, "none may be due in so short a time"
    costs = ("ms_per_utterance", "startup_cpu_s", "peak_mib")
    assert min(found["voices"]["kwsd"][name] for name in costs) > 0
    assert found["idle_in_real_time"] > 0
    assert found["latency"]["heard"] >= 1
    assert {"cpu", "python", "commit", "versions"} <= set(found["circumstances"])
    printed = capsys.readouterr().out
    assert "| kwsd detect | 6 |" in printed
    assert "p95_ms" in printed


@pytest.mark.slow
def test_the_checks_of_candidates_are_counted_and_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = checkers.write(tmp_path, "small", candidate=1e-4)
    bundle = bundles.load(models)
    runtime = Runtime(bundle)
    for module in (breakdown, peers):
        monkeypatch.setattr(module, "shipped", lambda: (bundle, runtime))
    found = breakdown.stages(20.0)
    assert found["checks_per_hour"] > 100
    assert 0.05 < found["check_ms"] < 500
    per_hour_s = found["checks_per_hour"] * found["check_ms"] / 1000
    assert found["checks_s_per_hour"] == pytest.approx(per_hour_s)
    assert 0 < found["trigger_and_rings_us_per_chunk"] < found["all_us_per_chunk"]


@pytest.mark.slow
def test_soak_reports_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "STEP_S", 120)
    out = tmp_path / "soak.json"
    assert bench("soak", "--hours", "0.1", "--json", str(out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [s["audio_h"] for s in found["samples"]] == pytest.approx([1 / 30, 2 / 30, 3 / 30])
    assert all(
        s["resident_mib"] > 10 and s["descriptors"] > 3 and s["threads"] >= 2
        for s in found["samples"]
    )
    assert found["growth"]["descriptors"] == found["growth"]["threads"] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--engines", "porcupine"], "there is no engine 'porcupine'"),
        (["--engines", "kwsd"], "not a folder"),
    ],
)
def test_what_cannot_be_measured_is_named(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, AudioFileError)) as error:
        bench("accuracy", str(tmp_path / "nothing"), *argv)
    assert message in str(error.value) + capsys.readouterr().err


def test_a_missing_engine_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verb, "installed", lambda: ["kwsd"])
    assert bench("cost", "--engines", "kwsd,pocketsphinx") == 69
    assert "not installed: pocketsphinx; ./dev setup bench" in capsys.readouterr().err


def test_the_scenes_are_what_they_say() -> None:
    idle, day, speech = (make(240.0) for make in scenes.SCENES.values())
    level = [
        float(20 * np.log10(np.sqrt(np.mean(x.astype(float) ** 2)) / 32768)) for x in (idle, speech)
    ]
    assert level[0] < -58
    assert -26 < level[1] < -18
    loud = np.abs(day.astype(float)).reshape(-1, RATE).max(axis=1) > 1000
    assert 0.15 < loud.mean() < 0.35
    assert (scenes.idle(3.0) == scenes.idle(3.0)).all()


def _write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)


def test_both_layouts_are_read_as_published(tmp_path: Path) -> None:
    beep = hiss(0.2, 300)
    for name in (
        "up/0a_nohash_0.wav",
        "up/0b_nohash_0.wav",
        "computer/0a_nohash_1.wav",
        "_background_noise_/tap.wav",
    ):
        _write(tmp_path / "commands" / name, beep)
    found = corpus.labeled(tmp_path / "commands")
    assert {(r.word, r.speaker) for r in found} == {("up", "0a"), ("up", "0b"), ("computer", "0a")}
    assert [p.name for p in corpus.noise_of(tmp_path / "commands")] == ["tap.wav"]
    (tmp_path / "commands" / "testing_list.txt").write_text(
        "up/0b_nohash_0.wav\n", encoding="utf-8"
    )
    assert [r.speaker for r in corpus.labeled(tmp_path / "commands")] == ["0b"]
    _write(tmp_path / "pico" / "audio" / "smart mirror" / "7.flac", beep)
    assert [(r.word, r.speaker) for r in corpus.labeled(tmp_path / "pico")] == [
        ("smart_mirror", "")
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioFileError, match="holds no recording"):
        corpus.labeled(tmp_path / "empty")


@pytest.mark.slow
def test_accuracy_of_synthetic_voices(tmp_path: Path) -> None:
    for n, voice in enumerate(("en-us", "en-us+f3", "en-gb+m2")):
        for take in range(2):
            _write(
                tmp_path / "audio" / "computer" / f"v{n}_nohash_{take}.wav",
                say("computer", voice, 140 + 10 * take),
            )
            for word in ("kettle", "garden"):
                _write(
                    tmp_path / "audio" / word / f"v{n}_nohash_{take}.wav",
                    say(word, voice, 140 + 10 * take),
                )
    _write(tmp_path / "quiet" / "room.wav", hiss(30.0))
    out = tmp_path / "accuracy.json"
    quiet = str(tmp_path / "quiet")
    options = ["--engines", "kwsd", "--negatives", quiet, "--noise", quiet]
    assert bench("accuracy", str(tmp_path), *options, "--json", str(out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    (word,) = found["words"]
    assert (word["word"], word["recordings"], word["speakers"]) == ("computer", 6, 3)
    assert word["hours"] == pytest.approx(
        (30 + sum(soundfile.info(p).duration for p in tmp_path.rglob("audio/[kg]*/*.wav"))) / 3600,
        rel=0.01,
    )
    assert word["points"][1]["miss"] <= 0.5
    voices = found["verification"][0]  # others follow where they are installed
    assert (voices["speakers"], voices["takes"]) == (3, 18)
    assert 0 <= voices["five"]["eer"] <= 0.5


def test_misses_and_rates_by_hand() -> None:
    scores = EngineScores(
        "kwsd",
        "computer",
        scores=[0.9, 0.8, 0.7, 0.2],
        groups=["a", "b", "c", "d"],
        false_peaks=[0.75, 0.3, 0.1],
        negative_s=2 * 3600,
    )
    found = accuracy.figures(scores)
    strict, middle, lenient = found["points"]
    assert (strict["false_accepts"], strict["miss"]) == (0, 0.5)  # 0.1 an hour of 2 hours: none
    assert (middle["false_accepts"], middle["miss"]) == (1, 0.25)  # one of them
    assert (lenient["false_accepts"], lenient["miss"]) == (2, 0.0)
    assert lenient["rate_interval"][0] < 1.0 < lenient["rate_interval"][1]
    assert [0.5, 0.5] in found["curve"]
    markdown = report.accuracy_markdown(
        {
            "folder": "here",
            "snr_db": None,
            "words": [found],
            "verification": [],
            "circumstances": circumstances(),
        }
    )
    assert "| kwsd | computer | 4 (4) | 2.0 | 0.5 |" in markdown


def test_noise_lies_where_it_should() -> None:
    talk = say("this is a sentence that goes on for a while")
    noise = hiss(1.0, 1000, seed=2)
    mixed = scenes.with_noise(talk, noise, 10.0).astype(float) - talk
    frames = np.sort(
        np.mean(talk[: len(talk) // 400 * 400].astype(float).reshape(-1, 400) ** 2, axis=1)
    )
    assert 10 * np.log10(frames[len(frames) // 2 :].mean() / np.mean(mixed**2)) == pytest.approx(
        10.0, abs=0.2
    )


@pytest.mark.slow
def test_added_words_are_measured_on_a_folder(tmp_path: Path) -> None:
    for n, voice in enumerate(("en-us", "en-us+f3", "en-gb+m3", "en-us+m7", "en-029+f5")):
        for word in ("hey banana", "smart mirror", "good evening"):
            path = tmp_path / "words" / word.replace(" ", "_") / f"v{n}_nohash_0.wav"
            _write(path, say(word, voice))
    out = tmp_path / "words.json"
    folder = str(tmp_path / "words")
    options = ["--words", "hey_banana", "--shots", "0,3", "--seeds", "1"]
    talk = say("hey banana. I said, hey banana! hey banana", "en-us")
    for name in ("spoken/a", "unknown/b", "unknown/c"):
        _write(tmp_path / f"{name}.wav", talk)
    (tmp_path / "spoken" / "a.txt").write_text("Hey, Banana: he said it.", encoding="utf-8")
    (tmp_path / "unknown" / "x.trans.txt").write_text("a HEY BANANA\nc I SAID HEY BANANA\n")
    markdown = tmp_path / "words.md"
    options += ["--markdown", str(markdown), "--negatives"]
    options += [str(tmp_path / "spoken"), str(tmp_path / "unknown")]
    assert bench("words", folder, *options, "--json", str(out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(r["word"], r["shots"], r["tried"], r["others"]) for r in found["runs"]] == [
        ("hey_banana", 0, 5, 10),
        ("hey_banana", 3, 2, 10),
    ]
    assert all(
        0 <= r[k] <= 1
        for r in found["runs"]
        for k in ("hits", "hits_at_threshold", "false_accepts_at_threshold", "left_out_misses")
    )
    assert found["runs"][1]["hits"] >= 0.5
    hours = len(talk) / RATE / 3600  # of the one of which nobody says that it says the word
    assert [r["negatives_hours"] for r in found["runs"]] == pytest.approx([hours, hours])
    assert 1 <= found["runs"][1]["false_accepts"] <= 3
    assert all(r["promised_per_hour"] > 0 for r in found["runs"])
    assert "an hour (95 % of counting)" in markdown.read_text(encoding="utf-8")
    options = options[: options.index("--markdown")]
    with pytest.raises(AudioFileError, match="usable takes of 5 speakers; 6 shots"):
        bench("words", folder, "--words", "hey_banana", "--shots", "6", "--seeds", "1")
    with pytest.raises(AudioFileError, match="no recording of 'apple'"):
        bench("words", folder, "--words", "apple")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_both_stages_of_added_words_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = checkers.write(tmp_path / "models", "small", bank=checkers.chatter())
    monkeypatch.setattr(bundles, "default_path", lambda: models)
    for n, voice in enumerate(("en-us", "en-us+f3", "en-gb+m3", "en-us+m7")):
        for word in ("hey banana", "good evening"):
            path = tmp_path / "words" / word.replace(" ", "_") / f"v{n}_nohash_0.wav"
            _write(path, say(word, voice))
    out = tmp_path / "words.json"
    words = ["hey_banana", "good_evening"]
    options = ["--words", ",".join(words), "--shots", "3", "--seeds", "1", "--together"]
    assert bench("words", str(tmp_path / "words"), *options, "--json", str(out)) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [(one["word"], one["shots"], one["tried"]) for one in report["together"]] == [
        (word, 3, 1) for word in words
    ]
    assert all(0 <= one["right"] <= one["right"] + one["wrong"] <= 1 for one in report["together"])
    run = report["runs"][0]
    for share in ("candidates", "decided", "others_checked"):
        assert 0 <= run[share] <= 1
    assert run["hits"] <= run["candidates"]
    assert 0 <= run["checks_per_hour"] <= CHECKS_PER_HOUR
    bundle = bundles.load(models)
    runtime = Runtime(bundle)
    monkeypatch.setattr(breakdown, "shipped", lambda: (bundle, runtime))
    found = breakdown.added_checks(scenes.speech(10.0))
    assert found.keys() == {
        "added_checks_per_hour",
        "added_checks_s_per_hour",
        "added_budget_per_hour",
    }
    assert min(found.values()) >= 0
