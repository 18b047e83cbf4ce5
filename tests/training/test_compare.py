"""Teacher and student beside each other: pruned students, a transformer as the backbone, and the
figures of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import say
from msgspec.structs import replace
from test_teachers import checkpoint

from kwsd.config import ConfigError
from kwsd.model.bundle import Bundle
from kwsd.training import features, settings
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import DRAWS, Development, FalseAccepts
from kwsd.training.models.backbone import TransformerBackbone
from kwsd.training.models.checkpoint import load, save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.pruning import prune
from kwsd.training.settings.catalog import default_words
from kwsd.training.stages import ablate, compare, finetune
from kwsd.training.stages.finetune import FinetuneSettings
from kwsd.training.stages.trained_model import TrainedModel, backbone_macs_per_second

WORDS = default_words().names
SMALL = FinetuneSettings(
    steps=2,
    word_batch=2,
    voice_batch=4,
    checkpoint_every=1,
    log_every=1,
    distillation=0,
    start="fresh",
    width=0.5,
)


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)


def outputs(encoder: Encoder, mel: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(mel, encoder.zero_state(len(mel)))[0]


def test_a_pruned_encoder_says_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    wide = Encoder()
    mel = torch.randn(8, 640, 32)
    unheard = torch.randn(2, 640, 32)
    whole = outputs(wide, unheard)

    def explained(encoder: Encoder) -> float:
        return 1 - float(
            (outputs(encoder, unheard) - whole).square().sum()
            / (whole - whole.mean((0, 1))).square().sum()
        )

    assert explained(prune(wide, mel, 2 / 3)) > 0.5
    monkeypatch.setattr("kwsd.training.models.pruning._fit", lambda *_: None)
    assert explained(prune(wide, mel)) > 0.999
    assert explained(prune(wide, mel, 2 / 3)) < 0


def test_what_can_be_left_out_without_loss_is() -> None:
    torch.manual_seed(1)
    wide = Encoder()
    mel = torch.rand(2, 160, 32)
    for layer in (
        *wide.across,
        *wide.along,
    ):  # convolutions that are a filter and a mixture already
        taps = torch.rand_like(layer.weight[:1])
        layer.weight.data.copy_(
            torch.randn(layer.out_channels, layer.in_channels, 1, 1) * 0.1 * taps
        )
    apart = prune(wide, mel, separable=True)
    whole = outputs(wide, mel)
    assert torch.allclose(
        outputs(apart, mel), whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())
    )
    assert backbone_macs_per_second(apart) < 0.45 * backbone_macs_per_second(wide)
    for layer in wide.activated():  # channels that say nothing
        layer.weight.data[::3] = 0
        assert layer.bias is not None
        layer.bias.data[::3] = 0
    narrow = prune(wide, mel, width=2 / 3)
    whole = outputs(wide, mel)
    assert narrow.activated()[1].weight.shape[0] == 16
    assert narrow.intermediate_dim == 16 * 16
    assert torch.allclose(
        outputs(narrow, mel), whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())
    )
    for bad in ({"width": 1.5}, {"separable": False}):
        with pytest.raises(ValueError, match="cannot be pruned"):
            prune(wide if "width" in bad else apart, mel, **bad)


def test_a_shape_is_kept_with_its_weights(tmp_path: Path) -> None:
    encoder = Encoder(0.5, separable=True)
    save(tmp_path / "e.pt", encoder=encoder, step=3)
    again = load(tmp_path / "e.pt", "encoder", Encoder)
    assert again.shape == {"width": 0.5, "separable": True, "normed": False}
    mel = torch.rand(1, 80, 32)
    assert torch.equal(outputs(again, mel), outputs(encoder, mel))


def test_multiply_accumulates_are_those_of_the_card() -> None:
    assert backbone_macs_per_second(Encoder()) == pytest.approx(
        72.4e6 - 12.5 * 180_000, rel=0.01
    )  # the card's hold the wake head too


def data_of(commands: Path) -> TrainingData:
    return TrainingData.of(commands, commands / "rirs.npz")


def train(commands: Path, out: Path, settings: FinetuneSettings) -> None:
    finetune.train(data_of(commands), Voices(commands / "voice"), None, out, settings)


def test_a_students_figures(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "student.pt"
    train(commands, out, SMALL)
    figures_file = tmp_path / "student.json"

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    def figures_of() -> dict[str, Any]:
        return compare.compare(out, data_of(commands), figures_file)

    with monkeypatch.context() as late:
        late.setattr(compare, "misses", cut_off)
        with pytest.raises(KeyboardInterrupt):
            figures_of()
    assert not figures_file.exists()
    with monkeypatch.context() as early:  # what was taken before is not taken again
        early.setattr(compare, "word_accuracy", cut_off)
        figures = figures_of()
    assert json.loads(figures_file.read_text()) == figures
    assert figures["parameters"] == sum(p.numel() for p in Encoder(0.5).parameters())
    assert figures["words"]["classes"] == 4  # bed, cat, others, silence
    people = {
        c.speaker
        for c in Development(data_of(commands)).corpora.utterances
        if c.development and c.corpus == "gsc"
    }
    assert figures["speakers"]["people"] == len(people) > 1
    for condition in DRAWS:
        for found in (
            figures["words"][condition],
            figures["misses"][condition]["0.5"],
            figures["speakers"][condition]["one"],
        ):
            assert 0 <= found["low"] <= found["high"] <= 1
            assert 0 <= found["value"] <= 1
    line = compare.row("student", [figures])
    assert line.startswith("| student | 0.09 M |")
    assert {line.count("|")} == {head.count("|") for head in compare.HEAD.splitlines()}


def found(value: float) -> dict[str, Any]:
    """Figures that are all `value`, with an interval a hundredth to either side."""
    share = {"value": value, "low": value - 0.01, "high": value + 0.01}
    words = share
    rates = {"0.1": share, "0.5": share, "sweep": share}
    kinds = {"one": share, "five": share}
    parts = {
        part: dict.fromkeys(DRAWS, figures)
        for part, figures in (("words", words), ("misses", rates), ("speakers", kinds))
    }
    return {"parameters": 330_000, "macs_per_second": 70_000_000, **parts}


def test_rows_of_the_ablations(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["steps=2", "word_batch=2", "voice_batch=4", "checkpoint_every=1"]
    rows = {
        "warm": ablate.Ablation(["distillation=0.2"]),  # none of it is chosen
        "fresh": ablate.Ablation(["start=fresh"], seeds=2),
        "distilled": ablate.Ablation(
            distill=[
                "start=fresh",
                "width=0.5",
                "teachers.voice={voice: 1.0, source: intermediate}",
            ]
        ),
    }
    wanted = ablate.AblateSettings(
        ["steps=2", "batch=2", "teachers={}"], [*small, "distillation=0"], rows
    )
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "voice").symlink_to(commands / "voice")
    compared: list[Path] = []

    def stub(checkpoint: Path, data: object, out: Path) -> None:
        compared.append(checkpoint)
        out.write_text(json.dumps(found(0.9 + 0.02 * len(compared))))

    monkeypatch.setattr(compare, "compare", stub)
    with pytest.raises(ConfigError, match="no row is done"):
        ablate.table(tmp_path, wanted)
    for _ in range(2):  # what is done is not done again
        ablate.ablate(tmp_path, data_of(commands), wanted, ["fresh", "distilled"])
    folder = tmp_path / "ablations"
    assert compared == [
        folder / "fresh" / "1" / "finetuned.pt",
        folder / "distilled" / "1" / "finetuned.pt",
        folder / "fresh" / "2" / "finetuned.pt",
    ]
    one, two = (
        load(folder / "fresh" / seed / "finetuned.pt", "encoder", Encoder).last.weight
        for seed in "12"
    )
    assert not torch.equal(one, two)
    assert (
        load(folder / "distilled" / "1" / "finetuned.pt", "encoder", Encoder).shape["width"] == 0.5
    )  # it went on from what was distilled
    fresh, distilled = ablate.table(tmp_path, wanted).splitlines()[2:]
    same = "94.0 / 94.0 / 94.0 (93.0…95.0)"
    assert distilled == f"| distilled | 0.33 M | 70 | {' | '.join([same] * 6)} |"
    assert (
        fresh == f"| fresh | 0.33 M | 70 | {' | '.join([same + ' ±2.0'] * 6)} |"
    )  # the mean of 92 and 96


def test_every_row_of_the_ablations_is_made_of_settings() -> None:
    wanted = settings.read("ablate", ablate.AblateSettings)
    for name in wanted.rows:
        ablate.settings_of(wanted, name)


def test_figures_of_known_answers(commands: Path) -> None:
    data = data_of(commands)
    transcripts = data.transcripts()
    named = ["bed", "cat", "dog"]
    words = [word for _, word, _ in compare.labeled_words(Development(data), transcripts, named)]
    asked = compare.labeled_words(Development(data), transcripts, ["bed"])
    assert "cat" not in {word for _, word, _ in asked}  # it cannot be named
    assert "cat" in words
    always_bed: Any = SimpleNamespace(words=named, word=lambda *_: "bed")
    accuracy = compare.word_accuracy(always_bed, Development(data), transcripts)
    assert accuracy["clips"] == len(words)
    assert {accuracy[c]["value"] for c in DRAWS} == {words.count("bed") / len(words)}
    assert 0 < words.count("other") <= words.count("bed")

    def scores(x: np.ndarray) -> np.ndarray:
        # The recordings of the words, padded by 2 s, are heard; all else half as well.
        return np.full(
            (len(x) // 1280, len(WORDS)),
            0.9 if 32000 < len(x) < 70000 and abs(x[:16000]).max() < 100 else 0.45,
        )

    heard = compare.misses(scores, Development(data))
    assert heard["clean"]["0.1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    deaf = compare.misses(lambda x: np.full((len(x) // 1280, len(WORDS)), 0.5), Development(data))
    assert deaf["clean"]["1.0"]["value"] == 1.0
    assert (heard["room"]["sweep"]["value"], deaf["10 dB"]["sweep"]["value"]) == (0.0, 1.0)


def test_misses_are_averaged_over_rates_and_draws(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    development = Development(data_of(commands))
    clips = development.scenes.words[0][False]
    calls = iter(range(1000))

    def scores(x: np.ndarray) -> np.ndarray:  # each draw of a clip a tenth more than the one before
        return np.full((len(x) // 1280, len(WORDS)), 0.1 * (1 + next(calls) // len(clips)))

    assert np.allclose(
        development.hits(scores, clips, "room"),
        np.repeat([[0.1], [0.2], [0.3], [0.4]], len(clips), axis=1),
    )
    # Ten hours hold one peak each of 0.25 and 0.15, so that 0.125 per hour allows for one of them,
    # all other rates for both.
    found = FalseAccepts(len(WORDS))
    peaks = np.zeros((100, len(WORDS)))
    peaks[[20, 60]] = [[0.25], [0.15]]
    found.add("speech", peaks, 10.0)
    monkeypatch.setattr(development, "false_accepts", lambda *_: found)
    monkeypatch.setattr(development, "hits", lambda *_: np.array([[0.1], [0.2], [0.3], [0.3]]))
    for word in range(len(WORDS)):
        development.scenes.words[word] = {
            False: development.scenes.words[word][False][:1],
            True: [],
        }
    swept = compare.misses(scores, development)["room"]
    assert swept["0.1"]["value"] == 0.25  # over 0.15 are three draws of four
    assert swept["0.5"]["value"] == 0.0
    assert swept["sweep"]["value"] == pytest.approx(0.25 / 5)


def test_windows_say_what_a_stream_says(commands: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.pt"
    train(commands, out, SMALL)
    trained = TrainedModel.load(out)
    x = np.concatenate(
        [
            say("it is raining again"),
            say("smart mirror", "en-gb"),
            np.zeros(16000 * 9, np.int16),
            say("computer"),
        ]
    ).astype(np.float32)
    whole, _ = trained.frames(np.pad(x, (0, -len(x) % 1280))[None])
    with torch.inference_mode():
        logits, _, _ = trained.wake(whole, trained.wake.zero_state())
    want = torch.sigmoid(logits[0]).numpy()
    scores = trained.scores(x)
    assert len(scores) == len(x) // 1280
    assert (
        np.abs(scores[40:] - (want[40 : len(scores)] + want[39 : len(scores) - 1]) / 2).max() < 0.02
    )


@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_a_transformer_is_trained_in_the_students_stead(
    family: str, commands: Path, tmp_path: Path
) -> None:
    model = checkpoint(family, tmp_path / "teacher")
    out = tmp_path / "teacher.pt"
    train(
        commands,
        out,
        replace(SMALL, where=str(tmp_path / "teacher"), upper=1, intermediate_layer=1, rate=1e-2),
    )
    saved = torch.load(out, weights_only=True)["encoder"]
    for n, block in enumerate(model.encoder.layers):
        before = (
            block.fc1.weight
            if family == "whisper"
            else block.feed_forward.intermediate_dense.weight
        )
        assert torch.equal(saved[f"layers.blocks.{n}.up.weight"], before) == (
            n < 2
        )  # only the uppermost has moved
    trained = TrainedModel.load(out)
    assert isinstance(trained.backbone, TransformerBackbone)
    embedding, intermediate = trained.frames(np.zeros((2, 1280 * 20), np.float32))
    assert embedding.shape == (2, 20, 16)
    assert intermediate.shape == (2, 80, 16)
    assert trained.raw_voice(say("computer").astype(np.float32)).shape == (192,)
    assert trained.voice(say("computer").astype(np.float32)).shape == (64,)
