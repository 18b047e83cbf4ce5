"""What is heard beside the one who speaks: recorded noise and music, and what is made of speech and
them: babble, crowds, singing, television, and what the device itself plays.

Arrays are float32 `[sample]` in int16 scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from kwsd.training.data import augment, revoicing

Draw = Callable[[int], np.ndarray]
"""Draws that many samples of some sound."""
SNR_DB = (0.0, 30.0)
"""Least and greatest level of speech over a background."""
PLAYBACK_SNR_DB = (-11.0, 1.0)
"""The same over what the device plays: its loudspeaker is nearer than who speaks."""
LEVEL_DBFS = -26.0
SPREAD_DB = 6.0
"""Standard deviation of the voices of a babble: people stand near and far."""
BABBLE = (3, 20)
"""Fewest and most people of a babble."""
CROWD = (3, 6)
"""Fewest and most babbles of a crowd, of `BABBLE[1]` people each."""


class Background(NamedTuple):
    """A sound beside the speech, and how loud the speech is over it."""

    samples: np.ndarray
    snr_db: float


class Backgrounds:
    """Draws backgrounds from speech, noise and music."""

    shares: Mapping[str, float] = {
        "noise": 0.3,
        "music": 0.17,
        "hiss": 0.1,
        "voices": 0.08,
        "babble": 0.09,
        "crowd": 0.03,
        "revoiced": 0.05,
        "singing": 0.05,
        "television": 0.07,
        "playback": 0.06,
    }
    """How often each kind is drawn."""

    def __init__(
        self,
        rng: np.random.Generator,
        speech: Draw | None,
        noise: Draw | None,
        music: Draw | None,
    ) -> None:
        """What is None is replaced by hiss."""
        self.rng = rng
        self._speech = speech or self.hiss
        self._noise = noise or self.hiss
        self._music = music or self.hiss
        self._kinds: dict[str, Draw] = {
            "noise": self._noise,
            "music": self._music,
            "hiss": self.hiss,
            "voices": lambda samples: self.babble(samples, int(rng.integers(1, BABBLE[0]))),
            "babble": self.babble,
            "crowd": self.crowd,
            "revoiced": self.revoiced,
            "singing": self.singing,
            "television": self.television,
            "playback": self.playback,
        }

    def draw(self, samples: int) -> Background:
        """Return a background of any kind."""
        shares = np.array(list(self.shares.values()))
        kind = list(self.shares)[self.rng.choice(len(shares), p=shares / shares.sum())]
        least, most = PLAYBACK_SNR_DB if kind == "playback" else SNR_DB
        return Background(self.of(kind, samples), float(self.rng.uniform(least, most)))

    def of(self, kind: str, samples: int) -> np.ndarray:
        """Return a background of one of the kinds of `shares`."""
        return self._kinds[kind](samples).astype(np.float32)

    def hiss(self, samples: int) -> np.ndarray:
        """Return noise with a spectrum that falls by up to 6 dB an octave."""
        hiss = np.fft.rfft(self.rng.standard_normal(samples))
        tilt = np.maximum(np.arange(len(hiss)), 1) ** -self.rng.uniform(0, 1)
        return np.asarray(np.fft.irfft(hiss * tilt, samples) * 1000)

    def babble(self, samples: int, voices: int | None = None) -> np.ndarray:
        """Return 3 to 20 people (or `voices`) who speak at once."""
        count = voices or int(self.rng.integers(BABBLE[0], BABBLE[1] + 1))
        total = np.zeros(samples, np.float32)
        for _ in range(count):
            total += augment.gain_to(self._speech(samples), self.rng.normal(LEVEL_DBFS, SPREAD_DB))
        return total

    def crowd(self, samples: int) -> np.ndarray:
        """Return up to 120 people, of whom nobody can be understood: babbles turned in time, some
        of them backwards."""
        total = np.zeros(samples, np.float32)
        heard = self.babble(samples, BABBLE[1])
        for _ in range(int(self.rng.integers(CROWD[0], CROWD[1] + 1))):
            turned = np.roll(heard, self.rng.integers(samples))
            total += turned[::-1] if self.rng.random() < 0.3 else turned
        return total

    def revoiced(self, samples: int) -> np.ndarray:
        """Return one speaker, sped up or slowed down, pitched, or vocoded."""
        factor = float(np.exp(self.rng.uniform(np.log(0.6), np.log(1.7))))
        way = self.rng.integers(3)
        if way == 0:
            sped = augment.change_speed(self._speech(int(samples * factor) + 2), factor)
            return np.resize(sped, samples)
        speech = self._speech(samples)
        if way == 1:
            return revoicing.change_pitch(speech, factor)
        return revoicing.vocode(speech, self.rng, int(self.rng.integers(4, 17)))

    def singing(self, samples: int) -> np.ndarray:
        """Return somebody who sings over music."""
        voice = augment.gain_to(revoicing.sing(self._speech(samples), self.rng), LEVEL_DBFS)
        return voice + self._below(self._music(samples), 0, 10)

    def television(self, samples: int) -> np.ndarray:
        """Return speech with music and effects, from a small loudspeaker."""
        sound = augment.gain_to(self._speech(samples), LEVEL_DBFS)
        sound = sound + self._below(self._music(samples), 3, 20)
        sound = sound + self._below(self._noise(samples), 3, 20)
        return self._small_loudspeaker(sound)

    def playback(self, samples: int) -> np.ndarray:
        """Return speech or music as the device's own loudspeaker plays it."""
        return self._small_loudspeaker((self._speech, self._music)[self.rng.integers(2)](samples))

    def _below(self, x: np.ndarray, least_db: float, most_db: float) -> np.ndarray:
        """Return `x` between `least_db` and `most_db` below the level of speech."""
        return augment.gain_to(x, LEVEL_DBFS - self.rng.uniform(least_db, most_db))

    def _small_loudspeaker(self, x: np.ndarray) -> np.ndarray:
        """Return `x` through a response without bass, and a membrane that reaches its end."""
        low_hz, high_hz = self.rng.uniform(150, 500), self.rng.uniform(5000, 7800)
        loud = augment.gain_to(x, LEVEL_DBFS)
        end = np.abs(loud).max() * self.rng.uniform(0.4, 2) + 1
        return augment.narrow_band(end * np.tanh(loud / end), low_hz, high_hz)
