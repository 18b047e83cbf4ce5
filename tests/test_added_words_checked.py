"""Added words in the second stage: one run of the checker, one score, one stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace as with_
from pathlib import Path

import checkers
import msgspec
import numpy as np
import pytest
from conftest import PHRASE, RATE, VOICES, hiss, say

from kwsd.client import alike, improve
from kwsd.config import ClipsConfig, Config, ConfigError, VadConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.detect.trace import Step
from kwsd.events import Wake
from kwsd.learn import few_shot
from kwsd.learn.few_shot import WordTrainer, stored_clips, stored_takes
from kwsd.learn.negatives import read_negatives
from kwsd.learn.second_stage import (
    CANDIDATES,
    CHECKS_PER_HOUR,
    StreamScores,
    find_candidates,
    take_score,
)
from kwsd.learn.word_takes import FIRING_CHUNKS, VERSIONS, WRONG_CHUNKS
from kwsd.learn.word_vectors import EVERY_CHUNKS, word_vectors
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle, BundleError
from kwsd.model.manifest import CHECKED_FLOOR, Fusion
from kwsd.model.runtime import CheckerGraph, Runtime
from kwsd.protocol.commands import GetCalibration, Words, WordsPut
from kwsd.protocol.data import MAX_TAKES, Clip, OperatingPoint, TakeInfo
from kwsd.protocol.messages import MAX_LINE
from kwsd.server.state_handlers import StateHandlers
from kwsd.state import words as stored_words
from kwsd.state.clips import ClipStore
from kwsd.state.library import Library
from kwsd.state.second_stage import SecondStage, restored
from kwsd.state.words import AddedWord, WordError, WordStore, from_bytes, to_bytes

OTHER = "good morning dear people"
OTHERS = ("hey panda", "a bandana", "hay and straw")
"""Short, and near `PHRASE`."""
WORD = "hey_banana"
ALONE = {WORD: WordConfig()}
CHUNK = 1280


class Bench:
    """A bundle whose checker knows words, and its sessions."""

    def __init__(self, folder: Path) -> None:
        self.bundle = bundles.load(folder)
        self.runtime = Runtime(self.bundle)
        self.checker = self.bundle.checkers["small"]
        graph = self.runtime.checker(self.checker)
        assert graph is not None
        self.graph: CheckerGraph = graph
        self.trainer = WordTrainer(self.bundle, self.runtime, checker=self.checker)

    def detector(self, config: Config, word: AddedWord) -> Detector:
        """Return a detector at the start of a stream."""
        setup = resolve(config, self.bundle, Library(words={word.name: word}))
        return Detector(self.bundle, setup, self.runtime)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("knows_words")
    return checkers.write(path, "small", "large", bank=checkers.chatter(), candidate=1e-6)


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    return Bench(folder)


@pytest.fixture(scope="module")
def eager(bench: Bench, deaf_banana: AddedWord) -> AddedWord:
    """A word whose streaming stage fires at everything: the second alone tells words apart."""
    good, bad = (_vectors(bench, between(text)) for text in (PHRASE, OTHER))
    last = len(good) - len(hiss(2.2)) // CHUNK  # the chunk after its end
    weights = good[last : last + 3].mean(axis=0) - bad.mean(axis=0)
    middle = ((good @ weights).max() + (bad @ weights).max()) / 2
    second = SecondStage(
        word_id=bench.checker.word_id or "",
        weights=(20 * weights).astype(np.float32),
        bias=float(-20 * middle),
        candidate=0.5,
        fusion=Fusion(checker=1.0, stream=0.0, offset=0.0),
        threshold=0.51,
        operating_points=(),
        takes=np.zeros((len(deaf_banana.takes), 1, 4, checkers.WORD_DIM), np.int8),
        wrong=np.zeros((0, 4, checkers.WORD_DIM), np.int8),
        scores=np.zeros((0, 2), np.float32),
    )
    silent = np.zeros_like(deaf_banana.weights)
    return with_(deaf_banana, weights=silent, bias=3.0, threshold=0.5, second=second)


def _vectors(bench: Bench, samples: np.ndarray) -> np.ndarray:
    return word_vectors(bench.graph, samples, range(CHUNK, len(samples), CHUNK))


@pytest.fixture(scope="module")
def made(bench: Bench) -> AddedWord:
    """A word that the trainer makes."""
    takes = [bench.trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES[:3]]
    return bench.trainer.make(PHRASE, takes)[0]


def config(*, gated: bool = False, checker: str = "small", words: object = None) -> Config:
    given = {"words": words or ALONE, "vad": VadConfig(enabled=gated, mode=3, hangover_s=0.4)}
    return Config(**given, checker=checker)  # type: ignore[arg-type]


def joined(steps: Sequence[Step]) -> np.ndarray:
    return np.concatenate([step.trace.scores for step in steps])


def between(*texts: str, voice: str = VOICES[0]) -> np.ndarray:
    """Return texts with two seconds of hiss around each."""
    said = [np.concatenate([say(text, voice), hiss(2.2)]) for text in texts]
    return np.concatenate([hiss(2.2), *said])


def test_the_second_stage_decides(bench: Bench, eager: AddedWord) -> None:
    samples = between(PHRASE, OTHER, PHRASE)
    detector = bench.detector(config(), eager)
    step = detector.feed(samples)
    wakes = [event for event in step.wakes if isinstance(event, Wake)]
    first, other = (len(between(*texts)) for texts in ((PHRASE,), (PHRASE, OTHER)))
    assert [wake.end < first for wake in wakes] == [True, False]
    assert wakes[-1].end > other
    for wake in wakes:
        assert wake.stages is not None
        assert wake.stages.streaming == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-5)
        assert wake.score > CHECKED_FLOOR
    alone = bench.detector(config(checker="off"), eager).feed(samples)
    assert (alone.trace.scores[:, 0] >= 0.5).all(), "without the checker it always fires"


def test_a_score_is_that_of_the_window(bench: Bench, eager: AddedWord) -> None:
    assert eager.second is not None
    samples = between(PHRASE)
    step = bench.detector(config(), eager).feed(samples)
    chunks = [0, 2, *range(4, len(samples) // CHUNK, 2)]
    vectors = word_vectors(bench.graph, samples, [(chunk + 1) * CHUNK for chunk in chunks])
    expected = [eager.second.fusion(eager.second.logit(vector), 0.95) for vector in vectors]
    assert np.abs(step.trace.scores[chunks, 0] - expected).max() < 1e-3
    held = step.trace.scores[[chunk + 1 for chunk in chunks[:-1]], 0]
    assert np.abs(held - expected[:-1]).max() < 1e-3


def test_a_candidate_of_several_words_shares_one_run(bench: Bench, eager: AddedWord) -> None:
    samples = between(PHRASE, OTHER)
    one, added = {"computer": WordConfig()}, {WORD: WordConfig()}
    heard: dict[str, list[int]] = {}
    scores = {}
    for name, words in {"one": one, "added": added, "both": one | added}.items():
        asked = Config(words=words, vad=VadConfig(enabled=False), added_words=False)
        detector = bench.detector(asked, eager)
        chunks: list[int] = []
        _spy(detector, chunks)
        scores[name] = detector.feed(samples).trace.scores
        heard[name] = chunks
    assert len(set(heard["one"]) & set(heard["added"])) > 10
    assert heard["both"] == sorted({*heard["one"], *heard["added"]})
    assert np.abs(scores["both"] - np.hstack([scores["one"], scores["added"]])).max() < 1e-6


def _spy(detector: Detector, chunks: list[int]) -> None:
    """Have the chunks of the windows that are heard appended to `chunks`."""
    checker = detector.checker
    assert checker is not None
    hear = checker.hear

    def heard(chunk: int) -> None:
        chunks.append(chunk)
        hear(chunk)

    checker.hear = heard  # type: ignore[method-assign]


def test_online_equals_offline_and_gated_equals_ungated(bench: Bench, eager: AddedWord) -> None:
    assert eager.second is not None
    weights = np.random.default_rng(0).normal(0, 0.1, eager.weights.shape).astype(np.float32)
    streaming = with_(eager, weights=weights, bias=-1.0)
    samples = np.concatenate([between(PHRASE, OTHER), hiss(4.0), say(PHRASE), hiss(1.0)])
    alone = bench.detector(config(checker="off"), streaming).feed(samples).trace.scores
    softer = Fusion(checker=0.1, stream=0.0, offset=0.0)
    second = with_(eager.second, fusion=softer, candidate=float(np.quantile(alone, 0.6)))
    word = with_(streaming, second=second)
    whole = bench.detector(config(), word).feed(samples).trace.scores
    assert 10 < (whole > CHECKED_FLOOR).sum() < 0.9 * len(whole)
    rng = np.random.default_rng(3)
    for _ in range(2):
        cuts = np.split(samples, sorted(rng.integers(0, len(samples), 40).tolist()))
        detector = bench.detector(config(), word)
        assert np.abs(joined([detector.feed(part) for part in cuts]) - whole).max() < 1e-4
    gated = bench.detector(config(gated=True), word).feed(samples).trace.scores
    is_open = gated > 0
    assert (~is_open).mean() > 0.1
    assert np.abs(gated[is_open] - whole[is_open]).max() < 1e-4


def test_what_was_checked_lies_above_what_was_not(bench: Bench, eager: AddedWord) -> None:
    assert eager.second is not None
    hopeless = with_(eager.second, fusion=Fusion(0.0, 0.0, -50.0))
    word = with_(eager, second=hopeless)
    scores = bench.detector(config(), word).feed(hiss(1.0)).trace.scores
    assert scores.min() >= CHECKED_FLOOR - 1e-6
    below = with_(word, second=with_(hopeless, candidate=0.99))
    scores = bench.detector(config(), below).feed(hiss(1.0)).trace.scores
    assert scores.max() < CHECKED_FLOOR
    with pytest.raises(ConfigError, match="no checker has heard"):
        bench.detector(config(words={WORD: WordConfig(threshold=0.005)}), word)


def test_a_vector_of_another_length_never_wakes(bench: Bench, eager: AddedWord) -> None:
    assert eager.second is not None
    longer = with_(eager.second, weights=np.ones(checkers.WORD_DIM + 1, np.float32))
    scores = bench.detector(config(), with_(eager, second=longer)).feed(between(PHRASE))
    assert scores.trace.scores.max() == pytest.approx(CHECKED_FLOOR)


def test_a_word_belongs_to_its_checker(bench: Bench, eager: AddedWord) -> None:
    made = with_(eager, threshold=0.3)
    assert made.second is not None
    library = Library(words={WORD: made})
    own, large, off = (
        resolve(config(checker=size), bench.bundle, library) for size in ("small", "large", "off")
    )
    assert own.words[WORD].threshold == made.second.threshold
    assert own.words[WORD].candidate == made.second.candidate
    assert own.warnings == off.warnings == []
    for setup in (large, off):
        assert setup.words[WORD].candidate is None
        assert setup.words[WORD].threshold == made.threshold
        assert setup.words[WORD].model.id != own.words[WORD].model.id
    assert any(f"words.{WORD}: it was made with another checker" in text for text in large.warnings)
    plain = with_(made, second=None)
    setup = resolve(config(), bench.bundle, Library(words={WORD: plain}))
    assert setup.words[WORD].candidate is None
    assert setup.warnings == []


def test_the_second_stage_of_a_word_that_is_added_while_it_runs(
    bench: Bench, eager: AddedWord
) -> None:
    words = {"computer": WordConfig(), WORD: WordConfig()}
    both = resolve(config(words=words), bench.bundle, Library(words={WORD: eager}))
    one = Config(words={"computer": WordConfig()}, vad=VadConfig(enabled=False), added_words=False)
    detector = bench.detector(one, eager)
    samples = between(PHRASE)
    half = len(hiss(1.0)) // CHUNK * CHUNK
    detector.feed(samples[:half])
    detector.configure(both)
    woken = detector.feed(samples[half:]).wakes
    assert WORD in {wake.word for wake in woken if isinstance(wake, Wake)}


def test_candidates_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    bank = np.zeros((2, 40_000))
    at = rng.choice(40_000, 2000, replace=False)
    bank[0, at] = rng.uniform(0, 1, 2000)
    good = np.tile([0.2, 0.8, 0.9, 0.9], (10, 2, 1))
    wrong = np.zeros((0, 4))
    found = find_candidates(StreamScores(good, wrong, bank), 1.0)
    assert found.lost == 0
    assert 0.8 * CHECKS_PER_HOUR < found.checks_per_hour <= CHECKS_PER_HOUR
    speech = np.ones(40_000, bool)
    speech[at[:1000]] = False
    half = find_candidates(StreamScores(good, wrong, bank, speech=speech), 1.0)
    assert half.begins_at < found.begins_at, "what is no speech is not counted"
    hopeless = good.copy()
    hopeless[3] = 0.01
    lost = find_candidates(StreamScores(hopeless, wrong, bank), 1.0)
    assert lost == with_(found, lost=1), "no take is worth more checks than the budget has"
    crowded = np.ones((2, 40_000))
    assert find_candidates(StreamScores(good, wrong, crowded), 1.0).begins_at == CANDIDATES[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_it_learns_what_was_said(bench: Bench, made: AddedWord) -> None:
    second = made.second
    assert second is not None
    assert second.word_id == bench.checker.word_id
    assert second.takes.shape == (3, 8, 4, checkers.WORD_DIM)
    assert second.fusion.checker > 0
    assert second.fusion.stream > 0
    vectors = {}
    for text in (PHRASE, OTHER):
        take = bench.trainer.encoder.take(say(text, VOICES[5]))
        assert take.vectors is not None
        vectors[text] = take.vectors[0]
    logits = {text: np.mean([second.logit(v) for v in found]) for text, found in vectors.items()}
    assert logits[PHRASE] > logits[OTHER] + 0.3
    # As the detector computes it, whichever of the chunks are checked.
    streaming = np.full(4, 0.9)
    scores = [second.fusion(second.logit(v), 0.9) for v in vectors[PHRASE]]
    expected = min(max(scores[::2]), max(scores[1::2]))
    assert take_score(second, streaming, vectors[PHRASE]) == pytest.approx(expected, abs=1e-5)
    assert take_score(second, streaming, vectors[OTHER]) < expected
    none = take_score(second, np.full(4, 0.5 * second.candidate), vectors[PHRASE])
    assert none == pytest.approx(0.5 * CHECKED_FLOOR)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_single_words_of_the_bank_are_negatives(
    bench: Bench, made: AddedWord, tmp_path: Path
) -> None:
    """Takes are parted from the bank's single words as well, which lie apart from the word then."""
    others = [between(text, voice=voice) for text in OTHERS for voice in VOICES]
    end = len(hiss(2.2)) - CHUNK
    windows = [samples[:-end][-checkers.SAMPLES :] for samples in others]
    path = checkers.write(tmp_path, "small", bank=checkers.chatter(), words=windows)
    knowing = Bench(path)
    assert knowing.trainer.negatives.words.shape == (len(others), checkers.WORD_DIM)
    assert np.linalg.norm(knowing.trainer.negatives.words, axis=1) == pytest.approx(1, abs=0.02)
    without = with_(knowing.trainer.negatives, words=np.zeros((0, checkers.WORD_DIM)))
    trainer = WordTrainer(knowing.bundle, knowing.runtime, without, knowing.checker)

    def gap(trainer: WordTrainer) -> float:
        """Return how far apart the takes lie from single words, along the weights."""
        second = trainer.make(PHRASE, stored_takes(made))[0].second
        assert second is not None
        takes = restored(second.takes[:, 0, -1])
        weights = second.weights / np.linalg.norm(second.weights)
        others = knowing.trainer.negatives.words
        return float((takes @ weights).mean() - (others @ weights).mean())

    assert gap(knowing.trainer) > 1.5 * gap(trainer)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_wrong_clips_count_in_both_stages(bench: Bench, made: AddedWord) -> None:
    clips = [
        bench.trainer.encoder.wrong_clip(say(OTHER, voice), len(say(OTHER, voice)))
        for voice in VOICES[:3]
    ]
    word, quality = bench.trainer.make(PHRASE, stored_takes(made), wrong=clips)
    assert word.second is not None
    assert made.second is not None
    assert quality.woken == (False,) * 3
    assert word.second.wrong.shape == (3, 4, checkers.WORD_DIM)
    before, after = (
        np.mean([one.second.logit(v) for clip in clips for v in clip.vectors])  # type: ignore[union-attr]
        for one in (made, word)
    )
    assert after < before
    assert [clip.frames.shape for clip in stored_clips(word)] == [clips[0].frames.shape] * 3
    with pytest.raises(WordError, match="its wrong clips are not such as this kwsd makes"):
        stored_clips(with_(word, wrong=word.wrong[:, :-1]))
    unheard = [with_(take, vectors=None) for take in stored_takes(made)]
    assert bench.trainer.make(PHRASE, unheard)[0].second is None


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_takes_of_other_words_count_in_both_stages(
    bench: Bench, made: AddedWord, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = bench.trainer.encoder
    other, _ = bench.trainer.make(OTHER, [encoder.take(say(OTHER, one)) for one in VOICES[:3]])
    assert other.second is not None
    far, _ = bench.trainer.make(PHRASE, stored_takes(made), [other])
    monkeypatch.setattr(few_shot, "WAKE", 0.0)
    strange = with_(other, second=with_(other.second, word_id="another"))
    alone, unheard, word = (
        bench.trainer.make(PHRASE, stored_takes(made), others)[0]
        for others in ([], [strange], [other])
    )
    assert alone.second is not None
    assert unheard.second is not None
    assert word.second is not None
    assert np.array_equal(far.weights, alone.weights), "its takes do not wake it"
    assert not np.array_equal(unheard.weights, alone.weights)
    assert np.array_equal(word.weights, unheard.weights)
    assert np.array_equal(unheard.second.weights, alone.second.weights)
    said = [encoder.take(say(OTHER, voice)) for voice in VOICES[3:6]]
    before, after = (
        np.mean([second.logit(v) for take in said for v in take.vectors[0]])  # type: ignore[index]
        for second in (alone.second, word.second)
    )
    assert after < before


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_a_word_of_another_checker_is_not_made_again(bench: Bench, made: AddedWord) -> None:
    takes = [bench.trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES[:3]]
    assert made.second is not None
    eager = with_(made, name="twin", threshold=0.0, second=with_(made.second, threshold=0.0))
    assert bench.trainer.also_wakes(WORD, takes, [eager]) == {"twin": 1.0}
    strange = with_(eager, second=with_(made.second, word_id="another"))
    assert bench.trainer.also_wakes(WORD, takes, [strange]) == {"twin": 1.0}
    assert alike.made_again(bench.trainer, made, takes, [strange]) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_labeled_clips_improve_both_stages(bench: Bench, made: AddedWord, tmp_path: Path) -> None:
    handlers = StateHandlers(
        tmp_path, bench.bundle, lambda: Config(words={"computer": WordConfig()})
    )
    handlers.words.save(made)
    assert made.second is not None
    (listed,) = handlers.request(Words()).words
    assert listed.threshold == made.second.threshold
    in_force = handlers.request(GetCalibration()).words[WORD]
    assert made.of_id(in_force.model).threshold == made.second.threshold
    assert made.of_id("another").threshold == made.threshold
    clips = ClipStore(tmp_path, lambda: ClipsConfig(enabled=True))
    now = time.time()
    for n, (text, label) in enumerate(((PHRASE, "right"), (PHRASE, "right"), (OTHER, "wrong"))):
        said = say(text, VOICES[3 + n])
        clip = Clip(
            id="",
            word=WORD,
            model=in_force.model,
            kind="wake",
            time=now - n,
            score=0.9,
            threshold=in_force.threshold,
            start=RATE,
            end=RATE + len(said),
        )
        samples = np.concatenate([hiss(1.0), said, hiss(0.5)])
        clips.label([clips.add(clip, samples).id], label)  # type: ignore[arg-type]
    better, result = improve.improve(handlers, bench.trainer, WORD, print)
    assert (result.right, result.wrong, result.takes) == (2, 1, 3)
    assert result.missed[1] <= 2
    assert better.second is not None
    assert better.second.takes.shape[0] == len(better.takes) == 5
    assert better.second.wrong.shape[0] == len(better.wrong) == 1
    assert better.second.id != made.second.id
    handlers.words.save(better)
    assert handlers.request(Words()).words[0].threshold == better.second.threshold


def test_without_a_checker_that_knows_words_there_is_no_second_stage(
    tmp_path: Path, bundle: Bundle, runtime: Runtime
) -> None:
    models = bundles.load(checkers.write(tmp_path, "small"))
    trainer = WordTrainer(models, runtime, checker=models.checkers["small"])
    assert trainer.word_id is None
    assert trainer.encoder.take(say(PHRASE)).vectors is None
    assert len(read_negatives(models, models.checkers["small"]).at) == 0


def test_stored_and_read_again(eager: AddedWord) -> None:
    again = from_bytes(to_bytes(eager), eager.encoder_id, "it")
    one, other = eager.second, again.second
    assert isinstance(one, SecondStage)
    assert isinstance(other, SecondStage)
    assert other.id == one.id
    assert again.id == eager.id
    assert (other.takes == one.takes).all()
    assert (other.scores == one.scores).all()
    assert (other.threshold, other.operating_points) == (one.threshold, one.operating_points)


@pytest.mark.parametrize(
    "change",
    [
        {"at": np.array([5, 4], np.int32)},
        {"at": np.array([-1, 4], np.int32)},
        {"at": np.array([0, 1 << 20], np.int32)},
        {"at": np.array([0, 1, 2], np.int32)},
        {"vectors": np.zeros((2, 0), np.int8)},
        {"vectors": np.zeros((2, 0), np.int8), "words": np.zeros((1, 0), np.int8)},
        {"words": np.zeros((1, 3), np.int8)},
    ],
)
def test_a_damaged_bank_is_refused(
    tmp_path: Path, folder: Path, change: dict[str, np.ndarray]
) -> None:
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    arrays = {
        "vectors": np.ones((2, 4), np.int8),
        "at": np.array([0, 2], np.int32),
        "words": np.ones((1, 4), np.int8),
    } | change
    np.savez(copy / "small_negatives.npz", **arrays)  # type: ignore[arg-type]
    checkers.save(copy, json.loads((copy / bundles.MANIFEST).read_text()))
    models = bundles.load(copy)
    with pytest.raises(BundleError, match=r"small_negatives.npz: damaged"):
        read_negatives(models, models.checkers["small"])


@pytest.mark.parametrize(
    "change",
    [
        {"bias": np.nan},
        {"bias": 1e7},
        {"weights": np.full(checkers.WORD_DIM, 1e7, np.float32)},
        {"weights": np.ones(checkers.WORD_DIM - 1, np.float32)},
        {"fusion": Fusion(1e9, 1.0, 0.0)},
        {"fusion": Fusion(1.0, np.inf, 0.0)},
        {"candidate": 0.0},
        {"candidate": 1e-6},
        {"candidate": 1.0},
        {"threshold": CHECKED_FLOOR},
        {"word_id": ""},
        {"takes": np.zeros((1, 1, 4, checkers.WORD_DIM), np.int8)},
        {"wrong": np.zeros((1, 4, checkers.WORD_DIM), np.int8)},
        {"scores": np.full((1, 2), 7.0, np.float32)},
        {"operating_points": (OperatingPoint(0.005, 1.0, 0.1, 0.1),)},
        {"operating_points": (OperatingPoint(0.5, 1.0, 2.0, 0.1),)},
    ],
)
def test_a_damaged_second_stage_is_refused(eager: AddedWord, change: dict[str, object]) -> None:
    assert eager.second is not None
    odd = with_(eager, second=with_(eager.second, **change))  # type: ignore[arg-type]
    with pytest.raises(WordError, match=r"it: damaged, or not a kwsd word file"):
        from_bytes(to_bytes(odd), eager.encoder_id, "it")


def test_a_word_of_the_format_before_names_what_makes_it_again(
    tmp_path: Path, deaf_banana: AddedWord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_words, "FORMAT", 2)
    data = to_bytes(deaf_banana)
    monkeypatch.undo()
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    store.path(WORD).write_bytes(data)
    with pytest.raises(WordError) as caught:
        store.load(WORD)
    assert "word format 2, this kwsd reads 3" in str(caught.value)
    assert "`kwsd word add 'hey banana' …`" in str(caught.value)
    assert "`kwsd word add 'hey banana' --from-clips`" in str(caught.value)


def test_the_largest_word_fits_into_a_request(eager: AddedWord) -> None:
    assert eager.second is not None
    count = stored_words.MAX_STORED
    second = with_(
        eager.second,
        weights=np.ones(128, np.float32),
        takes=np.ones((count, len(VERSIONS), FIRING_CHUNKS, 128), np.int8),
        wrong=np.ones((count, WRONG_CHUNKS // EVERY_CHUNKS, 128), np.int8),
    )
    frames = stored_words.CONTEXT_FRAMES + FIRING_CHUNKS, eager.weights.shape[1]
    word = with_(
        eager,
        takes=np.ones((count, len(VERSIONS), *frames), np.float16),
        wrong=np.ones((count, frames[0] + WRONG_CHUNKS - FIRING_CHUNKS, frames[1]), np.float16),
        second=second,
    )
    file = to_bytes(word)
    assert len(msgspec.json.encode(WordsPut(file=file))) < 0.95 * MAX_LINE
    take = TakeInfo("0" * 16, "\x01" * 128, 100000, 200000, 300000, "trimmed")
    assert len(msgspec.json.encode(WordsPut(file=file, takes=[take] * MAX_TAKES))) < MAX_LINE
    assert from_bytes(file, word.encoder_id, "it").second is not None
