"""Voiceprints: one file a speaker, bound to the encoder that made it, never half-written, never a pickle.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kwsd.detect import state
from kwsd.detect.state import StateError, Store
from kwsd.events import SpeakerMatch
from kwsd.model.bundle import COHORT, Bundle

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


def best_match(embedding: np.ndarray, voiceprints: Mapping[str, Voiceprint], threshold: float) -> SpeakerMatch:
    """The voiceprint nearest to `embedding [dim]` by cosine."""
    name, score = max(((v.name, float(embedding @ v.mean)) for v in voiceprints.values()), key=lambda pair: pair[1])
    return SpeakerMatch(name, round(score, 4), threshold, score >= threshold)


def read_cohort(bundle: Bundle) -> np.ndarray:
    """Embeddings of strangers, float32 `[stranger, dim]` of unit length. Raises BundleError."""
    with np.load(bundle.file(COHORT), allow_pickle=False) as kept:
        voices = kept["voices"].astype(np.float32)
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
