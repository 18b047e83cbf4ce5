"""Training code against worked numbers, and the exported graphs against torch."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import checkers
import numpy as np
import pytest
import torch
from conftest import train
from msgspec.structs import replace

from kwsd.audio.synthesis import espeak, espeak_variants
from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.training import settings
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data.corpora import Corpora, Recording, describe, write_store
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.transcripts import Transcripts
from kwsd.training.losses import MarginSoftmax, wake_loss
from kwsd.training.models import backend as backends
from kwsd.training.pipeline import HeadsSettings
from kwsd.training.settings.catalog import default_roles, default_words
from kwsd.training.stages import align, negatives, verification
from kwsd.training.stages.checker.kept import keep
from kwsd.training.stages.synthesize import SynthesizeSettings


def test_wake_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0], [5.0], [1.0], [-1.0], [0.0], [3.0]]])
    labels = torch.tensor([[[1], [1], [0], [0], [0], [-1]]])
    # The best of the firing frames is 5; elsewhere 1, 0, -1 and, for want of a fourth, -30. The
    # ignored 3 counts nowhere.
    want = math.log1p(math.exp(-5)) + 0.25 * sum(
        math.log1p(math.exp(v)) for v in (1.0, 0.0, -1.0, -30.0)
    )
    assert wake_loss(logits, labels).item() == pytest.approx(want, rel=1e-5)
    nothing = wake_loss(logits, torch.zeros_like(labels))
    assert nothing.item() == pytest.approx(
        0.25 * sum(math.log1p(math.exp(v)) for v in (5.0, 3.0, 2.0, 1.0)), rel=1e-5
    )


def test_margin_softmax_by_hand() -> None:
    loss = MarginSoftmax(2, 2, scale=4.0)
    loss.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    angle = math.radians(30)
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)]])
    target = 4 * math.cos(angle + 0.25)
    other = 4 * math.cos(math.radians(60))
    want = -target + math.log(math.exp(target) + math.exp(other))
    assert loss(embedding, torch.tensor([0]), 0.25).item() == pytest.approx(want, rel=1e-5)
    flipped = loss(-embedding, torch.tensor([0]), 0.8)  # past pi the line goes on
    assert flipped.item() > loss(-embedding, torch.tensor([0]), 0.5).item()


def test_the_backend_finds_what_tells_people_apart() -> None:
    """People differ along two of six directions, takes of one person mostly along others."""
    rng = np.random.default_rng(3)
    means = rng.normal(0, 1, (400, 6)) * [2.0, 1.0, 0.01, 0.01, 0.01, 0.01] + 5
    spread = np.array([0.5, 0.5, 3.0, 1.0, 1.0, 1.0])
    people = np.repeat(np.arange(400), 6)
    voices = means[people] + rng.normal(0, 1, (2400, 6)) * spread
    fitted = backends.fit(voices, people, directions=2, shrinkage=0.0)
    axes = fitted.axes.numpy()
    assert np.abs(fitted.center.numpy() - 5).max() < 0.3
    # Whitened, the first direction is that of the greatest ratio of variances, 16, the second 4;
    # their weights are sqrt(16 / 17) and sqrt(4 / 5).
    want = np.zeros((6, 2))
    want[0, 0] = np.sqrt(16 / 17) / 0.5
    want[1, 1] = np.sqrt(4 / 5) / 0.5
    assert np.abs(np.abs(axes) - want).max() < 0.12
    out = fitted(torch.from_numpy(voices[:6].astype(np.float32)))
    assert torch.allclose(out.norm(dim=1), torch.ones(6), atol=1e-5)
    shrunk = backends.fit(voices, people, directions=9, shrinkage=1.0)
    assert shrunk.shape == {"dim": 6, "directions": 6}
    with pytest.raises(ValueError, match="nobody has two takes"):
        backends.fit(voices[::6], people[::6])


def test_trials_over_people() -> None:
    rng = np.random.default_rng(0)
    centers = np.eye(8)
    takes = [c + 0.05 * rng.normal(size=(8, 8)) for c in centers]
    vectors = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in takes]
    people = [verification.Person(p, np.full(len(p), 0.6)) for p in vectors]
    result, target, impostor = verification.trials(people)
    assert (result.one, result.five, result.people) == (0.0, 0.0, 8)
    assert target.min() > impostor.max()


def test_a_wake_word_in_noise_lies_where_whisper_heard_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three takes the first is noise all along, the second stands out, and the third stands out
    where Whisper hears it, too."""
    rng = np.random.default_rng(0)
    takes = [rng.normal(0, 1000, 40000), rng.normal(0, 3, 40000), rng.normal(0, 3, 40000)]
    takes[1][16000:27200] += rng.normal(0, 1000, 11200)
    takes[2][:23000] += rng.normal(0, 1000, 23000)
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "audio.npy", np.concatenate(takes).astype(np.int16))
    rows = [f"{n * 40000}\t40000\tpico\tc\talexa" for n in range(3)]
    (folder / "manifest.tsv").write_text(
        "\n".join(["start\tsamples\tcorpus\tspeaker\tlabel", *rows]) + "\n"
    )
    ends = iter((1.31, 1.25))

    class Whisper:
        def __init__(self, *_: object, **__: object) -> None: ...

        def transcribe(self, *_: object, **__: object) -> tuple[list[SimpleNamespace], None]:
            return [
                SimpleNamespace(
                    words=[
                        SimpleNamespace(word=" Alexa.", start=0.0, end=next(ends), probability=0.5)
                    ]
                )
            ], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    out = tmp_path / "aligned.tsv"
    align.align(Corpora(folder), out, align.AlignSettings())
    assert next(ends, None) is None
    assert out.read_text().splitlines()[1:] == [f"store\t{24000 - 19200}\t19200\tpico\tc\talexa\t1"]
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    scenes = Scenes(Corpora(folder), tmp_path / "rirs.npz", seed=3, transcripts=Transcripts(out))
    take = scenes.words[0][False][0]
    scenes.words = [{False: [take], True: []}] * 6
    lengths = [
        end - start
        for _ in range(8)
        for word, start, end in scenes.draw(128000, word_share=1.0).words
        if word in (0, 1, 2, 4)
    ]
    assert min(lengths) >= 19200 / 1.22 / 1.18 - 2
    assert max(lengths) <= 19200 / 0.87 / 0.85 + 2


def test_the_split_keeps_speakers_apart_and_labels_follow_the_words(tmp_path: Path) -> None:
    clips = [describe("store", n * 100, 100, "pico", f"s{n % 20}", "computer") for n in range(200)]
    for speaker in {c.speaker for c in clips}:
        assert len({c.development for c in clips if c.speaker == speaker}) == 1
    assert 0 < sum(c.development for c in clips) < len(clips) / 2
    folder = tmp_path / "store"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "audio.npy", rng.normal(0, 1000, 16000 * 40).astype(np.int16))
    rows = ["start\tsamples\tcorpus\tspeaker\tlabel"]
    words = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
    rows += [f"{n * 16000}\t16000\tpico\ta{n % 7}\t{words[n % 6]}" for n in range(30)]
    rows += [f"{n * 16000}\t16000\tgsc\tb{n}\tgo" for n in range(30, 40)]
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    scenes = Scenes(Corpora(folder), tmp_path / "rirs.npz", seed=3)
    scenes.words = [
        {
            False: scenes.words[w][False]
            or scenes.words[1][False]
            or [c for c in scenes.corpora.utterances if c.word >= 0],
            True: [],
        }
        for w in range(6)
    ]
    scene = scenes.draw(64000, word_share=0.8)
    heard = scenes.hear(scene.clean[None], [scene.degradation])[0]
    assert scene.clean.shape == heard.shape == (64000,)
    assert 0 < np.abs(heard).max() <= 32768
    labels = scenes.labels([(1, 16000, 32000)], 50)
    ends = 1280 * (np.arange(50) + 1)
    assert set(np.flatnonzero(labels[:, 1] == 1)) == set(
        np.flatnonzero((ends >= 32000) & (ends < 32000 + 5 * 1280))
    )
    assert (labels[:, 0] == 0).all()


def test_every_stages_settings_are_read_and_changed_by_name() -> None:
    heads = settings.read(
        "heads", HeadsSettings, ["wake.steps=7", "speaker.rate=2e-4", "speaker.crop_chunks=[5, 9]"]
    )
    assert (
        heads.wake.steps,
        heads.speaker.rate,
        heads.speaker.crop_chunks,
        heads.speaker.speeds,
    ) == (7, 2e-4, [5, 9], [1.0, 0.89, 1.12])
    assert settings.read(
        "synthesize", SynthesizeSettings, ["kokoro_voices=0"]
    ) == SynthesizeSettings(1, 0)
    assert (
        settings.read("align", align.AlignSettings, ["whisper=/models/whisper"]).whisper
        == "/models/whisper"
    )
    with pytest.raises(ConfigError, match=r"wake\.stps"):
        settings.read("heads", HeadsSettings, ["wake.stps=7"])


def test_there_are_many_rough_voices() -> None:
    assert len(espeak_variants()) > 50


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A store of twenty sentences of three seconds and twenty single words, all of them noise."""
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(
        folder / "audio.npy", np.random.default_rng(0).normal(0, 1000, 16000 * 80).astype(np.int16)
    )
    rows = ["start\tsamples\tcorpus\tspeaker\tlabel"]
    rows += [f"{n * 48000}\t48000\tlibri\ta{n}\t" for n in range(20)]
    rows += [f"{16000 * (60 + n)}\t16000\tgsc\tb{n}\tgo" for n in range(20)]
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_words_of_joined_sentences_find_their_clips(
    sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences of 3 s with gaps of 0.5 s: what is said at 4.0 s of the joined audio lies half a
    second into the second."""
    heard: list[float] = []

    class Whisper:
        def __init__(self, name: str, **_: object) -> None:
            assert name == "tiny"

        def transcribe(self, audio: np.ndarray, **_: object) -> tuple[list[SimpleNamespace], None]:
            heard.append(len(audio) / 16000)
            spoken = [
                (" Hello,", 4.0, 4.4, 0.9),
                (" maybe", 4.5, 4.9, 0.3),
                (" across", 6.2, 7.0, 0.9),
                (" it", 7.2, 7.5, 0.9),
                (" 42.", 7.6, 8.4, 0.9),
            ]
            words = [
                SimpleNamespace(word=w, start=a, end=b, probability=p) for w, a, b, p in spoken
            ]
            return [SimpleNamespace(words=words)], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    out = tmp_path / "aligned.tsv"
    align.align(Corpora(sentences), out, align.AlignSettings("tiny"))
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert rows[0] == align.FIELDS
    assert rows[1] == ["store", str(48000 + 8000), "6400", "libri", "a1", "hello", "1"]
    assert {row[5] for row in rows[1:] if row[6] == "1"} == {"hello", "it"}
    unsure, across, _, *digits = rows[2:7]
    assert unsure == ["store", str(48000 + 16000), "6400", "libri", "a1", "maybe", "0"]
    assert across[5:] == ["across", "0"], "it ends in the next sentence"
    assert int(across[1]) + int(across[2]) == 2 * 48000
    assert [row[5:] for row in digits] == [["four", "0"], ["two", "0"]], "a number, by its digits"
    known = Transcripts(out)
    second = Corpora(sentences).utterances[1]
    assert known.words(second) == {"hello", "maybe", "across"}
    assert [word.text for word in known.within(second, 0, 48000)] == ["hello"]
    assert len(heard) == 3
    assert len(rows) == 19
    assert all(seconds <= align.WINDOW_S for seconds in heard)
    out.write_text("\n".join(out.read_text().splitlines()[:13]) + "\n")
    align.align(
        Corpora(sentences), out, align.AlignSettings("tiny")
    )  # goes on behind the last word
    assert len(heard) == 4
    assert len(out.read_text().splitlines()) == len(rows)
    out.write_text("store\tstart\tsamples\tcorpus\tspeaker\tlabel\n")
    with pytest.raises(ConfigError, match="has other columns; remove it"):
        align.align(Corpora(sentences), out, align.AlignSettings("tiny"))


def test_the_bank_names_what_is_said_in_it(
    sentences: Path,
    tmp_path: Path,
    bundle: bundles.Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    (tmp_path / "aligned.tsv").write_text(
        "\t".join(align.FIELDS)
        + "\n"
        + "".join(f"store\t{n * 48000 + 100}\t4000\tlibri\ta{n}\tapple\t1\n" for n in range(20))
        + "".join(f"store\t{n * 48000 + 9000}\t900\tlibri\ta{n}\tto\t0\n" for n in range(20))
        + "val\t0\t4000\tlibri\tb\ttwo\t1\n"
    )
    roles = replace(default_roles(), negatives_s={"libri": 20, "gsc": 10})
    data = TrainingData([sentences], tmp_path / "rirs.npz", tmp_path / "aligned.tsv", roles=roles)
    checked, spoken = tmp_path / "checked.npz", tmp_path / "spoken"
    bank_path = tmp_path / "bank.npz"
    assert not negatives.gather(data, BundleRuntime(bundle.path), bank_path, checked, spoken)
    assert not checked.exists()
    with np.load(bank_path) as bank:
        assert bank["high"].dtype == np.int8
        assert bank["high"].shape[1:] == bank["scale"].shape == (96,)
        assert bank["texts"].tolist() == ["apple to two", "apple to two", "go"]
        assert len(bank["starts"]) == 3
        assert bank["speech"].tolist() == [1, 1, 0], "single words are no continuous speech"
        assert 20 / 0.08 < len(bank["high"]) < 40 / 0.08
        assert np.abs(bank["high"]).max() == 127
        frames = len(bank["high"])
    models = checkers.write(tmp_path / "checked", "small", bank=checkers.chatter())
    runtime = BundleRuntime(models, checker="small")
    assert negatives.gather(data, runtime, bank_path, checked, spoken)
    assert "--only spoken" in caplog.text
    with np.load(checked) as vectors:  # every second frame of the same bank
        assert vectors["words"].shape == (0, checkers.WORD_DIM)
        assert vectors["vectors"].shape == (len(vectors["at"]), checkers.WORD_DIM)
        assert frames / 2 <= len(vectors["at"]) <= frames / 2 + 3
        assert vectors["at"].max() < frames
    known = (tmp_path / "aligned.tsv").read_text().splitlines()[:4]
    (tmp_path / "few.tsv").write_text("\n".join(known) + "\n")
    few = TrainingData([sentences], tmp_path / "rirs.npz", tmp_path / "few.tsv", roles=roles)
    negatives.gather(few, BundleRuntime(bundle.path), bank_path, checked, spoken)
    with np.load(bank_path) as bank:
        assert bank["texts"].tolist() == ["apple", "go"], "nobody knows what the others say"


def test_the_bank_has_a_window_of_each_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = np.arange(8, dtype=np.int16)[:, None] * np.ones(40, np.int16)
    kind = np.array(["a", "b", "a", "c", "b", "a", "d", "d"])
    who = np.array([*["synthetic/flite-1"] * 3, "gsc/p1", "gsc/p2", *["synthetic/piper-2"] * 3])
    keep(tmp_path / "000.npz", windows[:5], {}, kind=kind[:5], who=who[:5])
    keep(tmp_path / "001.npz", windows[5:], {}, kind=kind[5:], who=who[5:])
    chosen = [int(window[0]) for window in negatives.single_words(tmp_path)]
    assert sorted(kind[chosen]) == ["a", "b", "c", "d"]
    assert set(chosen[:2]) == {3, 4}, "recorded ones come first"
    monkeypatch.setattr(negatives, "MOST_WORDS", 2)
    assert {int(window[0]) for window in negatives.single_words(tmp_path)} == {3, 4}


def test_a_bundle_is_evaluated_by_its_words_and_speakers(tmp_path: Path) -> None:
    """A small development split in clear voices: the words are heard, all of them, and the people,
    who say one thing each, told apart."""

    texts = default_words().texts

    def of_the_split(corpus: str, count: int) -> list[str]:
        return [
            name
            for n in range(200)
            if describe("s", 0, 1, corpus, name := f"{corpus}{n}", "").development
        ][:count]

    takes = [
        Recording(espeak(text, f"en-us+{voice}"), "pico", who, word)
        for who, voice in zip(of_the_split("pico", 3), ("m3", "f2", "m7"), strict=True)
        for word, text in texts.items()
    ]
    takes += [
        Recording(espeak(text, "en-us+f4"), "synthetic", of_the_split("synthetic", 1)[0], word)
        for word, text in texts.items()
    ]
    for who, voice in zip(of_the_split("gsc", 3), ("m1", "f3", "croak"), strict=True):
        takes += [
            Recording(espeak("nine of them", f"en+{voice}", 150 + 5 * n), "gsc", who, "nine")
            for n in range(7)
        ]
    rng = np.random.default_rng(0)
    fan = rng.normal(0, 300, 160000).astype(np.int16)
    takes.append(Recording(fan, "noise_fan", of_the_split("noise_fan", 1)[0], ""))
    write_store(tmp_path / "work" / "recorded", takes)
    held_back = [
        Recording(espeak(text, "en-us+f1"), "pico", "anyone", word)
        for word, text in texts.items()
        if word != "snowboy"
    ]
    held_back += [
        Recording(espeak("seven of them", f"en+{voice}", 150 + 5 * n), "an4", voice, "")
        for voice in ("m2", "f5")
        for n in range(6)
    ]
    held_back.append(Recording(rng.normal(0, 300, 80000).astype(np.int16), "noise_urban", "", ""))
    write_store(tmp_path / "work" / "val", held_back)
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    shutil.copytree(bundles.load().path, tmp_path / "models")
    assert (
        train(
            "evaluate",
            "--data",
            tmp_path,
            "--work",
            tmp_path / "work",
            "--models",
            tmp_path / "models",
            "--checker",
            "off",
            "--write",
        )
        == 0
    )
    report = json.loads((tmp_path / "work" / "evaluation-off.json").read_text())
    spoken = sum(len(t.samples) + 2400 for t in takes if t.corpus == "gsc") / 57.6e6
    hours = {kind: row["hours"] for kind, row in report["sources"].items()}
    assert hours == pytest.approx(
        {"words": spoken, "words at 10 dB": spoken, "noise": 162400 / 57.6e6}, abs=0.001
    )
    assert all(row["low"] <= row["per_hour"] <= row["high"] for row in report["sources"].values())
    assert list(report["words"]) == list(texts)
    assert all(body["clips"] == 3 for body in report["words"].values())
    assert report["sweep"]["clean"] <= report["sweep"]["10 dB"] + 0.1 <= 0.5
    assert report["synthetic_sweep"]["clean"] <= 0.5
    assert report["speakers_gsc"]["people"] == 3
    assert report["speakers_gsc"]["eer_five"] < 0.2
    # What validates is beside it: thresholds are those of the development split.
    validation = report["validation"]
    kinds = {"continuous English", "continuous English at 10 dB", "noise"}
    assert set(validation["sources"]) == kinds
    assert validation["words"].keys() == report["words"].keys() - {"snowboy"}
    assert validation["speakers_an4"]["people"] == 2
    for word, body in validation["words"].items():
        assert [point["threshold"] for point in body["kept"]] == [
            point["threshold"] for point in report["words"][word]["points"]
        ]
    written = bundles.load(tmp_path / "models").words
    for word, body in report["words"].items():
        strict = body["points"][0]
        assert written[word].threshold == pytest.approx(strict["threshold"], abs=0.001)
        assert strict["false_accepts_per_hour"] == 0.1
        assert strict["low"] < 0.1 < strict["high"]
        assert strict["threshold"] >= body["points"][1]["threshold"]
        assert written[word].operating_points[0].high == pytest.approx(strict["high"], abs=1e-5)
