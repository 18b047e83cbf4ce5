"""Voiceprints: one file a speaker, bound to the encoder that made it, never half-written, never a pickle.

A file is an `.npz` (no pickles allowed) of the unit-length mean of the takes' embeddings, the takes' embeddings, and the
encoder's id. Writing goes to a temporary file in the same folder, is flushed to the disk, and only then takes the name.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kwsd.events import SpeakerMatch

SUFFIX = ".voiceprint"
FORMAT = 1
NAME = re.compile(r"[^\W_][\w .'-]{0,62}", re.UNICODE)


class VoiceprintError(ValueError):
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
    if not NAME.fullmatch(name) or name != name.strip() or ".." in name:
        raise VoiceprintError(f"{name!r} cannot be a speaker's name: up to 63 letters, digits, spaces, . _ ' and -, a letter or digit first")
    return name


def best_match(embedding: np.ndarray, voiceprints: Mapping[str, Voiceprint], threshold: float) -> SpeakerMatch:
    """The voiceprint nearest to `embedding [dim]` by cosine."""
    name, score = max(((v.name, float(embedding @ v.mean)) for v in voiceprints.values()), key=lambda pair: pair[1])
    return SpeakerMatch(name, round(score, 4), threshold, score >= threshold)


class VoiceprintStore:
    """The folder of voiceprints."""

    def __init__(self, folder: Path, encoder_id: str) -> None:
        self.folder, self.encoder_id = folder, encoder_id

    def path(self, name: str) -> Path:
        return self.folder / (check_name(name) + SUFFIX)

    def load(self, name: str) -> Voiceprint:
        """Raises VoiceprintError where it is missing, damaged, or of another encoder."""
        path = self.path(name)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
                if int(kept["format"]) != FORMAT:
                    raise VoiceprintError(f"{path}: voiceprint format {int(kept['format'])}, this kwsd reads {FORMAT}; enrol {name} again")
                takes, encoder_id, created = np.asarray(kept["takes"], np.float32), str(kept["encoder_id"]), float(kept["created"])
        except FileNotFoundError:
            raise VoiceprintError(f"no speaker is called {name!r}") from None
        except PermissionError as error:
            raise VoiceprintError(f"{path}: may not be read ({error.strerror}); it should belong to the daemon's user, mode 0600") from error
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
            names = sorted(p.name.removesuffix(SUFFIX) for p in self.folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            return {}, [VoiceprintError(f"{self.folder}: cannot be listed ({error.strerror})")]
        for name in names:
            try:
                good[name] = self.load(name)
            except VoiceprintError as error:
                bad.append(error)
        return good, bad

    def save(self, voiceprint: Voiceprint) -> None:
        """Atomic and durable. Raises VoiceprintError (a full disk, say); what stood there before then still stands."""
        path = self.path(voiceprint.name)
        buffer = io.BytesIO()
        np.savez(buffer, format=np.int64(FORMAT), takes=voiceprint.takes.astype(np.float32), encoder_id=np.str_(voiceprint.encoder_id),
                 created=np.float64(voiceprint.created))  # fmt: skip
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(buffer.getvalue())
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
            self._sync_folder()
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise VoiceprintError(f"{path}: could not be saved ({error.strerror}); nothing was changed, make room and try again") from error

    def delete(self, name: str) -> None:
        """Raises VoiceprintError where there is none."""
        try:
            self.path(name).unlink()
            self._sync_folder()
        except FileNotFoundError:
            raise VoiceprintError(f"no speaker is called {name!r}") from None
        except OSError as error:
            raise VoiceprintError(f"{self.path(name)}: could not be deleted ({error.strerror})") from error

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
