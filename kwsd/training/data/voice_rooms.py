"""Batches of voices in groups: different people in one room, one noise and at one microphone, and
each person in several.

Where every person has a room of their own, as in most corpora, a network may tell rooms apart
instead of voices, and strangers pass on the device, where all share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.speech_span import speech_span
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.crops import MARGIN_SAMPLES
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import SHORT_SAMPLES, Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import WINDOW_SAMPLES, at_peak
from kwsd.training.settings import Settings

TAKES = 2
"""Windows of each person in a batch."""
TELEPHONE = (300.0, 3400.0, 0.0)
"""Low and high cut in Hz, and tilt."""


class VoiceSettings(Settings, frozen=True):
    """The size of a batch of voices, and where they are heard."""

    people: int = 48
    devices: int = 8
    """Rooms with their noise and microphone in a batch; people share them."""
    shared: float = 0.85
    """Share of the windows that are heard in one of them; the others are as recorded."""
    telephone: float = 0.14
    """Share of the devices with a telephone's band."""
    shortest_s: float = 0.9
    """Least length of the speech in a window."""
    longest_s: float = 2.0


class VoiceBatch(NamedTuple):
    """Windows of people, `TAKES` in a row of each."""

    clean: Tensor
    """float32 `[batch, sample]`"""
    degradation: Degradation
    person: Tensor
    """int64 `[batch]`"""

    def to(self, device: torch.device) -> VoiceBatch:
        """Return the batch on `device`."""
        return VoiceBatch(
            self.clean.to(device), self.degradation.to(device), self.person.to(device)
        )


class VoiceRooms(IterableDataset[VoiceBatch]):
    """Endless batches of windows of the training split's people."""

    def __init__(self, data: TrainingData, settings: VoiceSettings, seed: int) -> None:
        self.data = data
        self.settings = settings
        self.seed = seed
        self.responses = Rooms(data.rooms)

    def prepare(self, batch: VoiceBatch) -> tuple[Tensor, Tensor]:
        """Return the windows as heard, at the checker's level, and the people."""
        heard = augment.degrade(batch.clean, batch.degradation, self.responses)
        return at_peak(heard), batch.person

    def __iter__(self) -> Iterator[VoiceBatch]:
        scenes = self.data.scenes(seed=worker_seed(self.seed))
        people = list(scenes.corpora.people(development=False).values())
        while True:
            drawn = scenes.rng.choice(len(people), self.settings.people, replace=False)
            yield self._draw(scenes, people, drawn)

    def _draw(self, scenes: Scenes, people: list[list[Utterance]], drawn: np.ndarray) -> VoiceBatch:
        rng = scenes.rng
        settings = self.settings
        devices = [Device(scenes, settings.telephone) for _ in range(settings.devices)]
        clean = []
        degradations = []
        for person in drawn:
            # Two takes of a person never share a device.
            places = rng.choice(settings.devices, TAKES, replace=False)
            for place in places:
                seconds = rng.uniform(settings.shortest_s, settings.longest_s)
                clean.append(window(scenes, people[person], seconds))
                shared = rng.random() < settings.shared
                degradations.append(devices[place].degradation() if shared else as_recorded(scenes))
        return VoiceBatch(
            torch.from_numpy(np.stack(clean)),
            augment.stack(degradations),
            torch.from_numpy(np.repeat(drawn, TAKES)),
        )


class Device:
    """A room, its noise, and a microphone in it."""

    def __init__(self, scenes: Scenes, telephone: float) -> None:
        rng = scenes.rng
        self._scenes = scenes
        self._room = int(rng.integers(len(scenes.rooms))) if rng.random() < 0.7 else -1
        self._snr_db = float(rng.uniform(5, 30))
        self._noise = scenes.draw_noise(2 * WINDOW_SAMPLES).astype(np.float32)
        self._microphone = TELEPHONE
        if rng.random() >= telephone:
            high_hz = float(np.exp(rng.uniform(np.log(3500), np.log(9000))))
            self._microphone = (float(rng.uniform(30, 350)), high_hz, float(rng.uniform(-6, 6)))

    def degradation(self) -> Degradation:
        """Return what happens to one window there."""
        begin = int(self._scenes.rng.integers(WINDOW_SAMPLES))
        return Degradation(
            torch.tensor(self._room),
            torch.from_numpy(self._noise[begin : begin + WINDOW_SAMPLES]),
            torch.tensor(self._snr_db),
            torch.tensor(self._microphone),
            torch.tensor(0.0),
        )


def as_recorded(scenes: Scenes) -> Degradation:
    """Return the degradation of a window to which nothing happens."""
    return scenes.degradation(WINDOW_SAMPLES, harsh=0.0)


def window(
    scenes: Scenes, utterances: list[Utterance], seconds: float, speed: float = 1.0
) -> np.ndarray:
    """Return a window, float32 `[sample]`, with so many seconds of one person's speech at `speed`
    near its end."""
    speech = _speech(scenes, utterances, int(seconds * SAMPLE_RATE * speed) + 1)
    return _placed(augment.change_speed(speech, speed) if speed != 1 else speech, scenes.rng)


def _speech(scenes: Scenes, utterances: list[Utterance], samples: int) -> np.ndarray:
    """Return `samples` of one person's speech, float32 `[sample]`, or fewer where a take ends."""
    rng = scenes.rng
    x = scenes.corpora.read(utterances[rng.integers(len(utterances))])
    if len(x) < SHORT_SAMPLES:
        start, end = speech_span(x)
        x = x[max(start - MARGIN_SAMPLES, 0) : end + MARGIN_SAMPLES]
    begin = int(rng.integers(max(len(x) - samples, 0) + 1))
    return augment.gain_to(x[begin : begin + samples], -26)


def _placed(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a window with `speech` somewhere in it, as at a wake: near its end."""
    speech = speech[:WINDOW_SAMPLES]
    out = np.zeros(WINDOW_SAMPLES, np.float32)
    after = int(rng.integers(min(WINDOW_SAMPLES - len(speech), SAMPLE_RATE // 3) + 1))
    end = WINDOW_SAMPLES - after
    out[end - len(speech) : end] = speech
    return out
