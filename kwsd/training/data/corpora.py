"""Corpora for training: stores of clips, each one long array on disk beside a manifest; split by speaker.

A store is a folder with `audio.npy` (int16, 16 kHz mono) and `manifest.tsv` (start, samples, corpus, speaker, label), whose name is
the store's. It is made of recordings that a *manifest* names: a row a clip with

- `file`: relative to the manifest's folder; whatever libsndfile reads, at any rate
- `start`, `samples`: the clip's position in it; `samples` empty: to the end
- `corpus`: its name; one that begins with noise or music holds no speech
- `speaker`: empty where unknown. A speaker's clips never lie on both sides of the split
- `label`: the word or phrase that the clip is, empty for sentences. `kwsd.training.data.transcripts` says what is made of it

`kwsd.training.data.importers` writes such rows for the usual layouts.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kwsd.training.models.network import WORDS

RATE = 16000
NOISE = ("noise", "music")
"""A corpus whose name begins so holds no speech."""
NOT_PEOPLE = ("pico", "precise", "synthetic")
"""Corpora whose speaker ids are no people: clusters of voices, or synthetic ones."""
FIELDS = ("start", "samples", "corpus", "speaker", "label")
DEVELOPMENT_SHARE = 5
"""One speaker in so many belongs to the development split."""
EXCLUSIONS = Path(__file__).with_name("exclusions.tsv")
"""Recordings named after a wake word that do not hold it, found by ear of a transcriber; see the model card."""


@dataclass(frozen=True)
class Clip:
    store: str
    """The name of the store that holds it."""
    start: int
    samples: int
    corpus: str
    speaker: str
    label: str

    @property
    def development(self) -> bool:
        """Whether the clip's speaker belongs to the development split. Clips without a speaker are split one by one."""
        who = f"{self.corpus}/{self.speaker}" if self.speaker else f"{self.corpus}/{self.start}"
        return zlib.crc32(who.encode()) % DEVELOPMENT_SHARE == 0

    @property
    def word(self) -> int:
        """Index of the wake word it holds, or -1."""
        label = self.label.replace(" ", "_")
        return WORDS.index(label) if label in WORDS else -1

    @property
    def noise(self) -> bool:
        return self.corpus.startswith(NOISE)

    @property
    def person(self) -> str:
        """Who speaks, across corpora; "" where that is not known or no person."""
        return f"{self.corpus}/{self.speaker}" if self.speaker and not self.noise and self.corpus not in NOT_PEOPLE else ""

    @property
    def synthetic(self) -> bool:
        return self.corpus == "synthetic"


class Corpora:
    """All clips of several stores."""

    def __init__(self, *folders: Path) -> None:
        self.audio = {folder.name: np.load(folder / "audio.npy", mmap_mode="r") for folder in folders}
        excluded = _excluded()
        self.clips: list[Clip] = []
        for folder in folders:
            with (folder / "manifest.tsv").open(encoding="utf-8") as lines:
                for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                    clip = Clip(folder.name, int(row["start"]), int(row["samples"]), row["corpus"], row["speaker"], row["label"])
                    if (clip.corpus, clip.start) not in excluded:
                        self.clips.append(clip)

    def read(self, clip: Clip) -> np.ndarray:
        """Samples of the clip, float32 in int16 scale `[samples]`."""
        return np.asarray(self.audio[clip.store][clip.start : clip.start + clip.samples], np.float32)


def _excluded() -> set[tuple[str, int]]:
    if not EXCLUSIONS.exists():
        return set()
    with EXCLUSIONS.open(encoding="utf-8") as lines:
        return {(row["corpus"], int(row["start"])) for row in csv.DictReader(lines, delimiter="\t")}


class Take(NamedTuple):
    """A clip on its way into a store."""

    samples: np.ndarray
    """int16 `[sample]`"""
    corpus: str
    speaker: str
    label: str


def write_store(dest: Path, takes: Iterable[Take]) -> int:
    """Write `takes` one after the other into the store `dest`; how many there were. Half a store is never left under its name."""
    dest.mkdir(parents=True, exist_ok=True)
    audio, manifest, position, count = dest / "audio.partial", dest / "manifest.partial", 0, 0
    with audio.open("wb") as samples, manifest.open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        table.writerow(FIELDS)
        _header(samples, 0)
        for take in takes:
            samples.write(take.samples.astype("<i2").tobytes())
            table.writerow([position, len(take.samples), take.corpus, take.speaker, take.label])
            position, count = position + len(take.samples), count + 1
        samples.seek(0)
        _header(samples, position)  # numpy leaves room for the length to grow
    manifest.rename(dest / "manifest.tsv")
    audio.rename(dest / "audio.npy")
    return count


def _header(out: BinaryIO, samples: int) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": "<i2", "fortran_order": False, "shape": (samples,)})


class Row(NamedTuple):
    """A row of a manifest of recordings."""

    file: Path
    start: int
    samples: int | None
    """None: to the end of the file."""
    corpus: str
    speaker: str
    label: str


def read_manifest(path: Path) -> Iterator[Row]:
    """Rows of the manifest `path`, see above. Raises ValueError, with the line."""
    with path.open(encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"file", *FIELDS} - set(table.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: has no column {', '.join(sorted(missing))}; the first line names file, {', '.join(FIELDS)}, between tabs")
        for n, row in enumerate(table, 2):
            try:
                samples = int(row["samples"]) if row["samples"] else None
                yield Row(path.parent / row["file"], int(row["start"] or 0), samples, row["corpus"], row["speaker"], row["label"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {n}: {error}") from error


def decode(rows: Iterable[Row]) -> Iterator[Take]:
    """The clips that `rows` name, at 16 kHz mono. Rows of one file should follow one another. Raises ValueError."""
    import soundfile
    import soxr

    current, pcm = Path(), np.zeros(0, np.int16)
    for row in rows:
        if row.file != current:
            try:
                pcm, rate = soundfile.read(row.file, dtype="int16", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{row.file}: {error.error_string}; libsndfile reads WAV, FLAC, Ogg, Opus and MP3: convert other kinds first") from error
            current, pcm = row.file, pcm[:, 0]
            pcm = pcm if rate == RATE else soxr.resample(pcm, rate, RATE)
        end = len(pcm) if row.samples is None else row.start + row.samples
        if end > len(pcm):
            raise ValueError(f"{row.file}: a clip at {row.start} of {row.samples} samples lies beyond its {len(pcm)}")
        if end > row.start:
            yield Take(pcm[row.start : end], row.corpus, row.speaker, row.label)
