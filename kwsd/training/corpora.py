"""The recordings to learn from: one memory-mapped int16 array a store, a manifest of positions in it, a split by speaker.

A store is a folder with `audio.npy` (int16, 16 kHz mono) and `manifest.tsv` (start, samples, corpus, speaker, label).
`unpack` makes one out of packed Opus files; `kwsd.training.synthesize` makes another of synthetic voices.
"""

from __future__ import annotations

import csv
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kwsd.training.network import WORDS

log = logging.getLogger(__name__)
RATE = 16000
NOISE = ("noise_esc10", "noise_moodist", "noise_gsc", "music_librosa")
DEVELOPMENT_SHARE = 5
"""One speaker in so many belongs to the development split."""
EXCLUSIONS = Path(__file__).with_name("exclusions.tsv")
"""Recordings named after a wake word that do not hold it, found by ear of a transcriber; see the model card."""


@dataclass(frozen=True)
class Clip:
    store: int
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
        return WORDS.index(self.label) if self.label in WORDS else -1

    @property
    def noise(self) -> bool:
        return self.corpus in NOISE

    @property
    def synthetic(self) -> bool:
        return self.corpus == "synthetic"


class Corpora:
    """All clips of several stores."""

    def __init__(self, *folders: Path) -> None:
        self.audio = [np.load(folder / "audio.npy", mmap_mode="r") for folder in folders]
        excluded = _excluded()
        self.clips: list[Clip] = []
        for store, folder in enumerate(folders):
            with (folder / "manifest.tsv").open(encoding="utf-8") as lines:
                for row in csv.DictReader(lines, delimiter="\t"):
                    clip = Clip(store, int(row["start"]), int(row["samples"]), row["corpus"], row["speaker"], row["label"])
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


def unpack(source: Path, dest: Path) -> None:
    """Decode packed Opus files (`source/manifest.tsv`: file, start, samples, corpus, speaker, label) into the store `dest`."""
    import soundfile
    import soxr

    dest.mkdir(parents=True, exist_ok=True)
    with (source / "manifest.tsv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    partial = dest / "audio.partial.npy"
    audio = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int16, shape=(sum(int(r["samples"]) for r in rows),))
    position, current, pcm = 0, "", np.zeros(0, np.int16)
    with (dest / "manifest.tsv").open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, delimiter="\t", lineterminator="\n")
        table.writerow(["start", "samples", "corpus", "speaker", "label"])
        for row in rows:
            if row["file"] != current:
                current = row["file"]
                pcm, rate = soundfile.read(source / current, dtype="int16")
                pcm = pcm if rate == RATE else soxr.resample(pcm, rate, RATE)
                log.info("unpacked %s, %.0f min", current, len(pcm) / RATE / 60)
            start, samples = int(row["start"]), int(row["samples"])
            clip = pcm[start : start + samples]
            if len(clip) != samples:
                raise ValueError(f"{current}: a clip at {start} of {samples} samples lies beyond its {len(pcm)}")
            audio[position : position + samples] = clip
            table.writerow([position, samples, row["corpus"], row["speaker"], row["label"]])
            position += samples
    audio.flush()
    partial.rename(dest / "audio.npy")
