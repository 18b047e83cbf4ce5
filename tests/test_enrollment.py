"""Takes are checked one by one; a voiceprint comes only of enough good ones."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import RATE, hiss, say

from kwsd.audio.ring import Ring
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import Enrolment, TakeListener
from kwsd.learn.takes import TakeRejected
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.training.stages.synthesize import flite

SENTENCES = ("the weather is nice today", "please turn on the kitchen light", "computer, what time is it now")


@pytest.fixture(scope="module")
def embedder(bundle: Bundle, student: Student, speaker: SpeakerEncoder) -> Embedder:
    return Embedder(bundle, student, speaker)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.int16), "too_short"),
        (np.zeros(RATE, np.int16), "silent"),
        (hiss(1.0, 3.0), "silent"),
        (np.concatenate([hiss(1.0), say("computer")[: RATE // 5], hiss(1.0)]), "too_short"),
        (np.clip(say("the weather is nice today").astype(np.int32) * 40, -32768, 32767).astype(np.int16), "clipped"),
        (np.tile(say("the weather is nice today"), 20), "too_long"),
    ],
)
def test_takes_that_are_of_no_use(embedder: Embedder, samples: np.ndarray, reason: str) -> None:
    session = Enrolment("ann", embedder)
    with pytest.raises(TakeRejected) as caught:
        session.add(samples)
    assert caught.value.reason == reason
    assert session.takes == []


def test_three_good_takes_make_a_voiceprint_that_knows_its_speaker(embedder: Embedder, bundle: Bundle) -> None:
    session = Enrolment("ann", embedder)
    for sentence in SENTENCES:
        take = session.add(say(sentence))
        assert take.speech_s > 0.5
    voiceprint = session.finish()
    assert (voiceprint.name, voiceprint.encoder_id, voiceprint.takes.shape) == ("ann", bundle.encoder_id, (3, embedder.dim))
    own, other = (embedder.embed([say("good evening to you all", voice)]) for voice in ("en-us", "en-us+f4"))
    assert own is not None
    assert other is not None
    assert own @ voiceprint.mean > other @ voiceprint.mean + 0.1


def test_somebody_elses_take_is_inconsistent(embedder: Embedder) -> None:
    session = Enrolment("ann", embedder)
    for sentence in SENTENCES:
        session.add(flite(sentence, "awb"))
    with pytest.raises(TakeRejected, match="sounds like somebody else"):
        session.add(say("good evening to you all", "en-us+f4"))


def test_too_few(embedder: Embedder) -> None:
    session = Enrolment("ann", embedder)
    session.add(say(SENTENCES[0]))
    with pytest.raises(TakeRejected, match=r"1 take\(s\) of 'ann'; at least 3 are needed"):
        session.finish()


def test_embedding_does_not_depend_on_the_blocks_and_hours_take_no_more_memory(embedder: Embedder) -> None:
    speech = np.concatenate([say(s) for s in SENTENCES] * 4)
    whole = embedder.embed([speech])
    pieces = embedder.embed(np.array_split(speech, 37))
    assert whole is not None
    assert pieces is not None
    assert whole @ pieces > 0.99
    assert embedder.embed([np.zeros(RATE, np.int16)]) is None
    assert embedder.embed([]) is None


def test_free_speech_is_cut_out_by_its_pauses() -> None:
    audio, cutter = Ring(20 * RATE, np.int16), TakeListener("free", None, 0)
    speech = say("the weather is nice today, and I like to speak for some while about nothing at all")
    stream = np.concatenate([hiss(1.5), speech, hiss(3.0)])
    span = None
    for at in range(0, len(stream), 1280):
        block = stream[at : at + 1280]
        audio.append(block)
        span = span or cutter.step(audio, block)
    assert span is not None
    assert abs(span[0] - 1.5 * RATE) < 0.4 * RATE
    assert span[1] >= min(1.5 * RATE + len(speech), span[0] + 6 * RATE) - 0.3 * RATE


def test_a_word_is_taken_only_if_it_is_the_one_and_was_said_after_the_asking() -> None:
    cutter = TakeListener("word", "computer", 10 * RATE)
    assert cutter.heard_word("computer", 9 * RATE, 10 * RATE + 100) is None
    assert cutter.heard_word("alexa", 11 * RATE, 12 * RATE) is None
    assert cutter.heard_word("computer", 11 * RATE, 12 * RATE) == (11 * RATE - 3200, 12 * RATE + 800)
