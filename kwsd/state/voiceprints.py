"""Voiceprints: one file a speaker, bound to the encoder that made it, never half-written, never a pickle.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from kwsd.events import SpeakerMatch
from kwsd.metrics import Alike, symmetric_norm
from kwsd.model.bundle import COHORT, Bundle
from kwsd.state import store as state
from kwsd.state.store import StateError, Store

FORMAT = 1


class VoiceprintError(StateError):
    """A voiceprint cannot be read, written or used; the message names it and the mend."""


@dataclass(frozen=True)
class Voiceprint:
    name: str
    encoder_id: str
    takes: np.ndarray
    """float32 `[take, dim]`, each of unit length."""
    created: float
    """Seconds since the epoch."""
    mean: np.ndarray = field(init=False)
    """`[dim]`, of unit length."""

    def __post_init__(self) -> None:
        mean = self.takes.mean(axis=0)
        object.__setattr__(self, "mean", mean / max(float(np.linalg.norm(mean)), 1e-9))


def check_name(name: str) -> str:
    """`name` if a speaker may be called so. Raises VoiceprintError."""
    return state.check_name(name, "speaker", VoiceprintError)


class Likeness:
    """How probably two voices are one person's, were that as likely as not: 0 to 1. Normalised to a cohort, so that a threshold means the
    same for every voice and in every room."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError."""
        self._cohort, (self._slope, self._offset) = read_cohort(bundle, "cohort"), bundle.speaker_calibration

    def __call__(self, takes: np.ndarray, references: np.ndarray) -> np.ndarray:
        """`[take, reference]` of `takes [take, dim]` and `references [reference, dim]`, all of unit length."""
        return np.asarray(1 / (1 + np.exp(-(self._slope * symmetric_norm(takes, references, self._cohort) + self._offset))))


def best_match(embedding: np.ndarray, voiceprints: Mapping[str, Voiceprint], threshold: float, alike: Alike) -> SpeakerMatch:
    """The voiceprint that is most alike to `embedding [dim]`."""
    scores = alike(embedding[None], np.stack([v.mean for v in voiceprints.values()]))[0]
    best = int(scores.argmax())
    return SpeakerMatch(list(voiceprints.values())[best].name, round(float(scores[best]), 4), threshold, bool(scores[best] >= threshold))


def read_cohort(bundle: Bundle, which: Literal["cohort", "strangers"]) -> np.ndarray:
    """Voices that belong to nobody here, float32 `[person, dim]` of unit length: of the cohort that scores are normalised to, or of strangers
    of whom neither the speaker head nor the cohort knows anything. Raises BundleError."""
    with np.load(bundle.file(COHORT), allow_pickle=False) as kept:
        voices = kept[which].astype(np.float32)
    return np.asarray(voices / np.linalg.norm(voices, axis=1, keepdims=True))


class VoiceprintStore(Store[Voiceprint]):
    """The voiceprints of a state directory."""

    suffix, thing, error = ".voiceprint", "speaker", VoiceprintError

    def parse(self, name: str, data: bytes) -> Voiceprint:
        path = self.path(name)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as kept:
                if int(kept["format"]) != FORMAT:
                    raise VoiceprintError(f"{path}: voiceprint format {int(kept['format'])}, this kwsd reads {FORMAT}; enrol {name} again")
                takes, encoder_id, created = np.asarray(kept["takes"], np.float32), str(kept["encoder_id"]), float(kept["created"])
        except VoiceprintError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise VoiceprintError(f"{path}: damaged ({error}); remove it and run `kwsd enroll {name}`, or restore it") from error
        if encoder_id != self.encoder_id:
            raise VoiceprintError(f"{path}: made by the encoder {encoder_id}, this model is {self.encoder_id}; run `kwsd enroll {name}` again")
        if takes.ndim != 2 or not len(takes) or not np.isfinite(takes).all():
            raise VoiceprintError(f"{path}: damaged (no takes in it); remove it and run `kwsd enroll {name}`, or restore it")
        return Voiceprint(name, encoder_id, takes, created)

    def to_bytes(self, thing: Voiceprint) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, format=np.int64(FORMAT), takes=thing.takes.astype(np.float32), encoder_id=np.str_(thing.encoder_id), created=np.float64(thing.created))
        return buffer.getvalue()
