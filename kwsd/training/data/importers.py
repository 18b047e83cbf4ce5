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
COLLECTED = ("path", "corpus", "speaker", "label", "kind", "lang", "verdict")
"""The columns that are read of the layout `collected`."""
ROOM_RESPONSE = "rir"
SPOKEN = ("speech", "words")
COLLECTED_KINDS = {
    "speech": "",
    "words": "",
    "music": "music_",
    "singing": "music_",
    "effects": "noise_",
    "ambient": "noise_",
}
"""What is put before the name of a corpus, by the kind of its recordings."""


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


def collected(root: Path) -> Iterator[ManifestRow]:
    """Recordings gathered from many sources: `manifest.tsv` with the columns `COLLECTED`.

    - `kind`: speech and words keep the name of their corpus, after `other_language_` where `lang`
      is not English; music and singing come after `music_`, effects and ambience after `noise_`.
      Room responses (`rir`) are no utterances: see `room_responses`.
    - `label`: kept of words alone; that of sentences is a transcript, or the name of a file.
    - `verdict`: all but `train` are left out, and so are the recordings that `wakewords.tsv` lists,
      where it exists: they may hold a wake word.

    Raises ValueError for a manifest of other columns, or a kind that is not known."""
    for row in _collected(root):
        kind = row["kind"]
        if kind == ROOM_RESPONSE:
            continue
        if kind not in COLLECTED_KINDS:
            known = ", ".join([*COLLECTED_KINDS, ROOM_RESPONSE])
            raise ValueError(
                f"{root / 'manifest.tsv'}: {row['path']} is of the kind {kind!r}; "
                f"expected one of {known}"
            )
        corpus = COLLECTED_KINDS[kind] + row["corpus"]
        if kind in SPOKEN and not row["lang"].startswith("en"):
            corpus = f"other_language_{corpus}"
        label = row["label"] if kind == "words" else ""
        yield ManifestRow(root / row["path"], 0, None, corpus, row["speaker"], label)


def room_responses(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, file) of the room responses in the layout `collected`; a name is that of the
    room's corpus, a slash, and that of the file."""
    for row in _collected(root):
        if row["kind"] == ROOM_RESPONSE:
            file = root / row["path"]
            yield f"{row['corpus']}/{file.parent.name}-{file.stem}", file


def _collected(root: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the layout `collected` that are to be trained on."""
    manifest = root / "manifest.tsv"
    if not manifest.exists():
        return
    listed = root / "wakewords.tsv"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    doubtful = {line.split("\t")[0] for line in lines}
    with manifest.open(encoding="utf-8") as rows:
        table = csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = set(COLLECTED) - set(table.fieldnames or ())
        if missing:
            raise ValueError(
                f"{manifest}: has no column {', '.join(sorted(missing))}; "
                f"the first line names {', '.join(COLLECTED)}, separated by tabs"
            )
        for row in table:
            if row["verdict"] == "train" and row["path"] not in doubtful:
                yield row


LAYOUTS: dict[str, Callable[[Path], Iterator[ManifestRow]]] = {
    "speech_commands": speech_commands,
    "librispeech": librispeech,
    "voxceleb": voxceleb,
    "mswc": mswc,
    "collected": collected,
}
"""Importers by the name of their layout."""
EXPECTED = {
    "speech_commands": "`WORD/SPEAKER_nohash_N.wav`",
    "librispeech": "`SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-N.flac`",
    "voxceleb": "`…/idNNNNN/VIDEO/N.wav`",
    "mswc": "`LANGUAGE/clips/WORD/N.opus` and `LANGUAGE/LANGUAGE_splits.csv`",
    "collected": f"`manifest.tsv` with the columns {', '.join(COLLECTED)}",
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
