"""Corpora for training: stores of utterances, each one long array on disk with a manifest; split by
speaker.

A store is a folder with `audio.npy` (int16, 16 kHz mono) and `manifest.tsv` (start, samples,
corpus, speaker, label, and the checksum `crc32` of the samples); its name is the folder's. The
store `val` is for validation: it is opened for measuring alone. A store is made of recordings that
a *manifest* names, one row per utterance:

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
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data.arrays import GrowingArray
from kwsd.training.settings.catalog import CorpusRoles, WordList, default_roles, default_words

FIELDS = ("start", "samples", "corpus", "speaker", "label")
"""The columns of a store's manifest that manifests of recordings have, too."""
CHECKSUM = "crc32"
"""The column of the checksums; stores of earlier versions have none."""
FOLDS = 5
"""The speakers are split into this many folds, one of which is the development split."""
VALIDATION = "val"
"""The name of the store that no stage trains on."""
VALIDATION_FOLD = -1
"""The fold of its utterances: they are of the development split, whichever fold is chosen."""
EXCLUSIONS = Path(__file__).with_name("exclusions.tsv")
"""Recordings named after a wake word that do not contain it, and others that contain one, found
with a transcriber; see the model card."""


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
    """Whether it is of another language than English; its label may be an English name then."""
    fold: int = 0
    """The fold of its speaker; `VALIDATION_FOLD` in the store for validation. Utterances without a
    speaker are split one by one, by what they sound like."""
    development: bool = False
    """Whether its fold is the development split."""

    @property
    def is_sentence(self) -> bool:
        """Whether it is recorded English speech without a label: its words are not known, unless
        they are aligned."""
        speech = not self.noise and not self.synthetic and not self.other_language
        return speech and self.word < 0 and not self.label

    @property
    def homophone(self) -> bool:
        """Whether it is a recorded phrase that sounds nearly like a wake word."""
        return self.label.startswith("near ") and not self.synthetic


def fold_of(name: str) -> int:
    """Return the fold of a speaker, or of an utterance without one, by the checksum of its name."""
    return zlib.crc32(name.encode()) % FOLDS


def describe(
    store: str,
    start: int,
    samples: int,
    corpus: str,
    speaker: str,
    label: str,
    *,
    checksum: int = 0,
    words: WordList | None = None,
    roles: CorpusRoles | None = None,
) -> Utterance:
    """Return the utterance of one row of a store's manifest, by the word list and the corpora's
    roles (default: kwsd's own).

    `checksum` is that of its samples; only utterances without a speaker need it."""
    roles = roles or default_roles()
    fold = VALIDATION_FOLD if store == VALIDATION else fold_of(f"{corpus}/{speaker or checksum}")
    noise = not roles.is_speech(corpus)
    other_language = roles.is_other_language(corpus)
    text = label.removeprefix("near ").replace("_", " ").lower()
    if text.startswith("neg-"):
        text = ""
    elif text and other_language:
        text = f"{corpus}/{text}"
    is_person = speaker and roles.has_people(corpus)
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
        fold=fold,
        development=fold in (roles.development_fold, VALIDATION_FOLD),
    )


class Place(NamedTuple):
    """Where an utterance lies."""

    store: str
    start: int


class Corpora:
    """All utterances of several stores."""

    def __init__(
        self,
        *folders: Path,
        words: WordList | None = None,
        roles: CorpusRoles | None = None,
        left_out: Collection[Place] = (),
    ) -> None:
        """Open the stores `folders`; `words` and `roles` default to kwsd's own.

        What lies at `left_out` is not opened. Raises ValueError where the store for
        validation is opened together with others."""
        names = [folder.name for folder in folders]
        if VALIDATION in names and len(names) > 1:
            raise ValueError(
                f"the store {VALIDATION!r} is for validation: it is never opened together with "
                f"others ({', '.join(name for name in names if name != VALIDATION)})"
            )
        self.words = words or default_words()
        self.roles = roles or default_roles()
        self.audio = {
            folder.name: np.load(folder / "audio.npy", mmap_mode="r") for folder in folders
        }
        excluded = _excluded()
        utterances = [
            describe(
                folder.name,
                clip.start,
                clip.samples,
                clip.corpus,
                clip.speaker,
                clip.label,
                # What has a speaker is not split by its checksum, and need not be read for it.
                checksum=0 if clip.speaker else clip.checksum(self.audio[folder.name]),
                words=self.words,
                roles=self.roles,
            )
            for folder in folders
            for clip in read_clips(folder)
            if (clip.corpus, clip.speaker, clip.label, clip.samples) not in excluded
            and Place(folder.name, clip.start) not in left_out
        ]
        folds = _balanced_folds(utterances)
        self.utterances: list[Utterance] = [
            replace(u, fold=fold, development=fold == self.roles.development_fold)
            if (fold := folds.get(f"{u.corpus}/{u.speaker}", u.fold)) != u.fold
            else u
            for u in utterances
        ]

    def read(self, utterance: Utterance, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Return the samples `begin … end` (default: all), float32 in int16 scale `[sample]`."""
        first = utterance.start
        last = first + (utterance.samples if end is None else min(end, utterance.samples))
        return np.asarray(self.audio[utterance.store][first + begin : last], np.float32)

    def checksum(self, utterance: Utterance) -> int:
        """Return the checksum of the samples, as manifests have it."""
        end = utterance.start + utterance.samples
        return zlib.crc32(self.audio[utterance.store][utterance.start : end].tobytes())

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


class Clip(NamedTuple):
    """A row of a store's manifest."""

    start: int
    samples: int
    corpus: str
    speaker: str
    label: str
    crc32: int | None
    """None in stores of earlier versions."""

    def checksum(self, audio: np.ndarray) -> int:
        """Return the checksum of its samples in the store's `audio [sample]`."""
        if self.crc32 is not None:
            return self.crc32
        return zlib.crc32(audio[self.start : self.start + self.samples].tobytes())


def read_clips(store: Path) -> Iterator[Clip]:
    """Yield the rows of the manifest of the folder `store`."""
    with (store / "manifest.tsv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            checksum = row.get(CHECKSUM)
            yield Clip(
                int(row["start"]),
                int(row["samples"]),
                row["corpus"],
                row["speaker"],
                row["label"],
                int(checksum) if checksum else None,
            )


def _excluded() -> set[tuple[str, str, str, int]]:
    """Return (corpus, speaker, label, samples) of the recordings that are left out."""
    with EXCLUSIONS.open(encoding="utf-8") as lines:
        return {
            (row["corpus"], row["speaker"], row["label"], int(row["samples"]))
            for row in csv.DictReader(lines, delimiter="\t")
        }


def _balanced_folds(utterances: Iterable[Utterance]) -> Mapping[str, int]:
    """Return the folds of the speakers of recorded wake words, by corpus and name.

    They are few, so chance would leave folds without some word. Fold 0 holds those that their
    checksum puts there; the others, those with the most takes first, go where their words are
    rarest."""
    takes: dict[str, Counter[int]] = {}
    for utterance in utterances:
        if utterance.word >= 0 and utterance.speaker and not utterance.synthetic:
            if utterance.fold == VALIDATION_FOLD:
                return {}
            speaker = f"{utterance.corpus}/{utterance.speaker}"
            takes.setdefault(speaker, Counter())[utterance.word] += 1
    total = sum(takes.values(), Counter[int]())
    folds = {speaker: 0 for speaker in takes if fold_of(speaker) == 0}
    held = {fold: Counter[int]() for fold in range(1, FOLDS)}
    others = sorted(takes.keys() - folds.keys(), key=lambda who: (-takes[who].total(), who))
    for speaker in others:
        words = takes[speaker]
        emptiest = min(
            held,
            key=lambda fold: sum(held[fold][word] * n / total[word] for word, n in words.items()),
        )
        folds[speaker] = emptiest
        held[emptiest] += words
    return folds


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
    count = 0
    with (
        GrowingArray(audio, "<i2") as samples,
        manifest.open("w", encoding="utf-8", newline="") as lines,
    ):
        table = csv.writer(
            lines, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        table.writerow([*FIELDS, CHECKSUM])
        for recording in recordings:
            pcm = recording.samples.astype("<i2")
            table.writerow([samples.rows, len(pcm), *recording[1:], zlib.crc32(pcm.tobytes())])
            samples.append(pcm)
            count += 1
    manifest.rename(dest / "manifest.tsv")
    audio.rename(dest / "audio.npy")
    return count
