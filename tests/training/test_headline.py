"""The checker's student beside its teacher: both tuned alike, and what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train
from test_teachers import checkpoint

from kwsd.cli.output import USAGE
from kwsd.training.data.training_data import TrainingData
from kwsd.training.models.checkpoint import load, save
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings.catalog import default_roles
from kwsd.training.stages.headline import SAMPLES, Answers, LabeledWords, difference

SMALL = (
    "head_steps=2",
    "steps=2",
    "layers=[1, 3]",
    "voice_layers=[0, 1]",
    "words=4",
    "voices={people: 3, devices: 2}",
    "checkpoint_every=4",
    "log_every=2",
)


def test_a_student_that_is_its_teacher_answers_alike(commands: Path, tmp_path: Path) -> None:
    checkpoint("whisper", tmp_path / "teacher")
    whole = load_pretrained(tmp_path / "teacher").network
    save(tmp_path / "student.pt", encoder=whole)
    for path in commands.iterdir():
        (tmp_path / path.name).symlink_to(path)
    out = tmp_path / "headline.json"
    arguments: list[str | Path] = ["compare", "--work", tmp_path, "--data", commands, "--json", out]
    arguments += ["--encoder", tmp_path / "student.pt", "--teacher", tmp_path / "teacher"]
    changes = [part for change in SMALL for part in ("--set", change)]
    assert train(*arguments, *changes) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["classes"] == ["bed", "cat", "other", "silence"]
    assert found["teacher"] == found["student"]
    assert found["teacher"]["clips"] > 10
    assert found["teacher"]["people"] > 1
    assert 0 <= found["teacher"]["accuracy"] <= 1
    assert 0 <= found["teacher"]["eer"] <= 1
    assert found["teacher"]["parameters"] == whole.parameters_used(64)
    same = {"value": 0, "low": 0, "high": 0}
    assert found["difference"] == {"development": {"accuracy": same, "eer": same}}
    tuned = load(tmp_path / "headline" / "teacher.pt", "encoder", Transformer)
    first = "blocks.0.up.weight"
    assert not torch.equal(tuned.state_dict()[first], whole.state_dict()[first])


def test_settings_are_those_of_teacher_and_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("compare", "--work", tmp_path, "--data", tmp_path, "--set", "steps=1") == USAGE
    assert "--teacher" in capsys.readouterr().err


def test_words_are_drawn_in_the_shares_in_which_they_are_asked(commands: Path) -> None:
    data = TrainingData.of(commands, commands / "rirs.npz")
    labeled = LabeledWords(data, ["bed", "cat", "other", ""], 240, seed=1)
    batch = next(iter(labeled))
    bed, cat, other, silence = np.bincount(batch.label.numpy(), minlength=4) / 240
    assert bed + cat == pytest.approx(10 / 12, abs=0.08)
    assert other == pytest.approx(1 / 12, abs=0.05)
    assert silence == pytest.approx(1 / 12, abs=0.05)
    heard, label = labeled.prepare(batch)
    assert heard.shape == (240, SAMPLES)
    assert torch.equal(label, batch.label)
    loudest = heard.abs().amax(1)
    assert torch.allclose(loudest, torch.full_like(loudest, 16384.0))


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    right = rng.random(200) < 0.9
    speakers = [f"s{n % 20}" for n in range(200)]
    voices = rng.normal(size=(10, 1, 32)) + 0.8 * rng.normal(size=(10, 8, 32))
    people = list(voices / np.linalg.norm(voices, axis=2, keepdims=True))
    teacher = Answers(right, speakers, people)
    worse = right.copy()
    worse[np.flatnonzero(right)[::20]] = False
    lost = difference(Answers(worse, speakers, people), teacher)
    assert lost["accuracy"]["value"] == pytest.approx(worse.mean() - right.mean())
    assert lost["accuracy"]["low"] < lost["accuracy"]["value"] < lost["accuracy"]["high"] <= 0
    unpaired = 2 * 1.96 * np.sqrt(2 * 0.9 * 0.1 / 200)
    assert lost["accuracy"]["high"] - lost["accuracy"]["low"] < unpaired
    assert lost["eer"] == {"value": 0, "low": 0, "high": 0}
    noise = [rng.normal(size=person.shape) for person in people]
    deaf = [person / np.linalg.norm(person, axis=1, keepdims=True) for person in noise]
    apart = difference(Answers(right, speakers, deaf), teacher)["eer"]
    assert 0 < apart["low"] <= apart["value"] <= apart["high"]
    silent = Answers(np.zeros(0, bool), [], people)
    assert silent.figures()["accuracy"] is None
    assert difference(silent, silent)["accuracy"] is None


def test_corpora_of_words_are_known_by_the_beginning_of_their_names() -> None:
    roles = default_roles()
    assert roles.has_single_words("gsc_v2test")
    assert not roles.has_single_words("libri")
