"""What is heard beside the one who speaks, and voices made others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import say, training_data

from kwsd.training.data import augment, revoicing
from kwsd.training.data.backgrounds import PLAYBACK_SNR_DB, Background, Backgrounds
from kwsd.training.data.corpora import Recording, fold_of
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.development import Development

RATE = 16000


def level(x: np.ndarray) -> np.ndarray:
    """The spectrum of `x` in dB, in bands of 125 Hz."""
    power = np.square(np.abs(np.fft.rfft(x[: len(x) // 256 * 256]))).astype(np.float64)
    edges = np.linspace(0, len(power), 65).astype(int)
    return 10 * np.log10(np.add.reduceat(power, edges[:-1]) / np.diff(edges) + 1)


def voice(f0: float, formant: float, seconds: float = 1.0) -> np.ndarray:
    """Harmonics of `f0` around one formant."""
    t = np.arange(int(seconds * RATE)) / RATE
    tones = [
        np.sin(2 * np.pi * n * f0 * t) / (1 + ((n * f0 - formant) / 200) ** 2)
        for n in range(1, int(7000 / f0))
    ]
    return (2000 * np.sum(tones, axis=0)).astype(np.float32)


def pitch_of(x: np.ndarray) -> float:
    """The pitch of a steady voice in Hz, by its autocorrelation."""
    x = x[2000:-2000]
    correlation = np.correlate(x, x[:4000], "valid")[: RATE // 100]
    return RATE / (RATE // 400 + int(np.argmax(correlation[RATE // 400 :])))


def formant_of(x: np.ndarray) -> float:
    """The center of the spectrum of `x` in Hz."""
    power = np.square(np.abs(np.fft.rfft(x)))
    return float((np.fft.rfftfreq(len(x), 1 / RATE) * power).sum() / power.sum())


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_pitch_and_formants_change_apart_from_each_other(factor: float) -> None:
    x = voice(150, 1500)
    pitched = revoicing.change_pitch(x, factor)
    assert len(pitched) == len(x)
    assert pitch_of(pitched) == pytest.approx(150 * factor, rel=0.04)
    assert formant_of(pitched) == pytest.approx(formant_of(x), rel=0.12)
    formed = revoicing.change_formants(x, factor)
    assert len(formed) == len(x)
    assert pitch_of(formed) == pytest.approx(150, rel=0.02)
    assert formant_of(formed) == pytest.approx(factor * formant_of(x), rel=0.1)
    assert np.abs(revoicing.change_formants(x, 1.0) - x)[500:-500].max() < 30


def test_a_vocoder_keeps_loudness_over_time_and_loses_the_pitch() -> None:
    x = voice(150, 1500, 1.0) * (np.arange(RATE) % 8000 < 4000)
    heard = revoicing.vocode(x, np.random.default_rng(0), 12)
    assert len(heard) == len(x)
    frames = np.square(heard.reshape(-1, 800)).mean(axis=1)
    loud = np.square(x.reshape(-1, 800)).mean(axis=1) > 1
    assert frames[loud].min() > 10 * np.median(frames[~loud])
    spectrum = np.abs(np.fft.rfft(heard[:4000]))[[int(n * 150 / 4) for n in range(8, 14)]]
    tones = np.abs(np.fft.rfft(x[:4000]))[[int(n * 150 / 4) for n in range(8, 14)]]
    assert tones.sum() > 3 * spectrum.sum()


def test_who_sings_stays_on_notes() -> None:
    sung = revoicing.sing(voice(200, 1200, 3.0), np.random.default_rng(0))
    assert len(sung) == 3 * RATE
    pitches = [pitch_of(sung[at : at + 9000]) for at in range(0, len(sung) - 9000, 4000)]
    assert max(pitches) > 1.15 * min(pitches)


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return data(tmp_path).scenes(seed=1)


def data(folder: Path) -> TrainingData:
    """Sentences of five people, a fan and a chord, in both splits."""
    rng = np.random.default_rng(0)
    t = np.arange(5 * RATE) / RATE
    chord = 3000 * np.sum([np.sin(2 * np.pi * hz * t) for hz in (262, 330, 392)], axis=0)
    takes = []
    for development in (False, True):
        for n, who in enumerate(("en-us+m1", "en-us+f3", "en-gb+m5", "en-us+f1", "en-gb+f4")):
            takes.append(
                Recording(
                    say("it is raining again and nobody wants to go out", who),
                    "libri",
                    speaker("libri", development, n),
                    "",
                )
            )
        fan = rng.normal(0, 500, 5 * RATE).astype(np.int16)
        takes.append(Recording(fan, "noise_fan", speaker("noise_fan", development), ""))
        takes.append(
            Recording(
                chord.astype(np.int16) + int(development),
                "music_chord",
                speaker("music_chord", development),
                "",
            )
        )
    return training_data(folder, takes)


def speaker(corpus: str, development: bool, n: int = 0) -> str:
    names = [f"s{k}" for k in range(100) if (fold_of(f"{corpus}/s{k}") == 0) == development]
    return names[n]


@pytest.mark.parametrize("kind", Backgrounds.shares)
def test_every_kind_has_the_length_it_is_asked_for(scenes: Scenes, kind: str) -> None:
    for samples in (4321, 40000):
        drawn = scenes.backgrounds.of(kind, samples)
        assert drawn.shape == (samples,)
        assert drawn.dtype == np.float32
        assert np.isfinite(drawn).all()
        assert drawn.std() > 1
    assert (scenes.backgrounds.of(kind, 40000) != drawn).any()


def test_more_voices_leave_fewer_pauses(scenes: Scenes) -> None:
    """How much a babble varies from frame to frame falls with the people in it."""

    def variation(x: np.ndarray) -> float:
        frames = 10 * np.log10(np.square(x[: 40000 // 400 * 400].reshape(-1, 400)).mean(1) + 1)
        return float(np.percentile(frames, 90) - np.percentile(frames, 10))

    draw = scenes.backgrounds
    one, many, crowd = (
        np.median([variation(x) for x in drawn])
        for drawn in (
            [draw.babble(40000, 1) for _ in range(8)],
            [draw.babble(40000, 20) for _ in range(8)],
            [draw.of("crowd", 40000) for _ in range(8)],
        )
    )
    assert one > 2 * many > 2 * crowd


def test_music_and_noise_are_drawn_apart(scenes: Scenes) -> None:
    music, noise = (level(scenes.backgrounds.of(kind, 40000)) for kind in ("music", "noise"))
    assert music[2] > music[30] + 40  # 262 to 392 Hz, and 3.8 kHz
    assert abs(noise[2] - noise[30]) < 6


def test_a_small_loudspeaker_has_no_bass(scenes: Scenes) -> None:
    drawn = [level(scenes.backgrounds.of("television", 40000)) for _ in range(6)]
    assert all(bands[0] < bands[4:24].max() - 25 for bands in drawn)


def test_what_the_device_plays_is_as_loud_as_who_speaks(scenes: Scenes) -> None:
    found: dict[bool, list[float]] = {True: [], False: []}
    playback = scenes.backgrounds._kinds["playback"]
    marked = []
    scenes.backgrounds._kinds["playback"] = lambda n: marked.append(n) or playback(n)  # type: ignore[func-returns-value]
    for _ in range(150):
        before = len(marked)
        drawn: Background = scenes.backgrounds.draw(2000)
        found[len(marked) > before].append(drawn.snr_db)
    least, most = PLAYBACK_SNR_DB
    assert found[True]
    assert least <= min(found[True])
    assert max(found[True]) <= most
    assert min(found[False]) >= 0


def test_misses_are_measured_while_the_device_plays(tmp_path: Path) -> None:
    development = Development(data(tmp_path))
    x = augment.gain_to(voice(150, 1500, 2.0), -26)
    for name, louder in (("playback", 0.0), ("playback +10 dB", 10.0)):
        heard = development.conditions()[name](x)
        played = heard - x
        power = 10 * np.log10(np.square(played).mean() / 32768**2)
        assert power == pytest.approx(-26 + louder, abs=0.5)


def test_wake_words_are_heard_in_a_narrow_band_as_well(scenes: Scenes) -> None:
    wide = np.random.default_rng(0).normal(0, 1000, 16000).astype(np.float32)

    def narrow_share(word: int) -> float:
        drawn = [scenes._revoiced(wide, word) for _ in range(60)]
        return float(np.mean([level(x)[52] < level(x)[16] - 25 for x in drawn]))

    assert 0.1 < narrow_share(0) < 0.45
    assert narrow_share(-1) < narrow_share(0)
