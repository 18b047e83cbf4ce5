"""The detector: online equals offline, gated equals ungated, and nothing looks at the future."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from conftest import RATE, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kwsd.config import Config, SpeakerConfig, VadConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.detect.speaker_id import SpeakerScorer
from kwsd.detect.trace import Step
from kwsd.events import Detection, Rejected, Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint

WORDS = {"computer": WordConfig(), "alexa": WordConfig()}
UNGATED = Config(words=WORDS, vad=VadConfig(enabled=False))
GATED = Config(words=WORDS, vad=VadConfig(mode=3, hangover_s=0.4))


class Result(NamedTuple):
    """What the detector found in a stream."""

    end: np.ndarray
    """The sample after each chunk."""
    scores: np.ndarray
    events: list[Detection]


class Bench:
    """Runs samples through new detectors."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._whole: dict[tuple[str, bytes], Result] = {}

    def detector(self, config: Config, library: Library | None = None) -> Detector:
        """Return a detector at the start of a stream."""
        return Detector(self._bundle, resolve(config, self._bundle, library), self._runtime)

    def run(self, config: Config, pieces: list[np.ndarray]) -> Result:
        """Feed the pieces, one after the other."""
        detector = self.detector(config)
        return joined([detector.feed(piece) for piece in pieces])

    def whole(self, config: Config, samples: np.ndarray) -> Result:
        """Feed all samples at once; what has been fed before is remembered."""
        key = (str(config), samples.tobytes())
        if key not in self._whole:
            self._whole[key] = self.run(config, [samples])
        return self._whole[key]


def joined(steps: list[Step]) -> Result:
    """Return several steps as one."""
    return Result(
        np.concatenate([step.trace.end for step in steps]),
        np.concatenate([step.trace.scores for step in steps]),
        [event for step in steps for event in step.wakes],
    )


def reason(event: Detection) -> str | None:
    """Return why an event was not let through; None for a wake."""
    return event.reason if isinstance(event, Rejected) else None


def wakes(events: list[Detection]) -> list[Wake]:
    """Return those that were let through."""
    return [event for event in events if isinstance(event, Wake)]


@pytest.fixture(scope="module")
def bench(bundle: Bundle, runtime: Runtime) -> Bench:
    return Bench(bundle, runtime)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_online_equals_offline(
    bench: Bench, scene: np.ndarray, config: Config, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scene)), max_size=30)))
    offline = bench.whole(config, scene)
    online = bench.run(config, np.split(scene, cuts))
    assert np.array_equal(offline.end, online.end)
    assert np.abs(offline.scores - online.scores).max() < 1e-4
    expected = [(e.word, reason(e), e.end) for e in offline.events]
    assert [(e.word, reason(e), e.end) for e in online.events] == expected


def test_sample_by_sample_blocks_of_a_phone(bench: Bench, scene: np.ndarray) -> None:
    offline = bench.whole(UNGATED, scene)
    online = bench.run(UNGATED, [scene[at : at + 160] for at in range(0, len(scene), 160)])
    assert np.abs(offline.scores - online.scores).max() < 1e-4


@pytest.mark.parametrize("hangover_s", [0.2, 0.4])
def test_the_scores_of_the_voiced_part_are_those_of_the_ungated_run(
    bench: Bench, scene: np.ndarray, hangover_s: float
) -> None:
    ungated = bench.whole(UNGATED, scene)
    gated = bench.run(replace(GATED, vad=VadConfig(mode=3, hangover_s=hangover_s)), [scene])
    assert np.array_equal(ungated.end, gated.end)
    is_open = (gated.scores > 0).any(axis=1)
    assert 0.2 < is_open.mean() < 0.9, "this scene should close the gate, and open it"
    assert np.flatnonzero(np.diff(is_open.astype(int)) == 1).size >= 2
    assert np.abs(ungated.scores[is_open] - gated.scores[is_open]).max() < 1e-4
    expected = wakes(ungated.events)
    found = wakes(gated.events)
    assert [(e.word, e.end) for e in found] == [(e.word, e.end) for e in expected]
    # The head says when a word began, in seconds: the last digits round either way.
    assert all(abs(e.start - f.start) <= 1 for e, f in zip(expected, found, strict=True))


@settings(deadline=None, max_examples=15)
@given(at=st.integers(RATE, 8 * RATE))
def test_the_output_never_depends_on_future_samples(
    bench: Bench, scene: np.ndarray, at: int
) -> None:
    other = scene.copy()
    other[at:] = hiss(len(scene) / RATE, 3000, seed=at)[: len(scene) - at]
    end, one, _ = bench.whole(UNGATED, scene)
    _, two, _ = bench.run(UNGATED, [other])
    before = end <= at
    assert np.abs(one[before] - two[before]).max() < 1e-5
    assert np.abs(one - two).max() > 1e-5


def test_hears_the_word_where_it_is(bench: Bench) -> None:
    lead = hiss(2.0)
    word = say("computer")
    speech = np.flatnonzero(np.abs(word) > 300)
    start = len(lead) + speech[0]
    end = len(lead) + speech[-1]
    result = bench.run(UNGATED, [np.concatenate([lead, word, hiss(2.0)])])
    (wake,) = wakes(result.events)
    assert wake.word == "computer"
    assert wake.score >= wake.threshold
    assert abs(wake.start - start) < 0.2 * RATE
    assert abs(wake.end - end) < 0.2 * RATE


def test_a_word_at_the_very_beginning_is_heard(bench: Bench) -> None:
    result = bench.run(GATED, [np.concatenate([say("computer"), hiss(1.0)])])
    assert [e.word for e in wakes(result.events)] == ["computer"]


def test_a_discontinuity_withholds_scores_for_one_receptive_field(
    bench: Bench, bundle: Bundle, scene: np.ndarray
) -> None:
    detector = bench.detector(UNGATED)
    detector.feed(scene[: 2 * RATE + 77])
    detector.discontinuity(5000)
    restart = detector.end
    assert restart % 1280 == 0
    assert restart >= 2 * RATE + 77 + 5000 - 1280
    trace = detector.feed(scene).trace
    assert trace.end[0] == restart + 1280
    assert not trace.scores[: bundle.receptive_chunks].any()
    assert trace.scores[bundle.receptive_chunks :].any()


def test_refractory_and_near_miss_are_reported(bench: Bench, scene: np.ndarray) -> None:
    peak = float(bench.run(UNGATED, [scene]).scores[:, 0].max())
    above = {"computer": WordConfig(threshold=min(peak * 1.2, 1.0))}
    high = replace(UNGATED, words=above, near_miss=0.6)
    kinds = {reason(e) for e in bench.run(high, [scene]).events}
    assert "near_miss" in kinds or peak > 0.99
    long = replace(UNGATED, words={"computer": WordConfig(refractory_s=30)})
    kept = [reason(e) for e in bench.run(long, [scene]).events if reason(e) != "near_miss"]
    assert kept == [None, "refractory"]


def test_speakers_are_told_apart_and_others_turned_away(
    bench: Bench, bundle: Bundle, scene: np.ndarray
) -> None:
    takes = []
    for wake in wakes(bench.run(UNGATED, [scene]).events):
        again = bench.detector(UNGATED)
        again.feed(scene[: wake.end + 1280])
        embedding = again.embedding(wake.start, wake.end)
        assert embedding is not None
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-4)
        takes.append(embedding)
    ann = Voiceprint("ann", bundle.encoder_id, takes[0][None], 0.0)
    other = float(SpeakerScorer(bundle)(takes[1][None], takes[0][None])[0, 0])
    only_enrolled = SpeakerConfig(threshold=(1 + other) / 2, require="enrolled")
    config = replace(UNGATED, speaker=only_enrolled)
    detector = bench.detector(config, Library(voiceprints={"ann": ann}))
    found = [e for e in detector.feed(scene).wakes if reason(e) != "near_miss"]
    assert [reason(e) for e in found] == [None, "wrong_speaker"]
    assert found[0].speaker is not None
    assert (found[0].speaker.name, found[0].speaker.verified) == ("ann", True)
    assert found[1].speaker is not None
    assert found[1].speaker.verified is False


@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_a_voice_in_a_stream_is_that_of_the_recording(
    bundle: Bundle, runtime: Runtime, bench: Bench, scene: np.ndarray, config: Config
) -> None:
    encoder = runtime.encoder
    speaker = runtime.speaker
    front_end = bundle.front_end
    whole = scene[: len(scene) // 1280 * 1280].astype(np.float32)
    mel = front_end(np.pad(whole, (front_end.history_samples, 0)))
    frames, _ = encoder.step(mel, encoder.zero_state())
    bands = speaker.fine(np.pad(whole, (speaker.history_samples, 0)))
    # Soon after the beginning; in the second utterance; in the last but one.
    for seconds in (0.5, 2.6, 9.0):
        detector = bench.detector(config)
        end = int(seconds * RATE)
        steps = [detector.feed(piece) for piece in np.split(scene[: end + 3000], [1000, end // 2])]
        last = -(-end // 1280)
        span = slice(max(last - 12, 0), last)
        found = detector.embedding(span.start * 1280, end)
        if config is GATED and found is None:
            assert not joined(steps).scores[-1, 0]  # nobody spoke
            continue
        assert found is not None
        expected = speaker(frames.intermediate[span], frames.embedding[span], bands[span])
        assert np.abs(found - expected).max() < 1e-3
        detector.feed(hiss(8.0))
        assert detector.embedding(span.start * 1280, end) is None  # by now the audio is gone


def test_configuring_again_keeps_the_stream(
    bench: Bench, bundle: Bundle, scene: np.ndarray
) -> None:
    detector = bench.detector(UNGATED)
    first = detector.feed(scene[: 4 * RATE]).trace
    words = {"alexa": WordConfig(), "computer": WordConfig(threshold=0.9)}
    detector.configure(resolve(replace(UNGATED, words=words), bundle))
    second = detector.feed(scene[4 * RATE :]).trace
    straight = bench.run(UNGATED, [scene]).scores
    before = len(first.scores)
    after = second.scores[3:, ::-1]
    assert np.abs(after - straight[before + 3 :]).max() < 1e-4


def test_a_refused_stranger_does_not_lock_the_owner_out(bench: Bench, bundle: Bundle) -> None:
    stranger = say("computer", "en-us+f3")
    owner = say("computer")
    alone = bench.detector(UNGATED)
    (wake,) = wakes(list(alone.feed(np.concatenate([hiss(1.0), owner, hiss(0.5)])).wakes))
    embedding = alone.embedding(wake.start, wake.end)
    assert embedding is not None
    ann = Library(voiceprints={"ann": Voiceprint("ann", bundle.encoder_id, embedding[None], 0.0)})
    config = replace(UNGATED, speaker=SpeakerConfig(threshold=0.9, require="enrolled"))
    pause = hiss(0.7)
    heard = np.concatenate([hiss(1.0), stranger, pause, owner, pause, owner, hiss(0.5)])
    found = bench.detector(config, ann).feed(heard).wakes
    refractory_s = config.words["computer"].refractory_s
    assert found[1].end - found[0].end < refractory_s * RATE, "the owner should come at once"
    assert [reason(e) for e in found] == ["wrong_speaker", None, "refractory"]


@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_configuring_the_same_again_changes_nothing(
    bench: Bench, bundle: Bundle, scene: np.ndarray, config: Config
) -> None:
    blocks = [scene[at : at + 1280] for at in range(0, len(scene), 1280)]
    straight = bench.run(config, blocks)
    detector = bench.detector(config)
    steps = []
    for block in blocks:
        detector.configure(resolve(config, bundle))
        steps.append(detector.feed(block))
    again = joined(steps)
    assert again.events == straight.events
    assert np.array_equal(again.scores, straight.scores)
    assert wakes(straight.events)
