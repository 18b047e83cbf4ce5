"""The calibration of a state directory: thresholds that were found in a room, and those before
them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

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

    def parse(self, name: str, data: bytes) -> Calibration:
        """Return the calibration in a file. Raises CalibrationError."""
        path = self.path(name)
        again = "run `kwsd calibrate` again"
        try:
            format = json.loads(data)["format"]
            if format != FORMAT:
                text = f"format {format}, this kwsd reads {FORMAT}"
                raise CalibrationError(f"{path}: {text}; {again}")
            file = msgspec.json.decode(data, type=_File)
        except CalibrationError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"damaged ({error}); remove it and {again}, or restore it"
            raise CalibrationError(f"{path}: {text}") from error
        if file.encoder_id != self.encoder_id:
            text = f"found with the encoder {file.encoder_id}, this model is {self.encoder_id}"
            raise CalibrationError(f"{path}: {text}; {again}")
        return Calibration(file.encoder_id, file.words, file.speaker, file.earlier)

    def to_bytes(self, thing: Calibration) -> bytes:
        """Return the file of a calibration."""
        words = dict(thing.words)
        file = _File(FORMAT, thing.encoder_id, words, thing.speaker, thing.earlier)
        return msgspec.json.format(msgspec.json.encode(file), indent=1)

    def current(self) -> Calibration:
        """Return what is in force; an empty calibration where there is none yet.

        Raises CalibrationError where there is one that cannot be used.
        """
        return self.load(NAME) if NAME in self.names() else Calibration(self.encoder_id)
