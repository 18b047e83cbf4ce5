"""What the checker's student learns of its teacher, and the table of rows that are trained so, on
tiny random teachers."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import say, train
from test_teachers import checkpoint
from torch import Tensor

from kwsd.audio.format import SAMPLE_RATE
from kwsd.config import ConfigError
from kwsd.training import figures, settings
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import WINDOW_SAMPLES, Windows
from kwsd.training.loop import Loop
from kwsd.training.models.checkpoint import load
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.teachers import Codebook
from kwsd.training.models.teachers import Transformer as Teacher
from kwsd.training.models.transformer import Transformer
from kwsd.training.settings.catalog import default_words
from kwsd.training.stages import ablate_checker
from kwsd.training.stages.checker import candidates, distill, kept, tune
from kwsd.training.stages.checker.candidates import MARGIN_SAMPLES
from kwsd.training.stages.checker.distiller import DistillCheckerSettings
from kwsd.training.stages.checker.objectives import (
    MaskedCodes,
    PooledView,
    Standardized,
    masked_inputs,
)
from kwsd.training.stages.checker.settings import CheckerSettings
from kwsd.training.stages.checker.words import WordsSettings

TINY = DistillCheckerSettings(
    steps=4,
    heads=1,
    hidden=8,
    layers=[1, 3],
    batch=3,
    thin_windows=4,
    dual_view=1.0,
    codebook=1.0,
    pooled_dims=3,
    codes=6,
    codes_layer=3,
    dim=12,
    blocks=2,
    checkpoint_every=2,
    log_every=1,
    mixed_precision=False,
)
TINY_TUNE = ["layers=[1, 2]", "voice_layers=[0, 1]", "candidates=4", "windows=2", "voice=0"]


@pytest.fixture
def data(commands: Path) -> TrainingData:
    return TrainingData.of(commands, commands / "rirs.npz")


def changed(**changes: Any) -> DistillCheckerSettings:
    return msgspec.structs.replace(TINY, **changes)


def test_the_dual_view_of_windows_by_hand() -> None:
    """Against a loop in float64; the mixture of layers and the projection are learned."""
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(40, 3, 7, 9, generator=generator) * torch.linspace(0.2, 3, 9)
    own = torch.randn(5, 7, 4, generator=generator)
    view = PooledView(3, 9, 4, 2)
    view.fit(layers)
    axes = view.axes.double().numpy()
    assert axes.T @ axes == pytest.approx(np.eye(2), abs=1e-5)
    means = layers.mean(2)
    spread = ((means - means.mean(0)).flatten(0, 1) @ view.axes).var(0)
    assert spread[0] > spread[1] > 0.8 * (means - means.mean(0)).flatten(0, 1).var(0).sort()[0][-2]
    with torch.no_grad():
        view.mixture.copy_(torch.tensor([0.5, -1.0, 0.2]))
    found = view(own, layers[:5])
    share = np.exp([0.5, -1.0, 0.2]) / np.exp([0.5, -1.0, 0.2]).sum()
    teacher = np.zeros((5, 2))
    student = np.zeros((5, 2))
    weight, bias = (part.detach().double().numpy() for part in view.project.parameters())
    for n in range(5):
        for k in range(3):
            teacher[n] += share[k] * (layers[n, k].double().numpy().mean(0) @ axes)
        student[n] = weight @ own[n].double().numpy().mean(0) + bias
    teacher -= teacher.mean(0)
    student -= student.mean(0)
    for got, a, b in ((found.feature, student.T, teacher.T), (found.batch, student, teacher)):
        want = 0.0
        for i, row in enumerate(a):
            for j, other in enumerate(b):
                cosine = row @ other / np.linalg.norm(row) / np.linalg.norm(other)
                want += (cosine - 1) ** 2 if i == j else 5e-3 * cosine**2
        assert got.item() == pytest.approx(want, rel=1e-4)
    found.loss.backward()
    for part in (view.mixture, view.project.weight):
        assert part.grad is not None
        assert part.grad.abs().min() > 0
    with pytest.raises(ValueError, match=r"pooled_dims: 1 windows .* no 4 features"):
        PooledView(3, 9, 4, 4).fit(layers[:1])


def test_layers_of_another_depth_and_width_are_projected(tmp_path: Path) -> None:
    checkpoint("whisper", tmp_path)
    teacher = load_pretrained(tmp_path).network
    student = distill._fresh(teacher, changed(start="fresh"))
    compare = Standardized.between([0, 1, 2, 3], teacher, student)
    assert compare.own_layers == [0, 1, 1, 2]
    generator = torch.Generator().manual_seed(0)
    given = teacher.inputs(torch.randn(2, WINDOW_SAMPLES, generator=generator) * 1000)
    hidden = [layer * 5 + 2 for layer in teacher(given)]
    compare.fit(hidden)
    own = student(given)
    assert compare.projections is not None
    for n, answer in enumerate(compare.answers(own)):
        project = compare.projections[n]
        assert torch.equal(answer, project(own[compare.own_layers[n]]))
    thin = Standardized.between([0, 1, 2, 3], teacher, teacher)
    assert thin.own_layers == [0, 1, 2, 3]
    assert not list(thin.parameters()), "what has one width is compared as it is"


def test_the_same_spans_are_masked_of_mel_and_waveform(data: TrainingData, tmp_path: Path) -> None:
    windows = Windows(data, 3, seed=1)
    noise = torch.randn(3, WINDOW_SAMPLES, generator=torch.Generator().manual_seed(0))
    pair = dataclasses.replace(next(iter(windows)), heard=1000 * noise)  # nowhere silent
    frames = []
    for family in ("whisper", "hubert"):
        checkpoint(family, tmp_path / family)
        network = load_pretrained(tmp_path / family).network
        inputs, masked = masked_inputs(network, pair, waveform=True)
        assert masked.shape == network.stem(inputs).shape[:2]
        whole = network.inputs(pair.heard)
        if family == "whisper":
            silent = (inputs == whole.amin((1, 2))[:, None, None]).all(2)
        else:
            cut = inputs[:, :32000] == inputs.mode(1).values[:, None]
            silent = torch.unflatten(cut, 1, (-1, 160)).all(2)
            assert cut.sum() == 160 * silent.sum()
            assert torch.equal(masked_inputs(network, pair, waveform=False)[0], whole)
        assert torch.equal(torch.unflatten(silent, 1, (-1, 2)).any(2), masked)
        frames.append(masked)
    assert torch.equal(*frames)
    assert masked.any(1).all()
    assert masked.float().mean() < 0.15


@pytest.mark.parametrize(("family", "start"), [("wav2vec2", "fresh"), ("hubert", "thin")])
def test_codes_are_those_of_the_clean_window(
    family: str, start: Any, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By wav2vec 2.0's own quantizer, or by k-means over a standardized layer; and the loss is
    InfoNCE over masked frames, against a loop in float64."""
    checkpoint(family, tmp_path / "teacher")
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    heard: list[float] = []
    forward = MaskedCodes.forward

    def spy(self: MaskedCodes, own: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
        seen.append((codes, masked, self.predict(own).detach()))
        loss = forward(self, own, codes, masked)
        heard.append(loss.item())
        return loss

    monkeypatch.setattr(MaskedCodes, "forward", spy)
    out = tmp_path / "distilled.pt"
    chosen = changed(steps=2, start=start, l1_cosine=0.0, dual_view=0.0, batch=2)
    distill.train(data, str(tmp_path / "teacher"), out, chosen)
    saved = torch.load(out, weights_only=True)
    groups = saved["masked"]["groups"].double().numpy()
    teacher = Teacher(tmp_path / "teacher", [3])
    windows = Windows(data, 2, chosen.seed, chosen.views, harsh=chosen.harsh)
    for (codes, masked, predicted), loss, raw in zip(seen, heard, windows, strict=False):
        clean = windows.prepare(raw).clean.numpy()
        if family == "wav2vec2":
            want = [teacher.codes(one) for one in clean]
        else:
            book = Codebook(groups[0].astype(np.float32), 3)
            compare = saved["compare"]
            mean, scale = (compare[name][1].numpy() for name in ("mean", "scale"))
            want = [book.nearest((teacher.frames(one)[0] - mean) * scale) for one in clean]
        assert np.mean(codes.numpy() == np.stack(want)) > 0.99  # a tie may fall otherwise
        assert masked.any()
        assert not masked.all()
        entries = {
            int(code): np.concatenate(
                [group[code // len(group) ** n % len(group)] for n, group in enumerate(groups)]
            )
            for code in torch.unique(codes)
        }
        total = []
        for code, own in zip(codes[masked], predicted[masked].double().numpy(), strict=True):
            logits = {
                other: own @ entry / np.linalg.norm(own) / np.linalg.norm(entry) / 0.1
                for other, entry in entries.items()
            }
            likely = np.exp(logits[int(code)]) / np.exp(list(logits.values())).sum()
            total.append(-np.log(likely))
        assert loss == pytest.approx(np.mean(total), rel=1e-3)
    assert len(seen) == 2


def test_a_student_learns_to_tell_words_apart(data: TrainingData, tmp_path: Path) -> None:
    """Beside the distillation, or alone; the blocks that are frozen stay as they are."""
    checkpoint("whisper", tmp_path / "teacher")
    teacher, spoken = str(tmp_path / "teacher"), tmp_path / "spoken"
    words = WordsSettings(steps=2, layers=[1, 3], words=3)
    run = {"dual_view": 0.0, "codebook": 0.0, "spoken": 1.0, "spoken_words": 3}
    run |= {"rate": 1e-2, "projection_rate": 5e-3, "batch": 1, "log_every": 10}
    chosen = changed(steps=2, **run)
    with pytest.raises(ConfigError, match="no windows of words"):
        distill.train(data, teacher, tmp_path / "none.pt", chosen)
    with pytest.raises(FileNotFoundError, match="checker --only spoken"):
        distill.make(data, teacher, tmp_path / "none.pt", chosen, tmp_path, spoken, words)
    spoken.mkdir()
    time = np.arange(WINDOW_SAMPLES) / SAMPLE_RATE
    pitches = np.repeat([300, 900, 2700], 4)
    tones = [5000 * np.sin(2 * np.pi * (pitch + n) * time) for n, pitch in enumerate(pitches)]
    kept.keep(
        spoken / "000.npz",
        np.stack(tones).astype(np.int16),
        {},
        kind=pitches.astype(str),
        who=np.tile(["a", "b"], 6),
    )
    for l1_cosine, steps, frozen in ((1.0, 2, 1), (0.0, 40, 0)):
        out = tmp_path / f"{steps}.pt"
        chosen = changed(
            steps=steps, l1_cosine=l1_cosine, frozen_blocks=frozen, checkpoint_every=20, **run
        )
        distill.make(data, teacher, out, chosen, tmp_path, spoken, words)
        begun, trained = (
            torch.load(path, weights_only=True)["encoder"]
            for path in (out.with_suffix(".thin.pt"), out)
        )
        moved = {name for name, value in trained.items() if not torch.equal(value, begun[name])}
        assert any(name.startswith("blocks.1.") for name in moved)
        assert any(name.startswith(("stem.", "blocks.0.")) for name in moved) == (not frozen)
    rows = [row for row in figures.read(out.with_suffix(".csv")) if row["figure"] == "pairs"]
    assert float(rows[0]["value"]) < 0.9 < float(rows[-1]["value"])


@pytest.mark.parametrize(("family", "start"), [("whisper", "thin"), ("wavlm", "fresh")])
def test_a_run_with_all_objectives_resumes(
    family: str, start: Any, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(family, tmp_path / "teacher")
    whole, parted = tmp_path / "whole.pt", tmp_path / "parted.pt"
    chosen = changed(start=start)
    distill.train(data, str(tmp_path / "teacher"), whole, chosen)
    save = Loop._save

    def interrupted(self: Loop, step: int) -> None:
        save(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distill.train(data, str(tmp_path / "teacher"), parted, chosen)
    assert torch.load(parted, weights_only=True)["step"] == 2
    distill.train(data, str(tmp_path / "teacher"), parted, chosen)
    one, other = (torch.load(path, weights_only=True) for path in (whole, parted))
    begun = torch.load(whole.with_suffix(f".{start}.pt"), weights_only=True)
    for part in ("encoder", "compare", "pooled", "masked"):
        for name, value in one[part].items():
            assert torch.allclose(value.float(), other[part][name].float(), atol=1e-5), name
    assert one["pooled"]["mixture"].abs().min() > 0, "it was learned"
    assert any(
        not torch.equal(begun["encoder"][name], one["encoder"][name]) for name in begun["encoder"]
    )
    named = {"loss", "cosine 1", "cosine 3", "feature view", "batch view", "codebook"}
    assert {row["figure"] for row in figures.read(whole.with_suffix(".csv"))} == named


def test_settings_that_came_later_had_their_defaults(data: TrainingData, tmp_path: Path) -> None:
    checkpoint("hubert", tmp_path / "teacher")
    out = tmp_path / "distilled.pt"
    chosen = changed(steps=2, batch=2, dual_view=0.0, codebook=0.0, codes_layer=4)
    distill.train(data, str(tmp_path / "teacher"), out, chosen)
    saved = torch.load(out, weights_only=True)
    assert set(saved) == {
        *("encoder", "compare", "optimizer", "schedule", "settings", "best", "step", "shapes")
    }
    assert len(saved["optimizer"]["param_groups"]) == 1
    for name in ("l1_cosine", "dual_view", "codebook", "codes_layer", "start"):
        del saved["settings"][name]
    torch.save(saved, out)
    distill.train(data, str(tmp_path / "teacher"), out, chosen)
    with pytest.raises(ConfigError, match=r"codebook was 0\.0 and is 1\.0"):
        distill.train(
            data, str(tmp_path / "teacher"), out, changed(steps=2, batch=2, dual_view=0.0)
        )


def test_what_cannot_be_learned_is_refused(data: TrainingData, tmp_path: Path) -> None:
    def read(*changes: str) -> None:
        settings.read("checker", CheckerSettings, [f"distill.{c}" for c in changes])

    with pytest.raises(ConfigError, match=r"pooled_dims: 32 features .* batch is 31"):
        read("dual_view=1", "batch=31")
    read("dual_view=0", "batch=31")
    with pytest.raises(ConfigError, match=r"codes_layer: 5 is not among the layers \[2, 4, 6\]"):
        read("codebook=1", "codes_layer=5")
    with pytest.raises(ConfigError, match="all 0, so that nothing is learned"):
        read("l1_cosine=0")
    with pytest.raises(ConfigError, match="dim: 192 cannot be shared by 5 heads"):
        read("start=fresh", "heads=5")
    checkpoint("hubert", tmp_path / "teacher")
    teacher, out = str(tmp_path / "teacher"), tmp_path / "distilled.pt"
    distill.train(data, teacher, out, changed(start="fresh", l1_cosine=0.0, codebook=0.0))
    whole = load_pretrained(teacher).network
    with pytest.raises(ConfigError, match=r"set tune\.distillation to 0"):
        tune._compared(out, whole, load(out, "encoder", Transformer))


def test_misses_and_false_accepts_by_hand() -> None:
    own, others = [-1.0, 0.5, 2.0, 3.0], [-3.0, -2.0, 0.0, 0.7, 1.0]
    assert [ablate_checker.misses_at(own, others, n) for n in range(6)] == [2, 2, 1, 0, 0, 0]
    assert [ablate_checker.false_accepts_at(own, others, n) for n in range(5)] == [3, 2, 0, 0, 0]


def write_candidates(work: Path, folder: str, voices: list[str]) -> None:
    """Candidates of two words in `voices`, each with the word in it and with another one."""
    texts = default_words().texts
    names = list(texts)[:2]
    rows = []
    for voice in voices:
        for n, name in enumerate(names):
            for text, spoken in ((texts[name], n), ("good evening", -1)):
                said = say(text, voice)[-SAMPLE_RATE:]
                window = np.zeros(WINDOW_SAMPLES + 2 * MARGIN_SAMPLES, np.int16)
                end = MARGIN_SAMPLES + WINDOW_SAMPLES - 1600
                window[end - len(said) : end] = said
                rows.append((window, n, spoken))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    path = work / "checker" / folder
    path.mkdir(parents=True)
    np.savez(
        path / "words-000.npz",
        windows=columns[0],
        word=columns[1],
        spoken=columns[2],
        stream=np.full(len(rows), 0.5, np.float32),
        source=np.full(len(rows), "words"),
        heard="words",
        hours=0.1,
    )


def figures_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "checker.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_false_accepts_are_relative_to_the_first_row(tmp_path: Path) -> None:
    """At its misses, over its seeds; a row that is not done is left out."""
    wanted = ablate_checker.AblateCheckerSettings(
        [], [], 1, dict.fromkeys(("first", "second", "third"), ablate_checker.CheckerAblation())
    )
    with pytest.raises(ConfigError, match="no row is done"):
        list(ablate_checker.figures(tmp_path, wanted))
    own, others = [1.0, 3.0, 5.0, 7.0], [0.0, 2.0, 4.0, 6.0]
    runs = {"first": [own, own], "second": [[1.0, 1.5, 1.6, 7.0], [4.5, 5.0, 6.5, 7.0]]}
    for name, seeds in runs.items():
        for seed, scores in enumerate(seeds, 1):
            path = tmp_path / "ablations" / f"checker-{name}" / str(seed) / "figures.json"
            path.parent.mkdir(parents=True)
            split = {"loss": 0.5 * seed, "own": scores, "others": others}
            path.write_text(json.dumps({"parameters": 1_600_000, "development": split}))
    found = list(ablate_checker.figures(tmp_path, wanted))
    # At one false accept the first row misses 1 and 3; with two misses its 5 and 7 fire, and so
    # does 6 of the others. The second row then fires at 1.6 and at 6.5, and three and none do.
    relative = [(f.row, f.seed, f.value) for f in found if f.figure == "false accepts"]
    assert relative == [("first", 1, 1), ("first", 2, 1), ("second", 1, 3), ("second", 2, 0)]
    missed = [f.value for f in found if f.figure == "missed"]
    assert missed == [0.5, 0.5, 0.75, 0.0]
    head, _, first, second = ablate_checker.table(found, 1).splitlines()
    assert head == (
        "|  | parameters | development: word loss | relative false accepts | "
        "missed at 1 false accepts |"
    )
    assert first == "| first | 1.60 M | 0.750 ±0.250 | 1.00 ±0.00 | 50.0% ±0.0% |"
    assert second == "| second | 1.60 M | 0.750 ±0.250 | 1.50 ±1.50 | 37.5% ±37.5% |"


def test_rows_are_distilled_tuned_and_measured(
    commands: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint("wavlm", tmp_path / "teacher")
    for path in commands.iterdir():
        (tmp_path / path.name).symlink_to(path)
    shared = [f"{name}={value}" for name, value in msgspec.to_builtins(TINY).items()]
    shared += ["dual_view=0", "codebook=0", "steps=2", "views=1", "start=thin"]
    rows = {
        "start": {"distill": ["steps=0"], "tune": ["distillation=0"]},
        "all": {
            "distill": ["start=fresh", "dual_view=1", "codebook=1"],
            "tune": ["steps=1"],
            "seeds": 2,
        },
        "near": {},
        "later": {},
    }
    tuned = [*TINY_TUNE, "head_steps=1", "steps=2", "mixed_precision=false"]
    arguments: list[str | Path] = ["ablate", "--work", tmp_path, "--data", commands]
    arguments += ["--teacher", tmp_path / "teacher", "--only", "start,all,near"]
    changes = {"distill": shared, "tune": tuned, "false_accepts": 1, "rows": rows}
    for name, value in changes.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    with pytest.raises(FileNotFoundError, match="holds no candidates"):
        train(*arguments)
    write_candidates(tmp_path, candidates.TRAINING, ["en-us", "en-gb+m3"])
    write_candidates(tmp_path, candidates.DEVELOPMENT, ["en-us+f3", "en-029+f5", "en-us+m7"])
    write_candidates(tmp_path, candidates.VALIDATION, ["en-gb-scotland+f2"])
    caplog.set_level(logging.INFO)
    assert train(*arguments) == 0
    (table,) = (record.getMessage() for record in caplog.records if "|---|" in record.getMessage())
    head, _, first, second, _ = table.strip().splitlines()
    assert "missed at 1 false accepts" in head
    assert first.startswith("| start | 0.0")
    assert second.startswith("| all | 0.0")
    assert second.count("±") >= 4
    folder = tmp_path / "ablations"
    beginnings = [
        folder / f"checker-{row}" / "1" / "distilled.thin.pt" for row in ("start", "near")
    ]
    assert beginnings[0].samefile(beginnings[1]), "it is not thinned again"
    begun, after = (
        load(folder / "checker-start" / "1" / name, "encoder", Transformer).state_dict()
        for name in ("distilled.thin.pt", "distilled.pt")
    )
    assert all(torch.equal(begun[name], after[name]) for name in begun), "it was not distilled"
    report = json.loads((folder / "checker-all" / "2" / "figures.json").read_text())
    assert [len(report["development"][part]) for part in ("own", "others")] == [6, 6]
    assert [len(report["val"][part]) for part in ("own", "others")] == [2, 2]
    played = report["development in playback"]
    assert len(played["own"]) == 6
    assert played["own"] != report["development"]["own"], "nothing was played"
    assert "| development in playback: word loss |" in head
    assert "val in playback" not in report, "there is no store with what could be played"
    found = {row["figure"] for row in figures_in(folder)}
    assert {"parameters", "loss", "missed"} <= found
    losses = [row for row in figures_in(folder) if row["figure"] == "loss" and row["row"] == "all"]
    assert float(losses[1]["value"]) == report["development"]["loss"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    assert train(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, (
        "what is done is left alone"
    )


def test_every_row_of_the_table_is_made_of_settings() -> None:
    table = settings.read("ablate_checker", ablate_checker.AblateCheckerSettings)
    found = {name: ablate_checker.settings_of(table, name) for name in table.rows}
    budgets = {row.tune.head_steps + row.tune.steps for row in found.values()}
    assert len(budgets) == 1
    assert len({row.distill.steps for row in found.values()} - {0}) == 1
    small = found["fresh"].distill
    whole = Transformer(16, 8, [[0, 1]], [8], norm_first=True, mel={"bands": 80, "positions": 1500})
    parameters = distill._fresh(whole, small).parameters_used(100)
    assert parameters == pytest.approx(1.6e6, rel=0.01)
