"""Every kind of input, by name."""

from __future__ import annotations

from fuzz.inputs import ConfigurationKind, LineKind, RecordingKind, RequestKind
from fuzz.kinds import (
    BundleKind,
    CalibrationKind,
    ClipKind,
    Kind,
    PeakLogKind,
    TakeKind,
    VoiceprintKind,
    WordKind,
)

KINDS: dict[str, type[Kind]] = {
    "voiceprint": VoiceprintKind,
    "word": WordKind,
    "calibration": CalibrationKind,
    "clip": ClipKind,
    "peaks": PeakLogKind,
    "take": TakeKind,
    "bundle": BundleKind,
    "configuration": ConfigurationKind,
    "recording": RecordingKind,
    "line": LineKind,
    "request": RequestKind,
}
