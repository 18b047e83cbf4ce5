"""The model bundle: a folder with a manifest, two ONNX graphs and the front ends' constants.

`load` refuses, by name, whatever is missing, of another version, or not what the manifest's hashes say. Nothing of a
bundle is used before all of it has been checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.log_mel import LogMel

FORMAT = 2
MANIFEST = "manifest.json"
STUDENT, SPEAKER = "student.onnx", "speaker.onnx"
FRONT_END, VOICE_FRONT_END = "front_end.npz", "voice_front_end.npz"
NEGATIVES = "negatives.npz"
"""What a word that a user adds is held against; looked at only when one is made."""
COHORT = "cohort.npz"
"""Voices of a cohort that scores are normalised to, and of strangers, for calibrating."""


class BundleError(ValueError):
    """A model bundle cannot be used; the message names the file and the mend."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with what was measured there, on the development split."""

    threshold: float
    false_accepts_per_hour: float
    miss_rate: float
    miss_rate_10db: float


@dataclass(frozen=True)
class WordModel:
    threshold: float
    """The default."""
    operating_points: tuple[OperatingPoint, ...]
    id: str
    """Of what gives its scores: the model, and how they are smoothed."""
    scores: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    """Quantiles, evenly spaced, of the highest scores of the development split's recordings of it: clean, and at 10 dB."""

    def missed(self, threshold: float) -> tuple[float, float] | None:
        """Share of those recordings that would be missed at `threshold`: clean, and at 10 dB; None where they were not measured."""
        if not all(self.scores):
            return None
        clean, noisy = (float(np.mean(np.array(kind) < threshold)) for kind in self.scores)
        return clean, noisy


@dataclass(frozen=True)
class Bundle:
    path: Path
    encoder_id: str
    """Of everything that decides a speaker embedding: front ends, encoder, speaker head. Voiceprints and added words are bound to it."""
    words: dict[str, WordModel]
    """In the order of the student's outputs."""
    chunk_samples: int
    receptive_chunks: int
    """Chunks, the present one included, that a posterior depends on."""
    smoothing_chunks: int
    speaker_threshold: float
    speaker_calibration: tuple[float, float]
    """Slope and offset that make a normalised score a probability."""
    front_end: LogMel = field(repr=False)
    """The student's."""
    voice_front_end: LogMel = field(repr=False)
    """The speaker head's finer bands."""
    hashes: dict[str, str] = field(repr=False)
    """SHA-256 of each file, by the manifest."""

    def file(self, name: str) -> Path:
        """Where the file `name` lies, once its hash is found right. Raises BundleError."""
        if name not in self.hashes:
            raise BundleError(f"{self.path}: the bundle has no {name}; restore it, or reinstall kwsd")
        _check(self.path / name, self.hashes[name])
        return self.path / name


def default_path() -> Path:
    """The bundle that came with kwsd: in the wheel, or in the source tree."""
    packaged = Path(__file__).parent.parent / "bundled"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "models"


def load(path: Path | None = None) -> Bundle:
    """The bundle in folder `path`, checked. Raises BundleError."""
    path = path or default_path()
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: no model bundle there ({MANIFEST} is missing); set `models` to a bundle's folder, or reinstall kwsd") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: cannot be read ({error}); restore the bundle, or reinstall kwsd") from error
    if not isinstance(raw, dict) or raw.get("kind") != "kwsd-bundle":
        raise BundleError(f"{path / MANIFEST}: is no kwsd model bundle's manifest")
    if raw.get("format") != FORMAT:
        raise BundleError(f"{path}: bundle format {raw.get('format')!r}, this kwsd reads {FORMAT}; use the bundle and the kwsd of one release")
    try:
        hashes = {name: str(file["sha256"]) for name, file in raw["files"].items()}
        for name in (STUDENT, SPEAKER, FRONT_END, VOICE_FRONT_END):
            _check(path / name, hashes[name])
        smoothing = int(raw["smoothing_chunks"])
        id = hashlib.sha256(f"{hashes[STUDENT]} {smoothing}".encode()).hexdigest()[:16]
        words = {name: _word(body, id) for name, body in raw["words"].items()}
        return Bundle(
            path=path, encoder_id=str(raw["encoder_id"]), words=words, chunk_samples=int(raw["chunk_samples"]),
            receptive_chunks=int(raw["receptive_chunks"]), smoothing_chunks=smoothing,
            speaker_threshold=float(raw["speaker"]["threshold"]), speaker_calibration=(float(raw["speaker"]["slope"]), float(raw["speaker"]["offset"])),
            hashes=hashes, front_end=read_front_end(path / FRONT_END), voice_front_end=read_front_end(path / VOICE_FRONT_END),
        )  # fmt: skip
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path / MANIFEST}: incomplete or malformed ({error!r}); restore the bundle, or reinstall kwsd") from error


def _check(file: Path, wanted: str) -> None:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); restore the bundle, or reinstall kwsd") from error
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise BundleError(f"{file}: {len(data)} bytes with sha256 {found[:12]}…, the manifest says {wanted[:12]}…; "
                          "the file is truncated or another bundle's: restore it, or reinstall kwsd")  # fmt: skip


def _word(body: dict[str, Any], id: str) -> WordModel:
    points = tuple(OperatingPoint(**{k: float(v) for k, v in p.items()}) for p in body["operating_points"])
    clean, noisy = (tuple(map(float, body.get(kind, ()))) for kind in ("scores", "scores_10db"))
    return WordModel(float(body["threshold"]), points, id, (clean, noisy))


def read_front_end(path: Path) -> LogMel:
    with np.load(path, allow_pickle=False) as kept:
        return LogMel(
            kept["window"], kept["filters"], int(kept["hop_samples"]), int(kept["fft_samples"]), float(kept["floor_db"]),
            float(kept["scale"]), float(kept["offset"]),
        )  # fmt: skip


def write_front_end(path: Path, front_end: LogMel) -> None:
    np.savez(path, window=front_end.window, filters=front_end.filters, hop_samples=front_end.hop_samples, fft_samples=front_end.fft_samples,
             floor_db=front_end.floor_db, scale=front_end.scale, offset=front_end.offset)  # fmt: skip
