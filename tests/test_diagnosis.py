"""What a recording of a microphone shows, and what `kwsd doctor` says of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
from conftest import RATE, VOICES, hiss, say

from kwsd.audio.capture import Block
from kwsd.audio.diagnosis import diagnose
from kwsd.audio.pcm import to_int16
from kwsd.bench import scenes
from kwsd.cli import checks
from kwsd.cli.checks import Finding
from kwsd.config import Config


def talk(gain: float = 1.0) -> np.ndarray:
    """Return three seconds of speech in a room, int16 `[sample]`."""
    said = np.concatenate([say("good evening to all of you", voice) for voice in VOICES])
    return to_int16(gain * said[: 3 * RATE] + hiss(3.0, 6))


def telephone(samples: np.ndarray) -> np.ndarray:
    """Return int16 `[sample]` as it comes through a device that samples at 8 kHz."""
    narrow = np.round(soxr.resample(samples.astype(np.float32), RATE, RATE // 2))
    return to_int16(soxr.resample(narrow, RATE // 2, RATE)[: len(samples)])


ROOMS: dict[str, Callable[[], np.ndarray]] = {
    "hiss": lambda: hiss(3.0, 4),
    "idle": lambda: scenes.idle(3.0),
    "falling": lambda: to_int16(np.cumsum(hiss(3.0, 5)) - np.cumsum(hiss(3.0, 5)).mean()),
    "whisper": lambda: talk(0.02),
    "speech": talk,
    "television": lambda: scenes.television()[: 3 * RATE],
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_good_microphone_is_none_of_it(room: str) -> None:
    found = diagnose(ROOMS[room]())
    assert not found.silent
    assert abs(found.offset) < 0.005
    assert found.clipped == 0
    assert found.band == "wide"


@pytest.mark.parametrize("room", ROOMS)
def test_a_telephones_band_is_never_taken_for_a_wide_one(room: str) -> None:
    assert diagnose(telephone(ROOMS[room]())).band != "wide"


@pytest.mark.parametrize("gain", [0.1, 0.3, 1.0])
def test_a_telephones_band_is_named_when_somebody_speaks(gain: float) -> None:
    assert diagnose(telephone(talk(gain))).band == "telephone"
    assert diagnose(telephone(talk(gain)) + 2300).band == "telephone"


def test_too_little_to_tell_the_band() -> None:
    seconds = np.arange(3 * RATE) / RATE
    for quiet in (
        np.zeros(3 * RATE, np.int16),
        to_int16(8000 * np.sin(2 * np.pi * 440 * seconds)),  # a tone, and nothing else
        talk()[: RATE // 4],
        np.zeros(0, np.int16),
    ):
        assert diagnose(quiet).band == "unknown"


@pytest.mark.parametrize("offset", [-9000, -700, 330, 2300])
def test_an_offset(offset: int) -> None:
    found = diagnose(to_int16(talk(0.3) + offset))
    assert found.offset == pytest.approx(offset / 32768, abs=0.001)
    assert found.level_dbfs == pytest.approx(diagnose(talk(0.3)).level_dbfs, abs=0.1)
    assert found.clipped == 0


def test_silence_with_and_without_an_offset() -> None:
    assert diagnose(np.zeros(RATE, np.int16)).silent
    assert diagnose(np.full(RATE, 2300, np.int16)).silent
    assert diagnose(np.zeros(0, np.int16)).silent
    assert not diagnose(hiss(1.0, 2) + 2300).silent


@pytest.mark.parametrize("limit", [32767, 20000, 6000])
def test_clipping_at_full_scale_and_below(limit: int) -> None:
    loud = np.clip(8.0 * talk() * limit / 32767, -limit, limit).astype(np.int16)
    share = np.mean(np.abs(loud) == limit)
    assert share > 0.02
    assert diagnose(loud).clipped == pytest.approx(share, rel=0.5)
    just_loud = to_int16(talk() * (0.99 * limit / np.abs(talk()).max()))
    assert diagnose(just_loud).clipped < 0.0005


def test_channels_are_judged_one_by_one() -> None:
    block = np.stack([np.zeros(3 * RATE, np.int16), talk(), talk(0.1) + 2300], axis=1)
    found = [diagnose(channel) for channel in block.T]
    assert [one.silent for one in found] == [True, False, False]
    assert [one.offset > 0.01 for one in found] == [False, False, True]


def findings(samples: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Return what doctor finds of a microphone that delivers `samples` over and over."""
    heard = iter(np.resize(samples, (200, 1280)))

    @contextlib.contextmanager
    def opened(config: object, *, every_channel: bool) -> Iterator[SimpleNamespace]:
        assert every_channel
        meter = SimpleNamespace(levels_dbfs=[-20.0])
        yield SimpleNamespace(
            name="fake", rate=RATE, read=lambda: Block(next(heard), 0.0), meter=meter
        )

    monkeypatch.setattr(checks, "open_microphone", opened)
    return list(checks._microphone(Config()))


def test_doctor_names_what_is_wrong_with_the_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    (fine,) = findings(talk(), monkeypatch)
    assert fine.ok
    assert fine.detail.startswith("fake, 16000 Hz, peaks at -1")
    (silent,) = findings(np.zeros(RATE, np.int16), monkeypatch)
    assert not silent.ok
    assert "silence" in silent.detail
    assert "alsamixer" in silent.fix
    _, clipped = findings(to_int16(8.0 * talk()), monkeypatch)
    assert not clipped.ok
    assert "% of the samples are clipped" in clipped.detail
    assert "lower its gain" in clipped.fix
    _, narrow = findings(telephone(talk()), monkeypatch)
    assert not narrow.ok
    assert "nothing above 4 kHz" in narrow.detail
    assert "mSBC" in narrow.fix
    _, offset = findings(talk(0.3) + 2300, monkeypatch)
    assert offset.ok
    assert "offset of 7.0 % of full scale, which kwsd removes" in offset.detail
    _, harmful = findings(talk(0.1) - 9000, monkeypatch)
    assert not harmful.ok
    assert "offset of -27 %" in harmful.detail
    assert "kwsd devices" in harmful.fix
    (quiet,) = findings(telephone(hiss(3.0, 4)), monkeypatch)
    assert quiet.ok
    assert "too quiet to tell its band" in quiet.detail


def test_doctor_names_the_living_channel() -> None:
    finding = checks._channels([-100.0, -31.0], 0)
    assert (finding.ok, finding.fix) == (False, "set microphone.channel to 1, or to mix")
    assert "channel 0: -100 dBFS, channel 1: -31 dBFS" in finding.detail
    assert checks._channels([-100.0, -31.0], 1).ok
    assert checks._channels([-100.0, -31.0], "mix").ok
    assert checks._channels([-100.0] * 30 + [-31.0] * 2, 30).detail == (
        "channel 30: -31 dBFS, channel 31: -31 dBFS"
    )
