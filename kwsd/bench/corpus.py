"""Labeled recordings for `kwsd bench accuracy` and `words`: what is in a folder, and who says what.

Two layouts are read as they are published:

- **Speech Commands**: `DIR/WORD/SPEAKER_nohash_N.wav`, `DIR/_background_noise_/*.wav`; where there
  is a `testing_list.txt`, only the recordings that it names.
- **Picovoice/wake-word-benchmark**: `DIR/audio/WORD/N.flac`. The speakers are not named.

Any other folder of folders is read like the first: the folder's name is the word, what precedes
`_nohash_` the speaker. Folders of audio without labels (LibriSpeech, a recording of the room) are
negatives: `--negatives DIR`. What is said in them is known from `NAME.txt` beside `NAME.flac`, or,
as LibriSpeech has it, from the lines `NAME TEXT` of a `*.trans.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kwsd.audio.files import NOISE_FOLDER, AudioFileError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class LabeledRecording:
    """A recording in which one word is said."""

    path: Path
    word: str
    speaker: str
    """Empty where the layout does not say."""

    @property
    def group(self) -> str:
        """The speaker, or the recording itself where the speaker is not known."""
        return self.speaker or str(self.path)


def audio_under(folder: Path) -> list[Path]:
    """Return all recordings below `folder`, in a fixed order. Raises AudioFileError without any."""
    if not folder.is_dir():
        raise AudioFileError(f"{folder}: not a folder of recordings")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise AudioFileError(f"{folder}: holds no recording ({', '.join(SUFFIXES)})")
    return found


def transcript(path: Path) -> str:
    """Return what is said in a recording; empty where no file beside it says that."""
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return _text(beside)
    listings = [_listing(listing) for listing in sorted(path.parent.glob("*.trans.txt"))]
    return next((listing[path.stem] for listing in listings if path.stem in listing), "")


@cache
def _listing(path: Path) -> dict[str, str]:
    """Return the text of each name in a file of lines `NAME TEXT`."""
    lines = [line.partition(" ") for line in _text(path).splitlines()]
    return {name: text for name, _, text in lines}


def _text(path: Path) -> str:
    """Return what is in a text file; what is not UTF-8 in it is replaced, and then is no word."""
    return path.read_text(encoding="utf-8", errors="replace")


def labeled(folder: Path) -> list[LabeledRecording]:
    """Return the labeled recordings of `folder`, without its noise.

    Raises AudioFileError where nothing is labeled.
    """
    root = folder / "audio" if (folder / "audio").is_dir() else folder
    listing = folder / "testing_list.txt"
    chosen = set(listing.read_text(encoding="utf-8").split()) if listing.is_file() else None
    found = []
    for path in audio_under(root):
        parts = path.relative_to(root).parts
        if len(parts) != 2 or parts[0] == NOISE_FOLDER:
            continue
        if chosen is not None and "/".join(parts) not in chosen:
            continue
        speaker = path.stem.split("_nohash_")[0] if "_nohash_" in path.stem else ""
        found.append(LabeledRecording(path, parts[0].replace(" ", "_"), speaker))
    if not found:
        raise AudioFileError(
            f"{folder}: holds no folder named after a word with recordings in it; "
            "see `kwsd bench accuracy --help`"
        )
    return found


def check_words(folder: Path, words: list[str] | None, available: set[str]) -> None:
    """Raise AudioFileError where `folder`, with recordings of `available`, lacks one of `words`."""
    for word in words or ():
        if word not in available:
            known = ", ".join(sorted(available))
            raise AudioFileError(f"{folder}: holds no recording of {word!r}; it has {known}")


def noise_of(folder: Path) -> list[Path]:
    """Return the recordings of the layout's own background noise; none where it has none."""
    noise = folder / NOISE_FOLDER
    return audio_under(noise) if noise.is_dir() else []
