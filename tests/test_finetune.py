"""Joint fine-tuning: both tasks move the encoder, unless it is frozen; a run resumes; what comes out goes on to the heads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import say, train_on_two_processes, training_data
from torch.utils.data import DataLoader

from kwsd.audio.log_mel import LogMel
from kwsd.model.bundle import Bundle
from kwsd.training import settings
from kwsd.training.data.scenes import mel_of
from kwsd.training.data.transcripts import Spoken
from kwsd.training.models import backbone as trunk
from kwsd.training.models.checkpoint import load, load_encoder, save
from kwsd.training.models.network import WORDS, Encoder, SpeakerHead, SpeakerHeads
from kwsd.training.stages import finetune, speaker
from kwsd.training.stages.cache import Voices
from kwsd.training.stages.finetune import Joint, Settings

SMALL = Settings(steps=2, word_batch=2, voice_batch=4, checkpoint_every=1, log_every=1, held_out=["computer"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wake words and a sentence in six voices, rooms, and made-up vectors of a voice teacher."""
    work = tmp_path_factory.mktemp("work")
    voices = ("en-us", "en-us+f3", "en-gb+m3", "en-gb+f4", "en-us+m7", "en-us+f1")
    labels = (*WORDS, "it is raining again today")
    training_data(work, ((say(label.replace("_", " "), voice), "gsc", voice, label) for voice in voices for label in labels))
    (work / "voice").mkdir()
    np.savez(work / "voice" / "voices.npz", people=np.array([f"gsc/{voice}" for voice in voices]), vectors=np.eye(6, 8))
    torch.manual_seed(5)
    save(work / "start.pt", encoder=Encoder())
    return work


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setattr(trunk, "front_end", lambda: bundle.front_end)


def run(work: Path, out: Path, wanted: Settings) -> dict[str, torch.Tensor]:
    known = Voices(work / "voice")
    finetune.train([work / "recorded"], work / "rirs.npz", Spoken(work / "none.tsv"), known, work / "start.pt", out, wanted)
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
    with caplog.at_level(logging.INFO, "kwsd.training.stages.finetune"):
        after = run(work, out, SMALL)
    told = [r.getMessage() for r in caplog.records]
    assert any("step 1 of 2" in line for line in told)
    assert any("step 2/2  wake" in line and "identity" in line for line in told)
    assert all(not torch.equal(began[name], after[name]) for name in began if name.endswith("weight"))
    kept = torch.load(out, weights_only=True)
    assert kept["step"] == 2
    assert kept["words"] == ["", "alexa", "it is raining again today", "jarvis", "smart mirror", "snowboy", "view glass"]  # less what is held out
    assert all(torch.equal(kept["came"][name], began[name]) for name in began)  # what it is kept near is what it was
    assert load(out, "speaker", SpeakerHead).shape["tap"] == 384


def test_a_normed_student_stays_normed_until_it_is_frozen(work: Path, tmp_path: Path) -> None:
    torch.manual_seed(6)
    normed, known, spoken = Encoder(0.5, normed=True), Voices(work / "voice"), Spoken(work / "none.tsv")
    save(tmp_path / "normed.pt", encoder=normed)
    folded = normed.eval().folded().state_dict()
    for name, frozen in (("tuned.pt", False), ("frozen.pt", True)):
        finetune.train([work / "recorded"], work / "rirs.npz", spoken, known, tmp_path / "normed.pt", tmp_path / name, replace(SMALL, frozen=frozen))
    kept = torch.load(tmp_path / "tuned.pt", weights_only=True)
    assert kept["shapes"]["encoder"]["normed"]
    assert int(kept["encoder"]["norms.0.num_batches_tracked"]) == 4  # two batches of words and two of voices
    frozen_after = torch.load(tmp_path / "frozen.pt", weights_only=True)["encoder"]
    for part in (kept["came"], frozen_after):
        assert part.keys() == folded.keys()
        assert all(torch.equal(part[name], folded[name]) for name in folded)


def test_speaker_heads_from_two_seeds(work: Path, tmp_path: Path) -> None:
    wanted = speaker.Settings(steps=2, batch=4, crop_chunks=[10, 11], heads=2)
    arguments = [work / "recorded"], work / "rirs.npz", Voices(work / "voice"), work / "start.pt", tmp_path / "speaker.pt", wanted
    speaker.train(*arguments)
    first, second = (load(tmp_path / f"speaker.{n}.pt", "head", SpeakerHead) for n in range(2))
    assert not torch.equal(first.out[1].weight, second.out[1].weight)  # type: ignore[arg-type]
    both = load(tmp_path / "speaker.pt", "head", SpeakerHeads)
    heard = torch.randn(3, 40, 384), torch.randn(3, 10, 96), torch.randn(3, 80, 64)
    torch.testing.assert_close(both(*heard), torch.cat([first(*heard), second(*heard)], dim=1) / 2**0.5)
    written = (tmp_path / "speaker.0.pt").stat().st_mtime_ns
    speaker.train(*arguments)
    assert (tmp_path / "speaker.0.pt").stat().st_mtime_ns == written  # what is done is not done again


def test_a_frozen_encoder_stays(work: Path, tmp_path: Path) -> None:
    began = load_encoder(work / "start.pt").state_dict()
    after = run(work, tmp_path / "frozen.pt", replace(SMALL, frozen=True))
    assert all(torch.equal(began[name], after[name]) for name in began)


def test_either_task_reaches_the_encoder(bundle: Bundle) -> None:
    torch.manual_seed(0)
    joint = Joint(Encoder(), 3, 6, torch.eye(2, 8), SMALL)
    mel = torch.randn(3, 8 * 30, 32)
    labels = torch.zeros(3, 30, len(WORDS), dtype=torch.int8)
    labels[0, 20, 1] = 1
    ends = torch.tensor([[0, 20, 1], [0, 9, 0], [2, 29, 2]])
    for task, batch in (("words", (mel, mel, labels, ends)), ("voices", (mel, torch.tensor([0, 1, 5]), torch.tensor(0.2)))):
        joint.zero_grad()
        losses = joint(task, *batch)
        assert all(torch.isfinite(loss) for loss in losses)
        losses[0].backward()
        assert joint.encoder.first.weight.grad is not None
        assert joint.encoder.first.weight.grad.abs().sum() > 0
    *_, distance = joint("words", mel, mel, labels, ends)
    assert distance.item() == pytest.approx(0, abs=1e-6)  # it says of the clean take what it said when it came


def test_the_shipped_settings() -> None:
    shipped = settings.read("finetune", Settings, ["frozen=true", "steps=9"])
    assert (shipped.frozen, shipped.steps, shipped.voice) == (True, 9, 0.2)
    assert "happy" in shipped.held_out


def test_windows_end_at_their_chunk() -> None:
    embedding = torch.arange(40.0).reshape(1, 40, 1).repeat(2, 1, 3) + 1
    found = finetune.windows(embedding, torch.tensor([0, 1]), torch.tensor([20, 2]))
    assert found.shape == (2, 16, 3)
    assert found[0, :, 0].tolist() == list(range(6, 22))
    assert found[1, :, 0].tolist() == [0] * 13 + [1, 2, 3]  # before the first there was nothing


def test_words_are_told_apart_just_after_they_end(work: Path) -> None:
    types = [finetune.SILENCE, "alexa", "smart mirror"]
    batches = finetune.WordBatches(
        [work / "recorded"], work / "rirs.npz", Spoken(work / "none.tsv"), types, trunk.student_features, replace(SMALL, word_batch=24), 3
    )
    heard, clean, labels, ends = batches.prepare(next(iter(batches)))
    assert heard.shape == clean.shape == (24, 400, 32)
    told = 0
    for row, chunk, kind in ends.tolist():
        if types[kind] == finetune.SILENCE:
            assert not (labels[row, chunk] == 1).any()
        else:
            told += 1
            word = WORDS.index(types[kind].replace(" ", "_"))
            assert labels[row, max(chunk - 3, 0) : chunk + 1, word].max() == 1 or chunk >= 47
    assert told >= 3


def test_features_in_torch_are_those_of_the_front_end(bundle: Bundle) -> None:
    x = np.random.default_rng(0).normal(0, 2000, (2, 16000)).round().astype(np.float32)
    x[1, :4000] = 0
    for front in (bundle.front_end, speaker.voice_front_end()):
        assert np.abs(trunk.log_mel(front, torch.from_numpy(x)).numpy() - mel_of(front, x)).max() < 1e-4
    assert torch.equal(trunk.student_features(torch.from_numpy(x)), trunk.log_mel(bundle.front_end, torch.from_numpy(x)))


def test_the_finer_bands_tell_what_the_students_cannot(bundle: Bundle) -> None:
    t = np.arange(16000) / 16000
    fine = speaker.voice_front_end()
    assert (fine.filters.sum(axis=0) > 0).all()
    between = slice(int(fine.fft_samples * 80 / 16000), int(fine.fft_samples * 7000 / 16000))
    assert np.allclose(fine.filters[between].sum(axis=1), 1, atol=1e-5)  # nothing is left out, nothing counted twice

    def loudest(front: LogMel, hz: float) -> int:
        return int(mel_of(front, (8000 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32))[0, 20:].mean(axis=0).argmax())

    for low, high in ((110.0, 160.0), (4500.0, 6000.0)):  # two pitches; two hisses
        assert loudest(fine, low) != loudest(fine, high)
        assert loudest(bundle.front_end, low) == loudest(bundle.front_end, high)


def test_workers_draw_different_batches(work: Path) -> None:
    """As on a GPU: several workers put batches together, and the training process prepares them."""
    batches = finetune.WordBatches([work / "recorded"], work / "rirs.npz", Spoken(work / "none.tsv"), [], trunk.student_features, SMALL, 3)
    loader = iter(DataLoader(batches, batch_size=None, num_workers=2))
    first, second = next(loader), next(loader)
    assert not torch.equal(first.clean, second.clean)
    moved = first.to(torch.device("cpu"))
    heard, clean, _, _ = batches.prepare(moved)
    assert heard.shape == clean.shape == (2, 400, 32)


def test_two_processes_share_a_run(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.pt"
    train_on_two_processes(tmp_path / "run.py", "tests.test_finetune", "run(Path(sys.argv[1]), Path(sys.argv[2]), SMALL)", work, out)
    assert torch.load(out, weights_only=True)["step"] == 2
