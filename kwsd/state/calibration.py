"""The calibration of a state directory: thresholds that were found in a room, and those before
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.protocol.data import SpeakerThreshold, WordThreshold
from kwsd.state.store import StateError, Store

FORMAT = 1
NAME = "room"
MAX_UNDO = 10
"""How many calibrations can be undone."""


class CalibrationError(StateError):
    """A calibration cannot be made, read or written; the message says why."""


class Thresholds(Struct, frozen=True):
    """The thresholds of one calibration."""

    words: dict[str, WordThreshold] = {}
    speaker: SpeakerThreshold | None = None


@dataclass(frozen=True)
class Calibration:
    """The thresholds in force, and those before them; the file `room.calibration`."""

    encoder_id: str
    words: Mapping[str, WordThreshold] = field(default_factory=dict)
    speaker: SpeakerThreshold | None = None
    earlier: tuple[Thresholds, ...] = ()
    """What was in force before, the latest last."""
    name: str = NAME

    def threshold(self, word: str, model: str) -> float | None:
        """Return the threshold that was found for this very `model` of `word`."""
        found = self.words.get(word)
        return found.threshold if found and found.model == model else None

    def thresholds(self) -> Thresholds:
        """Return what is in force."""
        return Thresholds(dict(self.words), self.speaker)

    def changed(
        self, words: Mapping[str, WordThreshold], speaker: SpeakerThreshold | None
    ) -> Calibration:
        """Return it with other thresholds for `words`, and for speakers where one is given.

        The present thresholds can be restored by `undone`.
        """
        earlier = (*self.earlier, self.thresholds())[-MAX_UNDO:]
        merged = {**self.words, **words}
        return Calibration(self.encoder_id, merged, speaker or self.speaker, earlier)

    def undone(self) -> Calibration:
        """Return what was in force before. Raises CalibrationError where nothing was."""
        if not self.earlier:
            raise CalibrationError("there is no calibration to undo")
        before = self.earlier[-1]
        return Calibration(self.encoder_id, before.words, before.speaker, self.earlier[:-1])


class _Format(Struct, frozen=True):
    format: int


class _File(Struct, frozen=True):
    """The JSON of a calibration."""

    format: int
    encoder_id: str
    words: dict[str, WordThreshold]
    speaker: SpeakerThreshold | None
    earlier: tuple[Thresholds, ...]


class CalibrationStore(Store[Calibration]):
    """The calibration of a state directory."""

    suffix = ".calibration"
    thing = "calibration"
    error = CalibrationError
    max_bytes = 512 << 10

    def again(self, name: str) -> str:
        """Return what to do where the calibration is lost."""
        return "run `kwsd calibrate` again"

    def stem(self, name: str) -> str:
        """Return the name, of which there is one."""
        return name

    def parse(self, path: Path, name: str, data: bytes) -> Calibration:
        """Return the calibration in a file. Raises CalibrationError."""
        try:
            format = bounded_json.decode(data, _Format).format
            if format != FORMAT:
                text = f"format {format}, this kwsd reads {FORMAT}"
                raise CalibrationError(f"{path}: {text}; {self.again(name)}")
            file = bounded_json.decode(data, _File)
        except Damaged as error:
            raise self.damaged(path, name, error) from error
        if file.encoder_id != self.encoder_id:
            text = f"found with the encoder {file.encoder_id}, this model is {self.encoder_id}"
            raise CalibrationError(f"{path}: {text}; {self.again(name)}")
        earlier = file.earlier[-MAX_UNDO:]
        return Calibration(file.encoder_id, file.words, file.speaker, earlier)

    def to_bytes(self, thing: Calibration) -> bytes:
        """Return the file of a calibration."""
        words = dict(thing.words)
        file = _File(FORMAT, thing.encoder_id, words, thing.speaker, thing.earlier)
        return msgspec.json.format(msgspec.json.encode(file), indent=1)

    def current(self) -> Calibration:
        """Return what is in force; an empty calibration where there is none yet.

        Raises CalibrationError where there is one that cannot be used.
        """
        try:
            return self.load(NAME) if NAME in self.names() else Calibration(self.encoder_id)
        except CalibrationError as error:
            error.thing = NAME
            raise
