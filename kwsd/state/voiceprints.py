"""Voiceprints: one file a speaker, bound to the encoder that made it.

A file is an `.npz` (no pickles allowed) of the takes' embeddings and the encoder's id. Where a
checker gave embeddings too, they are beside them with its id: whoever has another checker, or none,
compares the rest.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.bounded import npz
from kwsd.bounded.file import Damaged
from kwsd.bounded.npz import Kinds, Numbers, Text
from kwsd.metrics import joined
from kwsd.names import MAX_LENGTH, folded, is_allowed, look_up
from kwsd.protocol.data import ReferenceInfo, SpeakerInfo
from kwsd.state import store
from kwsd.state.store import LATEST, StateError, Store

FORMAT = 1
UNNAMED = "one without a label"
"""How a reference that nobody has named is called."""
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
MAX_REFERENCES = 8
"""References of one speaker."""
REFERENCE_ARRAYS: Kinds = {
    "references": Text(MAX_LENGTH, (MAX_REFERENCES,)),
    "reference_takes": Numbers("<i8", (MAX_REFERENCES,)),
    "reference_checked": Numbers("<i8", (MAX_REFERENCES,)),
    "reference_created": Numbers("<f8", (MAX_REFERENCES,)),
}
"""What it holds too where the speaker has several references, or one with a name: how many of the
takes are of each, in order, and how many of the checker's."""
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
    """The stored voice of an enrolled speaker: one reference, and `others` of the same speaker."""

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
    reference: str = ""
    """What tells it from the speaker's others, such as `far`; empty where nobody said."""
    others: tuple[Voiceprint, ...] = ()
    """References of the same speaker at other distances or microphones, which have no others."""
    mean: np.ndarray = field(init=False)
    """float32 `[dim]`, of unit length."""

    def __post_init__(self) -> None:
        mean = self.takes.mean(axis=0)
        object.__setattr__(self, "mean", mean / max(float(np.linalg.norm(mean)), 1e-9))

    @property
    def references(self) -> tuple[Voiceprint, ...]:
        """Every reference of the speaker."""
        return (self, *self.others)

    def info(self) -> SpeakerInfo:
        """Return what programs may know of the speaker."""
        references = [
            ReferenceInfo(one.reference, len(one.takes), one.created) for one in self.references
        ]
        takes = sum(one.takes for one in references)
        return SpeakerInfo(self.name, takes, self.created, references)

    def joined(self, checker_id: str, weight: float) -> Voiceprint:
        """Return it with takes that are joined of both parts, if this checker gave the other one.

        `weight` is that of the checker's. A reference without such a part is as it was.
        """
        others = tuple(other.joined(checker_id, weight) for other in self.others)
        if self.checker_takes is None or self.checker_id != checker_id:
            return replace(self, others=others)
        return replace(
            self,
            takes=joined(self.takes, self.checker_takes, weight),
            checker_takes=None,
            checker_id="",
            is_joined=True,
            others=others,
        )

    def with_reference(self, new: Voiceprint) -> Voiceprint:
        """Return it with the reference `new`, in place of one of the same name.

        What a checker gave is kept of the checker that heard `new`, if one did. Raises
        VoiceprintError where there are too many.
        """
        kept = [one for one in self.references if folded(one.reference) != folded(new.reference)]
        if len(kept) == MAX_REFERENCES:
            names = ", ".join(one.reference or UNNAMED for one in kept)
            text = f"{self.name!r} has {MAX_REFERENCES} references ({names}), and may have no more"
            fix = f"`kwsd speakers --delete {shlex.quote(self.name)} --reference NAME` deletes one"
            raise VoiceprintError(f"{text}; {fix}")
        heard = next((one.checker_id for one in (new, *kept) if one.checker_id), "")
        every = [one if one.checker_id == heard else _unchecked(one) for one in (*kept, new)]
        return _person(self.name, every)

    def without_reference(self, reference: str) -> Voiceprint | None:
        """Return it without a reference; None where none is left.

        Raises VoiceprintError where there is no such reference.
        """
        named = look_up(reference, [one.reference for one in self.references])
        if named is None:
            names = ", ".join(one.reference or UNNAMED for one in self.references)
            text = f"{self.name!r} has no reference {reference!r}"
            raise VoiceprintError(f"{text}; there is {names}")
        left = [one for one in self.references if one.reference != named]
        return _person(self.name, left) if left else None


def _person(name: str, references: Sequence[Voiceprint]) -> Voiceprint:
    """Return a speaker with these references."""
    first, *others = (replace(one, name=name, others=()) for one in references)
    return replace(first, others=tuple(others))


def _unchecked(one: Voiceprint) -> Voiceprint:
    return replace(one, checker_takes=None, checker_id="", others=())


def check_reference(name: str) -> str:
    """Return the name of a reference as it is stored; empty for none. Raises VoiceprintError."""
    return store.check_name(name, "reference", VoiceprintError) if name.strip() else ""


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
            if not 0 <= arrays["created"] <= LATEST:
                raise Damaged("it was made at no time that there is")
            created = float(arrays["created"])
            checker_id = arrays.get("checker_id", "")
            whole = Voiceprint(name, encoder_id, takes, created, checker_takes, checker_id)
            parts = npz.decode(data, {}, self.max_bytes, REFERENCE_ARRAYS)
            return _parted(whole, parts)
        except Damaged as error:
            raise self.damaged(path, name, error) from error

    def add(self, new: Voiceprint) -> Voiceprint:
        """Save a reference beside the speaker's others, in place of one of its name, and return the
        speaker. What cannot be read is replaced. Raises VoiceprintError."""
        with suppress(VoiceprintError):
            new = self.load(new.name).with_reference(new)
        self.save(new)
        return new

    def replaced(self, name: str, reference: str) -> tuple[bool, list[str]]:
        """Return whether `add` would replace something, and the names of the speaker's references.

        A voiceprint that cannot be read is replaced. Raises VoiceprintError for a name that nobody
        can have.
        """
        if not self.path(name).exists():
            return False, []
        try:
            names = [one.reference for one in self.load(name).references]
        except VoiceprintError:
            return True, []
        return look_up(reference, names) is not None, names

    def to_bytes(self, thing: Voiceprint) -> bytes:
        """Return the file of a voiceprint."""
        references = thing.references
        arrays: dict[str, Any] = {
            "format": np.int64(FORMAT),
            "name": np.str_(thing.name),
            "takes": np.concatenate([one.takes for one in references]).astype(np.float32),
            "encoder_id": np.str_(thing.encoder_id),
            "created": np.float64(thing.created),
        }
        checked = [one for one in references if one.checker_takes is not None]
        if checked:
            by_checker = [one.checker_takes for one in checked if one.checker_takes is not None]
            arrays["checker_takes"] = np.concatenate(by_checker).astype(np.float32)
            arrays["checker_id"] = np.str_(checked[0].checker_id)
        if len(references) > 1 or thing.reference:
            counts = [0 if one.checker_takes is None else len(one.takes) for one in references]
            arrays["references"] = np.array([one.reference for one in references])
            arrays["reference_takes"] = np.array([len(one.takes) for one in references], np.int64)
            arrays["reference_checked"] = np.array(counts, np.int64)
            arrays["reference_created"] = np.array([one.created for one in references])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def _parted(whole: Voiceprint, parts: dict[str, Any]) -> Voiceprint:
    """Return a speaker whose takes are those of several references, as `parts` says; as it is where
    that is empty. Raises Damaged."""
    heard = 0 if whole.checker_takes is None else len(whole.checker_takes)
    counts = np.array([len(whole.takes)])
    checked = np.array([heard])
    if parts:
        counts, checked = parts["reference_takes"], parts["reference_checked"]
        names, created = parts["references"], parts["reference_created"]
        if not len(counts) == len(checked) == len(names) == len(created) > 0:
            raise Damaged("its references do not fit together")
        if (counts < 1).any() or (checked < 0).any() or counts.max() > MAX_TAKES:
            raise Damaged("it has a reference without takes")
        if len({folded(each) for each in names}) < len(names):
            raise Damaged("it has two references of one name")
        if not all(not each or is_allowed(each) for each in names):
            raise Damaged("it has a reference whose name none can have")
        if (created < 0).any() or (created > LATEST).any():
            raise Damaged("it has a reference that was made at no time that there is")
    if ((checked != 0) & (checked != counts)).any() or checked.sum() != heard:
        raise Damaged(f"a checker heard {heard} of its {len(whole.takes)} takes")
    if counts.sum() != len(whole.takes):
        raise Damaged("its takes are not those of its references")
    if not parts:
        return whole
    references = []
    ends, checked_ends = np.cumsum(counts), np.cumsum(checked)
    for n, name in enumerate(names):
        by_checker = None
        if checked[n] and whole.checker_takes is not None:
            by_checker = whole.checker_takes[checked_ends[n] - checked[n] : checked_ends[n]]
        one = Voiceprint(
            whole.name,
            whole.encoder_id,
            whole.takes[ends[n] - counts[n] : ends[n]],
            float(created[n]),
            by_checker,
            whole.checker_id if by_checker is not None else "",
            reference=name,
        )
        _check_takes(one.takes, None)
        references.append(one)
    return _person(whole.name, references)


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
