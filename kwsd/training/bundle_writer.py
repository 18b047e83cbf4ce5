"""Writes the files of a model bundle, and its manifest last.

Files are first written to a folder beside the bundle. When the block ends without an error, each is
renamed into place, and the manifest, with the hashes of all files, is written last. A run that is
interrupted before that leaves the bundle as it was; one that is interrupted meanwhile leaves a
bundle that is refused with the name of the file that does not fit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.log_mel import LogMel
from kwsd.model.bundle import (
    COHORT,
    ENCODER,
    FORMAT,
    FRONT_END,
    MANIFEST,
    NEGATIVES,
    SPEAKER,
    SPEECH,
    VOICE_FRONT_END,
    write_front_end,
)
from kwsd.model.manifest import Fusion
from kwsd.protocol.data import CheckerSize, OperatingPoint
from kwsd.training.features import SMOOTHING_CHUNKS, receptive_chunks
from kwsd.training.settings.catalog import WordList

CHECKER = "checker.onnx"
CHECKER_FRONT_END = "checker_front_end.npz"
CHECKER_VOICES = "checker_voices.onnx"
CHECKER_COHORT = "checker_cohort.npz"
CHECKER_NEGATIVES = "checker_negatives.npz"
FILES = (
    ENCODER,
    SPEAKER,
    FRONT_END,
    VOICE_FRONT_END,
    NEGATIVES,
    SPEECH,
    COHORT,
    CHECKER,
    CHECKER_FRONT_END,
    CHECKER_VOICES,
    CHECKER_COHORT,
    CHECKER_NEGATIVES,
)
"""The files of a bundle besides the manifest."""


@dataclass(frozen=True)
class WordMeasure:
    """What was measured of a word on the development split."""

    threshold: float
    """The default threshold."""
    points: list[OperatingPoint]
    scores: list[float]
    """Quantiles of the highest scores of its recordings, clean."""
    scores_10db: list[float]
    """The same at 10 dB."""


def _provisional(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the entries of `words` until they are measured."""
    return {word: {"threshold": 0.5, "operating_points": []} for word in words}


class BundleWriter:
    """A context manager over the bundle in one folder; what is not written stays as it is."""

    def __init__(self, folder: Path) -> None:
        """`folder` may hold a bundle, or nothing yet."""
        self.folder = folder
        self._staging = folder / ".partial"
        self._manifest: dict[str, Any] = {}

    def __enter__(self) -> BundleWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST
        self._manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def words(self) -> list[str]:
        """The words of the encoder that the bundle has."""
        return list(self._manifest["words"])

    def file(self, name: str) -> Path:
        """Return where to write the file `name` of the bundle."""
        if name not in FILES:
            raise ValueError(f"a bundle has no file {name!r}; it has {', '.join(FILES)}")
        return self._staging / name

    def set_encoder(
        self,
        words: WordList,
        encoder_id: str,
        front_end: LogMel,
        parameters: Mapping[str, int],
        macs_per_second: int,
    ) -> None:
        """Describe the streaming graph, which the caller wrote to `file(ENCODER)`.

        The words get provisional thresholds: measured ones were of another graph."""
        write_front_end(self.file(FRONT_END), front_end)
        self._manifest |= {
            "kind": "kwsd-bundle",
            "format": FORMAT,
            "frames_id": encoder_id,
            "sample_rate": SAMPLE_RATE,
            "chunk_samples": CHUNK_SAMPLES,
            "receptive_chunks": receptive_chunks(),
            "smoothing_chunks": SMOOTHING_CHUNKS,
            "words": _provisional(words.names),
            "macs_per_second": macs_per_second,
        }
        self._manifest.setdefault("speaker", {"threshold": 0.5, "slope": 1.0, "offset": 0.0})
        self._manifest.setdefault("parameters", {}).update(parameters)

    def set_wake(self, words: WordList, parameters: int, macs_per_second: int) -> None:
        """Describe another wake head behind the bundle's encoder; the caller wrote both to
        `file(ENCODER)`.

        The words get provisional thresholds. The second stage goes: it was fitted to the candidates
        of the head before."""
        self._manifest["words"] = _provisional(words.names)
        self._manifest["macs_per_second"] = macs_per_second
        self._manifest["parameters"]["wake"] = parameters
        self._manifest.pop("checkers", None)

    def set_speaker(self, front_end: LogMel, parameters: int) -> None:
        """Describe the speaker graph, which the caller wrote to `file(SPEAKER)`.

        It takes the bands of `front_end` beside the encoder's frames. Raises FileNotFoundError
        where the bundle has no encoder yet."""
        if "frames_id" not in self._manifest and "encoder_id" not in self._manifest:
            raise FileNotFoundError(
                f"{self.folder} holds no encoder yet: run `kwsd train export --only student` first"
            )
        write_front_end(self.file(VOICE_FRONT_END), front_end)
        self._manifest["parameters"]["speaker"] = parameters

    def set_checker(
        self,
        front_end: LogMel | None,
        samples: int,
        peak: float,
        calibration: Fusion,
        candidates: Mapping[str, float],
        parameters: int,
        *,
        spoken: bool = False,
        voice_weight: float = 0.5,
    ) -> None:
        """Describe the checker's graph, which the caller wrote to `file(CHECKER)`.

        `front_end` is None where it takes the waveform; `candidates` are the streaming scores from
        which the words are checked. They get provisional thresholds. `spoken`: it gives vectors of
        what was said, and gets an id of all that decides them."""
        entry: dict[str, Any] = {
            "file": CHECKER,
            "input": "waveform" if front_end is None else "mel",
            "samples": samples,
            "peak": peak,
            "calibration": msgspec.to_builtins(calibration),
            "candidate": {word: round(candidates[word], 6) for word in self._manifest["words"]},
            "words": _provisional(self._manifest["words"]),
            "voice_weight": voice_weight,
        }
        if front_end is not None:
            write_front_end(self.file(CHECKER_FRONT_END), front_end)
            entry["front_end"] = CHECKER_FRONT_END
        if spoken:
            parts = [self.file(CHECKER).read_bytes(), f"{samples} {peak}".encode()]
            if front_end is not None:
                parts.append(self.file(CHECKER_FRONT_END).read_bytes())
            entry["word_id"] = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        self._manifest.setdefault("checkers", {})["small"] = entry
        self._manifest["parameters"]["checker"] = parameters
        self._manifest["parameters"].pop("voices", None)

    def set_voices(self, size: CheckerSize, share: float, weight: float, parameters: int) -> None:
        """Say that beside a checker there is a network of voices, with `share` in them, which the
        caller wrote to `file(CHECKER_VOICES)`, and that both have `weight` beside the speaker
        heads.

        Until there is a cohort of them, voices are scored by the heads alone."""
        entry = self._manifest["checkers"][size]
        entry["voices"] = {"file": CHECKER_VOICES, "share": share}
        entry["voice_weight"] = weight
        for key in ("cohort", "speaker"):
            entry.pop(key, None)
        self._manifest["parameters"]["voices"] = parameters

    def set_checker_cohort(self, size: CheckerSize) -> None:
        """Name the cohort of joined voices, which the caller wrote to `file(CHECKER_COHORT)`.

        How their scores are calibrated is provisional until it is measured."""
        entry = self._manifest["checkers"][size]
        entry["cohort"] = CHECKER_COHORT
        entry.setdefault("speaker", dict(self._manifest["speaker"]))

    def set_checker_negatives(self, size: CheckerSize) -> None:
        """Name what the checker hears in the bank of negatives, which the caller wrote to
        `file(CHECKER_NEGATIVES)`."""
        self._manifest["checkers"][size]["negatives"] = CHECKER_NEGATIVES

    def set_thresholds(
        self,
        words: Mapping[str, WordMeasure],
        speaker: Mapping[str, float] | None,
        checker: CheckerSize | None = None,
    ) -> None:
        """Put measured thresholds and operating points into the manifest: those with a `checker`,
        or those without.

        `speaker` is a `manifest.Speaker`; None leaves what is there."""
        entry = self._manifest["checkers"][checker] if checker else self._manifest
        for word, measure in words.items():
            points = [
                {name: round(value, 6) for name, value in msgspec.to_builtins(point).items()}
                for point in measure.points
            ]
            entry["words"][word] = {
                "threshold": round(measure.threshold, 6),
                "operating_points": points,
                "scores": measure.scores,
                "scores_10db": measure.scores_10db,
            }
        if speaker is not None:
            entry["speaker"] = {k: round(value, 4) for k, value in speaker.items()}

    def _publish(self) -> None:
        """Move the written files to their names, then write the manifest."""
        for path in sorted(self._staging.iterdir()):
            path.replace(self.folder / path.name)
        present = [name for name in FILES if (self.folder / name).exists()]
        files = {}
        for name in present:
            data = (self.folder / name).read_bytes()
            files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        self._manifest["files"] = files
        self._manifest["encoder_id"] = self._encoder_id()
        text = json.dumps(self._manifest, indent=1) + "\n"
        partial = self._staging / MANIFEST
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.folder / MANIFEST)

    def _encoder_id(self) -> str:
        """Return the id of everything that decides a speaker embedding: the encoder's own id, and
        the speaker head's files where there are any."""
        frames_id: str = self._manifest.get("frames_id") or self._manifest["encoder_id"]
        speaker = self.folder / SPEAKER
        if not speaker.exists():
            return frames_id
        parts = frames_id.encode() + speaker.read_bytes()
        parts += (self.folder / VOICE_FRONT_END).read_bytes()
        return hashlib.sha256(parts).hexdigest()[:16]
