"""The channels of a stream: their levels, how long each has been zero, and the mix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.audio.channels import DEAD_S, ChannelMeter
from kwsd.audio.files import MonoConverter

RATE = 1000


def tone(samples: int, level: float) -> np.ndarray:
    """Return int16 with no zero in it."""
    return np.where(np.arange(samples) % 2, level, -level).astype(np.int16)


def test_levels_and_zeros_of_each_channel() -> None:
    meter = ChannelMeter(3, RATE)
    silent = np.zeros(2000, np.int16)
    late = np.concatenate([tone(500, 3277), np.zeros(1500, np.int16)])
    stream = np.stack([tone(2000, 3277), silent, late], axis=1)
    for block in np.split(stream, 25):
        meter.step(block)
    loud, quiet, _ = meter.levels_dbfs
    assert loud == pytest.approx(-20.6, abs=0.5)  # the average has not quite risen
    assert quiet == -100
    assert meter.zeros_s == [0.0, 2.0, 1.5]


def test_float_samples_have_the_same_level() -> None:
    meter = ChannelMeter(1, RATE)
    meter.step(np.full((RATE, 1), 0.1, np.float32))
    assert meter.levels_dbfs == [pytest.approx(-20, abs=0.1)]


@given(st.lists(st.integers(0, 4000), max_size=8))
def test_the_mix_does_not_depend_on_how_the_stream_is_cut(cuts: list[int]) -> None:
    rng = np.random.default_rng(1)
    stream = rng.integers(-3000, 3000, (4000, 3)).astype(np.int16)
    stream[:, 1] = 0
    stream[1000:2500, 2] = 0
    whole = MonoConverter(16000, 3, "mix", "it").step(stream)
    converter = MonoConverter(16000, 3, "mix", "it")
    parts = [converter.step(part) for part in np.split(stream, sorted(cuts))]
    assert (np.concatenate(parts) == whole).all()


def test_the_mix_is_the_mean_of_the_channels_that_carry_sound() -> None:
    """A plug-in claims 32 channels, and only the first two have sound; one of them ends."""
    rate = 16000
    dead = int(DEAD_S * rate)
    stream = np.zeros((3 * dead, 32), np.int16)
    stream[:, 0] = tone(3 * dead, 1000)
    stream[:dead, 1] = tone(dead, 3000)
    mixed = np.abs(MonoConverter(rate, 32, "mix", "it").step(stream).astype(int))
    assert set(mixed[:dead]) == {2000}
    assert set(mixed[dead : 2 * dead - 1]) == {500}  # it may only have paused
    assert set(mixed[2 * dead :]) == {1000}
    assert (MonoConverter(rate, 2, "mix", "it").step(np.zeros((100, 2), np.int16)) == 0).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_mix_of_another_sample_rate_is_resampled(dtype: type[np.generic]) -> None:
    scale = 10_000 if dtype is np.int16 else 10_000 / 32768
    tone = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000) * scale
    stream = np.stack([tone, tone], axis=1).astype(dtype)
    mixed = MonoConverter(48_000, 2, "mix", "it").step(stream, last=True)
    alone = MonoConverter(48_000, 2, 0, "it").step(stream, last=True)
    assert abs(len(mixed) - 16_000) < 5
    assert np.abs(mixed.astype(int) - alone).max() <= 1
