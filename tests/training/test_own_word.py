"""A word of one's own from a manifest to a bundle: unpack, finetune, heads, export, detect."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import say, train

from kwsd.cli import train as verb
from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import StreamingEncoder
from kwsd.training import features
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.bundle_writer import BundleWriter
from kwsd.training.data import importers
from kwsd.training.data.corpora import Corpora, describe
from kwsd.training.models.checkpoint import load, save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHeads, WakeHead
from kwsd.training.settings.catalog import default_roles, read_roles, read_words
from kwsd.training.stages import unpack

WORDS = """
porridge:
  near: [orange, forage]
green_tea: {text: green tea}
"""
ROLES = """
no_speech: [noise]
synthetic: synthetic
not_people: [synthetic]
other_language: []
word_accuracy: [kitchen]
speaker_groups: {all: [kitchen]}
negatives_s: {kitchen: 10}
"""


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with a manifest of two new words and of other speech in six voices, and rooms."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [["file", "start", "samples", "corpus", "speaker", "label"]]
    for n, voice in enumerate(
        ("en-us", "en-us+f3", "en-gb+m3", "en-gb+f4", "en-us+m7", "en-us+f1")
    ):
        for text in ("porridge", "green tea", "it is raining again today"):
            name = f"{n}-{text.replace(' ', '_')}.wav"
            soundfile.write(folder / name, say(text, voice), 16000)
            rows.append([name, "", "", "kitchen", f"person{n}", text if "rain" not in text else ""])
    noise = np.random.default_rng(0).normal(0, 300, 64000).astype(np.int16)
    soundfile.write(folder / "fridge.wav", noise, 16000)
    rows.append(["fridge.wav", "", "", "noise_kitchen", "", ""])
    with (folder / "manifest.tsv").open("w", newline="") as lines:
        csv.writer(lines, delimiter="\t").writerows(rows)
    decay = np.exp(-np.arange(800) / 100)
    rirs = np.random.default_rng(0).normal(0, 1, (10, 800)) * decay
    np.savez(folder / "rirs.npz", rirs=rirs)
    return folder


def test_a_word_of_ones_own_from_a_manifest_to_the_detector(
    recordings: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)
    work = tmp_path / "work"
    models = tmp_path / "models"
    work.mkdir()
    (work / "words.yaml").write_text(WORDS)
    (work / "corpora.yaml").write_text(ROLES)
    assert train("unpack", "--data", recordings, "--work", work) == 0
    corpora = Corpora(work / "recorded", words=read_words(work), roles=read_roles(work))
    assert {u.word for u in corpora.utterances} == {-1, 0, 1}
    torch.manual_seed(0)
    save(work / "distilled.pt", encoder=Encoder())
    (work / "targets" / "voice").mkdir(parents=True)
    people = sorted({u.person for u in corpora.utterances if u.person})
    vectors = np.eye(len(people), 8)
    np.savez(work / "targets" / "voice" / "voices.npz", people=np.array(people), vectors=vectors)
    stage = ("--data", recordings, "--work", work)
    small = ("--set", "steps=2", "--set", "word_batch=2", "--set", "voice_batch=4")
    assert train("finetune", *stage, *small) == 0
    tiny = {"steps": 4, "passes": 1, "word_takes": 2, "positives": 16, "negatives": 40, "hard": 8}
    tiny |= {"hard_pool": 50, "mine_every": 2}
    changes = [part for key, value in tiny.items() for part in ("--set", f"wake.{key}={value}")]
    assert train("heads", *stage, "--only", "wake", *changes) == 0
    assert train("export", *stage, "--models", models, "--only", "student", "--float") == 0
    save(work / "speaker.pt", head=SpeakerHeads(2, fine=64).eval())
    with pytest.raises(FileNotFoundError, match="holds no corpora yet"):
        train("export", "--data", recordings, "--work", tmp_path / "empty", "--models", models)
    assert train("export", *stage, "--models", models, "--only", "speaker") == 0
    made = BundleRuntime(models, gated=False)
    assert made.words == ["porridge", "green_tea"]
    scores = made.scores(np.concatenate([say("porridge"), np.zeros(16000, np.int16)]))
    assert scores.shape[1] == 2
    assert np.isfinite(scores).all()


def test_a_word_of_ones_own_behind_the_encoder_that_ships(
    recordings: Path, tmp_path: Path, bundle: Bundle, scene: np.ndarray
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    models = Path(shutil.copytree(bundle.path, tmp_path / "models"))
    (work / "words.yaml").write_text(WORDS)
    (work / "corpora.yaml").write_text(ROLES)
    assert train("unpack", "--data", recordings, "--work", work) == 0
    stage = ("--data", recordings, "--work", work)
    tiny = {"steps": 4, "passes": 1, "word_takes": 2, "positives": 16, "negatives": 40, "hard": 8}
    tiny |= {"hard_pool": 50, "mine_every": 2}
    changes = [part for key, value in tiny.items() for part in ("--set", f"wake.{key}={value}")]
    with pytest.raises(ConfigError, match="is a bundle"):
        train("heads", *stage, "--encoder", models, *changes)
    assert train("heads", *stage, "--encoder", models, "--only", "wake", *changes) == 0
    assert train("export", *stage, "--models", models, "--only", "wake") == 0
    assert train("export", *stage, "--models", models, "--only", "wake") == 0, "and once more"
    made = bundles.load(models)
    assert list(made.words) == ["porridge", "green_tea"]
    assert made.encoder_id == bundle.encoder_id
    assert not made.checkers
    mel = features.mel_of(bundle.front_end, scene[: len(scene) // 1280 * 1280])
    before, after = (StreamingEncoder(one) for one in (bundle, made))
    shipped, _ = before.step(mel, before.zero_state())
    frames, _ = after.step(mel, after.zero_state())
    np.testing.assert_array_equal(frames.embedding, shipped.embedding)
    np.testing.assert_array_equal(frames.intermediate, shipped.intermediate)
    head = load(work / "wake.pt", "head", WakeHead).eval()
    logits, timing, _ = head(torch.from_numpy(frames.embedding)[None], head.zero_state())
    np.testing.assert_allclose(frames.logits, logits[0].detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(frames.timing, timing[0].detach().numpy(), atol=1e-4)
    # A stream in pieces gives the same.
    state = after.zero_state()
    pieces = []
    for at in range(0, len(mel), 24):
        piece, state = after.step(mel[at : at + 24], state)
        pieces.append(piece.logits)
    np.testing.assert_allclose(np.concatenate(pieces), frames.logits, atol=1e-4)


def test_exporting_one_part_again_keeps_the_rest(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles.default_path(), tmp_path / "models"))
    before = json.loads((folder / "manifest.json").read_text())
    with BundleWriter(folder) as writer:
        shutil.copy(folder / "negatives.npz", writer.file("negatives.npz"))
    assert json.loads((folder / "manifest.json").read_text()) == before

    def interrupted() -> None:
        with BundleWriter(folder) as writer:
            writer.file("student.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert bundles.load(folder).encoder_id == before["encoder_id"]
    assert not (folder / ".partial").exists()


def test_the_words_of_the_models_and_bad_files(tmp_path: Path) -> None:
    assert read_words(tmp_path).names == tuple(bundles.load().words)
    (tmp_path / "words.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="names no word"):
        read_words(tmp_path)
    (tmp_path / "words.yaml").write_text("hey you: {}")
    with pytest.raises(ConfigError, match="write 'hey_you'"):
        read_words(tmp_path)
    (tmp_path / "corpora.yaml").write_text(ROLES.replace("all:", "some:"))
    with pytest.raises(ConfigError, match="has no group 'all'"):
        read_roles(tmp_path)


@pytest.mark.parametrize("layout", sorted(importers.LAYOUTS.keys() - {"collected"}))  # has many
def test_an_imported_corpus_has_a_role_in_every_later_stage(layout: str) -> None:
    roles = default_roles()
    assert describe("s", 0, 9, layout, "x", "").person == f"{layout}/x"
    assert layout in roles.speaker_groups["all"]
    assert layout in roles.negatives_s


def test_the_help_needs_no_torch_and_names_every_stage() -> None:
    code = (
        "import sys, argparse\n"
        "sys.modules['torch'] = None\n"
        "from kwsd.cli import train\n"
        "parser = argparse.ArgumentParser(prog='kwsd train')\n"
        "train.add_arguments(parser)\n"
        "print(parser.format_help())\n"
        "sys.exit(train.run(parser.parse_args(['align', '--work', sys.argv[1]])))\n"
    )
    command = [sys.executable, "-c", code, "/tmp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 69
    assert "./dev setup train in a checkout" in done.stderr
    for stage, help in verb.STAGES.items():
        assert stage in done.stdout
        assert help.split()[0] in done.stdout
    assert unpack.LAYOUTS == verb.LAYOUTS
