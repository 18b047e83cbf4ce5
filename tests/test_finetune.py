"""Joint fine-tuning: both tasks move the encoder, unless it is frozen; a run resumes; what comes out goes on to the heads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kwsd.model.bundle import Bundle
from kwsd.training import encoder, finetune, settings, speaker
from kwsd.training.encoder import load_encoder, save
from kwsd.training.finetune import Joint, Settings
from kwsd.training.network import WORDS, Encoder
from tests.conftest import say

SMALL = Settings(steps=2, word_batch=2, voice_batch=4, checkpoint_every=1, log_every=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wake words and a sentence in six voices, rooms, and made-up vectors of a voice teacher."""
    work = tmp_path_factory.mktemp("work")
    voices = ("en-us", "en-us+f3", "en-gb+m3", "en-gb+f4", "en-us+m7", "en-us+f1")
    takes = [(voice, label, say(label.replace("_", " "), voice)) for voice in voices for label in (*WORDS, "it is raining again today")]
    (work / "recorded").mkdir()
    np.save(work / "recorded" / "audio.npy", np.concatenate([x for *_, x in takes]))
    starts = np.cumsum([0, *(len(x) for *_, x in takes[:-1])])
    rows = [f"{start}\t{len(x)}\tgsc\t{voice}\t{label}" for start, (voice, label, x) in zip(starts, takes, strict=True)]
    (work / "recorded" / "manifest.tsv").write_text("\n".join(["start\tsamples\tcorpus\tspeaker\tlabel", *rows]) + "\n")
    np.savez(work / "rirs.npz", rirs=np.random.default_rng(0).normal(0, 1, (10, 800)) * np.exp(-np.arange(800) / 100))
    torch.manual_seed(5)
    save(work / "start.pt", encoder=Encoder())
    return work


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    for module in (encoder, speaker):
        monkeypatch.setattr(module, "front_end", lambda: bundle.front_end)


def run(work: Path, out: Path, wanted: Settings) -> dict[str, torch.Tensor]:
    people = len(speaker.by_speaker(finetune.Corpora(work / "recorded"), development=False))
    np.save(out.with_suffix(".teacher.npy"), np.eye(people, 8, dtype=np.float32))
    finetune.train([work / "recorded"], work / "rirs.npz", work / "start.pt", out, wanted)
    return load_encoder(out).state_dict()


def test_all_parameters_move_and_a_run_resumes(work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    began = load_encoder(work / "start.pt").state_dict()
    out = tmp_path / "joint.pt"

    def cut_off(*args: object, **parts: object) -> None:
        save(*args, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(work, out, SMALL)
    with caplog.at_level(logging.INFO, "kwsd.training.finetune"):
        after = run(work, out, SMALL)
    told = [r.getMessage() for r in caplog.records]
    assert any("at step 1" in line for line in told)
    assert any("step 2/2  words" in line and "identity" in line for line in told)
    assert all(not torch.equal(began[name], after[name]) for name in began if name.endswith("weight"))
    kept = torch.load(out, weights_only=True)
    assert kept["step"] == 2
    assert all(torch.equal(kept["came"][name], began[name]) for name in began)  # what it is kept near is what it was
    assert speaker.load_head(out, "speaker").dim == 192


def test_a_frozen_encoder_stays(work: Path, tmp_path: Path) -> None:
    began = load_encoder(work / "start.pt").state_dict()
    after = run(work, tmp_path / "frozen.pt", replace(SMALL, frozen=True))
    assert all(torch.equal(began[name], after[name]) for name in began)


def test_either_task_reaches_the_encoder(bundle: Bundle) -> None:
    torch.manual_seed(0)
    joint = Joint(Encoder(), 6, torch.eye(2, 8), SMALL)
    mel = torch.randn(3, 8 * 30, 32)
    labels = torch.zeros(3, 30, len(WORDS), dtype=torch.int8)
    labels[0, 20, 1] = 1
    for task, batch in (("words", (mel, mel, labels)), ("voices", (mel, torch.tensor([0, 1, 5]), torch.tensor(0.2)))):
        joint.zero_grad()
        losses = joint(task, *batch)
        assert all(torch.isfinite(loss) for loss in losses)
        losses[0].backward()
        assert joint.encoder.first.weight.grad is not None
        assert joint.encoder.first.weight.grad.abs().sum() > 0
    _, distance = joint("words", mel, mel, labels)
    assert distance.item() == pytest.approx(0, abs=1e-6)  # it says of the clean take what it said when it came


def test_the_shipped_settings() -> None:
    shipped = settings.read("finetune", Settings, ["frozen=true", "steps=9"])
    assert (shipped.frozen, shipped.steps, shipped.voice) == (True, 9, 0.2)
