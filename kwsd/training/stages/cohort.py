"""`kwsd train cohort`: voices that speaker scores are normalized by.

They are the training split's people, as they were recorded, and in simulated rooms that they share:
on a device all voices come through one room and one microphone, and there the nearest of the cohort
are those who are heard alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from msgspec import field

from kwsd.audio.format import SAMPLE_RATE
from kwsd.detect.speaker_id import first_part
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data import augment
from kwsd.training.data.augment import Rooms
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.voice_rooms import Device, VoiceSettings, window
from kwsd.training.development import Development
from kwsd.training.settings import Settings
from kwsd.training.stages import verification

log = logging.getLogger(__name__)


class CohortSettings(Settings, frozen=True):
    """The settings of `cohort.yaml`."""

    recorded: int
    """People who are heard as recorded."""
    per_person: int
    """Takes of such a person, whose mean is one voice of the cohort."""
    heard: VoiceSettings = field(default_factory=VoiceSettings)
    """The rooms (`devices`), and how many people are heard in each; `shared` is ignored."""
    seed: int = 51


def cohort(
    models: BundleRuntime, data: TrainingData, settings: CohortSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cohort, and one take of each development person, for calibrating: float32 `[voice,
    dim]` of unit length.

    Raises ValueError where either is empty."""
    development = Development(data)
    means = list(_as_recorded(models, development, settings))
    people = verification.voices(models, development, data.roles.speaker_groups["all"])
    strangers = [person.voices[0] for person in people]
    if not means or not strangers:
        raise ValueError(
            f"the stores hold {len(means)} people of the training split and {len(strangers)} of "
            f"the development split with {verification.MIN_TAKES} takes; a cohort needs both"
        )
    shared = list(_in_rooms(models, data, settings))
    log.info(
        "a cohort of %d people, of %d takes in shared rooms; %d strangers",
        len(means),
        len(shared),
        len(strangers),
    )
    return np.stack(means + shared), np.stack(strangers)


def _as_recorded(
    models: BundleRuntime, development: Development, settings: CohortSettings
) -> Iterator[np.ndarray]:
    """Yield the mean of a few takes of each of some people of the training split."""
    corpora = development.corpora
    people = list(corpora.people(development=False).values())
    for n in development.rng.permutation(len(people))[: settings.recorded]:
        utterances = people[n]
        order = development.rng.permutation(len(utterances))[: settings.per_person]
        takes = [corpora.read(utterances[i])[: 2 * SAMPLE_RATE] for i in order]
        vectors = [v for x in takes if (v := models.embed(x.astype(np.int16))) is not None]
        if vectors:
            mean = np.mean(vectors, axis=0)
            yield mean / np.linalg.norm(mean)


def _in_rooms(
    models: BundleRuntime, data: TrainingData, settings: CohortSettings
) -> Iterator[np.ndarray]:
    """Yield takes of the training split's people, some of them in each of the rooms."""
    scenes = data.scenes(seed=settings.seed)
    rooms = Rooms(data.rooms)
    people = list(scenes.corpora.people(development=False).values())
    heard = settings.heard
    for number in range(heard.devices):
        scenes.reseed([settings.seed, number])
        device = Device(scenes, heard.telephone)
        chosen = scenes.rng.permutation(len(people))[: heard.people]
        seconds = scenes.rng.uniform(heard.shortest_s, heard.longest_s, len(chosen))
        clean = [window(scenes, people[n], s) for n, s in zip(chosen, seconds, strict=True)]
        takes = augment.degrade(
            torch.from_numpy(np.stack(clean)),
            augment.stack([device.degradation() for _ in chosen]),
            rooms,
        )
        vectors = (models.embed(take.astype(np.int16)) for take in takes.numpy())
        yield from (vector for vector in vectors if vector is not None)


def write(path: Path, voices: np.ndarray, strangers: np.ndarray, dim: int) -> None:
    """Write the first `dim` numbers of voices, of unit length again, one byte each."""
    np.savez(path, cohort=_bytes(voices, dim), strangers=_bytes(strangers, dim))
    log.info("%s: %.0f kB", path.name, path.stat().st_size / 1e3)


def _bytes(voices: np.ndarray, dim: int) -> np.ndarray:
    return np.round(127 * first_part(voices, dim)).astype(np.int8)
