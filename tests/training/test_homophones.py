"""What sounds nearly like a wake word, found by rule, cut, listed and trained on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import train, training_data

from kwsd.training.data.corpora import Corpora, fold_of
from kwsd.training.data.phones import distance, phones_of
from kwsd.training.data.training_data import TrainingData
from kwsd.training.stages import align, homophones


def edits(word: str, *heard: str) -> float:
    """Edits from `word` to the phrase of the words `heard`."""
    phones = phones_of([word, *heard])
    return distance(phones[word], tuple(phone for text in heard for phone in phones[text]))


def test_edits_by_hand() -> None:
    assert distance(tuple("abc"), tuple("xabcx")) == 0
    assert distance(tuple("kat"), tuple("kæt")) == 0.5
    assert distance(tuple("kat"), tuple("ɡat")) == 0.25
    assert distance(tuple("kat"), tuple("at")) == 1
    assert distance(tuple("kat"), tuple("kast")) == 1
    assert distance(tuple("kat"), tuple("map")) == 2
    assert distance(tuple("kat"), ()) == 3


def test_phrases_that_fired_are_near() -> None:
    for phrase in ("alex is", "likes a", "alexander"):
        assert edits("alexa", *phrase.split()) <= 2, phrase
    assert edits("computer", "commuter") <= 1
    assert edits("view glass", "few", "glasses") <= 1
    assert edits("snowboy", "no", "boy") <= 1
    for phrase in ("banana", "good morning", "what time is it"):
        assert edits("alexa", *phrase.split()) > 2, phrase


def test_phrases_are_asked_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["alexa", "a", "don't", "view glass", "xylophone"]
    together = phones_of(words)
    assert list(together) == words
    for word in words:
        assert phones_of([word])[word] == together[word]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Sentences with aligned words: two of them hold phrases near "alexa", one the word itself."""
    rng = np.random.default_rng(0)
    said = ["and alex is here", "he likes a song", "hello alexa again", "nothing of that kind"]
    takes = []
    for n in range(40):
        x = rng.normal(0, 500, 64000).astype(np.int16)
        takes.append((x, "libri", f"s{n}" if n % 2 else "", ""))
    training_data(tmp_path, takes)
    rows = ["\t".join(align.FIELDS)]
    for n in range(40):
        for k, word in enumerate(said[n % 4].split()):
            start = 64000 * n + 8000 + 6000 * k
            who = f"s{n}" if n % 2 else ""
            rows.append(f"recorded\t{start}\t5500\tlibri\t{who}\t{word}")
    (tmp_path / "aligned.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_phrases_are_cut_listed_and_heard(work: Path) -> None:
    dictionary = work / "words.dict"
    dictionary.write_text("alexander AE L AH G Z\nbanana B AH\ncommuter K\ncommuter(2) K\nalexa\n")
    assert train("homophones", "--work", work, "--set", f"dictionary={dictionary}") == 0
    with (work / "homophones.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    found = {row["text"] for row in rows if row["word"] == "alexa"}
    assert {"alex is", "likes a", "alexander"} <= found or {"alex", "likes a"} <= found
    assert "banana" not in found
    assert not any("alexa" in text.split() for text in found)
    assert "commuter" in {row["text"] for row in rows if row["word"] == "computer"}
    assert homophones.listed(work) == list(dict.fromkeys(row["text"] for row in rows))
    # The cuts lie on the side of their sentences, with or without a speaker.
    corpora = Corpora(work / "recorded")
    cut = Corpora(work / "homophones").utterances
    assert cut
    assert {u.label for u in cut} <= {f"near {row['text']}" for row in rows}
    folds = {(u.speaker or str(corpora.checksum(u))): u.fold for u in corpora.utterances}
    for u in cut:
        assert u.homophone
        assert u.fold == folds[u.speaker] == fold_of(f"libri/{u.speaker}")
        assert 5500 < u.samples < 4 * 6000 + 2 * homophones.MARGIN_SAMPLES
    data = TrainingData.of(work, work / "rirs.npz")
    scenes = data.scenes(seed=1)
    assert scenes.homophones
    assert not any(u.homophone for pool in scenes.speech.values() for u in pool)
    drawn = [scenes.pick_other() for _ in range(300)]
    assert 0.05 < np.mean([u.homophone for u in drawn]) < 0.3


def test_nothing_to_look_in(work: Path) -> None:
    (work / "aligned.tsv").unlink()
    with pytest.raises(ValueError, match="run `kwsd train align` first, or name a dictionary"):
        train("homophones", "--work", work)


def test_short_words_make_phrases_only(work: Path) -> None:
    data = TrainingData.of(work, work / "rirs.npz")
    first = min(data.corpora().utterances, key=lambda u: u.start)
    transcripts = data.transcripts()
    assert [w.text for w in transcripts.within(first, 0, 64000)] == ["and", "alex", "here"]
    assert len(transcripts.within(first, 0, 64000, short=True)) == 4
