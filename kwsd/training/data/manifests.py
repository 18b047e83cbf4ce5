"""Manifests of recordings: their rows, and the recordings that they name, decoded to 16 kHz
mono."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data.corpora import FIELDS, Recording

ROOM_SAMPLES = 19200
"""Kept of a room response: 1.2 s."""


class ManifestRow(NamedTuple):
    """A row of a manifest of recordings; `kwsd.training.data.corpora` describes the columns."""

    file: Path
    start: int
    """First sample, at the rate of 16 kHz."""
    samples: int | None
    """None: to the end of the file."""
    corpus: str
    speaker: str
    label: str


def read_manifest(path: Path) -> Iterator[ManifestRow]:
    """Yield the rows of the manifest `path`.

    Raises FileNotFoundError where there is none, and ValueError, with the line, for a bad one."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; docs/training.md describes it")
    with path.open(encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"file", *FIELDS} - set(table.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path}: has no column {', '.join(sorted(missing))}; "
                f"the first line names file, {', '.join(FIELDS)}, separated by tabs"
            )
        for n, row in enumerate(table, 2):
            try:
                yield ManifestRow(
                    file=path.parent / row["file"],
                    start=int(row["start"] or 0),
                    samples=int(row["samples"]) if row["samples"] else None,
                    corpus=row["corpus"],
                    speaker=row["speaker"],
                    label=row["label"],
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {n}: {error}") from error


def decode(rows: Iterable[ManifestRow]) -> Iterator[Recording]:
    """Yield the recordings that `rows` name, the first channel at 16 kHz.

    Rows of one file should follow one another: it is then read once. Raises ValueError."""
    current = Path()
    pcm = np.zeros(0, np.int16)
    for row in rows:
        if row.file != current:
            current = row.file
            pcm = _read(row.file)
        end = len(pcm) if row.samples is None else row.start + row.samples
        if end > len(pcm):
            raise ValueError(
                f"{row.file}: a clip at {row.start} of {row.samples} samples "
                f"lies beyond its {len(pcm)}"
            )
        if end > row.start:
            yield Recording(pcm[row.start : end], row.corpus, row.speaker, row.label)


def write_rooms(dest: Path, responses: Iterable[tuple[str, Path]]) -> None:
    """Write the room responses (name, file) to `dest`, as `Rooms` reads them; without any, write
    nothing. Raises ValueError."""
    named = [(name, _read(file)[:ROOM_SAMPLES]) for name, file in responses]
    if not named:
        return
    rirs = np.zeros((len(named), ROOM_SAMPLES), np.float16)
    for row, (_, pcm) in zip(rirs, named, strict=True):
        row[: len(pcm)] = pcm / 32768
    np.savez_compressed(dest, rirs=rirs, names=np.array([name for name, _ in named], np.str_))


def read_sound(file: Path | BinaryIO) -> np.ndarray:
    """Return int16 `[sample]` of the first channel of `file`, at 16 kHz.

    Raises soundfile.LibsndfileError."""
    import soundfile
    import soxr

    pcm, rate = soundfile.read(file, dtype="int16", always_2d=True)
    mono = pcm[:, 0]
    return np.asarray(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE))


def _read(file: Path) -> np.ndarray:
    """Return the samples of `file` as above. Raises ValueError."""
    import soundfile

    try:
        return read_sound(file)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{file}: {error.error_string}; "
            "libsndfile reads WAV, FLAC, Ogg, Opus and MP3: convert other kinds first"
        ) from error
