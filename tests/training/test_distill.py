"""Distillation: batches hold what was cached, every part learns, a run resumes, and two processes
share one."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import say, train_on_two_processes, training_data
from msgspec.structs import replace

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.config import ConfigError
from kwsd.model.bundle import Bundle
from kwsd.training import features, loop, settings
from kwsd.training.data import augment
from kwsd.training.data.corpora import Corpora, Utterance
from kwsd.training.data.targets import SCALE, Targets, TeacherError, open_targets
from kwsd.training.data.teacher_scenes import Batch, TeacherScenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.models.checkpoint import load_encoder, save
from kwsd.training.models.encoder import Encoder
from kwsd.training.stages import distill
from kwsd.training.stages.distill import DistillSettings, LossWeights, ProjectionHead

TEACHERS = {
    "deep": LossWeights(
        l1_cosine=1.0, dual_view=0.5, codebook=0.2, layers=[0, 1], delay=2, pooled_dims=3
    ),
    "low": LossWeights(l1_cosine=1.0, source="intermediate"),
    "voice": LossWeights(voice=1.0, source="intermediate"),
}
SMALL = DistillSettings(
    steps=3,
    batch=3,
    scene_s=2.4,
    start="fresh",
    mask_share=0.3,
    teachers=TEACHERS,
    checkpoint_every=2,
    log_every=1,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of spoken words with two teachers' targets and voices, and rooms."""
    work = tmp_path_factory.mktemp("work")
    texts = ("good evening", "thank you", "the weather", "banana")
    voices = ("en-us", "en-us+f3", "en-gb+m3", "en-gb+f4", "en-us+m7")
    training_data(
        work, ((say(text, voice), "gsc", voice, "text") for voice in voices for text in texts)
    )
    rng = np.random.default_rng(1)
    clips = Corpora(work / "recorded").utterances
    for name, layers, dims in (("deep", 2, 6), ("low", 1, 4)):
        folder = work / "targets" / name
        folder.mkdir(parents=True)
        keys = np.array([(c.start, c.samples // CHUNK_SAMPLES) for c in clips])
        total = int(keys[:, 1].sum())
        frames = rng.integers(-100, 100, (total, layers, dims)).astype(np.int8)
        np.savez(
            folder / "basis.npz",
            mean=0,
            groups=np.zeros((0, 0, 0), np.float32),
            codebook=rng.normal(0, 1, (9, dims)).astype(np.float32),
        )
        np.savez(
            folder / "part-recorded-0000.npz",
            store="recorded",
            keys=keys,
            frames=frames,
            codes=rng.integers(0, 9, total).astype(np.int32),
        )
    (work / "targets" / "voice").mkdir()
    np.savez(
        work / "targets" / "voice" / "voices.npz",
        people=np.array([f"gsc/{v}" for v in voices]),
        vectors=rng.normal(0, 1, (5, 8)),
    )
    return work


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)


def first(work: Path, wanted: DistillSettings) -> Batch:
    """A prepared batch."""
    drawn = batches(work, wanted)
    return drawn.prepare(next(iter(drawn)))


def batches(work: Path, wanted: DistillSettings) -> TeacherScenes:
    return TeacherScenes(data_of(work), work / "targets", wanted.teachers, wanted.scenes, 5)


def data_of(work: Path) -> TrainingData:
    return TrainingData.of(work, work / "rirs.npz")


def test_a_batch_holds_what_was_cached(work: Path) -> None:
    batch = first(work, SMALL)
    chunks = 30
    assert batch.mel.shape == (3, 8 * chunks, 32)
    assert batch.frames["deep"].shape == (3, chunks, 2, 6)
    cached = Targets(work / "targets" / "deep")
    known = {
        cached.of(c)[0].transpose(1, 0, 2).tobytes(): c
        for c in Corpora(work / "recorded").utterances
    }
    whole = [
        s
        for s in batch.segments
        if batch.frames["deep"][s.row, s.begin : s.end].numpy().tobytes() in known
    ]
    assert len(whole) >= 1  # others are cut
    for s in batch.segments:
        assert (batch.codes["deep"][s.row, s.begin : s.end] >= 0).all()
    outside = torch.ones(3, chunks, dtype=torch.bool)
    for s in batch.segments:
        outside[s.row, s.begin : s.end] = False
    assert (batch.frames["deep"][outside] == 0).all()
    assert (batch.codes["deep"][outside] == -1).all()
    assert batch.voices["voice"].shape == (len(batch.segments), 8)
    floor = batch.mel.min()
    assert batch.masked.any()
    assert (batch.mel.reshape(3, chunks, 8, 32)[batch.masked] == floor).all()
    assert batch.frames["deep"].abs().max() <= 100 / SCALE


def test_every_part_is_logged(work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "distilled.pt"
    run = (data_of(work), work / "targets")
    with caplog.at_level(logging.INFO, "kwsd.training.loop"):
        distill.train(*run, out, SMALL)
    line = next(r.getMessage() for r in caplog.records if "step 3/3" in r.getMessage())
    for part in (
        "deep.l1_cosine",
        "deep.dual_view",
        "deep.raw_feature_view",
        "deep.raw_batch_view",
        "deep.codebook",
        "low.l1_cosine",
        "voice.voice",
    ):
        assert part in line
    saved = torch.load(out, weights_only=True)
    assert saved["step"] == 3
    assert {name.split(".")[0] for name in saved["projections"]} == {"deep", "low", "voice"}


def test_a_run_that_was_cut_off_resumes(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "distilled.pt"
    run = (data_of(work), work / "targets")

    def cut_off(*args: object, **parts: object) -> None:
        save(*args, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            distill.train(*run, out, SMALL)
    before = load_encoder(out).state_dict()
    with caplog.at_level(logging.INFO, "kwsd.training.loop"):
        distill.train(*run, out, SMALL)
    assert any("step 2 of 3" in r.getMessage() for r in caplog.records)
    after = load_encoder(out).state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert torch.load(out, weights_only=True)["step"] == 3
    with pytest.raises(ConfigError, match=r"steps was 3 and is 5; rate was 0\.0004 and is 0\.1\."):
        distill.train(*run, out, replace(SMALL, steps=5, rate=0.1))
    distill.train(*run, out, replace(SMALL, log_every=2))  # that may change


def test_the_mixture_of_layers_learns(work: Path) -> None:
    """Its gradient is that of a difference, in float64."""
    targets, voices = open_targets(work / "targets", TEACHERS)
    torch.manual_seed(0)
    head = distill.Distiller(SMALL, targets, voices, Encoder()).double().projections["deep"]
    assert isinstance(head, ProjectionHead)
    assert head.mixture is not None
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 30, Encoder.embedding_dim, generator=generator).double()
    batch = first(work, SMALL)
    batch.frames["deep"] = batch.frames["deep"].double()

    def raw() -> torch.Tensor:
        views = head._dual_view(x, batch, "deep", True)
        return views.feature + views.batch

    raw().backward()  # type: ignore[no-untyped-call]
    assert head.mixture.grad is not None
    step = 1e-5
    with torch.no_grad():
        for n, slope in enumerate(head.mixture.grad.tolist()):
            head.mixture[n] += step
            above = raw().item()
            head.mixture[n] -= 2 * step
            below = raw().item()
            head.mixture[n] += step
            assert slope == pytest.approx((above - below) / (2 * step), rel=1e-3)
            assert slope != 0


def test_what_cannot_be_learned_is_refused(work: Path) -> None:
    with pytest.raises(ValueError, match="40 features of the dual view need as many scenes"):
        replace(
            SMALL, teachers={"deep": LossWeights(dual_view=1.0, pooled_dims=40)}
        ).__post_init__()
    targets, voices = open_targets(work / "targets", TEACHERS)
    targets["low"].codebook = np.zeros((0, 4), np.float32)
    wanted = replace(SMALL, teachers={"low": LossWeights(codebook=1.0)})
    with pytest.raises(TeacherError, match="a teacher without codes cannot teach them"):
        distill.Distiller(wanted, targets, voices, Encoder())


def test_the_projections_learn_before_the_encoder(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (data_of(work), work / "targets")
    saved: list[dict[str, torch.Tensor]] = []

    def keep(_: Path, *, encoder: Encoder, projections: torch.nn.Module, **others: object) -> None:
        saved.append(
            {
                name: p.detach().clone()
                for part in (encoder, projections)
                for name, p in part.named_parameters()
            }
        )

    monkeypatch.setattr(loop, "save", keep)
    distill.train(
        *run,
        tmp_path / "none.pt",
        replace(SMALL, steps=4, checkpoint_every=1, projection_warmup=0.5),
    )
    moved = [
        {name for name in after if not torch.equal(before[name], after[name])}
        for before, after in pairwise(saved)
    ]
    assert "along.3.weight" not in moved[0]
    assert "along.3.weight" in moved[1]
    assert all("deep.frames.weight" in names for names in moved)


def test_it_learns_what_can_be_learnt(work: Path) -> None:
    """On one batch over and over, the loss falls far."""
    torch.manual_seed(0)
    wanted = replace(
        SMALL,
        teachers={
            "low": LossWeights(l1_cosine=1.0),
            "voice": LossWeights(voice=1.0, source="intermediate"),
        },
        mask_share=0.0,
    )
    targets, voices = open_targets(work / "targets", wanted.teachers)
    distiller = distill.Distiller(wanted, targets, voices, Encoder())
    batch = first(work, wanted)
    optimiser = torch.optim.AdamW(distiller.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss, _ = distiller(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    assert all(p.grad is not None for p in distiller.projections.parameters())


def test_an_answer_may_come_late(work: Path) -> None:
    batch = first(work, replace(SMALL, mask_share=0.0))
    answers = batch.frames["low"][
        :, :, 0
    ]  # a student that says what the teacher says, two chunks later
    late = torch.nn.functional.pad(answers, (0, 0, 2, 0))[:, :-2]
    weights = LossWeights(l1_cosine=1.0)
    for delay, perfect in ((2, True), (0, False)):
        head = distill.ProjectionHead(replace(weights, delay=delay), 1, 4, None, Encoder())
        head.frames = torch.nn.Identity()  # type: ignore[assignment]
        loss = head(late, late, batch, "low", True)["l1_cosine"].item()
        assert (loss < 0.3134) == perfect  # -log sigmoid(1) is what is left of a perfect answer


def test_two_processes_share_a_run(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.pt"
    call = (
        "work, out = map(Path, sys.argv[1:])\n"
        "distill.train(data_of(work), work / 'targets', out, SMALL)"
    )
    train_on_two_processes(tmp_path / "run.py", "test_distill", call, work, out)
    assert torch.load(out, weights_only=True)["step"] == 3


def test_missing_targets_are_reported(work: Path) -> None:
    with pytest.raises(TeacherError, match="run `kwsd train cache` first"):
        open_targets(work / "targets", ["nobody"])


def test_the_shipped_settings() -> None:
    shipped = settings.read(
        "distill", DistillSettings, ["steps=7", "teachers.whisper.dual_view=0.7", "start=fresh"]
    )
    assert (shipped.steps, shipped.start, shipped.rate) == (7, "fresh", 4e-4)
    assert shipped.teachers["whisper"].dual_view == 0.7
    assert shipped.teachers["voice"].source == "intermediate"


def test_a_perfect_student_has_no_error_at_joins(tmp_path: Path) -> None:
    """A teacher that is the student itself, asked about each utterance alone: where there are
    targets, the student says the same in the scene."""
    torch.manual_seed(0)
    student = Encoder().eval()
    rng = np.random.default_rng(0)
    takes = [
        (
            rng.normal(0, 900, 1280 * int(rng.integers(12, 60))).astype(np.int16),
            "gsc",
            f"v{n}",
            "go",
        )
        for n in range(30)
    ]
    data = training_data(tmp_path, takes)

    def heard(x: np.ndarray) -> np.ndarray:
        mel = features.student_features(torch.from_numpy(x.astype(np.float32))[None])
        with torch.no_grad():
            answers = student(mel, student.zero_state())
        return np.asarray(answers[0][0].numpy())

    corpora = data.corpora()
    wanted = settings.read("distill", DistillSettings, ["batch=4", "mask_share=0", "teachers={}"])
    scenes = data.scenes(seed=3)
    asked = {(u.store, u.start): heard(_at_level(corpora.read(u))) for u in corpora.utterances}

    class Perfect:
        layers, dims = 1, 96

        def of(self, utterance: Utterance) -> tuple[np.ndarray, np.ndarray]:
            answer = asked[utterance.store, utterance.start]
            return answer[None], np.zeros(len(answer), np.int64)

    drawn = TeacherScenes(data, tmp_path, [], wanted.scenes, 5)
    teacher: Any = Perfect()
    pool = [u for u in corpora.utterances if not u.development]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "gain_to", lambda x, _: _at_level(x))
        batch = drawn._draw(scenes, {"perfect": teacher}, {}, [pool], np.ones(1))
    targets = batch.frames["perfect"][:, :, 0]
    answers = torch.from_numpy(np.stack([heard(x) for x in batch.mel.numpy()]))
    inside = targets.abs().sum(2) > 0
    assert inside.float().mean() > 0.3
    assert (answers - targets)[inside].abs().max() < 0.01 * targets[inside].std()
    for segment in batch.segments:
        assert inside[segment.row, segment.begin : segment.end].all()
    assert inside.sum() == sum(s.end - s.begin for s in batch.segments)


def _at_level(x: np.ndarray) -> np.ndarray:
    """Return `x` at a level that does not depend on what else is in it."""
    return (0.5 * x).astype(np.float32)
