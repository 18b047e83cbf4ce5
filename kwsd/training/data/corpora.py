"""Corpora for training: stores of utterances, each one long array on disk with a manifest; split by
speaker.

A store is a folder with `audio.npy` (int16, 16 kHz mono) and `manifest.tsv` (start, samples,
corpus, speaker, label); its name is the folder's. It is made of recordings that a *manifest* names,
one row per utterance:

- `file`: relative to the manifest's folder; whatever libsndfile reads, at any rate
- `start`, `samples`: the utterance's position in it; `samples` empty: to the end
- `corpus`: its name; `corpora.yaml` says what each corpus is used for
- `speaker`: empty where unknown. A speaker's utterances never lie on both sides of the split
- `label`: the word or phrase that the utterance is, empty for sentences

`kwsd.training.data.importers` makes such rows of the usual layouts.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.settings.catalog import CorpusRoles, WordList, default_roles, default_words

FIELDS = ("start", "samples", "corpus", "speaker", "label")
"""The columns of a store's manifest."""
DEVELOPMENT_SHARE = 5
"""One speaker in this many belongs to the development split."""
EXCLUSIONS = Path(__file__).with_name("exclusions.tsv")
"""Recordings named after a wake word that do not contain it, found with a transcriber; see the
model card."""


@dataclass(frozen=True)
class Utterance:
    """A piece of one store: a word, a sentence or noise. Made by `describe`, which fills the fields
    from `word` on."""

    store: str
    """The name of the store that holds it."""
    start: int
    """First sample in the store."""
    samples: int
    corpus: str
    speaker: str
    """Empty where unknown."""
    label: str
    """As in the manifest."""
    word: int = -1
    """Index of the wake word that it is, or -1."""
    text: str = ""
    """The word or phrase that it is, in lower case; empty for sentences and for labels that name no
    word."""
    person: str = ""
    """Who speaks, across corpora; empty where that is unknown or not a person."""
    noise: bool = False
    """Whether its corpus holds no speech."""
    synthetic: bool = False
    other_language: bool = False
    """Whether its label is the English name of a word of another language."""

    @property
    def development(self) -> bool:
        """Whether its speaker belongs to the development split. Utterances without a speaker are
        split one by one."""
        return _in_development(f"{self.corpus}/{self.speaker or self.start}")


def _in_development(key: str) -> bool:
    return zlib.crc32(key.encode()) % DEVELOPMENT_SHARE == 0


def describe(
    store: str,
    start: int,
    samples: int,
    corpus: str,
    speaker: str,
    label: str,
    *,
    words: WordList | None = None,
    roles: CorpusRoles | None = None,
) -> Utterance:
    """Return the utterance of one row of a store's manifest, by the word list and the corpora's
    roles (default: kwsd's own)."""
    roles = roles or default_roles()
    noise = not roles.is_speech(corpus)
    other_language = corpus in roles.other_language
    text = label.removeprefix("near ").replace("_", " ").lower()
    if text.startswith("neg-"):
        text = ""
    elif text and other_language:
        text = f"{corpus}/{text}"
    is_person = speaker and not noise and corpus not in roles.not_people
    return Utterance(
        store=store,
        start=start,
        samples=samples,
        corpus=corpus,
        speaker=speaker,
        label=label,
        word=(words or default_words()).index(label),
        text=text,
        person=f"{corpus}/{speaker}" if is_person else "",
        noise=noise,
        synthetic=corpus == roles.synthetic,
        other_language=other_language,
    )


class Corpora:
    """All utterances of several stores."""

    def __init__(
        self, *folders: Path, words: WordList | None = None, roles: CorpusRoles | None = None
    ) -> None:
        """Open the stores `folders`; `words` and `roles` default to kwsd's own."""
        self.words = words or default_words()
        self.roles = roles or default_roles()
        self.audio = {
            folder.name: np.load(folder / "audio.npy", mmap_mode="r") for folder in folders
        }
        excluded = _excluded()
        self.utterances: list[Utterance] = []
        for folder in folders:
            with (folder / "manifest.tsv").open(encoding="utf-8") as lines:
                for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                    start = int(row["start"])
                    if (row["corpus"], start) not in excluded:
                        self.utterances.append(
                            describe(
                                folder.name,
                                start,
                                int(row["samples"]),
                                row["corpus"],
                                row["speaker"],
                                row["label"],
                                words=self.words,
                                roles=self.roles,
                            )
                        )

    def read(self, utterance: Utterance) -> np.ndarray:
        """Return the samples, float32 in int16 scale `[sample]`."""
        end = utterance.start + utterance.samples
        return np.asarray(self.audio[utterance.store][utterance.start : end], np.float32)

    def people(self, development: bool) -> dict[str, list[Utterance]]:
        """Return the utterances of each person of the split with at least one second of speech,
        people in alphabetical order."""
        people: dict[str, list[Utterance]] = {}
        for utterance in self.utterances:
            if utterance.person and utterance.development == development:
                people.setdefault(utterance.person, []).append(utterance)
        return {
            person: utterances
            for person, utterances in sorted(people.items())
            if sum(u.samples for u in utterances) >= SAMPLE_RATE
        }


def _excluded() -> set[tuple[str, int]]:
    """Return (corpus, start) of the recordings that are left out."""
    if not EXCLUSIONS.exists():
        return set()
    with EXCLUSIONS.open(encoding="utf-8") as lines:
        return {(row["corpus"], int(row["start"])) for row in csv.DictReader(lines, delimiter="\t")}


class Recording(NamedTuple):
    """An utterance on its way into a store."""

    samples: np.ndarray
    """int16 `[sample]` at 16 kHz."""
    corpus: str
    speaker: str
    label: str


def write_store(dest: Path, recordings: Iterable[Recording]) -> int:
    """Write `recordings`, one after the other, into the store `dest` and return how many there
    were.

    An interrupted run never leaves half a store under the store's name."""
    dest.mkdir(parents=True, exist_ok=True)
    audio = dest / "audio.partial"
    manifest = dest / "manifest.partial"
    position = 0
    count = 0
    with audio.open("wb") as samples, manifest.open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(
            lines, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        table.writerow(FIELDS)
        _write_header(samples, 0)
        for recording in recordings:
            length = len(recording.samples)
            samples.write(recording.samples.astype("<i2").tobytes())
            table.writerow([position, length, recording.corpus, recording.speaker, recording.label])
            position += length
            count += 1
        samples.seek(0)
        _write_header(samples, position)  # numpy leaves room for the length to grow
    manifest.rename(dest / "manifest.tsv")
    audio.rename(dest / "audio.npy")
    return count


def _write_header(out: BinaryIO, samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(out, header)
