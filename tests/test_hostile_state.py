"""Damaged, hostile and foreign files in a state directory stop nothing but what needs them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
from conftest import Start

from kwsd.cli import main as cli
from kwsd.config import Config, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Frames, Runtime, State
from kwsd.protocol.commands import CalibrationPut, Clips, Speakers, Status, Words
from kwsd.protocol.data import WordThreshold
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint, VoiceprintError, VoiceprintStore
from kwsd.state.words import AddedWord, WordError, WordStore, from_bytes, to_bytes

GOLDEN = Path(__file__).parent / "golden" / "state-0.1.0"
BAD = {
    "pipe.voiceprint": "it is a pipe, not a file",
    "device.voiceprint": "it is a symbolic link, not a file",
    "short.voiceprint": "it is no archive of arrays, or was cut off",
    "folder.word": "it is a folder, not a file",
    "loop.word": "it is a symbolic link, not a file",
    "huge.word": "it has 1000000000000 bytes",
    "deep.word": "it is no archive of arrays, or was cut off",
    "room.calibration": "it nests too deep",
    "clips/20261126-012138-computer.json": "it nests too deep",
    "peaks.jsonl": "it is a pipe, not a file",
}
"""Files, and what is said of them."""


@pytest.fixture
def state(tmp_path: Path, deaf_banana: AddedWord) -> Path:
    """A state directory with a voiceprint, a word and two clips that can be used, and much else."""
    folder = tmp_path / "state"
    shutil.copytree(GOLDEN, folder)
    (folder / "hey_banana.word").write_bytes(to_bytes(deaf_banana))
    deep = b"[" * 100_000
    os.mkfifo(folder / "pipe.voiceprint")
    (folder / "device.voiceprint").symlink_to("/dev/zero")
    whole = (folder / "ann.voiceprint").read_bytes()
    (folder / "short.voiceprint").write_bytes(whole[:-100])
    (folder / "folder.word").mkdir()
    (folder / "loop.word").symlink_to("loop.word")
    (folder / "huge.word").touch()
    os.truncate(folder / "huge.word", 10**12)
    (folder / "deep.word").write_bytes(deep)
    (folder / "room.calibration").write_bytes(b'{"format":1,"x":' + deep)
    (folder / "clips" / "20261126-012138-computer.json").write_bytes(b'{"x":' + deep)
    (folder / "peaks.jsonl").unlink()
    os.mkfifo(folder / "peaks.jsonl")
    return folder


def test_the_daemon_goes_on_and_says_so_once_in_the_log_and_in_its_status(
    start: Start, state: Path, scene_wav: Path, bundle: Bundle
) -> None:
    config = state.parent / "kwsd.yaml"
    config.write_text("words: {computer: , deep: }\nclips: on\n")
    daemon = start("--config", str(config), "--source", str(scene_wav), "--wait-for-client")
    with daemon.connect() as client:
        client.request(Clips())  # the disk's thread has read everything by then
        unusable = client.request(Status()).unusable
        for name, why in BAD.items():
            (said,) = [text for text in unusable if str(state / name) in text]
            assert why in said
            assert "\n" not in said
        assert len(unusable) == len(BAD)
        assert [one.name for one in client.request(Speakers()).speakers] == ["ann"]
        assert [one.name for one in client.request(Words()).words] == ["hey_banana"]
        assert len(client.request(Clips()).clips) == 2
        client.request(CalibrationPut(words={"computer": threshold(bundle)}))  # one that is damaged
        assert len(client.request(Status()).unusable) == len(BAD) - 1
        wakes = [event.word for event in client.events(types=["wake"])]
    assert wakes.count("computer") == 2
    assert daemon.wait() == 0
    log = daemon.log.read_text()
    for name in BAD:
        kept = 1 if name == "peaks.jsonl" else 0  # no stretch of peaks could be kept
        assert log.count(f"{state / name}: ") == 1 + kept, name
    assert "Traceback" not in log


def threshold(bundle: Bundle) -> WordThreshold:
    """Return a threshold that lets "computer" wake."""
    return WordThreshold(0.3, bundle.words["computer"].id, 0.1, 1.0, 1.0)


def test_detect_names_them_and_succeeds(state: Path, scene_wav: Path) -> None:
    done = forked.run(["-m", "kwsd", "detect", "--state", str(state), str(scene_wav)])
    assert done.returncode == 0
    words = [json.loads(line)["word"] for line in done.stdout.splitlines()]
    assert words.count("computer") >= 2
    for name, why in BAD.items():
        if "/" not in name and name != "peaks.jsonl":  # detect reads neither clips nor peaks
            (line,) = [line for line in done.stderr.splitlines() if f"{state / name}: " in line]
            assert why in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["speakers", "word list", "config show", "clips list"])
def test_verbs_over_a_folder_name_them_once_as_other_errors(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    empty = tmp_path / "c.yaml"
    empty.write_text("")
    at = ["--state", str(state), "--config", str(empty)]
    assert cli.main([*verb.split(), *at]) == 0
    said = capsys.readouterr().err.splitlines()
    named = [name for name in BAD if any(f"kwsd: {state / name}: " in line for line in said)]
    assert named
    assert len(said) == len(named)


@pytest.mark.parametrize("name", ["deep.word", "folder.word", "loop.word", "pipe.voiceprint"])
def test_import_fails_by_name(
    state: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["word", "import", str(state / name), "--state", str(tmp_path / "other")]
    assert cli.main(arguments) == cli.DATA
    said = capsys.readouterr().err
    assert said.startswith(f"kwsd: {state / name}: ")
    assert said.count("\n") == 1


def test_a_word_that_is_named_must_be_usable(
    state: Path, scene_wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["detect", "--state", str(state), "--words", "computer,deep", str(scene_wav)]
    assert cli.main(arguments) == cli.CONFIGURATION
    said = capsys.readouterr().err
    assert f"words: 'deep' cannot be used: {state / 'deep.word'}: damaged" in said
    run = ["run", "--state", str(state), "--words", "deep", "--socket", str(state / "s")]
    assert cli.main([*run, "--source", str(scene_wav)]) == cli.CONFIGURATION


def test_a_detector_without_any_word_hears_nothing(
    bundle: Bundle, runtime: Runtime, scene: np.ndarray
) -> None:
    library = Library(unusable_words={"deep": VoiceprintError("damaged")})
    setup = resolve(Config(words={"deep": WordConfig()}), bundle, library)
    assert dict(setup.words) == {}
    step = Detector(bundle, setup, runtime).feed(scene)
    assert step.wakes == ()
    assert step.trace.scores.shape == (len(scene) // bundle.chunk_samples, 0)


def test_a_broken_model_never_wakes_and_sends_no_nan(
    bundle: Bundle, runtime: Runtime, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = runtime.encoder.step

    def broken(mel: np.ndarray, state: State) -> tuple[Frames, State]:
        frames, after = step(mel, state)
        return replace(frames, logits=np.full_like(frames.logits, np.nan)), after

    monkeypatch.setattr(runtime.encoder, "step", broken)
    found = Detector(bundle, resolve(Config(), bundle), runtime).feed(scene)
    assert found.wakes == ()
    assert (found.trace.scores == 0).all()


def test_out_of_descriptors_a_library_is_unknown_not_empty(
    state: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = StateHandlers(state, bundle, Config)
    handlers.library()
    before = handlers.unusable

    def starved(path: Path, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr("kwsd.bounded.file.os.open", starved)
    with pytest.raises(OSError, match="Too many open files"):
        handlers.library()
    assert handlers.unusable == before


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, 1e38, 2e6])
def test_no_word_has_scores_that_are_not_numbers(deaf_banana: AddedWord, weight: float) -> None:
    weights = deaf_banana.weights.copy()
    weights[0, 0] = weight
    for odd in (replace(deaf_banana, weights=weights), replace(deaf_banana, bias=weight)):
        with pytest.raises(WordError, match=r"it: damaged, or not a kwsd word file"):
            from_bytes(to_bytes(odd), deaf_banana.encoder_id, "it")
    most = np.full_like(deaf_banana.weights, 1e6)
    word = from_bytes(to_bytes(replace(deaf_banana, weights=most)), deaf_banana.encoder_id, "it")
    frames = np.full((20, most.shape[1]), 1e20, np.float32)
    assert np.isfinite(word.logits(frames)).all()


@pytest.mark.parametrize(
    "change", [{"length_s": 1e999}, {"length_s": 1e9}, {"threshold": np.nan}, {"offsets": ()}]
)
def test_a_word_has_finite_lengths_and_thresholds(
    deaf_banana: AddedWord, tmp_path: Path, change: dict[str, object]
) -> None:
    odd = replace(deaf_banana, **change)  # type: ignore[arg-type]
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    with pytest.raises(WordError, match=r"could not be saved .*nothing was changed"):
        store.save(odd)
    assert list(tmp_path.iterdir()) == []
    store.path(odd.name).write_bytes(to_bytes(odd))
    with pytest.raises(WordError, match="damaged"):
        store.load(odd.name)


def test_vectors_of_another_length_than_the_encoders_are_refused(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord
) -> None:
    assert (bundle.voice_dim, bundle.frame_dim) == (64, 96)
    narrow = replace(
        deaf_banana,
        weights=deaf_banana.weights[:, :5],
        takes=deaf_banana.takes[..., :5],
        wrong=np.zeros((0, 1, 5), np.float16),
    )
    WordStore(tmp_path, bundle.encoder_id).save(narrow)
    short = Voiceprint("ann", bundle.encoder_id, np.eye(3, 5, dtype=np.float32), 1.0)
    VoiceprintStore(tmp_path, bundle.encoder_id).save(short)
    handlers = StateHandlers(tmp_path, bundle, Config)
    library = handlers.library()
    assert (library.words, library.voiceprints) == ({}, {})
    word, voiceprint = sorted(handlers.unusable, reverse=True)
    assert "its weights and frames do not have 96 numbers" in word + voiceprint
    assert "its takes have 5 numbers, and the encoder's have 64" in word + voiceprint


@pytest.mark.parametrize(
    ("takes", "why"),
    [
        (np.zeros((0, 64)), "it holds no takes"),
        (np.full((3, 64), 1e38), "its takes are not of unit length"),
        (np.zeros((3, 64)), "its takes are not of unit length"),
        (np.array([[1.0, 0.0], [-1.0, 0.0]]), "its takes cancel each other out"),
        (np.full((3, 64), np.nan), "holds what is not a number"),
    ],
)
def test_a_voiceprint_has_a_direction(tmp_path: Path, takes: np.ndarray, why: str) -> None:
    store = VoiceprintStore(tmp_path, "e")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of a mean that is none
        odd = Voiceprint("ann", "e", takes.astype(np.float32), 1.0)
    with pytest.raises(VoiceprintError, match=why):
        store.save(odd)
    store.path("ann").write_bytes(store.to_bytes(odd))
    with pytest.raises(VoiceprintError, match=f"ann-49915e.voiceprint: damaged .*{why}"):
        store.load("ann")


def test_what_is_repaired_and_breaks_again_is_said_again(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = StateHandlers(tmp_path, bundle, Config)
    file = tmp_path / "x.word"
    for damaged in (True, True, False, True):
        if damaged:
            file.write_bytes(b"x")
        else:
            file.unlink()
        handlers.library()
        assert bool(handlers.unusable) == damaged
    assert caplog.text.count("x.word: damaged") == 2
