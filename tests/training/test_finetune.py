"""Joint fine-tuning: both tasks move the encoder, unless it is frozen; a run resumes; what comes
out goes on to the heads."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import say, train_on_two_processes, training_data
from msgspec.structs import replace
from torch.utils.data import DataLoader

from kwsd.audio.log_mel import LogMel
from kwsd.model.bundle import Bundle
from kwsd.training import features, loop, settings
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.word_scenes import SILENCE, WordScenes
from kwsd.training.features import mel_of
from kwsd.training.models.checkpoint import load, load_encoder, save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHead, SpeakerHeads, embedding_windows
from kwsd.training.settings.catalog import default_words
from kwsd.training.stages import finetune, speaker
from kwsd.training.stages.finetune import FinetuneSettings, JointModel

WORDS = default_words().names
SMALL = FinetuneSettings(
    steps=2, word_batch=2, voice_batch=4, checkpoint_every=1, log_every=1, held_out=["computer"]
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wake words and a sentence in six voices, rooms, and made-up vectors of a voice
    teacher."""
    work = tmp_path_factory.mktemp("work")
    voices = ("en-us", "en-us+f3", "en-gb+m3", "en-gb+f4", "en-us+m7", "en-us+f1")
    labels = (*WORDS, "it is raining again today")
    training_data(
        work,
        (
            (say(label.replace("_", " "), voice), "gsc", voice, label)
            for voice in voices
            for label in labels
        ),
    )
    (work / "voice").mkdir()
    np.savez(
        work / "voice" / "voices.npz",
        people=np.array([f"gsc/{voice}" for voice in voices]),
        vectors=np.eye(6, 8),
    )
    torch.manual_seed(5)
    save(work / "start.pt", encoder=Encoder())
    return work


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)


def data_of(work: Path) -> TrainingData:
    return TrainingData.of(work, work / "rirs.npz")


def run(work: Path, out: Path, wanted: FinetuneSettings) -> dict[str, torch.Tensor]:
    finetune.train(data_of(work), Voices(work / "voice"), work / "start.pt", out, wanted)
    return load_encoder(out).state_dict()


def test_all_parameters_move_and_a_run_resumes(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = load_encoder(work / "start.pt").state_dict()
    out = tmp_path / "joint.pt"

    def cut_off(*args: object, **parts: object) -> None:
        save(*args, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(work, out, SMALL)
    with caplog.at_level(logging.INFO, "kwsd.training.loop"):
        after = run(work, out, SMALL)
    lines = [r.getMessage() for r in caplog.records]
    assert any("step 1 of 2" in line for line in lines)
    assert any("step 2/2  wake" in line and "identity" in line for line in lines)
    assert all(
        not torch.equal(began[name], after[name]) for name in began if name.endswith("weight")
    )
    saved = torch.load(out, weights_only=True)
    assert saved["step"] == 2
    assert saved["words"] == [
        "",
        "alexa",
        "it is raining again today",
        "jarvis",
        "smart mirror",
        "snowboy",
        "view glass",
    ]  # less what is held out
    assert all(
        torch.equal(saved["reference_encoder"][name], began[name]) for name in began
    )  # what it is saved near is what it was
    assert load(out, "speaker", SpeakerHead).shape["intermediate"] == 384


def test_a_normed_student_stays_normed_until_it_is_frozen(work: Path, tmp_path: Path) -> None:
    torch.manual_seed(6)
    normed = Encoder(0.5, normed=True)
    voices = Voices(work / "voice")
    save(tmp_path / "normed.pt", encoder=normed)
    folded = normed.eval().folded().state_dict()
    for name, frozen in (("tuned.pt", False), ("frozen.pt", True)):
        finetune.train(
            data_of(work),
            voices,
            tmp_path / "normed.pt",
            tmp_path / name,
            replace(SMALL, frozen=frozen),
        )
    saved = torch.load(tmp_path / "tuned.pt", weights_only=True)
    assert saved["shapes"]["encoder"]["normed"]
    assert (
        int(saved["encoder"]["norms.0.num_batches_tracked"]) == 4
    )  # two batches of words and two of voices
    frozen_after = torch.load(tmp_path / "frozen.pt", weights_only=True)["encoder"]
    for part in (saved["reference_encoder"], frozen_after):
        assert part.keys() == folded.keys()
        assert all(torch.equal(part[name], folded[name]) for name in folded)


def test_speaker_heads_from_two_seeds(work: Path, tmp_path: Path) -> None:
    wanted = speaker.SpeakerSettings(steps=2, batch=4, crop_chunks=[10, 11], heads=2)
    arguments = (
        data_of(work),
        Voices(work / "voice"),
        work / "start.pt",
        tmp_path / "speaker.pt",
        wanted,
    )
    speaker.train(*arguments)
    first, second = (load(tmp_path / f"speaker.{n}.pt", "head", SpeakerHead) for n in range(2))
    assert not torch.equal(first.out[1].weight, second.out[1].weight)  # type: ignore[arg-type]
    both = load(tmp_path / "speaker.pt", "head", SpeakerHeads)
    heard = torch.randn(3, 40, 384), torch.randn(3, 10, 96), torch.randn(3, 80, 64)
    torch.testing.assert_close(
        both(*heard), torch.cat([first(*heard), second(*heard)], dim=1) / 2**0.5
    )
    written = (tmp_path / "speaker.0.pt").stat().st_mtime_ns
    speaker.train(*arguments)
    assert (
        tmp_path / "speaker.0.pt"
    ).stat().st_mtime_ns == written  # what is done is not done again


def test_a_frozen_encoder_stays(work: Path, tmp_path: Path) -> None:
    began = load_encoder(work / "start.pt").state_dict()
    after = run(work, tmp_path / "frozen.pt", replace(SMALL, frozen=True))
    assert all(torch.equal(began[name], after[name]) for name in began)


def test_either_task_reaches_the_encoder(bundle: Bundle) -> None:
    torch.manual_seed(0)
    joint = JointModel(Encoder(), 6, 3, 6, torch.eye(2, 8), SMALL)
    mel = torch.randn(3, 8 * 30, 32)
    labels = torch.zeros(3, 30, len(WORDS), dtype=torch.int8)
    labels[0, 20, 1] = 1
    ends = torch.tensor([[0, 20, 1], [0, 9, 0], [2, 29, 2]])
    for task, batch in (
        ("words", (mel, mel, labels, ends)),
        ("voices", (mel, torch.tensor([0, 1, 5]), torch.tensor(0.2))),
    ):
        joint.zero_grad()
        losses = joint(task, *batch)
        assert all(torch.isfinite(loss) for loss in losses)
        losses[0].backward()
        assert isinstance(joint.encoder, Encoder)
        assert joint.encoder.first.weight.grad is not None
        assert joint.encoder.first.weight.grad.abs().sum() > 0
    *_, distance = joint("words", mel, mel, labels, ends)
    assert distance.item() == pytest.approx(
        0, abs=1e-6
    )  # the output for the clean scene is what it was at the start


def test_the_shipped_settings() -> None:
    shipped = settings.read("finetune", FinetuneSettings, ["frozen=true", "steps=9"])
    assert (shipped.frozen, shipped.steps, shipped.voice) == (True, 9, 0.2)
    assert "happy" in shipped.held_out


def test_windows_end_at_their_chunk() -> None:
    embedding = torch.arange(40.0).reshape(1, 40, 1).repeat(2, 1, 3) + 1
    found = embedding_windows(embedding, torch.tensor([0, 1]), torch.tensor([20, 2]))
    assert found.shape == (2, 16, 3)
    assert found[0, :, 0].tolist() == list(range(6, 22))
    assert found[1, :, 0].tolist() == [0] * 13 + [1, 2, 3]  # before the first there was nothing


def test_words_are_told_apart_just_after_they_end(work: Path) -> None:
    types = [SILENCE, "alexa", "smart mirror"]
    batches = WordScenes(data_of(work), types, features.student_features, 24, SMALL.scene_s, 3)
    heard, clean, labels, ends = batches.prepare(next(iter(batches)))
    assert heard.shape == clean.shape == (24, 400, 32)
    words = 0
    for row, chunk, kind in ends.tolist():
        if types[kind] == SILENCE:
            assert not (labels[row, chunk] == 1).any()
        else:
            words += 1
            word = WORDS.index(types[kind].replace(" ", "_"))
            assert labels[row, max(chunk - 3, 0) : chunk + 1, word].max() == 1 or chunk >= 47
    assert words >= 3


def test_features_in_torch_are_those_of_the_front_end(bundle: Bundle) -> None:
    x = np.random.default_rng(0).normal(0, 2000, (2, 16000)).round().astype(np.float32)
    x[1, :4000] = 0
    for front in (bundle.front_end, features.voice_front_end()):
        assert (
            np.abs(features.log_mel(front, torch.from_numpy(x)).numpy() - mel_of(front, x)).max()
            < 1e-4
        )
    assert torch.equal(
        features.student_features(torch.from_numpy(x)),
        features.log_mel(bundle.front_end, torch.from_numpy(x)),
    )


def test_the_fine_bands_resolve_what_the_students_cannot(bundle: Bundle) -> None:
    t = np.arange(16000) / 16000
    fine = features.voice_front_end()
    assert (fine.filters.sum(axis=0) > 0).all()
    between = slice(int(fine.fft_samples * 80 / 16000), int(fine.fft_samples * 7000 / 16000))
    assert np.allclose(
        fine.filters[between].sum(axis=1), 1, atol=1e-5
    )  # nothing is left out, nothing counted twice

    def loudest(front: LogMel, hz: float) -> int:
        return int(
            mel_of(front, (8000 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32))[0, 20:]
            .mean(axis=0)
            .argmax()
        )

    for low, high in ((110.0, 160.0), (4500.0, 6000.0)):  # two pitches; two hisses
        assert loudest(fine, low) != loudest(fine, high)
        assert loudest(bundle.front_end, low) == loudest(bundle.front_end, high)


def test_workers_draw_different_batches(work: Path) -> None:
    """As on a GPU: several workers put batches together, and the training process prepares them."""
    batches = WordScenes(
        data_of(work), [], features.student_features, SMALL.word_batch, SMALL.scene_s, 3
    )
    loader = iter(DataLoader(batches, batch_size=None, num_workers=2))
    first = next(loader)
    second = next(loader)
    assert not torch.equal(first.clean, second.clean)
    moved = first.to(torch.device("cpu"))
    heard, clean, _, _ = batches.prepare(moved)
    assert heard.shape == clean.shape == (2, 400, 32)


def test_two_processes_share_a_run(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.pt"
    train_on_two_processes(
        tmp_path / "run.py",
        "test_finetune",
        "run(Path(sys.argv[1]), Path(sys.argv[2]), SMALL)",
        work,
        out,
    )
    assert torch.load(out, weights_only=True)["step"] == 2
