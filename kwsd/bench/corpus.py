"""Labelled recordings for `kwsd bench accuracy`: what lies in a folder, and what is said in it.

Two layouts are read as they are published:

- **Speech Commands**: `DIR/WORD/SPEAKER_nohash_N.wav`, `DIR/_background_noise_/*.wav`; where `testing_list.txt` is there,
  only the recordings that it names.
- **Picovoice/wake-word-benchmark**: `DIR/audio/WORD/N.flac`. The speakers are not named.

Any other folder of folders reads like the first: the folder's name is the word, what precedes `_nohash_` the speaker. Folders
of audio without labels (LibriSpeech, a recording of the room) are negatives: `--negatives DIR`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kwsd.audio.files import NOISE_FOLDER, AudioFileError

AUDIO = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Recording:
    path: Path
    word: str
    speaker: str
    """Empty where the layout does not say."""


def audio_under(folder: Path) -> list[Path]:
    """All recordings below `folder`, in a fixed order. Raises AudioFileError where there is none."""
    if not folder.is_dir():
        raise AudioFileError(f"{folder}: is no folder of recordings")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO)
    if not found:
        raise AudioFileError(f"{folder}: holds no recording ({', '.join(AUDIO)})")
    return found


def labelled(folder: Path) -> list[Recording]:
    """The labelled recordings of `folder`, noise left out. Raises AudioFileError where nothing is labelled."""
    root = folder / "audio" if (folder / "audio").is_dir() else folder
    listing = folder / "testing_list.txt"
    chosen = set(listing.read_text(encoding="utf-8").split()) if listing.is_file() else None
    found = []
    for path in audio_under(root):
        parts = path.relative_to(root).parts
        if len(parts) != 2 or parts[0] == NOISE_FOLDER or (chosen is not None and "/".join(parts) not in chosen):
            continue
        speaker = path.stem.split("_nohash_")[0] if "_nohash_" in path.stem else ""
        found.append(Recording(path, parts[0].replace(" ", "_"), speaker))
    if not found:
        raise AudioFileError(f"{folder}: holds no folder named after a word with recordings in it; see `kwsd bench accuracy --help`")
    return found


def noise_of(folder: Path) -> list[Path]:
    """The layout's own background noise."""
    own = folder / NOISE_FOLDER
    return audio_under(own) if own.is_dir() else []
