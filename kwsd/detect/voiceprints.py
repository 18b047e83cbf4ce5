"""Voiceprints: one file a speaker, bound to the encoder that made it, never half-written, never a pickle.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kwsd.detect import state
from kwsd.detect.state import StateError, StateFolder
from kwsd.events import SpeakerMatch

SUFFIX = ".voiceprint"
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


class VoiceprintStore:
    """The voiceprints of a state directory."""

    def __init__(self, folder: Path, encoder_id: str) -> None:
        self.files, self.encoder_id = StateFolder(folder, SUFFIX, "speaker", VoiceprintError), encoder_id

    def path(self, name: str) -> Path:
        return self.files.path(name)

    def load(self, name: str) -> Voiceprint:
        """Raises VoiceprintError where it is missing, damaged, or of another encoder."""
        path, data = self.path(name), self.files.read(name)
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

    def load_all(self) -> tuple[dict[str, Voiceprint], list[VoiceprintError]]:
        """Every voiceprint that can be used, and why the others cannot."""
        good: dict[str, Voiceprint] = {}
        bad: list[VoiceprintError] = []
        try:
            names = self.files.names()
        except VoiceprintError as error:
            return {}, [error]
        for name in names:
            try:
                good[name] = self.load(name)
            except VoiceprintError as error:
                bad.append(error)
        return good, bad

    def save(self, voiceprint: Voiceprint) -> None:
        """Atomic and durable. Raises VoiceprintError (a full disk, say); what stood there before then still stands."""
        buffer = io.BytesIO()
        np.savez(buffer, format=np.int64(FORMAT), takes=voiceprint.takes.astype(np.float32), encoder_id=np.str_(voiceprint.encoder_id),
                 created=np.float64(voiceprint.created))  # fmt: skip
        self.files.write(voiceprint.name, buffer.getvalue())

    def delete(self, name: str) -> None:
        """Raises VoiceprintError where there is none."""
        self.files.delete(name)
