"""Manifest rows of corpora in the layouts in which they are published (`kwsd train import`).

Splits that a corpus keeps for testing are left out, so that figures on them stay comparable with
those of others."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from kwsd.audio.files import NOISE_FOLDER
from kwsd.training.data.manifests import ManifestRow

SOUND = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""Suffixes of the files that are read."""


def speech_commands(root: Path) -> Iterator[ManifestRow]:
    """Speech Commands (Warden 2018, arXiv 1804.03209): `WORD/SPEAKER_nohash_N.wav`, without the
    files in `testing_list.txt`."""
    listed = root / "testing_list.txt"
    held_back = set(listed.read_text(encoding="utf-8").split()) if listed.exists() else set()
    for file in _sound(root, "*/*"):
        word = file.parent.name
        if word == NOISE_FOLDER:
            yield ManifestRow(file, 0, None, "noise_speech_commands", "", "")
        elif f"{word}/{file.name}" not in held_back:
            yield ManifestRow(
                file, 0, None, "speech_commands", file.stem.split("_nohash_")[0], word
            )


def librispeech(root: Path) -> Iterator[ManifestRow]:
    """LibriSpeech (Panayotov et al. 2015): `SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-N.flac`, without
    the subsets whose name begins with test.

    Sentences have no label; `kwsd train align` finds their words."""
    for file in _sound(root, "*/*/*/*"):
        if not file.parts[-4].startswith("test"):
            yield ManifestRow(file, 0, None, "librispeech", file.parts[-3], "")


def voxceleb(root: Path) -> Iterator[ManifestRow]:
    """VoxCeleb 1 and 2 (Nagrani et al. 2017, arXiv 1706.08612): `…/idNNNNN/VIDEO/N.wav`, without
    the 40 test speakers of VoxCeleb 1.

    VoxCeleb 2 comes as .m4a, which libsndfile does not read: convert it to .wav or .flac first."""
    for file in _sound(root, "**/id*/*/*"):
        speaker = file.parts[-3]
        if not "id10270" <= speaker <= "id10309":
            yield ManifestRow(file, 0, None, "voxceleb", speaker, "")


def mswc(root: Path) -> Iterator[ManifestRow]:
    """Multilingual Spoken Words (Mazumder et al. 2021): `LANGUAGE/clips/WORD/N.opus` and
    `LANGUAGE/LANGUAGE_splits.csv`, without its test rows.

    Words of languages other than English are named `LANGUAGE/WORD`. `root` is one language's
    folder, or that of several."""
    for table in sorted([*root.glob("*_splits.csv"), *root.glob("*/*_splits.csv")]):
        language = table.name.removesuffix("_splits.csv")
        with table.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row["SET"] != "TEST" and row["VALID"].lower() == "true":
                    word = row["WORD"] if language == "en" else f"{language}/{row['WORD']}"
                    file = table.parent / "clips" / row["LINK"]
                    # The corpus is published as Opus and as WAV.
                    file = file if file.exists() else file.with_suffix(".wav")
                    speaker = row["SPEAKER"].replace("NA", "")
                    yield ManifestRow(file, 0, None, "mswc", speaker, word)


LAYOUTS: dict[str, Callable[[Path], Iterator[ManifestRow]]] = {
    "speech_commands": speech_commands,
    "librispeech": librispeech,
    "voxceleb": voxceleb,
    "mswc": mswc,
}
"""Importers by the name of their layout."""
EXPECTED = {
    "speech_commands": "`WORD/SPEAKER_nohash_N.wav`",
    "librispeech": "`SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-N.flac`",
    "voxceleb": "`…/idNNNNN/VIDEO/N.wav`",
    "mswc": "`LANGUAGE/clips/WORD/N.opus` and `LANGUAGE/LANGUAGE_splits.csv`",
}
"""The files of each layout, for messages."""


def rows(layout: str, root: Path) -> Iterator[ManifestRow]:
    """Yield the rows of all recordings in the folder `root`. Raises ValueError without any."""
    count = 0
    for row in LAYOUTS[layout](root):
        count += 1
        yield row
    if not count:
        raise ValueError(f"{root}: holds nothing in the layout of {layout}: {EXPECTED[layout]}")


def _sound(root: Path, pattern: str) -> list[Path]:
    """Return the sound files that `pattern` matches, sorted."""
    return sorted(file for file in root.glob(pattern) if file.suffix.lower() in SOUND)
