"""The library: what the detector must know of a state directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kwsd.names import identifier
from kwsd.state.calibration import Calibration, CalibrationError, CalibrationStore
from kwsd.state.store import StateError
from kwsd.state.voiceprints import Voiceprint, VoiceprintStore
from kwsd.state.words import AddedWord, WordStore


@dataclass(frozen=True)
class Library:
    """Voiceprints and added words by name, and the calibration."""

    voiceprints: Mapping[str, Voiceprint] = field(default_factory=dict)
    words: Mapping[str, AddedWord] = field(default_factory=dict)
    calibration: Calibration | None = None
    unusable_words: Mapping[str, StateError] = field(default_factory=dict)
    """Why other added words cannot be used, by the name of the file where it holds none."""

    def why_unusable(self, name: str) -> StateError | None:
        """Return why the added word `name` cannot be used, None where it is not there."""
        return self.unusable_words.get(name) or self.unusable_words.get(identifier(name))

    @classmethod
    def load(
        cls,
        folder: Path,
        encoder_id: str,
        voice_dim: int | None = None,
        frame_dim: int | None = None,
    ) -> tuple[Library, list[StateError]]:
        """Return what can be used in a state directory, and why the rest cannot.

        `voice_dim` and `frame_dim` are the lengths of the encoder's vectors; None is any. Raises
        OSError where descriptors or memory have run out.
        """
        voiceprints, faults = VoiceprintStore(folder, encoder_id, voice_dim).load_all()
        words, bad_words = WordStore(folder, encoder_id, frame_dim).load_all()
        faults += bad_words
        calibration = None
        try:
            calibration = CalibrationStore(folder, encoder_id).current()
        except CalibrationError as error:
            faults.append(error)
        unusable = {error.thing: error for error in bad_words if error.thing}
        return cls(voiceprints, words, calibration, unusable), faults
