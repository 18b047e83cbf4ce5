"""Voiceprints: one file a speaker, bound to the encoder that made it.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id. Where a
checker gave embeddings too, they are beside them with its id: whoever has another checker, or none,
compares the rest.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.bounded import npz
from kwsd.bounded.file import Damaged
from kwsd.bounded.npz import Kinds, Numbers, Text
from kwsd.metrics import joined
from kwsd.names import MAX_LENGTH
from kwsd.state import store
from kwsd.state.store import LATEST, StateError, Store

FORMAT = 1
MAX_TAKES = 1000
ARRAYS: Kinds = {
    "format": Numbers("<i8"),
    "takes": Numbers("<f4", (MAX_TAKES, 1024)),
    "encoder_id": Text(64),
    "created": Numbers("<f8"),
}
"""What a file holds."""
CHECKER_ARRAYS: Kinds = {
    "checker_takes": Numbers("<f4", (MAX_TAKES, 1024)),
    "checker_id": Text(64),
}
"""What it holds too where a checker gave embeddings."""
NAME_ARRAYS: Kinds = {"name": Text(MAX_LENGTH)}
"""What it holds too where it is called by an identifier."""
UNIT_WITHIN = 0.01
"""How far from 1 the length of a take may lie."""
MIN_MEAN = 0.01
"""Length that the mean of the takes has at least; those of one voice have 0.5 and more."""


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
    checker_takes: np.ndarray | None = None
    """The same takes by a checker, float32 `[take, checker dim]`, each of unit length."""
    checker_id: str = ""
    """Identifies that checker; empty without one."""
    is_joined: bool = False
    """Whether its takes are joined of both parts."""
    mean: np.ndarray = field(init=False)
    """float32 `[dim]`, of unit length."""

    def __post_init__(self) -> None:
        mean = self.takes.mean(axis=0)
        object.__setattr__(self, "mean", mean / max(float(np.linalg.norm(mean)), 1e-9))

    def joined(self, checker_id: str, weight: float) -> Voiceprint:
        """Return it with takes that are joined of both parts, if this checker gave the other one.

        `weight` is that of the checker's. Without such a part, it is returned as it is.
        """
        if self.checker_takes is None or self.checker_id != checker_id:
            return self
        takes = joined(self.takes, self.checker_takes, weight)
        return Voiceprint(self.name, self.encoder_id, takes, self.created, is_joined=True)


def check_speaker_name(name: str) -> str:
    """Return a speaker's name as it is stored. Raises VoiceprintError."""
    return store.check_name(name, "speaker", VoiceprintError)


class VoiceprintStore(Store[Voiceprint]):
    """The voiceprints of a state directory."""

    suffix = ".voiceprint"
    thing = "speaker"
    error = VoiceprintError
    max_bytes = 9 << 20

    def again(self, name: str) -> str:
        """Return what to do where a voiceprint is lost."""
        return f"run `kwsd enroll {name or 'NAME'}` again"

    def name_in(self, data: bytes) -> str | None:
        """Return the name that a file holds, None where it holds none. Raises Damaged."""
        name: str | None = npz.decode(data, {}, optional=NAME_ARRAYS).get("name")
        return name

    def parse(self, path: Path, name: str, data: bytes) -> Voiceprint:
        """Return the voiceprint in a file. Raises VoiceprintError."""
        try:
            format = int(npz.decode(data, {"format": ARRAYS["format"]})["format"])
            if format != FORMAT:
                text = f"voiceprint format {format}, this kwsd reads {FORMAT}"
                raise VoiceprintError(f"{path}: {text}; {self.again(name)}")
            arrays = npz.decode(data, ARRAYS, self.max_bytes, CHECKER_ARRAYS)
            self.name_in(data)
            encoder_id = arrays["encoder_id"]
            if encoder_id != self.encoder_id:
                text = f"made by the encoder {encoder_id}, this model is {self.encoder_id}"
                raise VoiceprintError(f"{path}: {text}; {self.again(name)}")
            takes = arrays["takes"]
            _check_takes(takes, self.dim)
            checker_takes = arrays.get("checker_takes")
            if checker_takes is not None:
                _check_takes(checker_takes, None)
                if len(checker_takes) != len(takes):
                    raise Damaged(f"a checker heard {len(checker_takes)} of its {len(takes)} takes")
            if not 0 <= arrays["created"] <= LATEST:
                raise Damaged("it was made at no time that there is")
        except Damaged as error:
            raise self.damaged(path, name, error) from error
        created = float(arrays["created"])
        checker_id = arrays.get("checker_id", "")
        return Voiceprint(name, encoder_id, takes, created, checker_takes, checker_id)

    def to_bytes(self, thing: Voiceprint) -> bytes:
        """Return the file of a voiceprint."""
        arrays: dict[str, Any] = {
            "format": np.int64(FORMAT),
            "name": np.str_(thing.name),
            "takes": thing.takes.astype(np.float32),
            "encoder_id": np.str_(thing.encoder_id),
            "created": np.float64(thing.created),
        }
        if thing.checker_takes is not None:
            arrays["checker_takes"] = thing.checker_takes.astype(np.float32)
            arrays["checker_id"] = np.str_(thing.checker_id)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def _check_takes(takes: np.ndarray, dim: int | None) -> None:
    """Raise Damaged unless `takes` are vectors of unit length that have a mean."""
    if not takes.size:
        raise Damaged("it holds no takes")
    if dim is not None and takes.shape[1] != dim:
        raise Damaged(f"its takes have {takes.shape[1]} numbers, and the encoder's have {dim}")
    # As float64, in which no square of a float32 is infinite.
    wide = takes.astype(np.float64)
    if (np.abs(np.linalg.norm(wide, axis=1) - 1) > UNIT_WITHIN).any():
        raise Damaged("its takes are not of unit length")
    if np.linalg.norm(wide.mean(axis=0)) < MIN_MEAN:
        raise Damaged("its takes cancel each other out")
