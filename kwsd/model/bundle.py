"""The model bundle: a folder with a manifest, ONNX graphs and the front ends' constants.

`load` refuses, by name, whatever is missing, of another version, or not what the manifest's hashes
say. Nothing of a bundle is used before all of it has been checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kwsd.audio.log_mel import LogMel
from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded import npz
from kwsd.bounded.file import Damaged, FileError
from kwsd.bounded.npz import Kinds, Numbers, Text
from kwsd.model import manifest
from kwsd.model.manifest import CHECKED_FLOOR, Fusion, Manifest, Speaker, VoiceNetwork
from kwsd.protocol.data import CheckerSize, OperatingPoint

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
SPEECH = "speech.npz"
"""Tells from frames when somebody speaks; read only when a word is made."""
COHORT = "cohort.npz"
"""Voices that speaker scores are normalized by, and voices of strangers for calibration."""
MAX_MANIFEST = 4 << 20
"""Bytes of the manifest."""
FRONT_END_ARRAYS: Kinds = {
    "window": Numbers("<f4", (1 << 16,)),
    "filters": Numbers("<f4", (1 << 16, 1024)),
    "hop_samples": Numbers("<i8"),
    "fft_samples": Numbers("<i8"),
    "floor_db": Numbers("<f8"),
    "scale": Numbers("<f8"),
    "offset": Numbers("<f8"),
}
COHORT_ARRAYS = {
    "cohort": Numbers("|i1", (1 << 17, 1024)),
    "strangers": Numbers("|i1", (1 << 17, 1024)),
}
NEGATIVES_ARRAYS = {
    "high": Numbers("|i1", (1 << 22, 1024)),
    "scale": Numbers("<f4", (1024,)),
    "starts": Numbers("<i8", (1 << 20,)),
    "speech": Numbers("|i1", (1 << 20,)),
}
SPEECH_ARRAYS: Kinds = {"weights": Numbers("<f4", (8, 1024)), "bias": Numbers("<f4", (8,))}
NEGATIVES_TEXTS = Text(4096, (1 << 20,))
CHECKER_NEGATIVES_ARRAYS: Kinds = {
    "vectors": Numbers("|i1", (1 << 22, 1024)),
    "at": Numbers("<i4", (1 << 22,)),
    "words": Numbers("|i1", (1 << 20, 1024)),
}
RESTORE = "restore the bundle, or reinstall kwsd"


class BundleError(FileError):
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
class JoinedVoices:
    """What voices are scored by where the checker's embedding is joined to the speaker head's."""

    cohort: str
    """The file of the voices that they are scored against; arrays as in `COHORT`."""
    threshold: float
    calibration: Speaker


@dataclass(frozen=True)
class CheckerModel:
    """A checker: the second stage, which hears the window that ends with a candidate."""

    size: CheckerSize
    file: str
    """Its graph."""
    front_end: str | None
    """The file of its front end; None for one that takes the waveform."""
    samples: int
    """Length of a window."""
    peak: float
    """Share of full scale that the peak of a window is brought to."""
    candidates: dict[str, float]
    """Streaming score from which a candidate begins, by word."""
    fusion: Fusion
    """Joins the logits of both stages to the score of a candidate."""
    words: dict[str, WordModel]
    """What is compared with a threshold where this checker is in force, in the bundle's order."""
    network: VoiceNetwork | None
    """A network whose vectors are joined to its voice embedding."""
    voice_id: str
    """Identifies everything that decides its voice embedding."""
    voice_weight: float
    """Weight of its voice embedding beside the speaker head's."""
    voices: JoinedVoices | None
    """None where voices are scored by the speaker head alone."""
    word_id: str | None
    """Identifies everything that decides its embedding of words; None where it checks no added
    words."""
    negatives: str | None
    """The file of such embeddings of what is no added word; None where none can be made."""


@dataclass(frozen=True)
class Bundle:
    """A checked model bundle."""

    path: Path
    encoder_id: str
    """Identifies everything that decides a speaker embedding: front ends, encoder, speaker head.
    Voiceprints and added words are bound to it."""
    words: dict[str, WordModel]
    """As they are without a checker, in the order of the encoder's outputs."""
    chunk_samples: int
    receptive_chunks: int
    """Chunks, the present one included, that a posterior depends on."""
    smoothing_chunks: int
    """Posteriors whose mean is a score."""
    speaker_threshold: float
    speaker_calibration: Speaker
    """Slope and offset that turn a normalized score into a probability."""
    front_end: LogMel = field(repr=False)
    """The encoder's front end."""
    voice_front_end: LogMel = field(repr=False)
    """The speaker head's, of finer bands."""
    hashes: dict[str, str] = field(repr=False)
    """SHA-256 of each file, from the manifest."""
    checkers: dict[CheckerSize, CheckerModel] = field(default_factory=dict, repr=False)

    def checker_of(self, name: str, id: str) -> CheckerSize | None:
        """Return the checker with which the word `name` has the model `id`; None for none."""
        for size, checker in self.checkers.items():
            if checker.words[name].id == id:
                return size
        return None

    def file(self, name: str) -> Path:
        """Return the path of the file `name`, its hash checked. Raises BundleError."""
        if name not in self.hashes:
            raise BundleError(f"{self.path}: the bundle has no {name}; {RESTORE}")
        _check(self.path / name, self.hashes[name])
        return self.path / name

    def arrays(self, name: str, kinds: Kinds) -> dict[str, Any]:
        """Return the arrays `kinds` of the file `name`, its hash checked. Raises BundleError."""
        return _arrays(self.file(name), kinds)

    @cached_property
    def voice_dim(self) -> int | None:
        """Length of a speaker embedding; None where the bundle has no cohort of them."""
        return self._last_axis(COHORT, "cohort", COHORT_ARRAYS["cohort"])

    @cached_property
    def frame_dim(self) -> int | None:
        """Length of a frame's embedding; None where the bundle has no negatives."""
        return self._last_axis(NEGATIVES, "scale", NEGATIVES_ARRAYS["scale"])

    def _last_axis(self, name: str, array: str, kind: Numbers) -> int | None:
        """Return the last axis of an array, of which only the header is read."""
        try:
            with bounded.open_regular(self.path / name) as file:
                return npz.shape(file, array, kind)[-1]
        except (OSError, Damaged):
            return None  # who reads the whole file is told


def default_path() -> Path:
    """Return the bundle that came with kwsd: in the wheel, or in the source tree."""
    packaged = Path(__file__).parent.parent / "bundled"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "models"


def load(path: Path | None = None) -> Bundle:
    """Return the bundle in folder `path`, checked; the default one without. Raises BundleError."""
    path = path or default_path()
    found = _manifest(path)
    hashes = {name: file.sha256 for name, file in found.files.items()}
    for name in (ENCODER, SPEAKER, FRONT_END, VOICE_FRONT_END):
        if name not in hashes:
            text = f"{path / MANIFEST}: incomplete or malformed (it has no {name}); {RESTORE}"
            raise BundleError(text)
        _check(path / name, hashes[name])
    smoothing = found.smoothing_chunks
    stream = f"{hashes[ENCODER]} {smoothing}"
    return Bundle(
        path=path,
        encoder_id=found.encoder_id,
        words={name: _word(word, stream) for name, word in found.words.items()},
        chunk_samples=found.chunk_samples,
        receptive_chunks=found.receptive_chunks,
        smoothing_chunks=smoothing,
        speaker_threshold=found.speaker.threshold,
        speaker_calibration=found.speaker,
        front_end=read_front_end(path / FRONT_END),
        voice_front_end=read_front_end(path / VOICE_FRONT_END),
        hashes=hashes,
        checkers={size: _checker(path, found, size, stream) for size in found.checkers},
    )


def _word(word: manifest.Word, made_by: str) -> WordModel:
    """Return the model of a word whose scores are `made_by` what this text identifies."""
    scores = (word.scores, word.scores_10db)
    return WordModel(word.threshold, word.operating_points, _id(made_by), scores)


def _checker(path: Path, found: Manifest, size: CheckerSize, stream: str) -> CheckerModel:
    """Return a checker of the manifest; `stream` identifies the first stage.

    Raises BundleError where it does not fit the rest of the manifest.
    """
    entry = found.checkers[size]
    where = f"{path / MANIFEST}: incomplete or malformed (checkers.{size}"
    for key, words in (("candidate", entry.candidate), ("words", entry.words)):
        if words.keys() != found.words.keys():
            odd = ", ".join(sorted(words.keys() ^ found.words.keys()))
            text = f"{where}.{key} has other words than the bundle: {odd}); {RESTORE}"
            raise BundleError(text)
    if (entry.input == "mel") != (entry.front_end is not None):
        text = f"{where} takes the {entry.input}, and a front end is for mel alone); {RESTORE}"
        raise BundleError(text)
    if (entry.cohort is None) != (entry.speaker is None):
        raise BundleError(f"{where} has one of cohort and speaker without the other); {RESTORE}")
    if entry.negatives and not entry.word_id:
        raise BundleError(f"{where} has negatives without word_id); {RESTORE}")
    files = [entry.file] if entry.front_end is None else [entry.file, entry.front_end]
    voices = entry.voices and entry.voices.file
    for name in [*files, *filter(None, (entry.cohort, entry.negatives, voices))]:
        if name not in found.files:
            raise BundleError(f"{where} names {name}, which `files` does not); {RESTORE}")
    window = f"{entry.samples} {entry.peak}"
    heard_by = " ".join([*(found.files[name].sha256 for name in files), window])
    known_by = heard_by
    if entry.voices is not None:
        known_by += f" {found.files[entry.voices.file].sha256} {entry.voices.share}"
    made_by = f"{stream} {heard_by} {msgspec.json.encode(entry.calibration).decode()}"
    models = {}
    for name in found.words:
        word = entry.words[name]
        if any(point.threshold <= CHECKED_FLOOR for point in word.operating_points):
            text = f"{where}.words.{name} has an operating point at or below {CHECKED_FLOOR}"
            raise BundleError(f"{text}); {RESTORE}")
        models[name] = _word(word, f"{made_by} {entry.candidate[name]}")
    return CheckerModel(
        size=size,
        file=entry.file,
        front_end=entry.front_end,
        samples=entry.samples,
        peak=entry.peak,
        candidates=dict(entry.candidate),
        fusion=entry.calibration,
        words=models,
        network=entry.voices,
        voice_id=_id(known_by),
        voice_weight=entry.voice_weight,
        voices=_joined_voices(entry),
        word_id=entry.word_id,
        negatives=entry.negatives,
    )


def _joined_voices(entry: manifest.Checker) -> JoinedVoices | None:
    if entry.cohort is None or entry.speaker is None:
        return None
    one = entry.speaker
    return JoinedVoices(entry.cohort, one.threshold, one)


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        data = bounded.read(file, MAX_MANIFEST)
        kind = bounded_json.decode(data, manifest.Kind)
    except FileNotFoundError:
        text = f"{path}: no model bundle there ({MANIFEST} is missing)"
        raise BundleError(f"{text}; set `models` to a bundle's folder, or reinstall kwsd") from None
    except (OSError, Damaged) as error:
        raise BundleError(f"{file}: cannot be read ({error}); {RESTORE}") from error
    if kind.kind != "kwsd-bundle":
        raise BundleError(f"{file}: is not the manifest of a kwsd model bundle")
    if kind.format != FORMAT:
        text = f"{path}: bundle format {kind.format}, this kwsd reads {FORMAT}"
        raise BundleError(f"{text}; use the bundle and the kwsd of one release")
    try:
        return bounded_json.decode(data, Manifest)
    except Damaged as error:
        raise BundleError(f"{file}: incomplete or malformed ({error}); {RESTORE}") from error


def _arrays(path: Path, kinds: Kinds) -> dict[str, Any]:
    """Return the arrays of a file. Raises BundleError."""
    try:
        with bounded.open_regular(path) as file:
            return npz.decode(file, kinds)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); {RESTORE}") from error
    except Damaged as error:
        raise BundleError(f"{path}: damaged ({error}); {RESTORE}") from error


def _check(file: Path, expected: str) -> None:
    try:
        with bounded.open_regular(file) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); {RESTORE}") from error
    except Damaged as error:
        raise BundleError(f"{file}: cannot be read ({error}); {RESTORE}") from error
    if found != expected:
        raise BundleError(
            f"{file}: {size} bytes with sha256 {found[:12]}…, "
            f"the manifest says {expected[:12]}…; "
            f"the file is truncated or belongs to another bundle: {RESTORE}"
        )


def read_front_end(path: Path) -> LogMel:
    """Return the front end in an `.npz` file. Raises BundleError."""
    arrays = _arrays(path, FRONT_END_ARRAYS)
    hop = int(arrays["hop_samples"])
    fft = int(arrays["fft_samples"])
    window = arrays["window"]
    filters = arrays["filters"]
    if not (0 < hop <= len(window) <= fft and filters.shape[0] == fft // 2 + 1 and filters.size):
        raise BundleError(f"{path}: damaged (its window and filters do not fit); {RESTORE}")
    return LogMel(
        window=window,
        filters=filters,
        hop_samples=hop,
        fft_samples=fft,
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
