"""Stores, manifests of recordings, the importers of usual layouts, and the words that clips
hold."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import hiss, train

from kwsd.config import ConfigError
from kwsd.training.data import importers
from kwsd.training.data.corpora import Corpora, Recording, describe, write_store
from kwsd.training.data.manifests import decode, read_manifest
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.transcripts import SpokenWord, Transcripts


def tone(path: Path, hz: float, seconds: float = 0.5, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    how = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(
        path, 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate), rate, **how
    )


def pitch(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples, 16000))))


def test_sentences_that_say_a_wake_word_are_left_out(tmp_path: Path) -> None:
    """They would be taken for sentences without it."""
    takes = [("", "a"), ("", "b"), ("", "c"), ("computer", "d"), ("", "e"), ("", "f")]
    recordings = [
        Recording(np.full(1000, n, np.int16), "audiobooks", speaker, label)
        for n, (label, speaker) in enumerate(takes)
    ]
    write_store(tmp_path / "mine", iter(recordings))
    rows = [(0, "the"), (100, "computer's"), (1100, "smart"), (1300, "mirror"), (2100, "compute")]
    rows += [(3000, "computer"), (4000, "smart"), (5000, "mirror"), (5100, "alexander")]
    lines = [f"mine\t{start}\t80\taudiobooks\t\t{text}\t0\n" for start, text in rows]
    head = "store\tstart\tsamples\tcorpus\tspeaker\tlabel\ttrusted\n"
    (tmp_path / "aligned.tsv").write_text(head + "".join(lines))
    np.savez(tmp_path / "rirs.npz")
    data = TrainingData.of(tmp_path, tmp_path / "rirs.npz")
    assert [one.speaker for one in data.corpora().utterances] == ["c", "d", "e", "f"]
    assert len(data.corpora(saying=True).utterances) == 6, "they are aligned as all others"


def test_a_store_is_written_take_by_take(tmp_path: Path) -> None:
    takes = [
        Recording(np.full(n, n % 7, np.int16), "one", f"s{n}", 'a "quoted" word')
        for n in (3, 1000, 70000)
    ]
    assert write_store(tmp_path / "mine", iter(takes)) == 3
    corpora = Corpora(tmp_path / "mine")
    assert [(c.store, c.start, c.samples, c.speaker) for c in corpora.utterances] == [
        ("mine", 0, 3, "s3"),
        ("mine", 3, 1000, "s1000"),
        ("mine", 1003, 70000, "s70000"),
    ]
    assert corpora.utterances[2].label == 'a "quoted" word'
    assert all((corpora.read(c) == c.samples % 7).all() for c in corpora.utterances)
    assert len(corpora.audio["mine"]) == 71003

    def broken() -> object:
        yield takes[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "half", broken())  # type: ignore[arg-type]
    assert not (tmp_path / "half" / "audio.npy").exists()
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "mine", broken())  # type: ignore[arg-type]
    assert len(Corpora(tmp_path / "mine").utterances) == 3  # the store that was there is whole


def test_a_manifest_names_recordings(tmp_path: Path) -> None:
    tone(tmp_path / "deep" / "a.wav", 300, 2.0, 48000)
    tone(tmp_path / "b.flac", 700)
    head = "file\tstart\tsamples\tcorpus\tspeaker\tlabel\n"
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text(
        head
        + "deep/a.wav\t8000\t4000\tmine\tanna\tgo on\n"
        + "deep/a.wav\t16000\t\tmine\tanna\t\nb.flac\t\t\tnoise_mine\t\t\n"
    )
    takes = list(decode(read_manifest(manifest)))
    assert [(len(t.samples), t.corpus, t.speaker, t.label) for t in takes] == [
        (4000, "mine", "anna", "go on"),
        (16000, "mine", "anna", ""),
        (8000, "noise_mine", "", ""),
    ]
    assert [pitch(t.samples) for t in takes] == pytest.approx([300, 300, 700], abs=2)
    manifest.write_text(head + "b.flac\t4000\t9000\tmine\t\t\n")
    with pytest.raises(
        ValueError, match=r"b.flac: a clip at 4000 of 9000 samples lies beyond its 8000"
    ):
        list(decode(read_manifest(manifest)))
    manifest.write_text(head + "b.flac\tfour\t\tmine\t\t\n")
    with pytest.raises(ValueError, match=r"manifest.tsv, line 2: .*four"):
        list(read_manifest(manifest))
    manifest.write_text("file\tstart\n")
    with pytest.raises(ValueError, match="has no column corpus, label, samples, speaker"):
        list(read_manifest(manifest))
    (tmp_path / "c.m4a").write_bytes(b"no sound")
    manifest.write_text(head + "c.m4a\t\t\tmine\t\t\n")
    with pytest.raises(ValueError, match=r"c.m4a: .*convert other kinds first"):
        list(decode(read_manifest(manifest)))


def imported(layout: str, root: Path, work: Path) -> list[tuple[str, str, str, float]]:
    """Corpus, speaker, label and pitch of what `kwsd train import` makes of `root`."""
    assert train("import", "--layout", layout, "--data", root, "--work", work) == 0
    corpora = Corpora(work / layout)
    return [
        (c.corpus, c.speaker, c.label, round(pitch(corpora.read(c)), -1))
        for c in corpora.utterances
    ]


def test_speech_commands(tmp_path: Path) -> None:
    root = tmp_path / "sc"
    for n, name in enumerate(
        (
            "bed/0a7c2a8d_nohash_0",
            "bed/0a7c2a8d_nohash_1",
            "cat/11b1df78_nohash_0",
            "_background_noise_/running_tap",
        )
    ):
        tone(root / f"{name}.wav", 200 + 100 * n)
    (root / "testing_list.txt").write_text("bed/0a7c2a8d_nohash_1.wav\n")
    assert imported("speech_commands", root, tmp_path / "work") == [
        ("noise_speech_commands", "", "", 500),
        ("speech_commands", "0a7c2a8d", "bed", 200),
        ("speech_commands", "11b1df78", "cat", 400),
    ]


def test_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    tone(root / "train-clean-100" / "103" / "1240" / "103-1240-0000.flac", 300)
    (root / "train-clean-100" / "103" / "1240" / "103-1240.trans.txt").write_text(
        "103-1240-0000 CHAPTER ONE\n"
    )
    tone(root / "test-clean" / "61" / "70968" / "61-70968-0000.flac", 400)
    assert imported("librispeech", root, tmp_path / "work") == [("librispeech", "103", "", 300)]


def test_voxceleb(tmp_path: Path) -> None:
    root = tmp_path / "vox1"
    for n, name in enumerate(
        (
            "dev/wav/id10001/1zcIwhmdeo4/00001",
            "dev/wav/id10001/7gWzIy6yIIk/00002",
            "test/wav/id10270/5r0dWxy17C8/00001",
        )
    ):
        tone(root / f"{name}.wav", 200 + 100 * n)
    assert imported("voxceleb", root, tmp_path / "work") == [
        ("voxceleb", "id10001", "", 200),
        ("voxceleb", "id10001", "", 300),
    ]


def test_mswc(tmp_path: Path) -> None:
    root = tmp_path / "mswc"
    for language, word, kind in (("en", "banana", "opus"), ("de", "straße", "wav")):
        rows = [
            ("TRAIN", "17", "True", "abc"),
            ("DEV", "18", "True", "NA"),
            ("TEST", "19", "True", "def"),
            ("TRAIN", "20", "False", "NA"),
        ]
        lines = [
            f"{split},{word}/common_voice_{language}_{n}.opus,{word},{valid},{who},NAN"
            for split, n, valid, who in rows
        ]
        for n in ("17", "18", "19", "20"):
            file = root / language / "clips" / word / f"common_voice_{language}_{n}.{kind}"
            tone(file, 10 * int(n), rate=48000)
        (root / language / f"{language}_splits.csv").write_text(
            "\n".join(["SET,LINK,WORD,VALID,SPEAKER,GENDER", *lines]) + "\n", encoding="utf-8"
        )
    assert imported("mswc", root, tmp_path / "work") == [
        ("mswc", "abc", "de/straße", 170),
        ("mswc", "", "de/straße", 180),
        ("mswc", "abc", "banana", 170),
        ("mswc", "", "banana", 180),
    ]
    assert [row.label for row in importers.mswc(root / "en")] == ["banana", "banana"]


def test_collected(tmp_path: Path) -> None:
    root = tmp_path / "out"
    columns = ["path", "corpus", "speaker", "label", "seconds", "rms_dbfs", "orig_rate", "kind"]
    columns += ["lang", "licence", "verdict", "source"]
    rows = [
        # path, corpus, speaker, label, kind, lang, verdict
        ("a/1.flac", "game", "hero", "that is all", "speech", "en", "train"),
        ("a/2.flac", "game", "held", "das ist alles", "speech", "de", "train"),
        ("a/3.flac", "mrt", "m1", "bat", "words", "en", "train"),
        ("a/4.flac", "mrt", "m2", "katze", "words", "de", "train"),
        ("b/5.flac", "game", "", "", "music", "", "train"),
        ("b/6.flac", "notes", "s", "sung notes", "singing", "", "train"),
        ("b/7.flac", "game", "", "door", "effects", "", "train"),
        ("b/8.flac", "blanket", "", "rain", "ambient", "", "train"),
        ("c/9.flac", "game", "hero", "", "speech", "en", "measure only"),
        ("c/10.flac", "game", "hero", "", "speech", "en", "train, but no negative for: alexa?"),
        ("c/11.flac", "game", "hero", "", "speech", "en", "train"),
        ("hall/000_L.flac", "rir-hall", "", "azimuth 0", "rir", "", "train"),
        ("hall/000_R.flac", "rir-hall", "", "azimuth 0", "rir", "", "train"),
    ]
    lines = ["\t".join(columns)]
    for n, (path, corpus, speaker, label, kind, lang, verdict) in enumerate(rows):
        tone(root / path, 200 + 100 * n, 0.1 if kind == "rir" else 0.5)
        cells = [path, corpus, speaker, label, "0.5", "-9", "8000", kind, lang, "MIT", verdict, "x"]
        lines.append("\t".join(cells))
    (root / "manifest.tsv").write_text("\n".join(lines) + "\n")
    (root / "wakewords.tsv").write_text("c/11.flac\tcomputer\tspotted, unconfirmed\t\n")
    assert imported("collected", root, tmp_path / "work") == [
        ("game", "hero", "", 200),
        ("other_language_game", "held", "", 300),
        ("mrt", "m1", "bat", 400),
        ("other_language_mrt", "m2", "katze", 500),
        ("music_game", "", "", 600),
        ("music_notes", "s", "", 700),
        ("noise_game", "", "", 800),
        ("noise_blanket", "", "", 900),
    ]
    corpora = Corpora(tmp_path / "work" / "collected")
    assert [u.noise for u in corpora.utterances] == 4 * [False] + 4 * [True]
    assert [u.other_language for u in corpora.utterances] == [False, True] * 2 + [False] * 4
    sources = [corpora.roles.source(u.corpus) for u in corpora.utterances]
    assert sources == 2 * ["continuous English", "other languages"] + 2 * ["music"] + 2 * ["noise"]
    with np.load(tmp_path / "work" / "collected" / "rirs.npz") as saved:
        assert saved["names"].tolist() == ["rir-hall/hall-000_L", "rir-hall/hall-000_R"]
        assert saved["rirs"].shape == (2, 19200)
        assert pitch(saved["rirs"][1].astype(float)) == pytest.approx(1400, abs=10)
    # Beside those of DATA, every stage hears these rooms; they are one room, on one side.
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 800, dtype=np.float16))
    data = TrainingData.of(tmp_path / "work", tmp_path / "rirs.npz")
    assert len(data.responses()) in (8, 10)

    for at, (bad, message) in {
        7: ("growl", "1.flac is of the kind 'growl'; expected one of speech, words, music"),
        0: ("", "has no column path"),
    }.items():
        changed = [line.split("\t") for line in lines]
        changed[int(at > 0)][at] = bad
        (root / "manifest.tsv").write_text("\n".join("\t".join(line) for line in changed) + "\n")
        with pytest.raises(ValueError, match=message):
            list(importers.rows("collected", root))
    lines = [line for line in lines if "en\tMIT\tmeasure" in line]
    (root / "manifest.tsv").write_text("\t".join(columns) + "\n" + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="holds nothing in the layout of collected"):
        list(importers.rows("collected", root))


def test_a_corpus_gets_a_name(tmp_path: Path) -> None:
    tone(tmp_path / "sc" / "bed" / "0a7c2a8d_nohash_0.wav", 300)
    work = tmp_path / "work"
    layout = ("import", "--layout", "speech_commands", "--data", tmp_path / "sc", "--work", work)
    assert train(*layout, "--name", "mine") == 0
    assert [u.store for u in Corpora(work / "mine").utterances] == ["mine"]
    for name in ("val", "targets", "a/b", ".."):
        with pytest.raises(ConfigError, match=f"--name {name}: "):
            train(*layout, "--name", name)


def shard(path: Path, recordings: dict[str, dict[str, bytes]]) -> None:
    """Write a tar file with the files of each recording."""
    with tarfile.open(path, "w") as tar:
        for name, files in recordings.items():
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_shards_come_in_and_a_damaged_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def flac(seconds: float, rate: int = 16000) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, hiss(seconds)[: int(seconds * rate)], rate, format="FLAC")
        return file.getvalue()

    anna = json.dumps({"speaker": "anna", "label": "computer"}).encode()
    root = tmp_path / "shards"
    root.mkdir()
    whole = {
        "one": {"flac": flac(1.0), "json": anna},
        "two": {"txt": b"no sound"},
        "three": {"flac": b"no flac"},
        "four": {"json": b"[]", "flac": flac(1.0)},
        "five": {"flac": flac(0.5, 8000), "json": b'{"corpus": "noise_mine"}'},
    }
    shard(root / "a.tar", whole)
    shard(root / "b.tar", {str(n): {"flac": flac(1.0), "json": anna} for n in range(4)})
    data = (root / "b.tar").read_bytes()
    (root / "b.tar").write_bytes(data[: len(data) // 2])
    shard(root / "c.tar", {"last": {"flac": flac(1.0), "json": anna}})
    work = tmp_path / "work"
    layout = ("import", "--layout", "webdataset", "--work", work)
    assert train(*layout, "--data", root, "--name", "mine") == 0
    found = [(u.corpus, u.speaker, u.samples) for u in Corpora(work / "mine").utterances]
    assert found[0] == found[-1] == ("mine", "anna", 16000)
    assert found[1] == ("noise_mine", "", 8000)
    assert 3 <= len(found) < 7, "what comes before the damage is kept, and the next shard"
    assert f"{root / 'b.tar'}: damaged" in caplog.text
    no_object = "four is skipped: its .json is no object"
    for name in ("two holds no sound", "three is skipped", no_object):
        assert f"{root / 'a.tar'}: {name}" in caplog.text
    with pytest.raises(ValueError, match="holds no WebDataset shards"):
        train(*layout, "--data", tmp_path, "--name", "other")


def test_a_folder_of_another_layout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tone(tmp_path / "some" / "file.wav", 300)
    assert importers.EXPECTED.keys() == importers.LAYOUTS.keys()
    with pytest.raises(
        ValueError, match=r"of mswc: `.*\.opus` and `LANGUAGE/LANGUAGE_splits.csv`$"
    ):
        train("import", "--layout", "mswc", "--data", tmp_path, "--work", tmp_path / "work")
    with pytest.raises(
        ValueError, match=r"holds nothing in the layout of voxceleb: `…/idNNNNN/VIDEO/N.wav`"
    ):
        train("import", "--layout", "voxceleb", "--data", tmp_path, "--work", tmp_path / "work")
    with pytest.raises(SystemExit):
        train("import", "--data", tmp_path, "--work", tmp_path / "work")
    assert "required: --layout" in capsys.readouterr().err


def test_words_of_labels_and_of_sentences(tmp_path: Path) -> None:
    found = tmp_path / "aligned.tsv"
    rows = (
        "s\t1100\t300\tlibri\ta\tapple",
        "s\t1500\t400\tlibri\ta\tpear",
        "s\t2500\t90\tlibri\ta\tto",
        "s\t3100\t300\tlibri\ta\tplum",
        "t\t1200\t300\tlibri\ta\tfig",
    )
    found.write_text("store\tstart\tsamples\tcorpus\tspeaker\tlabel\n" + "\n".join(rows) + "\n")
    transcripts = Transcripts(found)
    sentence = describe("s", 1000, 2000, "libri", "a", "")
    assert transcripts.words(sentence) == {"apple", "pear", "to"}
    assert transcripts.within(sentence, 0, 2000) == [
        SpokenWord("apple", 100, 400),
        SpokenWord("pear", 500, 900),
    ]
    assert transcripts.within(sentence, 50, 850) == [
        SpokenWord("apple", 50, 350)
    ]  # the pear ends beyond
    assert Transcripts(tmp_path / "none").words(sentence) == set()
    texts = {
        ("synthetic", "near smart phone"): "smart phone",
        ("pico", "view_glass"): "view glass",
        ("arabic", "Down"): "arabic/down",
        ("precise", "neg-iwant"): "",
    }
    for (corpus, label), text in texts.items():
        assert describe("s", 0, 9, corpus, "x", label).text == text
    clips = [
        sentence,
        *(describe("s", n, 9, "gsc", "x", "go") for n in range(5000, 5004)),
        describe("s", 9000, 9, "gsc", "x", "apple"),
    ]
    assert transcripts.types(clips, least=2) == ["apple", "go"]
    assert transcripts.types(clips, least=3) == ["go"]


def test_words_of_another_store_are_reported(tmp_path: Path) -> None:
    write_store(tmp_path / "recorded", [Recording(np.zeros(16000, np.int16), "libri", "a", "")])
    (tmp_path / "aligned.tsv").write_text(
        "store\tstart\tsamples\tcorpus\tspeaker\tlabel\nold\t0\t4000\tlibri\ta\tfig\n"
    )
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(2, 800, dtype=np.float16))
    with pytest.raises(
        ConfigError,
        match=r"aligned.tsv: words of 'old', which .* does not hold; "
        r"remove the file and run `kwsd train align` again",
    ):
        train("negatives", "--data", tmp_path, "--work", tmp_path)


def test_validation_knows_what_was_aligned_beside_it(tmp_path: Path) -> None:
    for name in ("recorded", "val"):
        write_store(tmp_path / name, [Recording(np.zeros(16000, np.int16), "libri", "a", "")])
    (tmp_path / "aligned.tsv").write_text(
        "store\tstart\tsamples\tcorpus\tspeaker\tlabel\nrecorded\t0\t4000\tlibri\ta\tfig\n"
    )
    held_back = TrainingData.of(tmp_path, None).validation()
    assert held_back is not None
    assert held_back.transcripts().stores == {"recorded"}


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest.tsv: no such file; docs/training.md"):
        train("unpack", "--data", tmp_path, "--work", tmp_path / "work")


@pytest.mark.parametrize("stage", ["align", "cache", "distill", "finetune", "heads", "ablate"])
def test_a_mistyped_option_is_reported_before_missing_corpora(tmp_path: Path, stage: str) -> None:
    work: list[str | Path] = ["--work", tmp_path / "work"]
    if stage not in ("align", "cache"):
        work += ["--data", tmp_path]
    with pytest.raises(ConfigError, match="stps"):
        train(stage, *work, "--set", "stps=3")
    if stage in ("cache", "heads", "ablate"):
        with pytest.raises(ConfigError, match=f"--only foo: {stage} has"):
            train(stage, *work, "--only", "foo")
    with pytest.raises(FileNotFoundError, match="holds no corpora yet"):
        train(stage, *work)
