"""The detector's promises: online equals offline, gated equals ungated, no look at the future, samples to the point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import RATE, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsd.config import Config, ConfigError, Speaker, Vad, Word
from kwsd.detect.detector import Detector, Trace
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.state.voiceprints import Likeness, Voiceprint

WORDS = {"computer": Word(), "alexa": Word()}
UNGATED = Config(words=WORDS, vad=Vad(enabled=False))
GATED = Config(words=WORDS, vad=Vad(mode=3, hangover_s=0.4))


class Bench:
    """Runs samples through a fresh detector."""

    def __init__(self, bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> None:
        self._parts = (bundle, student, speaker)

    def detector(self, config: Config, traces: list[Trace] | None = None, voiceprints: dict[str, Voiceprint] | None = None) -> Detector:
        bundle, student, speaker = self._parts
        return Detector(config, bundle, voiceprints, student=student, speaker=speaker, on_trace=traces.append if traces is not None else None)

    def run(self, config: Config, pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[Wake]]:
        """End samples, scores and events."""
        traces: list[Trace] = []
        detector = self.detector(config, traces)
        events = [e for piece in pieces for e in detector.feed(piece)]
        return np.concatenate([t.end for t in traces]), np.concatenate([t.scores for t in traces]), events


@pytest.fixture(scope="module")
def bench(bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> Bench:
    return Bench(bundle, student, speaker)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_online_equals_offline(bench: Bench, scene: np.ndarray, config: Config, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scene)), max_size=30)))
    offline = bench.run(config, [scene])
    online = bench.run(config, np.split(scene, cuts))
    assert np.array_equal(offline[0], online[0])
    assert np.abs(offline[1] - online[1]).max() < 1e-4
    assert [(e.word, e.reason, e.end) for e in offline[2]] == [(e.word, e.reason, e.end) for e in online[2]]


def test_sample_by_sample_blocks_of_a_phone(bench: Bench, scene: np.ndarray) -> None:
    offline = bench.run(UNGATED, [scene])
    online = bench.run(UNGATED, [scene[at : at + 160] for at in range(0, len(scene), 160)])
    assert np.abs(offline[1] - online[1]).max() < 1e-4


def test_the_gate_sleeps_and_the_scores_of_the_voiced_part_are_those_of_the_ungated_run(bench: Bench, scene: np.ndarray) -> None:
    end, ungated, events = bench.run(UNGATED, [scene])
    gated_end, gated, gated_events = bench.run(GATED, [scene])
    assert np.array_equal(end, gated_end)
    open_ = (gated > 0).any(axis=1)
    assert 0.2 < open_.mean() < 0.9, "this scene should close the gate, and open it"
    assert np.flatnonzero(np.diff(open_.astype(int)) == 1).size >= 2
    assert np.abs(ungated[open_] - gated[open_]).max() < 1e-4
    wakes = [e for e in events if e.reason is None]
    assert [(e.word, e.start, e.end) for e in wakes] == [(e.word, e.start, e.end) for e in gated_events if e.reason is None]


@settings(deadline=None, max_examples=15)
@given(at=st.integers(RATE, 8 * RATE))
def test_the_output_never_depends_on_future_samples(bench: Bench, scene: np.ndarray, at: int) -> None:
    other = scene.copy()
    other[at:] = hiss(len(scene) / RATE, 3000, seed=at)[: len(scene) - at]
    end, one, _ = bench.run(UNGATED, [scene])
    _, two, _ = bench.run(UNGATED, [other])
    before = end <= at
    assert np.abs(one[before] - two[before]).max() < 1e-5
    assert np.abs(one - two).max() > 1e-5


def test_hears_the_word_where_it_is(bench: Bench) -> None:
    lead, word = hiss(2.0), say("computer")
    speech = np.flatnonzero(np.abs(word) > 300)
    truth = (len(lead) + speech[0], len(lead) + speech[-1])
    _, _, events = bench.run(UNGATED, [np.concatenate([lead, word, hiss(2.0)])])
    (wake,) = [e for e in events if e.reason is None]
    assert wake.word == "computer"
    assert wake.score >= wake.threshold
    assert abs(wake.start - truth[0]) < 0.2 * RATE
    assert abs(wake.end - truth[1]) < 0.2 * RATE


def test_a_word_at_the_very_beginning_is_heard(bench: Bench) -> None:
    _, _, events = bench.run(GATED, [np.concatenate([say("computer"), hiss(1.0)])])
    assert [e.word for e in events if e.reason is None] == ["computer"]


def test_a_discontinuity_withholds_scores_for_one_receptive_field(bench: Bench, bundle: Bundle, scene: np.ndarray) -> None:
    traces: list[Trace] = []
    detector = bench.detector(UNGATED, traces)
    detector.feed(scene[: 2 * RATE + 77])
    detector.discontinuity(5000)
    restart = detector.end
    assert restart % 1280 == 0
    assert restart >= 2 * RATE + 77 + 5000 - 1280
    del traces[:]
    detector.feed(scene)
    scores, end = np.concatenate([t.scores for t in traces]), np.concatenate([t.end for t in traces])
    assert end[0] == restart + 1280
    assert not scores[: bundle.receptive_chunks].any()
    assert scores[bundle.receptive_chunks :].any()


def test_refractory_and_near_miss_are_told(bench: Bench, bundle: Bundle, scene: np.ndarray) -> None:
    _, scores, _ = bench.run(UNGATED, [scene])
    peak = float(scores[:, 0].max())
    high = replace(UNGATED, words={"computer": Word(threshold=min(peak * 1.2, 1.0))}, near_miss=0.6)
    kinds = {e.reason for e in bench.run(high, [scene])[2]}
    assert "near_miss" in kinds or peak > 0.99
    long = replace(UNGATED, words={"computer": Word(refractory_s=30)})
    assert [e.reason for e in bench.run(long, [scene])[2] if e.reason != "near_miss"] == [None, "refractory"]


def test_speakers_are_told_apart_and_others_turned_away(bench: Bench, bundle: Bundle, scene: np.ndarray) -> None:
    traces: list[Trace] = []
    detector = bench.detector(UNGATED, traces)
    wakes = [e for e in detector.feed(scene) if e.reason is None]
    takes = []
    for wake in wakes:
        again = bench.detector(UNGATED)
        again.feed(scene[: wake.end + 1280])
        embedding = again.embedding(wake.start, wake.end)
        assert embedding is not None
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-4)
        takes.append(embedding)
    ann = Voiceprint("ann", bundle.encoder_id, takes[0][None], 0.0)
    config = replace(UNGATED, speaker=Speaker(threshold=(1 + float(Likeness(bundle)(takes[1][None], takes[0][None])[0, 0])) / 2, require="enrolled"))
    told = [e for e in bench.detector(config, voiceprints={"ann": ann}).feed(scene) if e.reason != "near_miss"]
    assert [e.reason for e in told] == [None, "wrong_speaker"]
    assert told[0].speaker is not None
    assert (told[0].speaker.name, told[0].speaker.verified) == ("ann", True)
    assert told[1].speaker is not None
    assert told[1].speaker.verified is False


@pytest.mark.parametrize("config", [UNGATED, GATED], ids=["ungated", "gated"])
def test_a_voice_in_a_stream_is_that_of_the_recording(bundle: Bundle, student: Student, speaker: SpeakerEncoder, scene: np.ndarray, config: Config) -> None:
    whole = scene[: len(scene) // 1280 * 1280].astype(np.float32)
    frames, _ = student.step(bundle.front_end(np.pad(whole, (bundle.front_end.history_samples, 0))), student.zero_state())
    bands = speaker.fine(np.pad(whole, (speaker.history_samples, 0)))
    for seconds in (0.5, 2.6, 9.0):  # soon after the beginning; in the second utterance; in the last but one
        detector = Detector(config, bundle, student=student, speaker=speaker)
        end = int(seconds * RATE)
        for piece in np.split(scene[: end + 3000], [1000, end // 2]):
            detector.feed(piece)
        last = -(-end // 1280)
        span = slice(max(last - 12, 0), last)
        told = detector.embedding(span.start * 1280, end)
        if config is GATED and told is None:
            assert not detector.triggers["computer"].score  # nobody spoke
            continue
        assert told is not None
        assert np.abs(told - speaker(frames.tap[span], frames.embedding[span], bands[span])).max() < 1e-3
        detector.feed(hiss(8.0))
        assert detector.embedding(span.start * 1280, end) is None  # by now the audio is gone


def test_reconfiguring_keeps_the_stream(bench: Bench, scene: np.ndarray) -> None:
    traces: list[Trace] = []
    detector = bench.detector(UNGATED, traces)
    detector.feed(scene[: 4 * RATE])
    detector.configure(replace(UNGATED, words={"alexa": Word(), "computer": Word(threshold=0.9)}), {}, {}, None)
    detector.feed(scene[4 * RATE :])
    _, straight, _ = bench.run(UNGATED, [scene])
    before = sum(len(t.scores) for t in traces[: len(traces)] if t.end[-1] <= 4 * RATE)
    after = np.concatenate([t.scores for t in traces])[before + 3 :, ::-1]
    assert np.abs(after - straight[before + 3 :]).max() < 1e-4


def test_an_unknown_word_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="no model of 'hal'; it has alexa, computer"):
        bench.detector(Config(words={"hal": Word()}))


def test_a_threshold_may_be_named(bench: Bench, bundle: Bundle) -> None:
    points = bundle.words["computer"].operating_points
    named = [bench.detector(Config(words={"computer": Word(threshold=name)})).triggers["computer"].threshold for name in ("strict", "balanced", "lenient")]
    assert named == [p.threshold for p in points]
    assert named[0] > named[1] == bundle.words["computer"].threshold > named[2]
    bare = replace(bundle, words={"computer": replace(bundle.words["computer"], operating_points=())})
    with pytest.raises(ConfigError, match="'strict' was not measured for this word"):
        Detector(Config(words={"computer": Word(threshold="strict")}), bare)
