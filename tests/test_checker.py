"""The second stage: when a candidate is checked, what is heard, and that a stream stays one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace as with_
from itertools import pairwise
from pathlib import Path
from typing import Any

import checkers
import numpy as np
import pytest
from checkers import SAMPLES
from conftest import RATE, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kwsd.config import Config, ConfigError, VadConfig, WordConfig
from kwsd.detect.checker import NEVER, REMEMBERED_CHUNKS, Candidate, Due
from kwsd.detect.detector import Detector
from kwsd.detect.offline import TraceFile
from kwsd.detect.setup import resolve
from kwsd.detect.trace import Step
from kwsd.events import Detection, Rejected, Stages, Wake, to_dict
from kwsd.metrics import SCORE_DIGITS
from kwsd.model import bundle as bundles
from kwsd.model.bundle import MANIFEST, Bundle, BundleError
from kwsd.model.manifest import CHECKED_FLOOR, Fusion, sigmoid
from kwsd.model.runtime import CheckerGraph, Runtime
from kwsd.state.library import Library
from kwsd.state.words import AddedWord

WORDS = {"computer": WordConfig(), "alexa": WordConfig()}
UNGATED = Config(words=WORDS, vad=VadConfig(enabled=False))
GATED = Config(words=WORDS, vad=VadConfig(mode=3, hangover_s=0.4))
CHUNK = 1280


class Bench:
    """A bundle, and its sessions."""

    def __init__(self, folder: Path) -> None:
        self.bundle = bundles.load(folder)
        self.runtime = Runtime(self.bundle)
        graph = self.runtime.checker(self.bundle.checkers["small"])
        assert graph is not None
        self.graph: CheckerGraph = graph

    def detector(self, config: Config, library: Library | None = None) -> Detector:
        """Return a detector at the start of a stream."""
        return Detector(self.bundle, resolve(config, self.bundle, library), self.runtime)

    def run(self, config: Config, pieces: Sequence[np.ndarray]) -> Step:
        """Feed the pieces to a new detector, one after the other."""
        detector = self.detector(config)
        return joined([detector.feed(piece) for piece in pieces])


def joined(steps: Sequence[Step]) -> Step:
    """Return several steps as one."""
    traces = [step.trace for step in steps]
    end, scores, streaming = (
        np.concatenate([getattr(trace, name) for trace in traces])
        for name in ("end", "scores", "streaming")
    )
    wakes = tuple(event for step in steps for event in step.wakes)
    return Step(wakes, with_(traces[0], end=end, scores=scores, streaming=streaming))


@pytest.fixture(scope="module", params=["mel", "waveform"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A checker whose candidates are few."""
    return Bench(checkers.write(tmp_path_factory.mktemp("few"), "small", input=request.param))


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A checker whose candidates last into pauses, and begin before the gate opens."""
    return Bench(checkers.write(tmp_path_factory.mktemp("eager"), "small", candidate=1e-6))


def facts(events: Sequence[Detection]) -> list[tuple[Any, ...]]:
    """Return what must not depend on how the samples came."""
    return [(type(e), e.word, e.end, getattr(e, "reason", None)) for e in events]


def checks(scores: Sequence[float], first: int = 0) -> list[Due]:
    """Return the check that counts at each chunk from `first` on; 0.5 begins a candidate."""
    candidate = Candidate(0.5)
    found = []
    for n, score in enumerate(scores):
        candidate.step(first + n, score)
        found.append(candidate.due if candidate.length else NEVER)
    return found


def when(present: Sequence[bool], first: int) -> list[int]:
    """Return the chunks in which a candidate is checked."""
    counts = [due.chunk for due in checks([float(one) for one in present], first)]
    return [at for n, at in enumerate(counts) if at == first + n]


def test_a_candidate_is_checked_at_once_and_at_most_every_other_chunk() -> None:
    assert when([False, True, True, True, True, True, True, True], 9) == [10, 12, 14, 16]
    assert when([True] * 10, 9) == [9, 11, 14, 16, 18]
    assert when([True, False, True, True, False, True], 0) == [0, 2, 5]


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 1))
def test_when_checks_fall(present: list[bool], first: int) -> None:
    found = when(present, first)
    begins = [first + n for n, one in enumerate(present) if one and (n == 0 or not present[n - 1])]
    assert set(begins) <= set(found)
    assert all(present[at - first] for at in found)
    for one, two in pairwise(found):
        same = all(present[one - first : two - first + 1])
        assert not same or 2 <= two - one <= 3
    last = checks([float(one) for one in present], first)[-1:]
    for due in last:
        assert due.chunk == -1 or first + len(present) - 1 - due.chunk <= 2


@given(st.lists(st.sampled_from([0.1, 0.6, 0.7, 0.8]), min_size=1, max_size=60), st.integers(0, 1))
def test_the_check_that_counts_depends_on_the_last_scores_alone(
    scores: list[float], first: int
) -> None:
    late = max(len(scores) - 1 - REMEMBERED_CHUNKS, 0)
    assert checks(scores, first)[-1] == checks(scores[late:], first + late)[-1]


@given(st.floats(-1e4, 1e4), st.floats(0, 1))
def test_checked_scores_lie_above_the_floor_and_rise(logit: float, streaming: float) -> None:
    fusion = Fusion(checker=0.7, stream=0.4, offset=-1.0)
    score = fusion(logit, streaming)
    assert CHECKED_FLOOR <= score <= 1
    assert fusion(logit + 1, streaming) >= score
    assert fusion(logit, min(streaming + 0.1, 1.0)) >= score


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), -float("inf")])
def test_no_number_is_the_least_checked_score(logit: float) -> None:
    assert Fusion(1.0, 0.5, 0.0)(logit, 0.9) == CHECKED_FLOOR


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_online_equals_offline(
    eager: Bench, scene: np.ndarray, config: Config, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scene)), max_size=30)))
    offline = eager.run(config, [scene])
    online = eager.run(config, np.split(scene, cuts))
    assert np.abs(offline.trace.scores - online.trace.scores).max() < 1e-4
    assert np.abs(offline.trace.streaming - online.trace.streaming).max() < 1e-4
    assert facts(online.wakes) == facts(offline.wakes)
    assert (offline.trace.scores > CHECKED_FLOOR).sum() > 20, "this scene should be checked a lot"


@pytest.mark.parametrize("hangover_s", [0.2, 0.4, 0.7])
def test_the_scores_of_the_voiced_part_are_those_of_the_ungated_run(
    eager: Bench, scene: np.ndarray, hangover_s: float
) -> None:
    gated = eager.run(replace(GATED, vad=VadConfig(mode=3, hangover_s=hangover_s)), [scene])
    ungated = eager.run(UNGATED, [scene])
    is_open = (gated.trace.streaming > 0).any(axis=1)
    opens = np.flatnonzero(np.diff(is_open.astype(int)) == 1)
    assert opens.size >= 2
    lasting = ungated.trace.scores[opens] > CHECKED_FLOOR
    assert lasting.any(), "a candidate should last while the gate opens"
    assert np.abs(ungated.trace.scores[is_open] - gated.trace.scores[is_open]).max() < 1e-4


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(at=st.integers(RATE, 8 * RATE))
def test_the_output_never_depends_on_future_samples(
    eager: Bench, scene: np.ndarray, at: int
) -> None:
    other = scene.copy()
    other[at:] = hiss(len(scene) / RATE, 3000, seed=at)[: len(scene) - at]
    one = eager.run(UNGATED, [scene]).trace
    two = eager.run(UNGATED, [other]).trace
    before = one.end <= at
    assert np.abs(one.scores[before] - two.scores[before]).max() < 1e-5


def test_a_score_is_that_of_the_window_that_ends_with_the_chunk(
    bench: Bench, scene: np.ndarray
) -> None:
    trace = bench.run(UNGATED, [scene]).trace
    fusion = bench.bundle.checkers["small"].fusion
    column = list(bench.bundle.words).index("computer")
    checked = 0
    for due in dict.fromkeys(_checked(trace.streaming[:, 0])):
        end = (due.chunk + 1) * CHUNK
        window = np.pad(scene[:end], (SAMPLES, 0))[-SAMPLES:].astype(np.float32)
        expected = fusion(float(bench.graph(window)[column]), due.streaming)
        assert trace.scores[due.chunk, 0] == pytest.approx(expected, abs=1e-4)
        checked += 1
    assert checked >= 5


def _checked(streaming: np.ndarray) -> list[Due]:
    candidate = Candidate(0.05)
    found = []
    for chunk, score in enumerate(streaming.tolist()):
        candidate.step(chunk, score)
        found += [candidate.due] if candidate.length else []
    return found


def test_unchecked_scores_lie_below_and_are_never_constant(bench: Bench, scene: np.ndarray) -> None:
    trace = bench.run(UNGATED, [scene]).trace
    unchecked = trace.streaming < 0.05
    assert (trace.scores[unchecked] < CHECKED_FLOOR).all()
    assert (trace.scores[~unchecked] >= np.float32(CHECKED_FLOOR)).all()
    expected = trace.streaming[unchecked] * (CHECKED_FLOOR / 0.05)
    assert trace.scores[unchecked] == pytest.approx(expected, rel=1e-5)


def test_zeros_come_before_the_stream_and_after_a_gap(eager: Bench, scene: np.ndarray) -> None:
    detector = eager.detector(UNGATED)
    detector.feed(scene[: 5 * RATE])
    detector.discontinuity(1000)
    assert (detector.end // CHUNK) % 2 == 0, "the same grid of chunks as at the start"
    after = detector.feed(scene).trace
    whole = eager.run(UNGATED, [scene]).trace
    # Scores are withheld at first, so the candidates begin later than at a start.
    late = eager.bundle.receptive_chunks + 4 + REMEMBERED_CHUNKS
    assert (after.scores[late : late + 20] > CHECKED_FLOOR).any()
    assert np.abs(after.scores[late:] - whole.scores[late:]).max() < 1e-4


def test_events_carry_both_stages(bench: Bench, scene: np.ndarray) -> None:
    low = {"computer": WordConfig(threshold=0.02, refractory_s=0), "alexa": WordConfig()}
    step = bench.run(replace(UNGATED, words=low), [scene])
    wakes = [event for event in step.wakes if isinstance(event, Wake)]
    assert wakes
    for event in wakes:
        assert event.stages is not None
        assert event.score >= event.threshold
        logit = np.log(event.stages.checker / (1 - event.stages.checker))
        fused = bench.bundle.checkers["small"].fusion(float(logit), event.stages.streaming)
        assert event.score == pytest.approx(fused, abs=1e-3)
        assert to_dict(event)["stages"].keys() == {"streaming", "checker"}
    off = bench.run(replace(UNGATED, checker="off"), [scene])
    assert off.wakes
    assert all(event.stages is None and "stages" not in to_dict(event) for event in off.wakes)


def test_a_near_miss_has_the_stages_of_its_peak(bench: Bench, scene: np.ndarray) -> None:
    high = {"computer": WordConfig(threshold=1.0)}
    step = bench.run(replace(UNGATED, words=high, near_miss=0.02), [scene])
    misses = [event for event in step.wakes if isinstance(event, Rejected)]
    assert misses
    for event in misses:
        assert event.reason == "near_miss"
        assert isinstance(event.stages, Stages)
        peaks = np.round(step.trace.scores[:, 0].astype(float), 4)
        assert round(event.score, 4) in peaks


def test_without_a_checker_nothing_changes(bundle: Bundle, bench: Bench, scene: np.ndarray) -> None:
    today = Detector(bundle, resolve(UNGATED, bundle)).feed(scene)
    off = bench.run(replace(UNGATED, checker="off"), [scene])
    assert today.wakes == off.wakes
    assert np.array_equal(today.trace.scores, off.trace.scores)
    assert today.trace.streaming is today.trace.scores
    checked = bench.run(UNGATED, [scene])
    assert np.array_equal(checked.trace.streaming, today.trace.scores)
    assert bundle.encoder_id == bench.bundle.encoder_id


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_a_checker_that_gives_no_numbers_never_wakes(
    tmp_path: Path, scene: np.ndarray, fill: float
) -> None:
    broken = Bench(checkers.write(tmp_path, "small", fill=fill))
    low = {"computer": WordConfig(threshold=0.011)}
    step = broken.run(replace(UNGATED, words=low), [scene])
    assert not [event for event in step.wakes if isinstance(event, Wake)]
    assert step.trace.scores.max() == np.float32(CHECKED_FLOOR)


def test_one_window_serves_all_words(eager: Bench, scene: np.ndarray) -> None:
    all_words = replace(UNGATED, words={name: WordConfig() for name in eager.bundle.words})
    one = eager.detector(replace(UNGATED, words={"computer": WordConfig()}))
    one.feed(scene)
    every = eager.detector(all_words)
    every.feed(scene)
    assert one.checker is not None
    assert every.checker is not None
    assert one.checker.checks <= every.checker.checks <= len(scene) // CHUNK


def test_added_words_are_not_checked(
    eager: Bench, deaf_banana: AddedWord, bundle: Bundle, runtime: Runtime
) -> None:
    weights = np.random.default_rng(0).normal(0, 0.1, deaf_banana.weights.shape)
    word = with_(deaf_banana, weights=weights.astype(np.float32), bias=0.0)
    library = Library(words={word.name: word})
    said = np.concatenate([hiss(1.5), say("hey banana"), hiss(1.0)])

    def set_to(threshold: float) -> Config:
        return replace(UNGATED, words={word.name: WordConfig(threshold=threshold)})

    setup = resolve(set_to(0.5), bundle, library)
    highest = Detector(bundle, setup, runtime).feed(said).trace.scores.max()
    config = set_to(float(highest) - 1e-3)
    expected = Detector(bundle, resolve(config, bundle, library), runtime).feed(said)
    found = eager.detector(config, library).feed(said)
    assert np.array_equal(found.trace.scores, expected.trace.scores)
    assert found.wakes == expected.wakes
    assert [type(event) for event in found.wakes] == [Wake]


def test_configuring_the_same_again_changes_nothing(eager: Bench, scene: np.ndarray) -> None:
    straight = eager.run(GATED, np.split(scene, range(CHUNK, len(scene), CHUNK)))
    detector = eager.detector(GATED)
    steps = []
    for block in np.split(scene, range(CHUNK, len(scene), CHUNK)):
        detector.configure(resolve(GATED, eager.bundle))
        steps.append(detector.feed(block))
    again = joined(steps)
    assert again.wakes == straight.wakes
    assert np.array_equal(again.trace.scores, straight.trace.scores)


def test_a_checker_can_be_switched_off_and_on_in_a_stream(eager: Bench, scene: np.ndarray) -> None:
    detector = eager.detector(UNGATED)
    detector.feed(scene[: 3 * RATE])
    detector.configure(resolve(replace(UNGATED, checker="off"), eager.bundle))
    assert detector.checker is None
    off = detector.feed(scene[3 * RATE : 6 * RATE]).trace
    assert np.array_equal(off.scores, off.streaming)
    detector.configure(resolve(UNGATED, eager.bundle))
    again = detector.feed(scene[6 * RATE :]).trace
    whole = eager.run(UNGATED, [scene]).trace
    late = 4 + REMEMBERED_CHUNKS
    expected = whole.scores[-len(again.scores) :]
    assert np.abs(again.scores[late:] - expected[late:]).max() < 1e-4


def test_a_small_sum_of_both_stages_does_not_round_up_to_a_wake() -> None:
    least = Fusion(1.0, 0.0, 0.0)(-1e9, 0.5)
    assert round(least, SCORE_DIGITS) <= CHECKED_FLOOR
    assert sigmoid(-1e9) == 0.0
    assert sigmoid(1e9) == 1.0


def test_the_trace_has_both_scores(bench: Bench, scene: np.ndarray, tmp_path: Path) -> None:
    step = bench.run(UNGATED, [scene])
    file = TraceFile(step.trace.words)
    for name in ("a.wav", "b.wav"):
        file.begin(Path(name))
        file.add(step.trace)
    file.save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        assert list(arrays["files"]) == ["a.wav", "b.wav"]
        for k in (0, 1):
            assert np.array_equal(arrays[f"scores_{k}"], step.trace.scores)
            assert np.array_equal(arrays[f"stream_scores_{k}"], step.trace.streaming)
            assert np.array_equal(arrays[f"end_{k}"], step.trace.end)


def edited(folder: Path, change: Any) -> Path:
    """Write a bundle with a checker, and `change` its manifest entry; return its folder."""
    checkers.write(folder, "small")
    data = json.loads((folder / MANIFEST).read_text())
    change(data["checkers"]["small"])
    checkers.save(folder, data)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("file"), r"manifest.json: incomplete .*missing required field `file`"),
        (lambda c: c.update(file="../x.onnx"), r"incomplete .*checkers"),
        (lambda c: c.update(file="other.onnx"), r"names other.onnx, which `files` does not"),
        (lambda c: c["candidate"].pop("alexa"), r"candidate has other words .*: alexa"),
        (lambda c: c["words"].pop("alexa"), r"small.words has other words .*: alexa"),
        (lambda c: c["words"]["alexa"].update(threshold=0.01), r"incomplete .*0.01"),
        (
            lambda c: c["words"]["alexa"]["operating_points"][0].update(threshold=0.005),
            r"words.alexa has an operating point at or below 0.01",
        ),
        (lambda c: c.pop("front_end"), r"takes the mel, and a front end is for mel alone"),
        (lambda c: c.update(input="waveform"), r"takes the waveform, and a front end is"),
        (lambda c: c.update(peak=0), r"incomplete .*peak"),
        (lambda c: c.update(input="bytes"), r"incomplete .*input"),
    ],
)
def test_a_checker_that_does_not_fit_its_bundle(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundles.load(edited(tmp_path, change))


def test_a_graph_that_is_no_checker(tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        bundle = bundles.load(folder)
        with pytest.raises(BundleError) as caught:
            Runtime(bundle).checker(bundle.checkers["small"])
        return str(caught.value)

    odd = edited(tmp_path / "odd", lambda c: c.update(samples=SAMPLES + 1))
    assert "makes no whole frames of 32241 samples" in refusal(odd)
    short = edited(tmp_path / "short", lambda c: c.update(samples=SAMPLES - 160))
    assert "mel is [200, 32]; the manifest has [199, 32]" in refusal(short)
    other = checkers.write(tmp_path / "other", "small")
    data = json.loads((other / MANIFEST).read_text())
    (other / "checker.onnx").write_bytes((other / "speaker.onnx").read_bytes())
    checkers.save(other, data)
    assert "it should take mel and give logits: it is another kind of model" in refusal(other)
    (other / "checker.onnx").write_bytes(b"cut off")
    assert "checker.onnx: 7 bytes" in refusal(other)


def test_the_model_of_a_word_is_named_by_all_that_gives_its_scores(tmp_path: Path) -> None:
    base = bundles.load(checkers.write(tmp_path / "base", "small", "large"))
    ids = {
        base.words["alexa"].id,
        base.checkers["small"].words["alexa"].id,
        base.checkers["large"].words["alexa"].id,
    }
    changes: list[Any] = [
        lambda c: c["calibration"].update(offset=0.6),
        lambda c: c["candidate"].update(alexa=0.06),
        lambda c: c.update(peak=0.6),
    ]
    for n, change in enumerate(changes):
        bundle = bundles.load(edited(tmp_path / str(n), change))
        ids.add(bundle.checkers["small"].words["alexa"].id)
        assert bundle.words["alexa"].id == base.words["alexa"].id
    assert len(ids) == 6
    assert base.words["alexa"].id == bundles.load().words["alexa"].id


def test_the_configuration_chooses_the_checker(
    tmp_path: Path, bundle: Bundle, bench: Bench
) -> None:
    assert resolve(Config(), bundle).checker is None
    assert resolve(Config(), bench.bundle).checker is bench.bundle.checkers["small"]
    assert resolve(Config(checker="off"), bench.bundle).checker is None
    with pytest.raises(ConfigError, match=r"^checker: .* no checker 'large'; it has 'small': set "):
        resolve(Config(checker="large"), bench.bundle)
    with pytest.raises(ConfigError, match=r"no checker 'large'; it has none: set `checker: off`"):
        resolve(Config(checker="large"), bundle)
    only = bundles.load(checkers.write(tmp_path, "large"))
    with pytest.raises(ConfigError, match=r"no checker 'small'; it has 'large': .* or `checker: o"):
        resolve(Config(), only)


def test_thresholds_are_those_of_the_checker(bench: Bench) -> None:
    word = resolve(Config(), bench.bundle).words["computer"]
    assert (word.threshold, word.origin, word.candidate) == (0.5, "model", 0.05)
    off = resolve(Config(checker="off"), bench.bundle).words["computer"]
    assert off.threshold == bundles.load().words["computer"].threshold
    assert off.candidate is None
    strict = Config(words={"computer": WordConfig(threshold="strict")})
    assert resolve(strict, bench.bundle).words["computer"].threshold == 0.9


@pytest.mark.parametrize("threshold", [0.01, 0.001])
def test_a_threshold_among_unchecked_scores_is_refused(
    bench: Bench, deaf_banana: AddedWord, threshold: float
) -> None:
    config = Config(words={"computer": WordConfig(threshold=threshold)})
    message = r"^words.computer.threshold: 0.\d+ is .* above 0.01, or set `checker: off`"
    with pytest.raises(ConfigError, match=message):
        resolve(config, bench.bundle)
    resolve(replace(config, checker="off"), bench.bundle)
    library = Library(words={deaf_banana.name: deaf_banana})
    added = Config(words={deaf_banana.name: WordConfig(threshold=threshold)})
    assert resolve(added, bench.bundle, library).words[deaf_banana.name].threshold == threshold
