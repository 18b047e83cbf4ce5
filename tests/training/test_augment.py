"""What rooms and microphones do to speech, against worked numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment
from kwsd.training.data.augment import Rooms, change_speed, change_tempo, gain_to, loud_half_dbfs


def test_levels_speed_and_mixing() -> None:
    tone = (10000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    assert loud_half_dbfs(gain_to(tone, -26)) == pytest.approx(-26, abs=0.01)
    assert loud_half_dbfs(tone[:300]) == -100
    half = np.concatenate([tone, np.zeros(16000, np.float32)])
    assert loud_half_dbfs(half) == pytest.approx(
        20 * np.log10(10000 / 32768 / np.sqrt(2)), abs=0.01
    )  # pauses count for nothing
    assert len(change_speed(tone, 1.25)) == pytest.approx(12800, abs=1)
    assert np.argmax(np.abs(np.fft.rfft(change_speed(tone, 0.8)[:16000]))) == pytest.approx(
        352, abs=1
    )
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 16000)).astype(np.float32))
    speech = torch.from_numpy(np.stack([tone, 0.1 * tone]))
    added = augment.mix(speech, noise, torch.tensor([10.0, 25.0])) - speech
    snr = augment.speech_levels_dbfs(speech) - 10 * torch.log10(added.square().mean(1) / 32768**2)
    assert snr.tolist() == pytest.approx([10, 25], abs=0.1)


def test_a_change_of_tempo_keeps_the_pitch() -> None:
    rng = np.random.default_rng(0)
    tone = (10000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    for factor in (0.8, 1.25):
        changed = change_tempo(tone, factor)
        assert len(changed) == int(16000 / factor)
        steady = changed[800:-800]
        assert np.argmax(
            np.abs(np.fft.rfft(steady * np.hanning(len(steady)), 16000))
        ) == pytest.approx(440, abs=1)
        assert steady.std() == pytest.approx(tone.std(), rel=0.01)
    beeps = rng.normal(0, 3000, 32000).astype(np.float32) * (
        np.arange(32000) % 8000 < 1000
    )  # one every half a second
    slower = change_tempo(beeps, 0.8)
    there = (np.arange(len(slower)) + 300) % 10000 < 1850
    assert np.square(slower[there]).sum() > 0.99 * np.square(slower).sum() > 0
    assert change_tempo(beeps, 1.0)[400:-400] == pytest.approx(beeps[400:-400], abs=0.01)


def test_rooms_and_microphones_against_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rirs = (rng.normal(size=(6, 2000)) * np.exp(-np.arange(2000) / 200)).astype(np.float16)
    rirs[:, 300] = 8
    np.savez(tmp_path / "rirs.npz", rirs=rirs)
    rooms = Rooms(tmp_path / "rirs.npz")
    assert len(rooms) == 5
    x = rng.normal(0, 500, (3, 5000)).astype(np.float32)
    wet = augment.reverberate(torch.from_numpy(x), rooms.responses[[2, 0, 1]]).numpy()
    for row, response in ((0, 2), (1, 0)):
        want = np.convolve(x[row].astype(np.float64), rooms.responses[response].double().numpy())[
            :5000
        ]
        want *= np.sqrt(np.mean(x[row] ** 2) / np.mean(want**2))
        assert np.abs(wet[row] - want).max() < 0.1
    click = np.zeros((1, 5000), np.float32)
    click[0, 1000] = 1000
    assert (
        abs(
            int(augment.reverberate(torch.from_numpy(click), rooms.responses[:1]).abs().argmax())
            - 1000
        )
        <= 8
    )  # the direct sound stays in place
    tones = np.stack(
        [np.sin(2 * np.pi * hz * np.arange(16000) / 16000) for hz in (100, 1000, 6000)]
    ).astype(np.float32)
    low, high, tilt = (torch.full((3,), v) for v in (100.0, 6000.0, 6.0))
    limited = augment.band_limit(torch.from_numpy(tones), low, high, tilt).square().mean(
        1
    ).sqrt().numpy() * np.sqrt(2)
    expected = [
        10 ** (6 * np.log2(max(hz, 125) / 1000) / 3 / 20)
        / np.sqrt(1 + (100 / hz) ** 4)
        / np.sqrt(1 + (hz / 6000) ** 8)
        for hz in (100, 1000, 6000)
    ]
    assert limited == pytest.approx(expected, rel=1e-3)


def test_a_batch_is_degraded_as_its_takes_are(tmp_path: Path) -> None:
    """Each row by itself or all at once; what is not asked for does not happen."""
    rng = np.random.default_rng(2)
    np.savez(
        tmp_path / "rirs.npz",
        rirs=(rng.normal(size=(10, 1500)) * np.exp(-np.arange(1500) / 100)).astype(np.float16),
    )
    rooms = Rooms(tmp_path / "rirs.npz")
    x = torch.from_numpy(rng.normal(0, 3000, (4, 8000)).astype(np.float32))
    none = torch.zeros(8000)
    noise = torch.from_numpy(rng.normal(0, 1, 8000).astype(np.float32))
    how = [
        augment.Degradation(
            torch.tensor(room),
            hiss,
            torch.tensor(snr),
            torch.tensor(microphone),
            torch.tensor(gain),
        )
        for room, hiss, snr, microphone, gain in (
            (-1, none, 0.0, (0.0, 0.0, 0.0), 0.0),
            (3, noise, 5.0, (200.0, 4000.0, 3.0), -6.0),
            (-1, noise, 20.0, (0.0, 0.0, 0.0), 30.0),
            (0, none, 0.0, (50.0, 8000.0, 0.0), 0.0),
        )
    ]
    together = augment.degrade(x, augment.stack(how), rooms)
    for row, one in enumerate(how):
        assert (
            together[row] - augment.degrade(x[row : row + 1], augment.stack([one]), rooms)[0]
        ).abs().max() <= 1  # of rounding
    assert torch.equal(together[0], x[0].round())
    assert together[2].abs().max() == 32768
    assert torch.equal(together, together.round())


def test_a_narrow_band_ends_where_it_ends() -> None:
    noise = np.random.default_rng(0).normal(0, 1000, 32000).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(augment.narrow_band(noise, *augment.TELEPHONE_HZ))))
    power /= np.square(np.abs(np.fft.rfft(noise))).mean()
    hz = np.arange(len(power)) / 2
    assert power[(hz > 400) & (hz < 3000)].mean() == pytest.approx(1, abs=0.1)
    assert power[hz < 150].mean() < 1e-3
    assert power[hz > 5000].mean() < 1e-4


def test_masks_lie_within_and_hold_the_least_value() -> None:
    rng = np.random.default_rng(0)
    mel = torch.rand(400, 32) + 1
    mel[7, 3] = 0.25
    masks = augment.draw_masks(400, 32, rng)
    assert len([m for m in masks if m[0] == 0]) == 4
    assert all(
        0 <= begin < end <= (400, 32)[axis] and end - begin <= (10, 5)[axis]
        for axis, begin, end in masks
    )
    augment.mask(mel, masks)
    _, begin, end = masks[-1]
    assert (mel[begin:end] == 0.25).all()
    assert (mel == 0.25).float().mean() < 0.5


def test_speech_is_found_amid_silence() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 5, 32000).astype(np.float32)
    x[8000:16000] += rng.normal(0, 2000, 8000).astype(np.float32)
    start, end = speech_span(x)
    assert abs(start - 8000) <= 400
    assert abs(end - 16000) <= 400


def test_a_pause_parts_a_phrase_where_it_is_quietest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2000, 16000).astype(np.float32)
    x[7600:8000] *= 0.01
    parted = augment.pause_within(x, 2000, 14000, 3200)
    assert len(parted) == 19200
    cut = int(np.flatnonzero(parted == 0)[0])
    assert 7600 < cut < 8000
    assert not parted[cut : cut + 3200].any()
    assert (parted[: cut - 80] == x[: cut - 80]).all()
    assert (parted[cut + 3280 :] == x[cut + 80 :]).all()
    assert augment.pause_within(x, 2000, 2500, 3200) is x
