"""The second stage: distilled, tuned and exported from tiny random teachers of every family."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import checkers
import numpy as np
import pytest
import torch
from conftest import VOICES, hiss, say, train, training_data
from test_teachers import checkpoint
from torch import nn

from kwsd.config import Config, ConfigError, VadConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.manifest import CHECKED_FLOOR
from kwsd.model.runtime import Runtime
from kwsd.ort import onnxruntime
from kwsd.training import figures
from kwsd.training.data.corpora import Recording, write_store
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.voice_rooms import TAKES, VoiceRooms, VoiceSettings
from kwsd.training.data.windows import (
    PEAK,
    REMEMBERED,
    WINDOW_SAMPLES,
    Draw,
    WindowPair,
    Windows,
    at_peak,
)
from kwsd.training.models.checker import SpokenHead
from kwsd.training.models.checkpoint import load as checkpoint_of
from kwsd.training.models.transformer import MelStem, Transformer
from kwsd.training.models.voice_network import VoiceNetwork
from kwsd.training.settings.catalog import default_words
from kwsd.training.stages.checker import candidates, export, objectives, tune, voices
from kwsd.training.stages.checker.candidates import (
    MARGIN_SAMPLES,
    Candidates,
    CandidateSettings,
)

SMALL = [
    "distill.steps=4",
    "distill.batch=2",
    "distill.thin_windows=3",
    "distill.heads=1",
    "distill.hidden=8",
    "distill.layers=[1,3]",
    "distill.checkpoint_every=2",
    "candidates.word_scenes=4",
    "candidates.held_back_scenes=4",
    "candidates.passes=0",
    "tune.head_steps=1",
    "tune.steps=2",
    "tune.layers=[1,3]",
    "tune.voice_layers=[0,1]",
    "spoken.vocabulary=0",
    "spoken.syllables=false",
    "spoken.takes=4",
    "spoken.heard=1",
    "tune.spoken=0.3",
    "tune.spoken_words=4",
    "tune.frozen_blocks=1",
    "tune.candidates=4",
    "tune.windows=2",
    "tune.voices={people: 3, devices: 2}",
    "words.steps=3",
    "words.layers=[1,3]",
    "words.words=4",
    "words.width=8",
    "words.checkpoint_every=2",
    "export.voices=true",
]
SMALL_VOICES = [
    "steps=3",
    "windows=70",
    "share=0.3",
    "weight=0.2",
    "heard={devices: 3}",
    "pairs=4",
    "groups=2",
    "width=8",
    "checkpoint_every=2",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of wake words, other words and noise, and rooms."""
    work = tmp_path_factory.mktemp("work")
    words = {text: text.replace(" ", "_") for text in default_words().texts.values()}
    near = (
        "commuter",
        "a lexus",
        "view grass",
        "snow toy",
        "smart minor",
        "service",
        "good evening",
    )
    texts = {**words, **dict.fromkeys(near, "")}
    voices = (*VOICES, "en-gb+m2", "en-us+f1", "en-gb+f4", "en-us+m4", "en-us+m6")
    takes = [  # some of the voices are so near to each other that only their pace differs
        (say(text, voice, 130 + 7 * n), "pico" if label else "gsc", voice, label)
        for n, voice in enumerate(voices)
        for text, label in texts.items()
    ]
    noise = [(hiss(3.0, 300, seed=n), "noise_esc10", str(n), "") for n in range(8)]
    training_data(work, [*takes, *noise])
    return work


@pytest.fixture(scope="module")
def data(work: Path) -> TrainingData:
    return TrainingData.of(work, work / "rirs.npz")


def test_windows_are_at_one_peak_and_degraded(data: TrainingData) -> None:
    windows = Windows(data, 3, seed=1)
    raw = next(iter(windows))
    pair = windows.prepare(raw)
    assert pair.clean.shape == pair.heard.shape == (3, WINDOW_SAMPLES)
    for part in (pair.clean, pair.heard):
        assert torch.allclose(part.abs().amax(1), torch.full((3,), PEAK * 32768), rtol=1e-4)
    assert not torch.allclose(pair.clean, pair.heard, atol=100)
    again = next(iter(Windows(data, 3, seed=1)))
    assert torch.equal(raw.clean, again.clean)


def test_a_window_is_heard_again_in_other_noise(data: TrainingData) -> None:
    """It comes again within the steps that are remembered, as it was."""
    known: dict[Draw, tuple[torch.Tensor, torch.Tensor]] = {}
    heard_again = 0
    windows = Windows(data, 4, seed=1, views=2)
    for step, raw in enumerate(itertools.islice(windows, 40)):
        pair = windows.prepare(raw)
        assert pair.draws[:2] == [(step, 0), (step, 1)]
        assert len(set(pair.draws)) == 4
        assert all(0 < step - draw[0] <= REMEMBERED for draw in pair.draws[2:])
        for draw, clean, heard in zip(pair.draws, pair.clean, pair.heard, strict=True):
            if draw in known:
                heard_again += 1
                assert torch.equal(clean, known[draw][0])
                assert not torch.equal(heard, known[draw][1])
            known[draw] = clean, heard
    assert heard_again > 10


def test_a_step_hears_the_same_whoever_hears_it(data: TrainingData) -> None:
    """A run that resumes, and two processes with half of the batch each."""

    def heard(batch: int, steps: int = 1, first: int = 2, rank: int = 0) -> WindowPair:
        windows = Windows(data, batch, seed=1, first=first, rank=rank)
        *_, last = itertools.islice(windows, steps)
        return windows.prepare(last)

    whole = heard(4, steps=3, first=0)
    later = heard(4)
    halves = [heard(2, rank=rank) for rank in (0, 1)]
    for name in ("clean", "heard"):
        expected = getattr(whole, name)
        assert torch.equal(getattr(later, name), expected)
        both = torch.cat([getattr(half, name) for half in halves])
        assert torch.allclose(both, expected, atol=0.1)
    assert [*halves[0].seeds, *halves[1].seeds] == whole.seeds


def test_two_processes_learn_as_one_with_the_double_batch(work: Path, tmp_path: Path) -> None:
    """So does one with the gradients of two batches averaged: the same losses, step by step."""
    checkpoint("whisper", tmp_path / "teacher")
    rows = []
    for processes, batch, accumulate in ((1, 4, 1), (2, 2, 1), (1, 2, 2)):
        folder = tmp_path / f"{processes}-{accumulate}"
        folder.mkdir()
        for path in work.iterdir():
            (folder / path.name).symlink_to(path)
        arguments: list[str | Path] = ["checker", "--only", "distill"]
        arguments += ["--work", folder, "--data", work]
        arguments += ["--models", bundles.default_path(), "--teacher", tmp_path / "teacher"]
        changes = [f"distill.batch={batch}", f"distill.accumulate={accumulate}"]
        changes += ["distill.views=1", "distill.log_every=1", "distill.mixed_precision=false"]
        for change in (*SMALL, *changes):
            arguments += ["--set", change]
        if processes == 1:
            assert train(*arguments) == 0
        else:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            launch += ["--nproc-per-node", "2", "-m", "kwsd", "train"]
            done = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        found = figures.read(folder / "checker" / "distilled.csv")
        rows.append({(row["step"], row["figure"]): float(row["value"]) for row in found})
    assert len(rows[0]) == 4 * 3
    assert rows[1] == pytest.approx(rows[0], rel=1e-4)
    assert rows[2] == pytest.approx(rows[0], rel=1e-4)


def test_voices_share_devices_but_no_person_shares_one_with_themselves(data: TrainingData) -> None:
    settings = VoiceSettings(people=4, devices=2, shared=1.0, telephone=0.0)
    rooms = VoiceRooms(data, settings, seed=2)
    raw = next(iter(rooms))
    assert raw.person[::TAKES].tolist() == raw.person[1::TAKES].tolist()
    microphones = [tuple(row.tolist()) for row in raw.degradation.microphone]
    assert len(set(microphones)) == 2
    assert all(first != second for first, second in zip(*[iter(microphones)] * 2, strict=True))
    heard, person = rooms.prepare(raw)
    assert heard.shape == (8, WINDOW_SAMPLES)
    assert len(person) == 8


def test_candidates_are_what_the_first_stage_thinks_it_hears(
    data: TrainingData, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = CandidateSettings(word_scenes=6, held_back_scenes=0, passes=0.5, clean_passes=1)
    candidates.gather(data, bundle.path, tmp_path / "found", settings)
    found = Candidates.load(tmp_path / "found")
    assert len(found.word) > 3
    assert found.windows.shape[1] == WINDOW_SAMPLES + 2 * MARGIN_SAMPLES
    assert (found.spoken == found.word).sum() >= 3
    assert (found.stream >= 0.02).all()
    assert found.stream[found.spoken == found.word].max() > 0.5
    names = {path.stem for path in (tmp_path / "found").iterdir()}
    assert {"words-000", "clean0-gsc-000", "degraded1-gsc-000"} <= names
    assert found.hours.keys() == {
        "words",
        *(corpus + ending for corpus in ("gsc", "noise_esc10") for ending in ("", " degraded")),
    }
    assert found.hours["words"] == pytest.approx(6 * 8 / 3600, rel=0.01)
    caplog.set_level(logging.INFO)
    candidates.gather(data, bundle.path, tmp_path / "found", settings)
    assert not caplog.records, "what is there is not made again"
    with pytest.raises(FileNotFoundError, match="holds no candidates"):
        Candidates.load(tmp_path / "nothing")


def test_peaks_and_what_is_in_a_window_by_hand() -> None:
    scores = np.zeros(100)
    scores[[10, 20, 50]] = [0.5, 0.9, 0.3]  # 10 is 0.8 s before 20
    assert candidates._peaks(scores, 0.1) == [20, 50]
    words = [(4, 16000, 32000)]
    assert candidates._spoken(words, 32000 + 1000) == 4
    assert candidates._spoken(words, 32000 - 5000) == 4
    assert candidates._spoken(words, 25000) is None, "it is being said"
    assert candidates._spoken(words, 32000 + 12000) is None, "too late, and still in the window"
    assert candidates._spoken(words, 80000) == -1


def test_a_part_of_a_pass() -> None:
    assert candidates._shares(0) == []
    assert candidates._shares(0.25) == [0.25]
    assert candidates._shares(2.5) == [1.0, 1.0, 0.5]


def test_word_loss_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
    word, spoken = torch.tensor([0, 1]), torch.tensor([0, -1])

    def softplus(x: float) -> float:
        return float(np.log1p(np.exp(x)))

    first = softplus(-1.0) + 0.3 * (softplus(-2.0) + softplus(0.5))
    second = softplus(3.0) + 0.3 * (softplus(0.0) + softplus(-1.0))
    got = tune.word_loss(logits, word, spoken, 0.3).item()
    assert got == pytest.approx((first + second) / 2, rel=1e-6)


def test_the_distance_is_of_standardized_coordinates() -> None:
    """Against a loop in float64; a coordinate a thousand times as large counts no more."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 1000.0, 1.0])
    teacher = [torch.randn(2, 5, 3, generator=generator) * scale + 7 for _ in range(3)]
    student = [layer + 0.1 * scale * torch.randn(2, 5, 3, generator=generator) for layer in teacher]
    compare = objectives.Standardized([1, 2], 3)
    compare.fit(teacher)
    total = 0.0
    for n in (1, 2):
        frames = teacher[n].reshape(-1, 3).double().numpy()
        mean, deviation = frames.mean(0), frames.std(0, ddof=1)
        own = (student[n].reshape(-1, 3).double().numpy() - mean) / deviation
        want = (frames - mean) / deviation
        for a, b in zip(own, want, strict=True):
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            total += np.abs(a - b).mean() + np.log1p(np.exp(-cosine))
    loss, cosines = compare(student, compare.targets(teacher))
    assert loss.item() == pytest.approx(total / 20, rel=1e-4)
    assert all(0.9 < cosine < 1 for cosine in cosines)


def test_the_calibration_weighs_both_stages() -> None:
    rng = np.random.default_rng(0)
    own = np.arange(400) % 2 == 0
    checker = np.where(own, 3.0, -3.0) + rng.normal(0, 2, 400)
    found = Candidates(
        np.zeros((400, 1), np.int16),
        np.zeros(400, np.int64),
        np.where(own, 0, -1),
        rng.uniform(0.02, 1, 400).astype(np.float32),
        np.full(400, "words"),
        {"words": 1.0},
    )
    calibration = export.calibrate(checker[:, None], found)
    assert calibration.checker > 0.5
    assert 0 <= calibration.stream < 0.2, "it says nothing here"
    score = calibration.checker * checker + calibration.offset
    assert score[own].mean() > 1 > -1 > score[~own].mean()


class Loudness:
    """Stands for Resemblyzer: knows how loud a window is, in thirds."""

    def network(self) -> nn.Module:
        network = nn.Module()
        network.lstm = nn.LSTM(40, 8, 3)
        network.linear = nn.Linear(8, VoiceNetwork().dim)
        return network

    def windows(self, spoken: Sequence[np.ndarray]) -> np.ndarray:
        assert all(samples[0] and samples[-1] for samples in spoken), "no silence is asked about"
        levels = [[part.std() for part in np.array_split(samples, 3)] for samples in spoken]
        said = np.resize(levels, (VoiceNetwork().dim // 3 + 1, *np.shape(levels)))
        vectors = np.concatenate(list(said), axis=1)[:, : VoiceNetwork().dim]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def begin_with_bundle(family: str, work: Path, arguments: list[str | Path]) -> None:
    """The encoder that a bundle has is distilled on, elsewhere, from what it was."""
    other = work / "other"
    other.mkdir()
    for store in work.glob("*/audio.npy"):
        (other / store.parent.name).symlink_to(store.parent)
    again = [*arguments, "--only", "distill", "--work", other, "--set", "distill.start=bundle"]
    if family != "whisper":
        with pytest.raises(ConfigError, match="holds no thin copy of this teacher's encoder"):
            train(*again)
        return
    assert train(*again, "--set", "distill.rate=0") == 0
    begun, tuned = (
        checkpoint_of(path / "checker" / name, "encoder", Transformer)
        for path, name in ((other, "distilled.pt"), (work, "tuned.pt"))
    )
    assert isinstance(begun.stem, MelStem)
    assert isinstance(tuned.stem, MelStem)
    frames = begun.stem.positions.shape[0]
    held = tuned.state_dict() | {"stem.positions": tuned.stem.positions[:frames]}
    for name, weight in begun.state_dict().items():
        step = 2 * held[name].abs().amax() / 127
        assert (weight - held[name]).abs().amax() <= 0.75 * step + 1e-6, name


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm", "whisper"])
def test_any_teacher_to_one_checked_candidate(
    family: str, work: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "Voice", Loudness)
    checkpoint(family, tmp_path / "teacher")
    models = tmp_path / "models"
    shutil.copytree(bundle.path, models)
    for path in work.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if family == "whisper":
        held_back = [
            Recording(say(word, "en-gb+f3"), "pico", "v", word.replace(" ", "_"))
            for word in default_words().texts.values()
        ]
        held_back += [Recording(say("good evening to you"), "an4", f"v{n}", "") for n in range(3)]
        held_back.append(Recording(hiss(3.0), "noise_urban", "", ""))
        write_store(tmp_path / "val", held_back)
    arguments: list[str | Path] = ["checker", "--work", tmp_path, "--data", work]
    arguments += ["--models", models, "--teacher", tmp_path / "teacher"]
    for change in SMALL:
        arguments += ["--set", change]
    assert train(*arguments) == 0
    manifest = json.loads((models / "manifest.json").read_text())
    entry = manifest["checkers"]["small"]
    assert entry["input"] == ("mel" if family == "whisper" else "waveform")
    assert entry["samples"] == WINDOW_SAMPLES
    assert set(entry["words"]) == set(bundle.words)
    session = onnxruntime.InferenceSession(models / entry["file"])
    checker = export.load_checker(tmp_path / "checker" / "tuned.pt")
    found = Candidates.load(tmp_path / "checker" / "candidates")
    window = found.heard[:1]
    given = checker.encoder.given(torch.from_numpy(window.astype(np.float32)))
    logits, voice, spelled = checkers.run(session, given.numpy(), "logits", "voice", "words")
    assert logits.shape == (1, len(bundle.words))
    assert np.isfinite(logits).all()
    assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-4)
    assert spelled.shape == (1, SpokenHead.dim)
    assert np.linalg.norm(spelled) == pytest.approx(1, abs=1e-4)
    assert re.fullmatch("[0-9a-f]{16}", entry["word_id"])
    made = bundles.load(models)
    words = {word: WordConfig() for word in made.words}
    setup = resolve(Config(words=words, vad=VadConfig(enabled=False)), made)
    detector = Detector(made, setup)
    scores = detector.feed(np.concatenate([hiss(1.0), say("computer"), hiss(1.0)])).trace.scores
    assert detector.checker is not None
    assert detector.checker.checks > 0
    assert scores.max() > CHECKED_FLOOR
    for stage in ("distilled", "tuned"):
        rows = figures.read(tmp_path / "checker" / f"{stage}.csv")
        validated = [float(row["value"]) for row in rows if row["figure"] == "validation"]
        assert len(validated) == (2 if stage == "distilled" else 1) * (family == "whisper")
        assert all(0 < loss < 10 for loss in validated)
    distilled, tuned = (
        checkpoint_of(tmp_path / "checker" / f"{name}.pt", "encoder", Transformer).state_dict()
        for name in ("distilled", "tuned")
    )
    moved = {name for name in tuned if not torch.equal(tuned[name], distilled[name])}
    assert any(name.startswith("blocks.1.") for name in moved)
    assert not any(name.startswith(("stem.", "blocks.0.")) for name in moved), "it was frozen"
    trained = [tmp_path / "checker" / name for name in ("tuned.pt", "words.pt")]
    before = [path.read_bytes() for path in trained]
    assert train(*arguments, "--only", "distill,tune,words") == 0
    assert [path.read_bytes() for path in trained] == before, "a finished run is left alone"
    begin_with_bundle(family, tmp_path, arguments)

    # A network of voices is put beside the head that was tuned, and all else stays.
    parameters = manifest["parameters"]
    arguments = ["voices", "--work", tmp_path, "--data", work, "--models", models]
    for change in SMALL_VOICES:
        arguments += ["--set", change]
    assert train(*arguments) == 0
    after = json.loads((models / "manifest.json").read_text())
    voices_entry = {"file": "checker_voices.onnx", "share": 0.3}
    assert after["checkers"]["small"] == entry | {"voices": voices_entry, "voice_weight": 0.2}
    network = checkpoint_of(tmp_path / "voices.pt", "voice", VoiceNetwork)
    parameters["voices"] = sum(part.numel() for part in network.parameters())
    assert after["parameters"] == parameters
    grafted = bundles.load(models)
    assert grafted.checkers["small"].words == made.checkers["small"].words, "what was measured"
    assert grafted.checkers["small"].voice_id != made.checkers["small"].voice_id
    graph = Runtime(grafted).checker(grafted.checkers["small"])
    assert graph is not None
    spoken = say("computer").astype(np.float32)[:WINDOW_SAMPLES]
    padded = np.pad(spoken, (WINDOW_SAMPLES - len(spoken), 0))
    at_level = at_peak(torch.from_numpy(padded)[None])
    given = checker.encoder.given(at_level)
    (tuned_voice,) = checkers.run(session, given.numpy(), "voice")
    expected = network(network.bels(at_level / 32768))[0].numpy()
    both = np.concatenate([np.sqrt(0.7) * tuned_voice[0], np.sqrt(0.3) * expected])
    assert graph.voice(spoken) == pytest.approx(both, abs=0.02)  # by 8 bit
    asked = np.load(tmp_path / "voices" / "000.npz")
    assert asked["teacher"].shape == (70, VoiceNetwork().dim)
    assert len(np.unique(asked["teacher"], axis=0)) > 50
    without = [*arguments, "--set", "teacher=0"]
    with pytest.raises(ConfigError, match=r"made otherwise \(teacher\)"):
        train(*without)
    shutil.rmtree(tmp_path / "voices")
    (tmp_path / "voices.pt").unlink()
    assert train(*without) == 0
    assert np.load(tmp_path / "voices" / "000.npz")["teacher"].shape == (70, 0)


def test_a_checker_is_measured(work: Path, tmp_path: Path) -> None:
    """Voices that are joined get a cohort of their own, and words thresholds of their own; what
    holds without a checker stays."""
    models = checkers.write(tmp_path / "models", "small")
    arguments: list[str | Path] = ["--work", work, "--data", work, "--models", models]
    before = json.loads((models / "manifest.json").read_text())
    assert train("cohort", *arguments, "--set", "heard.devices=4", "--set", "heard.people=2") == 0
    assert train("evaluate", *arguments, "--write") == 0
    report = json.loads((work / "evaluation-small.json").read_text())
    assert report["checks_per_hour"] > 0
    assert {len(body["unasked"]) for body in report["words"].values()} == {5}
    after = json.loads((models / "manifest.json").read_text())
    assert after["words"] == before["words"]
    entry = after["checkers"]["small"]
    assert entry["cohort"] == "checker_cohort.npz"
    assert entry["speaker"] != after["speaker"]
    alone, both = (np.load(models / f"{name}cohort.npz")["cohort"] for name in ("", "checker_"))
    assert both.shape == (len(alone), alone.shape[1] + checkers.WORDS)
    people = len(both) - 4 * 2
    assert people > 2, "each of them is one voice as recorded; the others are takes in rooms"
    lengths = np.linalg.norm(both / 127, axis=1)
    assert np.abs(lengths - 1).max() < 0.01
    for word, body in entry["words"].items():
        strict = body["operating_points"][0]
        assert body["threshold"] == strict["threshold"] > CHECKED_FLOOR
        assert body["scores"] == report["words"][word]["scores"][0]
    (models / "manifest.json").write_text(json.dumps(after | {"checkers": before["checkers"]}))
    assert train("cohort", *arguments, "--set", "heard.devices=4", "--set", "heard.people=2") == 0
    assert train("evaluate", *arguments, "--only", "voices", "--write") == 0
    voices = json.loads((work / "evaluation-small-voices.json").read_text())
    assert voices["speakers_gsc"]["scale"] == report["speakers_gsc"]["scale"]
    assert "words" not in voices
    again = json.loads((models / "manifest.json").read_text())["checkers"]["small"]
    assert again["speaker"] == entry["speaker"]
    assert again["words"] == before["checkers"]["small"]["words"], "they are not measured"
    assert train("evaluate", *arguments, "--checker", "off") == 0
    plain = json.loads((work / "evaluation-off.json").read_text())
    assert "checks_per_hour" not in plain
    assert plain["words"]["computer"]["unasked"]["clean"] == 0
    assert plain["speakers_gsc"] != report["speakers_gsc"]
