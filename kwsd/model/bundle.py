"""The model bundle: a folder with a manifest, two ONNX graphs and the front ends' constants.

`load` refuses, by name, whatever is missing, of another version, or not what the manifest's hashes
say. Nothing of a bundle is used before all of it has been checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.log_mel import LogMel
from kwsd.protocol.data import OperatingPoint

FORMAT = 2
MANIFEST = "manifest.json"
ENCODER = "student.onnx"
"""Encoder and wake head; the format of bundles names the file after how it was trained."""
SPEAKER = "speaker.onnx"
"""Speaker head."""
FRONT_END = "front_end.npz"
VOICE_FRONT_END = "voice_front_end.npz"
NEGATIVES = "negatives.npz"
"""Frames that contain no added word; read only when a word is made."""
COHORT = "cohort.npz"
"""Voices that speaker scores are normalized by, and voices of strangers for calibration."""
RESTORE = "restore the bundle, or reinstall kwsd"


class BundleError(ValueError):
    """A model bundle cannot be used; the message names the file and the fix."""


@dataclass(frozen=True)
class WordModel:
    """A wake word of the bundle."""

    threshold: float
    """The default."""
    operating_points: tuple[OperatingPoint, ...]
    id: str
    """Identifies what gives its scores: the model, and how they are smoothed."""
    scores: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    """Evenly spaced quantiles of the highest scores of the development split's recordings of the
    word: clean, and at 10 dB."""

    def missed(self, threshold: float) -> tuple[float, float] | None:
        """Return the share of those recordings below `threshold`: clean, and at 10 dB.

        None where they were not measured.
        """
        if not all(self.scores):
            return None
        clean, noisy = (float(np.mean(np.array(scores) < threshold)) for scores in self.scores)
        return clean, noisy


@dataclass(frozen=True)
class Bundle:
    """A checked model bundle."""

    path: Path
    encoder_id: str
    """Identifies everything that decides a speaker embedding: front ends, encoder, speaker head.
    Voiceprints and added words are bound to it."""
    words: dict[str, WordModel]
    """In the order of the encoder's outputs."""
    chunk_samples: int
    receptive_chunks: int
    """Chunks, the present one included, that a posterior depends on."""
    smoothing_chunks: int
    """Posteriors whose mean is a score."""
    speaker_threshold: float
    speaker_calibration: tuple[float, float]
    """Slope and offset that turn a normalized score into a probability."""
    front_end: LogMel = field(repr=False)
    """The encoder's front end."""
    voice_front_end: LogMel = field(repr=False)
    """The speaker head's, of finer bands."""
    hashes: dict[str, str] = field(repr=False)
    """SHA-256 of each file, from the manifest."""

    def file(self, name: str) -> Path:
        """Return the path of the file `name`, its hash checked. Raises BundleError."""
        if name not in self.hashes:
            raise BundleError(f"{self.path}: the bundle has no {name}; {RESTORE}")
        _check(self.path / name, self.hashes[name])
        return self.path / name


def default_path() -> Path:
    """Return the bundle that came with kwsd: in the wheel, or in the source tree."""
    packaged = Path(__file__).parent.parent / "bundled"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "models"


def load(path: Path | None = None) -> Bundle:
    """Return the bundle in folder `path`, checked; the default one without. Raises BundleError."""
    path = path or default_path()
    raw = _manifest(path)
    try:
        hashes = {name: str(file["sha256"]) for name, file in raw["files"].items()}
        for name in (ENCODER, SPEAKER, FRONT_END, VOICE_FRONT_END):
            _check(path / name, hashes[name])
        smoothing = int(raw["smoothing_chunks"])
        id = hashlib.sha256(f"{hashes[ENCODER]} {smoothing}".encode()).hexdigest()[:16]
        speaker = raw["speaker"]
        return Bundle(
            path=path,
            encoder_id=str(raw["encoder_id"]),
            words={name: _word(body, id) for name, body in raw["words"].items()},
            chunk_samples=int(raw["chunk_samples"]),
            receptive_chunks=int(raw["receptive_chunks"]),
            smoothing_chunks=smoothing,
            speaker_threshold=float(speaker["threshold"]),
            speaker_calibration=(float(speaker["slope"]), float(speaker["offset"])),
            front_end=read_front_end(path / FRONT_END),
            voice_front_end=read_front_end(path / VOICE_FRONT_END),
            hashes=hashes,
        )
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = f"{path / MANIFEST}: incomplete or malformed ({error!r}); {RESTORE}"
        raise BundleError(text) from error


def _manifest(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = f"{path}: no model bundle there ({MANIFEST} is missing)"
        raise BundleError(f"{text}; set `models` to a bundle's folder, or reinstall kwsd") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST}: cannot be read ({error}); {RESTORE}") from error
    if not isinstance(raw, dict) or raw.get("kind") != "kwsd-bundle":
        raise BundleError(f"{path / MANIFEST}: is not the manifest of a kwsd model bundle")
    if raw.get("format") != FORMAT:
        text = f"{path}: bundle format {raw.get('format')!r}, this kwsd reads {FORMAT}"
        raise BundleError(f"{text}; use the bundle and the kwsd of one release")
    return raw


def _check(file: Path, expected: str) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); {RESTORE}") from error
    if found != expected:
        raise BundleError(
            f"{file}: {size} bytes with sha256 {found[:12]}…, "
            f"the manifest says {expected[:12]}…; "
            f"the file is truncated or belongs to another bundle: {RESTORE}"
        )


def _word(body: dict[str, Any], id: str) -> WordModel:
    points = tuple(
        OperatingPoint(**{key: float(value) for key, value in point.items()})
        for point in body["operating_points"]
    )
    clean, noisy = (tuple(map(float, body.get(key, ()))) for key in ("scores", "scores_10db"))
    return WordModel(float(body["threshold"]), points, id, (clean, noisy))


def read_front_end(path: Path) -> LogMel:
    """Return the front end in an `.npz` file."""
    with np.load(path, allow_pickle=False) as arrays:
        return LogMel(
            window=arrays["window"],
            filters=arrays["filters"],
            hop_samples=int(arrays["hop_samples"]),
            fft_samples=int(arrays["fft_samples"]),
            floor_db=float(arrays["floor_db"]),
            scale=float(arrays["scale"]),
            offset=float(arrays["offset"]),
        )


def write_front_end(path: Path, front_end: LogMel) -> None:
    """Write a front end as an `.npz` file."""
    np.savez(
        path,
        window=front_end.window,
        filters=front_end.filters,
        hop_samples=front_end.hop_samples,
        fft_samples=front_end.fft_samples,
        floor_db=front_end.floor_db,
        scale=front_end.scale,
        offset=front_end.offset,
    )
