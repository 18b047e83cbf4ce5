"""However much audio there is, a few blocks of it are in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import training_data

from kwsd.audio.format import SAMPLE_RATE
from kwsd.model.bundle import Bundle
from kwsd.training import development, features
from kwsd.training.data.backgrounds import Backgrounds
from kwsd.training.data.corpora import Recording, fold_of
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import Development
from kwsd.training.stages import embedding_bank


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)


FEW = 40
MANY = 320
"""Seconds of speech; the more of them are 10 MB as int16."""


def speech(folder: Path, seconds: int, fold: int) -> TrainingData:
    """Sentences of ten seconds, noise, and a word, all of them noise."""
    rng = np.random.default_rng(0)
    names = [f"s{n}" for n in range(2000)]
    takes: list[Recording] = []

    def add(corpus: str, label: str, length: int, count: int) -> None:
        chosen = [name for name in names if (fold_of(f"{corpus}/{name}") == 0) == (fold == 0)]
        takes.extend(
            Recording(rng.normal(0, 300, length).astype(np.int16), corpus, name, label)
            for name in chosen[:count]
        )

    add("libri", "", 10 * SAMPLE_RATE, seconds // 10)
    add("noise_fan", "", 10 * SAMPLE_RATE, seconds // 10)
    add("pico", "alexa", SAMPLE_RATE, 2)
    return training_data(folder, takes)


def peak(work: Callable[[], object]) -> int:
    """Bytes that numpy holds at most while `work` runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_scoring_negatives_takes_no_more_memory_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "BLOCK_SAMPLES", 8 * SAMPLE_RATE)
    used = []
    for seconds in (FEW, MANY):
        data = speech(tmp_path / str(seconds), seconds, 0)
        split = Development(data)
        heard: list[int] = []

        def scores(x: np.ndarray, heard: list[int] = heard) -> np.ndarray:
            heard.append(len(x))
            return np.zeros((len(x) // 1280, 6))

        used.append(peak(lambda split=split, scores=scores: split.false_accepts(scores, 6)))  # type: ignore[misc]
        pauses = len(heard) * 3 * development.GAP_SAMPLES
        assert sum(heard) >= 3 * seconds * SAMPLE_RATE  # speech clean and in noise, and noise
        assert sum(heard) < 3 * seconds * SAMPLE_RATE + pauses
        assert max(heard) <= 8 * SAMPLE_RATE + development.GAP_SAMPLES
    assert used[1] < 1.3 * used[0]


def test_gathering_the_bank_takes_no_more_memory_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front_end: None
) -> None:
    monkeypatch.setattr(Backgrounds, "shares", {"noise": 1.0})  # others need a moment's memory

    def embed(heard: np.ndarray) -> np.ndarray:
        return np.zeros((len(heard), heard.shape[1] // 1280, 96), np.float32)

    used = []
    for seconds in (FEW, MANY):
        data = speech(tmp_path / str(seconds), seconds, 1)
        scenes = data.scenes(seed=1)
        folder = tmp_path / f"{seconds}.bank"
        used.append(
            peak(lambda s=scenes, f=folder: embedding_bank.gather(embed, 96, s, 1, 2, f))  # type: ignore[misc]
        )
        bank = embedding_bank.EmbeddingBank.load(folder)
        scenes_of_negatives = 2 * 2 * (seconds // 8 - 1)
        assert len(bank.label) >= scenes_of_negatives * embedding_bank.SCENE_SAMPLES // 1280
        assert len(bank.embedding) == len(bank.label) == len(bank.timing) == len(bank.near)
    assert used[1] < 1.3 * used[0]


def test_a_stretch_reads_across_its_utterances(tmp_path: Path) -> None:
    takes = [Recording(np.full(n, n, np.int16), "libri", f"a{n}", "") for n in (5, 3, 9, 1)]
    scenes = training_data(tmp_path, takes).scenes()
    scenes.corpora.utterances.sort(key=lambda u: u.start)
    stretch = embedding_bank._Stretch(scenes, scenes.corpora.utterances)
    whole = np.repeat([5, 3, 9, 1], [5, 3, 9, 1])
    assert len(stretch) == 18
    for start in range(18):
        for samples in range(1, 19 - start):
            assert (stretch.read(start, samples) == whole[start : start + samples]).all()
