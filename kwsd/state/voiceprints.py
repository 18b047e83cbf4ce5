"""Voiceprints: one file a speaker, bound to the encoder that made it.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field

import numpy as np

from kwsd.state import store
from kwsd.state.store import StateError, Store

FORMAT = 1


class VoiceprintError(StateError):
    """A voiceprint cannot be read, written or used; the message names it and the fix."""


@dataclass(frozen=True)
class Voiceprint:
    """The stored reference of an enrolled speaker."""

    name: str
    encoder_id: str
    takes: np.ndarray
    """float32 `[take, dim]`, each of unit length."""
    created: float
    """Seconds since the epoch."""
    mean: np.ndarray = field(init=False)
    """float32 `[dim]`, of unit length."""

    def __post_init__(self) -> None:
        mean = self.takes.mean(axis=0)
        object.__setattr__(self, "mean", mean / max(float(np.linalg.norm(mean)), 1e-9))


def check_speaker_name(name: str) -> str:
    """Return `name` if a speaker may have it. Raises VoiceprintError."""
    return store.check_name(name, "speaker", VoiceprintError)


class VoiceprintStore(Store[Voiceprint]):
    """The voiceprints of a state directory."""

    suffix = ".voiceprint"
    thing = "speaker"
    error = VoiceprintError

    def parse(self, name: str, data: bytes) -> Voiceprint:
        """Return the voiceprint in a file. Raises VoiceprintError."""
        path = self.path(name)
        again = f"run `kwsd enroll {name}` again"
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                format = int(arrays["format"])
                if format != FORMAT:
                    text = f"voiceprint format {format}, this kwsd reads {FORMAT}"
                    raise VoiceprintError(f"{path}: {text}; {again}")
                takes = np.asarray(arrays["takes"], np.float32)
                encoder_id = str(arrays["encoder_id"])
                created = float(arrays["created"])
        except VoiceprintError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            fix = f"remove it and run `kwsd enroll {name}`, or restore it"
            raise VoiceprintError(f"{path}: damaged ({error}); {fix}") from error
        if encoder_id != self.encoder_id:
            text = f"made by the encoder {encoder_id}, this model is {self.encoder_id}"
            raise VoiceprintError(f"{path}: {text}; {again}")
        if takes.ndim != 2 or not len(takes) or not np.isfinite(takes).all():
            fix = f"remove it and run `kwsd enroll {name}`, or restore it"
            raise VoiceprintError(f"{path}: damaged (no takes in it); {fix}")
        return Voiceprint(name, encoder_id, takes, created)

    def to_bytes(self, thing: Voiceprint) -> bytes:
        """Return the file of a voiceprint."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            format=np.int64(FORMAT),
            takes=thing.takes.astype(np.float32),
            encoder_id=np.str_(thing.encoder_id),
            created=np.float64(thing.created),
        )
        return buffer.getvalue()
