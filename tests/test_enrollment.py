"""Takes are checked one by one; a voiceprint needs enough good ones."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import cycle

import forked
import numpy as np
import pytest
from conftest import RATE, Start, hiss, say

from kwsd.audio.synthesis import read_wav
from kwsd.detect.embedder import Embedder
from kwsd.detect.speaker_id import SpeakerScorer
from kwsd.learn.enrollment import Enrollment, TakeCutter, known_as
from kwsd.learn.takes import TakeRejected
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.protocol.commands import Subscribe

SENTENCES = (
    "the weather is nice today",
    "please turn on the kitchen light",
    "computer, what time is it now",
)
TALK = "the weather is nice today, and I like to speak for some while about nothing at all"


@pytest.fixture(scope="module")
def embedder(bundle: Bundle, runtime: Runtime) -> Embedder:
    return Embedder(bundle, runtime)


def flite(text: str, voice: str) -> np.ndarray:
    """Return `text` spoken by a voice of flite, int16 at 16 kHz."""
    command = ["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"]
    return read_wav(subprocess.run(command, capture_output=True, check=True).stdout)


def shout(samples: np.ndarray) -> np.ndarray:
    """Return clipped speech."""
    return np.clip(samples.astype(np.int32) * 40, -32768, 32767).astype(np.int16)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (lambda: np.zeros(0, np.int16), "too_short"),
        (lambda: np.zeros(RATE, np.int16), "silent"),
        (lambda: hiss(1.0, 3.0), "silent"),
        (lambda: np.concatenate([hiss(1.0), say("computer")[: RATE // 5], hiss(1.0)]), "too_short"),
        (lambda: shout(say("the weather is nice today")), "clipped"),
        (lambda: np.tile(say("the weather is nice today"), 20), "take_too_long"),
    ],
)
def test_takes_that_cannot_be_used(
    embedder: Embedder, sound: Callable[[], np.ndarray], reason: str
) -> None:
    enrollment = Enrollment("ann", embedder)
    with pytest.raises(TakeRejected) as caught:
        enrollment.add(sound())
    assert caught.value.reason == reason
    assert enrollment.takes == []


def test_three_good_takes_make_a_voiceprint_that_knows_its_speaker(
    embedder: Embedder, bundle: Bundle
) -> None:
    enrollment = Enrollment("ann", embedder)
    for sentence in SENTENCES:
        take = enrollment.add(say(sentence))
        assert take.speech_s > 0.5
    voiceprint, left_out = enrollment.finish()
    assert left_out == []
    assert (voiceprint.name, voiceprint.encoder_id) == ("ann", bundle.encoder_id)
    assert voiceprint.takes.shape == (3, embedder.dim)
    same = embedder.embed([say("good evening to you all", "en-us")])
    other = embedder.embed([say("good evening to you all", "en-us+f4")])
    assert same is not None
    assert other is not None
    assert same @ voiceprint.mean > other @ voiceprint.mean + 0.1


def test_a_take_of_somebody_else_is_inconsistent(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    for sentence in SENTENCES:
        enrollment.add(flite(sentence, "awb"))
    with pytest.raises(TakeRejected, match="sounds like somebody else"):
        enrollment.add(say("good evening to you all", "en-us+f4"))


MORE = (*SENTENCES, "good evening to all of you", "it is raining again today")


@pytest.mark.parametrize("at", [0, 1, 4])
def test_somebody_elses_take_is_noticed_wherever_it_comes(embedder: Embedder, at: int) -> None:
    enrollment = Enrollment("ann", embedder)
    for n, sentence in enumerate(MORE):
        enrollment.add(flite(sentence, "slt" if n == at else "awb"), judged_now=False)
    voiceprint, left_out = enrollment.finish()
    assert left_out == [at + 1]
    assert len(voiceprint.takes) == 4
    other = embedder.embed([flite(MORE[at], "slt")])
    assert other is not None
    assert float(voiceprint.mean @ other) < 0.2


def test_the_first_take_does_not_decide_at_the_microphone_either(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    for sentence, voice in zip(MORE[:4], ("slt", "awb", "awb", "awb"), strict=True):
        enrollment.add(flite(sentence, voice))
    with pytest.raises(TakeRejected, match="sounds like somebody else") as caught:
        enrollment.add(flite(MORE[4], "slt"))
    assert caught.value.reason == "inconsistent"
    voiceprint, left_out = enrollment.finish()
    assert (len(voiceprint.takes), left_out) == (3, [1])


def test_several_people_are_no_speaker(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    for sentence in SENTENCES:
        for voice in ("slt", "awb"):
            enrollment.add(flite(sentence, voice), judged_now=False)
    with pytest.raises(TakeRejected, match="several people") as caught:
        enrollment.finish()
    assert caught.value.reason == "several_people"


def test_one_recording_is_one_take_whatever_its_name_and_silence(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    take = say(SENTENCES[0])
    enrollment.add(take)
    noisy = take + hiss(len(take) / RATE, 60.0)[: len(take)]
    for again in (take.copy(), np.pad(take, (RATE, 100)), take // 3, take[1000:], noisy):
        with pytest.raises(TakeRejected, match="one recording is one take") as caught:
            enrollment.add(again)
        assert caught.value.reason == "repeated"
    assert len(enrollment.takes) == 1


def test_a_voice_that_has_another_name_already(embedder: Embedder, bundle: Bundle) -> None:
    enrolled = {}
    for name, voice, sentences in (
        ("ann", "slt", MORE[:3]),
        ("bob", "rms", MORE[:3]),
        ("anna", "slt", MORE[2:]),
    ):
        enrollment = Enrollment(name, embedder)
        for sentence in sentences:
            enrollment.add(flite(sentence, voice))
        enrolled[name], _ = enrollment.finish()
    scorer = SpeakerScorer(bundle)
    anna = enrolled.pop("anna")
    assert known_as(anna, enrolled, scorer, bundle.speaker_threshold) == ["ann"]
    assert known_as(enrolled["bob"], enrolled, scorer, bundle.speaker_threshold) == []
    assert known_as(anna, {"anna": anna}, scorer, bundle.speaker_threshold) == []


def test_two_takes_that_are_left_make_a_voiceprint(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    for text in SENTENCES[:2]:
        enrollment.add(say(text))
    with pytest.raises(TakeRejected):
        enrollment.add(hiss(1.0))
    voiceprint, left_out = enrollment.finish()
    assert (len(voiceprint.takes), left_out) == (2, [])


def test_too_few(embedder: Embedder) -> None:
    enrollment = Enrollment("ann", embedder)
    enrollment.add(say(SENTENCES[0]))
    with pytest.raises(
        TakeRejected, match=r"1 take\(s\) of 'ann'; at least 2 are needed, 3 are better"
    ):
        enrollment.finish()


def test_an_embedding_does_not_depend_on_the_blocks(embedder: Embedder) -> None:
    speech = np.concatenate([say(s) for s in SENTENCES] * 4)
    whole = embedder.embed([speech])
    pieces = embedder.embed(np.array_split(speech, 37))
    assert whole is not None
    assert pieces is not None
    assert whole @ pieces > 0.99
    assert embedder.embed([np.zeros(RATE, np.int16)]) is None
    assert embedder.embed([]) is None


def test_free_speech_is_cut_out_by_its_pauses() -> None:
    cutter = TakeCutter("free", None, 0)
    speech = say(TALK)
    stream = np.concatenate([hiss(1.5), speech, hiss(3.0)])
    span = None
    for at in range(0, len(stream), 1280):
        block = stream[at : at + 1280]
        span = span or cutter.step(block, at + len(block))
    assert span is not None
    assert abs(span[0] - 1.5 * RATE) < 0.4 * RATE
    assert span[1] >= min(1.5 * RATE + len(speech), span[0] + 6 * RATE) - 0.3 * RATE


def test_a_word_is_taken_only_if_it_is_the_right_one_and_was_said_after_the_request() -> None:
    cutter = TakeCutter("word", "computer", 10 * RATE)
    assert cutter.detected("computer", 9 * RATE, 10 * RATE + 100) is None
    assert cutter.detected("alexa", 11 * RATE, 12 * RATE) is None
    span = (11 * RATE - 3200, 12 * RATE + 800)
    assert cutter.detected("computer", 11 * RATE, 12 * RATE) == span


def test_guided_enrollment_from_the_stream(start: Start) -> None:
    takes = [say("computer", speed=140 + 8 * n) for n in range(5)]
    takes += [say(TALK, speed=150 + 10 * n) for n in range(2)]
    daemon = start("--source", "-", stdin=forked.PIPE)
    daemon.connect().close()
    enrolling = forked.Process(
        ["-m", "kwsd", "enroll", "ann", "--socket", str(daemon.socket)],
        stdout=forked.PIPE,
        stderr=forked.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with daemon.connect() as client, ThreadPoolExecutor(1) as reader:
        client.request(Subscribe())
        assert enrolling.stdout is not None
        for n, take in enumerate(takes, 1):
            asked = enrolling.stdout.readline()
            assert asked.startswith(f"[{n}/7] Please say "), asked
            assert ("“computer”" in asked) == (n <= 5)
            answer = reader.submit(enrolling.stdout.readline)
            said = np.concatenate([hiss(0.5), take, hiss(2.0)])
            for block in cycle(np.array_split(said, len(said) // 4000)):
                daemon.hear(block)
                if wait([answer], 0.02).done:  # else again: it may have been said too early
                    break
            assert answer.result().startswith("  good: ")
        while enrolling.poll() is None:
            daemon.hear(hiss(0.1))
            time.sleep(0.01)
        printed, _ = enrolling.communicate()
    assert enrolling.returncode == 0, printed
    assert "ann is enrolled, from 7 takes." in printed
    assert (daemon.state / "ann-49915e.voiceprint").exists()
