"""The plugins of Open Voice OS, found, made and fed through its real plugin manager."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, ROOT, Start, hiss, say
from test_cli import run
from test_docs import blocks

from kwsd.config import Config
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.state.words import AddedWord, WordStore

PYTHON = Path(os.environ.get("OVOS_PYTHON", ROOT / ".venv" / "ovos" / "bin" / "python"))
"""A Python that has the plugin manager: its dependencies stay out of that of the tests."""
SIDE = Path(__file__).parent / "ovos_side.py"
MODULE = {"module": "ovos-ww-plugin-kwsd"}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="./dev test --peers installs it")


class Came(NamedTuple):
    """What came of the steps."""

    results: list[Any]
    logged: str


Step = tuple[str, dict[str, Any]]
Ovos = Callable[..., Came]


@pytest.fixture
def ovos(tmp_path: Path) -> Ovos:
    """Run steps of `ovos_side` in a home of their own, with `kwsd.yaml` there."""

    def steps(*steps: Step, config: str = "checker: off\n", socket: Path | None = None) -> Came:
        folder = tmp_path / "config" / "kwsd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kwsd.yaml").write_text(config)
        home = {name: str(tmp_path / name.lower()) for name in ("HOME", "XDG_RUNTIME_DIR")}
        env = {
            "PATH": "/usr/bin",
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_STATE_HOME": str(tmp_path / "xdg"),
            "KWSD_SOCKET": str(socket or tmp_path / "none.sock"),
            **home,
        }
        out = tmp_path / "came.json"
        done = subprocess.run(
            [PYTHON, SIDE, out],
            input=json.dumps(steps),
            capture_output=True,
            text=True,
            env=env,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        came = json.loads(out.read_text())
        return Came(came["results"], "\n".join(came["logged"]))

    return steps


def raw(path: Path, *parts: np.ndarray) -> str:
    """Write int16 samples as a file without a header; return its name."""
    np.concatenate(parts).astype("<i2").tofile(path)
    return str(path)


def test_the_plugins_are_found_with_a_configuration_for_each_word(
    ovos: Ovos, bundle: Bundle
) -> None:
    (found,) = ovos(("plugins", {})).results
    assert found["engines"] == ["ovos-ww-plugin-kwsd"]
    assert found["verifiers"] == ["ovos-ww-verifier-kwsd"]
    assert found["languages"] == {"en-US": ["ovos-ww-plugin-kwsd"]}
    (configs,) = found["configs"].values()
    assert [one["key_phrase"] for one in configs] == list(bundle.words)
    loaded = ovos(("load", {"hotwords": {one["key_phrase"]: one for one in configs}}))
    assert loaded == ([{}], "")


@pytest.mark.parametrize("chunk_bytes", [4096, 1001])
def test_a_word_is_found_where_the_detector_hears_it(
    ovos: Ovos, chunk_bytes: int, bundle: Bundle, scene: np.ndarray, tmp_path: Path
) -> None:
    setup = resolve(Config(checker="off"), bundle)
    detector = Detector(bundle, setup)
    ends = [
        2 * (at + 1280)
        for at in range(0, len(scene), 1280)
        if any(isinstance(one, Wake) for one in detector.feed(scene[at : at + 1280]).wakes)
    ]
    assert len(ends) == 2
    hotwords = {"Computer": MODULE, "alexa": MODULE, "assistant": {**MODULE, "word": "computer"}}
    errors, found, shared = ovos(
        ("load", {"hotwords": hotwords}),
        ("hear", {"file": raw(tmp_path / "scene", scene), "chunk_bytes": chunk_bytes}),
        ("shared", {}),
    ).results
    assert errors == {}
    assert shared
    assert found["alexa"] == []
    assert found["Computer"] == found["assistant"]
    late = np.array(found["Computer"]) - ends
    assert ((late >= 0) & (late <= chunk_bytes + 2560)).all()  # the chunk that completes the block


def test_a_new_stream_forgets_the_half_word_before_it(ovos: Ovos, tmp_path: Path) -> None:
    word = say("computer")
    half = len(word) // 2
    file = raw(tmp_path / "word", hiss(1), word, hiss(1))
    reset_at = 2 * (RATE + half)
    whole, cut = (
        ovos(
            ("load", {"hotwords": {"computer": {**MODULE, "threshold": "strict"}}}),
            ("hear", {"file": file, "chunk_bytes": 1280, "reset_at": reset}),
        ).results[1]
        for reset in (None, reset_at)
    )
    assert len(whole["computer"]) == 1
    assert cut["computer"] == []


def test_an_added_word_is_that_of_the_state_directory_or_of_the_daemon(
    ovos: Ovos, banana: AddedWord, bundle: Bundle, start: Start, endless: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    WordStore(state, bundle.encoder_id, bundle.frame_dim).save(banana)
    heard = (
        "hear",
        {"file": raw(tmp_path / "w", hiss(1), say(PHRASE), hiss(1)), "chunk_bytes": 4096},
    )
    named = ovos(("load", {"hotwords": {PHRASE: {**MODULE, "state": str(state)}}}), heard)
    assert named.results[0] == {}
    assert len(named.results[1][PHRASE]) == 1
    none = ovos(("load", {"hotwords": {PHRASE: MODULE}}), heard)
    assert f"hotwords.{PHRASE}: words: " in none.results[0][PHRASE]
    assert "has no model of 'hey_banana'" in none.results[0][PHRASE]
    daemon = start("--source", str(endless), "--realtime")
    daemon.connect().close()
    fetched = ovos(("load", {"hotwords": {PHRASE: MODULE}}), heard, socket=daemon.socket)
    assert fetched.results[0] == {}
    assert len(fetched.results[1][PHRASE]) == 1


def test_the_examples_of_the_guide_are_loaded(ovos: Ovos, tmp_path: Path) -> None:
    hotwords, verifiers = (json.loads(body) for body in blocks("docs/guide/ovos.md", "json"))
    (verifier,) = verifiers["listener"]["ww_verifiers"].values()
    errors, passed = ovos(
        ("load", {"hotwords": hotwords["hotwords"]}),
        ("verify", {"config": verifier, "files": [raw(tmp_path / "hiss", hiss(1))]}),
    ).results
    assert errors == {}
    assert passed == [False]


def test_what_is_wrong_is_named(ovos: Ovos, tmp_path: Path) -> None:
    wrong = {
        "treshold": 0.5,
        "threshold": 2,
        "word": "komputer",
        "checker": "huge",
        "require": [],
        "state": str(tmp_path / "nowhere"),
        "models": str(tmp_path / "nowhere"),
        "config": str(tmp_path / "nowhere"),
        "sensitivity": 0.5,
    }
    hotwords = {
        f"h {key}": {**MODULE, "word": "computer", key: value} for key, value in wrong.items()
    }
    (errors,), logged = ovos(("load", {"hotwords": hotwords}))
    assert {name.removeprefix("h ") for name in errors} == set(wrong) - {"sensitivity"}
    assert (
        "hotwords.h treshold: unknown key 'treshold'; did you mean 'threshold'?"
        in errors["h treshold"]
    )
    assert "hotwords.h threshold.threshold: 2 is not a number above 0" in errors["h threshold"]
    assert "did you mean 'computer'?" in errors["h word"]
    assert (
        "hotwords.h checker.checker: 'huge' is not 'large', 'off', 'small'" in errors["h checker"]
    )
    assert "hotwords.h require.require: []" in errors["h require"]
    for key in ("state", "models", "config"):
        assert str(tmp_path / "nowhere") in errors[f"h {key}"]
    assert "hotwords.h sensitivity: 'sensitivity' has no effect; its options are checker" in logged


def test_the_verifier_hears_again_what_was_detected(
    ovos: Ovos, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    takes = [tmp_path / f"{n}.wav" for n in range(3)]
    for take, text in zip(takes, ("computer", "the weather today", "the light"), strict=True):
        soundfile.write(take, say(text), RATE)
    assert run(capsys, "enroll", "ann", "--state", state, "--wav", *takes)[0] == 0
    word = raw(tmp_path / "word", hiss(0.5), say("computer"), hiss(0.3))
    stranger = raw(
        tmp_path / "stranger", hiss(0.5), say("computer", "en-gb-scotland+f2"), hiss(0.3)
    )
    talk = raw(tmp_path / "talk", hiss(0.5), say("the weather today"), hiss(0.3))
    empty = raw(tmp_path / "empty", hiss(0))
    files = [word, stranger, talk, empty]
    ann = {"require": ["Ann"], "state": str(state)}
    everybody, spoken, voices, both, nobody, wrong = ovos(
        ("verify", {"config": {}, "files": files}),
        ("verify", {"config": {"words": ["computer", "alexa"]}, "files": files}),
        ("verify", {"config": ann, "files": files}),
        ("verify", {"config": {"words": ["computer"], **ann}, "files": files}),
        ("verify", {"config": {"require": "enrolled"}, "files": files}),
        ("verify", {"config": {"word": "computer"}, "files": files}),
    ).results
    assert everybody == [True, True, True, True]
    assert spoken == [True, True, False, False]
    assert voices == [True, False, True, False]
    assert both == [True, False, False, False]
    assert nobody == [False, False, False, False]
    assert "listener.ww_verifiers.ovos-ww-verifier-kwsd: unknown key 'word'" in wrong


def test_the_verifier_asks_for_whom_the_configuration_admits(ovos: Ovos, tmp_path: Path) -> None:
    word = raw(tmp_path / "word", hiss(0.5), say("computer"), hiss(0.3))
    step = ("verify", {"config": {}, "files": [word]})
    (refused,), logged = ovos(step, config="speaker: {require: enrolled}\n")
    assert refused == [False]
    assert "none is enrolled" in logged
