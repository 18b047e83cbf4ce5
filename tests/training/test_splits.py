"""What is trained on and what is not: folds, duplicates, and the store for validation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import say, train, training_data

from kwsd.audio.synthesis import espeak
from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.training.data import duplicates
from kwsd.training.data.augment import Rooms
from kwsd.training.data.corpora import (
    FOLDS,
    VALIDATION,
    Corpora,
    Recording,
    Utterance,
    read_clips,
    write_store,
)
from kwsd.training.data.training_data import TrainingData
from kwsd.training.settings.catalog import default_words

RNG = np.random.default_rng(0)


def hiss(samples: int, level: float = 1000) -> np.ndarray:
    return RNG.normal(0, level, samples).astype(np.int16)


def with_manifest(folder: Path, clips: Iterable[Recording]) -> Path:
    """A folder of recordings with a manifest, as `unpack` takes it."""
    folder.mkdir()
    rows = ["file\tstart\tsamples\tcorpus\tspeaker\tlabel"]
    for n, clip in enumerate(clips):
        soundfile.write(folder / f"{n}.wav", clip.samples, 16000)
        rows.append(f"{n}.wav\t\t\t{clip.corpus}\t{clip.speaker}\t{clip.label}")
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_takes_of_one_recording_are_found(tmp_path: Path) -> None:
    """Shifted, quieter, trimmed, turned over, in a little noise: the same. Another take in the same
    voice, the same recording under another word, other noise: not the same."""
    word = espeak("computer", "en-us+m3").astype(np.float64)
    noise = hiss(len(word) + 4000, 20)
    shifted = np.concatenate([np.zeros(3000), 0.4 * word, np.zeros(1000)]) + noise
    trimmed = word[200:-200]
    takes = {
        "first": (word, "computer"),
        "shifted": (shifted, "computer"),
        "trimmed": (trimmed, "computer"),
        "turned over": (-0.9 * word, "computer"),
        "another": (espeak("computer", "en-us+m3", 190), "computer"),
        "another voice": (espeak("computer", "en-us+f2"), "computer"),
        "another word": (shifted, "jarvis"),
        "silence": (np.zeros(9000), "computer"),
        "more silence": (np.zeros(8000), "computer"),
        "noise": (hiss(16000), ""),
        "more noise": (hiss(16000), ""),
    }
    recordings = [
        Recording(samples.astype(np.int16), "pico", who, label)
        for who, (samples, label) in takes.items()
    ]
    # What has no label is compared by checksum alone.
    recordings.append(Recording(recordings[-1].samples, "pico", "more noise again", ""))
    write_store(tmp_path / "recorded", recordings)
    names = {clip.start: clip.speaker for clip in read_clips(tmp_path / "recorded")}
    found = duplicates.find([tmp_path / "recorded"])
    same = {"first", "shifted", "trimmed", "turned over"}
    left_out = {names[place.start] for place in found}
    assert len(left_out & same) == 3
    assert {names[kept.start] for kept in found.values()} >= same - left_out
    assert len(left_out - same) == 1
    assert left_out - same <= {"more noise", "more noise again"}
    # Which one is kept does not depend on where it lies.
    kept = same - left_out
    write_store(tmp_path / "turned", recordings[::-1])
    names = {clip.start: clip.speaker for clip in read_clips(tmp_path / "turned")}
    assert same - {names[place.start] for place in duplicates.find([tmp_path / "turned"])} == kept


def test_no_pair_is_missed_by_its_fingerprint() -> None:
    """Every pair of noises of one spectrum, some shifted by half their length, against numpy."""
    base = RNG.normal(0, 1000, 6000)
    takes = [base, np.roll(base, 3000) * (np.arange(6000) >= 3000), base + RNG.normal(0, 700, 6000)]
    takes += [RNG.normal(0, 1000, 6000), base + RNG.normal(0, 200, 6000)]
    want = set()
    for i, one in enumerate(takes):
        for j, other in enumerate(takes[i + 1 :], i + 1):
            lags = np.correlate(one, other, "full")
            if np.abs(lags).max() > 0.9 * np.linalg.norm(one) * np.linalg.norm(other):
                want.add((i, j))
    compared = duplicates._Takes([take.astype(np.int16) for take in takes])
    assert set(compared.equal()) == want == {(0, 4)}


def test_duplicates_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = hiss(8000)
    clips = [Recording(take, "noise_a", "", ""), Recording(take, "noise_b", "", "")]
    data = training_data(tmp_path, clips)
    assert len(data.corpora().utterances) == 1
    looked: list[object] = []
    find = duplicates.find
    monkeypatch.setattr(duplicates, "find", lambda *a: looked.append(a) or find(*a))  # type: ignore[func-returns-value]
    again = TrainingData.of(tmp_path, tmp_path / "rirs.npz")
    assert again.duplicates == data.duplicates
    assert not looked
    write_store(tmp_path / "more", [Recording(take, "noise_c", "", "")])
    assert len(TrainingData.of(tmp_path, tmp_path / "rirs.npz").duplicates) == 2
    assert looked


def folds(corpora: Corpora) -> dict[str, int]:
    return {f"{u.corpus}/{u.speaker}/{u.samples}": u.fold for u in corpora.utterances}


def test_folds_do_not_depend_on_positions(tmp_path: Path) -> None:
    """Speakers, and what has none, stay in their folds when a store is written in another order;
    every fold has takes of every word."""
    words = default_words().names
    takes = [
        Recording(hiss(4000 + 100 * n + w), "pico", f"p{n}", word)
        for n in range(24)
        for w, word in enumerate(words)
        if (n + w) % 3
    ]
    takes += [Recording(hiss(3000 + n), "noise_x", "", "") for n in range(40)]
    takes += [Recording(hiss(9000 + n), "gsc", f"g{n % 20}", "go") for n in range(40)]
    write_store(tmp_path / "a", takes)
    write_store(tmp_path / "b", [takes[n] for n in RNG.permutation(len(takes))])
    one = Corpora(tmp_path / "a")
    assert folds(one) == folds(Corpora(tmp_path / "b"))
    for corpus in ("gsc", "noise_x"):
        assert {u.fold for u in one.utterances if u.corpus == corpus} == set(range(FOLDS))
    for word in range(len(words)):
        held = [u.fold for u in one.utterances if u.word == word]
        assert min(held.count(fold) for fold in range(1, FOLDS)) >= 2
    speakers: dict[str, set[int]] = {}
    for u in one.utterances:
        if u.speaker:
            speakers.setdefault(f"{u.corpus}/{u.speaker}", set()).add(u.fold)
    assert all(len(held) == 1 for held in speakers.values())


def test_a_setting_chooses_the_development_fold(tmp_path: Path) -> None:
    clips = [Recording(hiss(4000 + n), "gsc", f"g{n}", "go") for n in range(60)]
    held = []
    for fold in range(FOLDS):
        (tmp_path / "corpora.yaml").write_text(f"development_fold: {fold}\n")
        corpora = training_data(tmp_path, clips).corpora()
        held.append({u.speaker for u in corpora.utterances if u.development})
        assert held[-1] == {u.speaker for u in corpora.utterances if u.fold == fold}
    assert set.union(*held) == {f"g{n}" for n in range(60)}
    assert sum(map(len, held)) == 60
    (tmp_path / "corpora.yaml").write_text("development_fold: 5\n")
    with pytest.raises(ConfigError, match="development_fold"):
        training_data(tmp_path, clips)


def test_rooms_are_split_by_what_they_sound_like(tmp_path: Path) -> None:
    rirs = (RNG.normal(0, 1, (12, 500)) * np.exp(-np.arange(500) / 50)).astype(np.float16)
    np.savez(tmp_path / "a.npz", rirs=rirs)
    np.savez(tmp_path / "b.npz", rirs=rirs[::-1])
    one, other = (
        {bytes(row.numpy().tobytes()) for row in Rooms(tmp_path / f"{name}.npz", True).responses}
        for name in "ab"
    )
    assert one == other
    assert len(one) == 2
    # All responses of one room are on one side.
    names = [f"hall/{n}" if n < 6 else f"room{n}/0" for n in range(12)]
    np.savez(tmp_path / "c.npz", rirs=rirs, names=names)
    assert len(Rooms(tmp_path / "c.npz")) + len(Rooms(tmp_path / "c.npz", True)) == 12
    assert len(Rooms(tmp_path / "c.npz", True)) in (1, 6)
    assert len(Rooms([tmp_path / "a.npz", tmp_path / "c.npz"])) == 10 + len(
        Rooms(tmp_path / "c.npz")
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with recordings and a store for validation, unpacked by the verb."""
    people = [
        Recording(hiss(16000 + n), "gsc", f"g{n % 10}", "go" if n % 2 else "") for n in range(40)
    ]
    noises = [Recording(hiss(8000), "noise_x", "", "") for _ in range(20)]
    held_back = [Recording(say("alexa"), "pico", "v1", "alexa")]
    held_back += [Recording(hiss(17000 + n), "an4", f"v{n % 3}", "") for n in range(9)]
    held_back += [Recording(hiss(9000), "noise_urban", "", "")]
    data = with_manifest(tmp_path / "data", people + noises)
    val = with_manifest(tmp_path / "packed", held_back)
    assert train("unpack", "--data", data, "--val", val, "--work", tmp_path / "work") == 0
    np.savez(tmp_path / "work" / "rirs.npz", rirs=np.eye(10, 800, dtype=np.float16))
    return tmp_path / "work"


def utterances_that_stages_see(data: TrainingData) -> list[Utterance]:
    """All that stages can draw from: the corpora, and each split's scenes."""
    seen = list(data.corpora().utterances)
    for development in (False, True):
        scenes = data.scenes(development=development)
        seen += [*scenes.noise, *scenes.near]
        seen += [u for pool in scenes.words for kind in pool.values() for u in kind]
        seen += [u for pool in scenes.speech.values() for u in pool]
    return seen


def test_no_stage_trains_on_validation(work: Path) -> None:
    data = TrainingData.of(work, work / "rirs.npz")
    assert [store.name for store in data.stores] == ["recorded"]
    assert {u.store for u in utterances_that_stages_see(data)} == {"recorded"}
    validation = data.validation()
    assert validation is not None
    seen = utterances_that_stages_see(validation)
    assert {u.store for u in seen} == {VALIDATION}
    # In it there is nothing to train on, whatever fold is chosen, and nobody for a cohort.
    scenes = validation.scenes(development=False)
    assert not scenes.noise
    assert not scenes.speech
    assert not any(kind for pool in scenes.words for kind in pool.values())
    assert validation.corpora().people(development=False) == {}
    assert len(validation.corpora().people(development=True)) == 3
    (work / "corpora.yaml").write_text("development_fold: 3\n")
    other = TrainingData.of(work, work / "rirs.npz").validation()
    assert other is not None
    assert all(u.development for u in other.corpora().utterances)


def test_validation_is_not_trained_on_by_mistake(work: Path, tmp_path: Path) -> None:
    """Opened with others, imported under its name, or unpacked once more as a corpus."""
    with pytest.raises(ValueError, match="never opened together with others"):
        Corpora(work / "recorded", work / VALIDATION)
    with pytest.raises(ConfigError, match="--name val"):
        train("import", "--layout", "mswc", "--data", work, "--work", work, "--name", VALIDATION)
    held_back = [
        Recording(
            np.array(Corpora(work / VALIDATION).read(u), np.int16), "talk", u.speaker, u.label
        )
        for u in Corpora(work / VALIDATION).utterances
    ]
    # A take of it that is a little shorter is found as well.
    held_back[0] = held_back[0]._replace(samples=held_back[0].samples[150:])
    write_store(work / "copied", [*held_back, Recording(hiss(5000), "talk", "else", "")])
    data = TrainingData.of(work, work / "rirs.npz")
    assert [store.name for store in data.stores] == ["copied", "recorded"]
    assert [u.speaker for u in data.corpora().utterances if u.store == "copied"] == ["else"]
    validation = data.validation()
    assert validation is not None
    assert len(validation.corpora().utterances) == len(held_back)


def test_the_table_of_folds(work: Path) -> None:
    write_store(work / "synthetic", [Recording(hiss(16000), "synthetic", "s", "alexa")])
    assert train("folds", "--work", work) == 0
    head, *lines = (work / "folds.tsv").read_text().splitlines()
    assert head.split("\t") == ["what", "0", "1", "2", "3", "4", "val"]
    table = {cells[0]: cells[1:] for cells in (line.split("\t") for line in lines)}
    assert list(table) == ["alexa", "alexa, synthetic", "continuous English", "noise", "words"]
    assert table["alexa"][:5] == 5 * ["0 / 0 / 0.00"]
    assert table["alexa"][5].startswith("1 / 1 / 0.00")
    assert table["continuous English"][5].startswith("9 / 3 / ")
    clips = [int(cell.split(" / ")[0]) for cell in table["words"][:5]]
    assert sum(clips) == 40
    assert sum(int(cell.split(" / ")[1]) for cell in table["words"][:5]) == 10


def test_unpack_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("unpack", "--work", tmp_path) == 64
    assert "--data FOLDER, --val FOLDER" in capsys.readouterr().err


def test_what_is_missing_is_named_with_its_remedy(work: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    bundle = bundles.default_path()
    checks: list[tuple[list[str | Path], str]] = [
        (["evaluate", "--data", nothing, "--models", bundle], "no such file; --data names"),
        (["heads", "--data", work], "finetuned.pt: no such checkpoint; run `kwsd train finetune`"),
        (
            ["checker", "--data", work, "--models", bundle, "--teacher", nothing / "whisper"],
            "no such folder; name one with a model",
        ),
    ]
    for arguments, said in checks:
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            train(*arguments, "--work", work)
