"""The high-pass: its response, exact however the stream is cut, and what it is there for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PHRASE, RATE, VOICES, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsd.audio import high_pass
from kwsd.audio.high_pass import HighPass, high_passed
from kwsd.audio.pcm import level_dbfs, to_int16
from kwsd.audio.vad import VoiceGate
from kwsd.cli import main as cli
from kwsd.client import words
from kwsd.config import Config, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.offline import Recordings
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.events import Wake
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected, check_take
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime

OFFSET = 2300
"""The offset of a known device."""


def tone(hz: float, seconds: float, amplitude: float = 8000.0) -> np.ndarray:
    """Return int16 `[sample]`."""
    return to_int16(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE))


def gain_db(hz: float) -> float:
    """Return what the filter does to a tone, once it has settled."""
    heard = HighPass().step(tone(hz, 2.0))
    return level_dbfs(heard[RATE:]) - level_dbfs(tone(hz, 2.0)[RATE:])


def test_offset_and_hum_are_gone_and_voices_are_not() -> None:
    for hz in (5.0, 15.0, 22.0, 30.0, 40.0, 45.0, 55.0, 60.0):
        assert gain_db(hz) <= -20, hz
    for hz in (49.5, 50.0, 50.5, 59.5, 60.0, 60.5):
        assert gain_db(hz) <= -40, hz
    for hz in (120.0, 125.0, 150.0, 200.0, 300.0, 1000.0, 3400.0, 7900.0):
        assert -0.5 <= gain_db(hz) <= 0.05, hz
    assert not HighPass().step(np.full(RATE, OFFSET, np.int16)).any()


def test_the_impulse_response_says_the_same_and_looks_into_no_future() -> None:
    impulse = np.zeros(RATE, np.int16)
    impulse[1000] = 30000
    heard = HighPass().step(impulse) / 30000
    assert not heard[:1000].any()
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    db = 20 * np.log10(np.abs(np.fft.rfft(heard)) + 1e-9)
    assert db[hz <= 60].max() <= -20
    assert db[hz >= 120].min() >= -0.5
    assert db[hz >= 120].max() <= 0.05
    assert np.abs(heard[1000 + RATE // 5 :]).max() <= 1 / 30000  # it has settled after 0.2 s


def test_it_is_the_filter_of_its_zeros_and_poles() -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 3000)
    zeros, poles, gain = high_pass._design()
    assert np.abs(poles).max() < 1
    forward = gain * np.poly(zeros).real
    back = np.poly(poles).real[1:]
    x = samples - float(samples[0])  # as if it had been constant before
    y = np.zeros(len(x))
    for n in range(len(x)):
        past = y[max(n - len(back), 0) : n][::-1]
        window = x[max(n - len(forward) + 1, 0) : n + 1][::-1]
        y[n] = forward[: len(window)] @ window - back[: len(past)] @ past
    assert np.abs(HighPass().step(samples.astype(np.int16)) - y).max() < 0.52


@given(
    seed=st.integers(0, 1000),
    loud=st.booleans(),
    cuts=st.lists(st.integers(0, 9000), max_size=30),
)
@settings(max_examples=60)
def test_the_same_to_the_last_bit_however_it_is_cut(
    seed: int, loud: bool, cuts: Sequence[int]
) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(-32768, 32768, 9000).astype(np.int16)
    if loud:  # full scale, and of the worst sign for long
        samples = np.where(np.cumsum(rng.integers(0, 60, 9000)) // 2000 % 2, 32767, -32768)
    samples = samples.astype(np.int16)
    whole = HighPass().step(samples)
    parts = list(high_passed(np.split(samples, sorted(cuts))))
    assert [len(part) for part in parts] == [len(p) for p in np.split(samples, sorted(cuts))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_single_samples_and_more_than_one_run() -> None:
    samples = np.random.default_rng(3).integers(-9000, 9000, 3000).astype(np.int16)
    one_by_one = list(high_passed(samples.reshape(-1, 1)))
    assert np.array_equal(np.concatenate(one_by_one), HighPass().step(samples))
    long = np.resize(samples, 90001)
    halves = list(high_passed(np.split(long, [30001, 30001, 85000])))
    assert np.array_equal(np.concatenate(halves), HighPass().step(long))
    assert HighPass().step(samples[:0]).dtype == np.int16


def test_every_sum_is_exact() -> None:
    """The greatest sums, in units of their last bit, fit in the 53 bits of a double."""
    state_bits, gain_bits = high_pass.STATE_BITS, high_pass.GAIN_BITS
    state = 32769 * 2.0**state_bits  # full scale, and rounded up
    to_output, to_state = np.split(high_pass._FROM_ROW, [high_pass.ROW_SAMPLES], axis=1)
    tables = [
        (to_output, state_bits + gain_bits, 32768.0),
        (high_pass._FROM_STATE, state_bits + gain_bits, state),
        (to_state, gain_bits, 32768.0),
        (high_pass._STATES, gain_bits, state / high_pass.ROWS),  # all rows together add full scale
    ]
    for table, bits, most in tables:
        units = table * 2.0**bits
        assert np.array_equal(units, np.rint(units))
        assert np.abs(units).sum(axis=0).max() * most < 2.0**52  # two of them are added up


def opened(samples: np.ndarray) -> list[bool]:
    """Return whether the gate is open after each chunk."""
    chunks = samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)
    gate = VoiceGate(0, RATE // 2)
    return [gate.step(chunk, (n + 1) * 1280) for n, chunk in enumerate(chunks)]


def test_a_stream_that_begins_with_an_offset_begins_with_silence() -> None:
    room = hiss(8.0, 20)
    heard = HighPass().step(OFFSET + room)
    assert np.abs(heard).max() < 120
    assert abs(heard.mean()) < 0.5
    assert opened(heard) == opened(HighPass().step(room))
    assert not any(opened(heard)[30:])


def test_a_device_that_switches_its_offset_on_opens_nothing() -> None:
    """The offset comes when the gate knows the room: one thump, over within 0.1 s."""
    room = hiss(14.0, 20)
    jumps = 10 * RATE
    heard = HighPass().step(np.concatenate([room[:jumps], OFFSET + room[jumps:]]))
    assert np.abs(heard[jumps : jumps + 1600]).max() > OFFSET / 2
    assert np.abs(heard[jumps + 1600 :]).max() < 120
    assert not any(opened(heard)[30:])


def test_what_overshoots_is_clipped_and_does_not_wrap() -> None:
    square = np.where(np.arange(RATE) // 400 % 2, 32767, -32768).astype(np.int16)
    heard = HighPass().step(square)
    assert heard.max() == 32767
    assert heard.min() == -32768
    rises = heard[400::800]
    assert (rises == 32767).all()


def test_silence_stays_silence() -> None:
    assert not HighPass().step(np.zeros(RATE, np.int16)).any()
    word = np.concatenate([say("computer"), np.zeros(RATE, np.int16)])
    assert not HighPass().step(word)[-RATE // 2 :].any()


@pytest.fixture(scope="module")
def setup(bundle: Bundle) -> DetectorSetup:
    """A detector of "computer"."""
    return resolve(Config(words={"computer": WordConfig()}), bundle)


def disturbance(hz: float, samples: int) -> np.ndarray:
    """Return hum, or an offset for 0 Hz, float64 `[sample]`."""
    return OFFSET * np.cos(2 * np.pi * hz * np.arange(samples) / RATE)


@pytest.mark.parametrize("hz", [0.0, 50.0, 60.2])
def test_it_wakes_as_without_the_disturbance(
    hz: float,
    tmp_path: Path,
    scene: np.ndarray,
    bundle: Bundle,
    setup: DetectorSetup,
    runtime: Runtime,
) -> None:
    """Speech that is 20 dB below the disturbance, and the same speech without it."""
    quiet = scene / 10.0
    disturbed = to_int16(quiet + disturbance(hz, len(scene)))
    found = []
    for samples in (to_int16(quiet), disturbed):
        soundfile.write(tmp_path / "x.wav", samples, RATE)
        steps = Recordings(bundle, setup, runtime=runtime).detect(tmp_path / "x.wav")
        found.append([wake for step in steps for wake in step.wakes if isinstance(wake, Wake)])
    assert [len(wakes) for wakes in found] == [2, 2]
    for without, wake in zip(*found, strict=True):
        assert abs(without.end - wake.end) <= 1280
        assert abs(without.score - wake.score) < 0.1
    # It is the high-pass that does it.
    past = Detector(bundle, setup, runtime).feed(disturbed)
    assert sum(isinstance(wake, Wake) for wake in past.wakes) < 2


@pytest.mark.parametrize("percent", [0.5, 1, 2, 7])
def test_takes_with_an_offset_are_takes(trainer: WordTrainer, percent: float) -> None:
    offset = percent / 100 * 32768
    take = np.concatenate([hiss(1.5), say(PHRASE) // 4, hiss(1.5)])
    disturbed = to_int16(take + offset)
    plain = trainer.encoder.take(HighPass().step(take))
    other = trainer.encoder.take(HighPass().step(disturbed))
    assert other.length_s == pytest.approx(plain.length_s, abs=0.03)
    assert other.speech_dbfs == pytest.approx(plain.speech_dbfs, abs=0.5)


def test_recordings_with_an_offset_give_what_they_give_without(
    tmp_path: Path, trainer: WordTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 % of full scale, in recordings 10 dB quieter than usual."""
    texts = (PHRASE, "good evening to you", "it is nice today", "turn on the light", "computer")
    quiet = hiss(0.5)
    said = [np.concatenate([quiet, say(text) // 3, quiet]) for text in texts]
    found = []
    for offset in (0, 655):
        folder = tmp_path / str(offset)
        folder.mkdir()
        files = [folder / f"{n}.wav" for n in range(len(said))]
        for path, samples in zip(files, said, strict=True):
            soundfile.write(path, (samples + offset).astype(np.int16), RATE)
        names = [str(path) for path in files]
        state = ["--state", str(folder / "state")]
        (take,) = words.from_recordings(trainer, PHRASE, files[:1]).usable
        assert cli.main(["enroll", "ann", "--wav", *names[1:4], *state]) == 0
        capsys.readouterr()
        trace = str(folder / "trace.npz")
        detect = ["detect", names[-1], "--words", "computer", "--trace", trace]
        assert cli.main([*detect, *state]) == 0
        with np.load(trace) as saved:
            peak = saved["scores_0"].max()
        wake = json.loads(capsys.readouterr().out)
        assert cli.main(["embed", "--out", str(folder / "voices.npz"), *names]) == 0
        with np.load(folder / "voices.npz") as saved:
            found.append((take, wake, peak, saved["embeddings"]))
    (take, wake, peak, voices), (other_take, other_wake, other_peak, other_voices) = found
    assert take.length_s == pytest.approx(other_take.length_s, abs=0.03)
    assert np.corrcoef(take.frames[0].ravel(), other_take.frames[0].ravel())[0, 1] > 0.99
    assert (wake["type"], wake["speaker"]["name"]) == ("wake", other_wake["speaker"]["name"])
    # It may wake a chunk later: the 8-bit kernels of aarch64 round in other places.
    assert wake["end"] == pytest.approx(other_wake["end"], abs=1280)
    assert peak == pytest.approx(other_peak, abs=0.02)
    assert (np.sum(voices * other_voices, axis=1) > 0.99).all()


@pytest.mark.parametrize("voice", VOICES[:3])
def test_clipped_takes_are_still_noticed(voice: str) -> None:
    """It moves half of the clipped samples away from full scale."""
    said = say("good evening to all of you, and welcome", voice).astype(float)

    def heard(share: float) -> np.ndarray:
        limit = np.quantile(np.abs(said), 1 - share)
        return HighPass().step(np.clip(said * 32767 / limit, -32767, 32767).astype(np.int16))

    with pytest.raises(TakeRejected, match="clipped"):
        check_take(heard(0.003), 0.4)
    check_take(HighPass().step(to_int16(said * 24000 / np.abs(said).max())), 0.4)
