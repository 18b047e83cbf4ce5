"""The words to train and what each corpus is used for: `words.yaml` and `corpora.yaml`.

A file `words.yaml` in the working folder replaces the one that comes with kwsd, for every stage
alike; of `corpora.yaml`, the entries that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from msgspec import Meta, field

from kwsd.config import ConfigError
from kwsd.training import settings
from kwsd.training.settings import Settings

MUSIC = "music"
"""The kind of negatives that is music, where `sources` names it."""
CONTINUOUS = "continuous English"
"""The kind of negatives that no entry of `sources` names."""


class WordEntry(Settings, frozen=True):
    """One word of `words.yaml`."""

    text: str = ""
    """How it is said; empty: its name with spaces for underscores."""
    near: list[str] = field(default_factory=list)
    """Words that sound like it and must not trigger it."""


@dataclass(frozen=True)
class WordList:
    """The words that the wake head is trained on, in the order of its outputs."""

    entries: dict[str, WordEntry]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, as labels, bundles and events have them."""
        return tuple(self.entries)

    @property
    def texts(self) -> dict[str, str]:
        """How each word is said, by its name."""
        return {name: entry.text or name.replace("_", " ") for name, entry in self.entries.items()}

    @property
    def near(self) -> tuple[str, ...]:
        """The words that sound like any of them, in the order of the file."""
        return tuple(text for entry in self.entries.values() for text in entry.near)

    @property
    def phrases(self) -> frozenset[int]:
        """Indices of the words that are phrases: some people pause within them."""
        return frozenset(n for n, text in enumerate(self.texts.values()) if " " in text)

    def index(self, label: str) -> int:
        """Return the index of the word that `label` names, with spaces or underscores; -1 for
        none."""
        name = label.replace(" ", "_")
        return self.names.index(name) if name in self.entries else -1

    def __len__(self) -> int:
        return len(self.entries)


class CorpusRoles(Settings, frozen=True):
    """What corpora are used for; each list holds names of corpora."""

    no_speech: list[str]
    """Beginnings of the names of corpora that hold no speech."""
    synthetic: str
    """The corpus that `kwsd train synthesize` writes."""
    not_people: list[str]
    """Beginnings of the names of corpora whose speakers are not people."""
    other_language: list[str]
    """Beginnings of the names of corpora of other languages than English."""
    word_accuracy: list[str]
    """Beginnings of the names of corpora of single words, which `compare` classifies."""
    speaker_groups: dict[str, list[str]]
    """Groups of corpora on whose speakers `evaluate` measures verification; `all` is needed."""
    negatives_s: dict[str, float]
    """Seconds of each corpus in the bank of negatives."""
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Kinds of negatives by which false accepts are reported, in this order: beginnings of names of
    corpora. The first that fits counts; the rest is `CONTINUOUS`."""
    operating_sources: list[str] = field(default_factory=list)
    """The kinds of negatives that operating points are read from; empty: all."""
    development_fold: Annotated[int, Meta(ge=0, le=4)] = 0
    """Which of the five folds of speakers is the development split."""

    def is_speech(self, corpus: str) -> bool:
        """Return whether `corpus` holds speech."""
        return not corpus.startswith(tuple(self.no_speech))

    def is_other_language(self, corpus: str) -> bool:
        """Return whether `corpus` is of another language than English."""
        return corpus.startswith(tuple(self.other_language))

    def has_people(self, corpus: str) -> bool:
        """Return whether the speakers of `corpus` are people."""
        return self.is_speech(corpus) and not corpus.startswith(tuple(self.not_people))

    def has_single_words(self, corpus: str) -> bool:
        """Return whether `compare` classifies the words of `corpus`."""
        return corpus.startswith(tuple(self.word_accuracy))

    def source(self, corpus: str) -> str:
        """Return which kind of negatives `corpus` is."""
        for kind, beginnings in self.sources.items():
            if corpus.startswith(tuple(beginnings)):
                return kind
        return CONTINUOUS


def read_words(folder: Path | None = None) -> WordList:
    """Return the words of `folder/words.yaml` if it exists, else the words of kwsd's own models.

    Raises ConfigError."""
    path = _path("words", folder)
    words = WordList(
        settings.parse(dict[str, WordEntry], path.read_text(encoding="utf-8"), str(path))
    )
    if not words.entries:
        raise ConfigError(f"{path}: names no word; write `NAME: {{}}`, one line per word")
    for name in words.names:
        if name != name.replace(" ", "_"):
            raise ConfigError(
                f"{path}: the word {name!r} has a space; write {name.replace(' ', '_')!r}"
            )
    return words


def read_roles(folder: Path | None = None) -> CorpusRoles:
    """Return the roles of `folder/corpora.yaml`; what it does not name, or all if it does not
    exist, is as in the file that comes with kwsd.

    Raises ConfigError."""
    path = _path("corpora", folder)
    shipped = yaml.safe_load(settings.shipped("corpora").read_text(encoding="utf-8"))
    roles = settings.parse(CorpusRoles, path.read_text(encoding="utf-8"), str(path), shipped)
    if "all" not in roles.speaker_groups:
        raise ConfigError(
            f"{path}: speaker_groups has no group 'all', to which speakers are calibrated"
        )
    kinds = [*roles.sources, CONTINUOUS]
    for kind in roles.operating_sources:
        if kind not in kinds:
            raise ConfigError(
                f"{path}: operating_sources names {kind!r}, which sources does not; "
                f"expected some of {', '.join(kinds)}"
            )
    return roles


@cache
def default_words() -> WordList:
    """Return the words of kwsd's own models."""
    return read_words()


@cache
def default_roles() -> CorpusRoles:
    """Return the roles that come with kwsd."""
    return read_roles()


def _path(name: str, folder: Path | None) -> Path:
    """Return the file `name` of `folder` where it exists, else the one that comes with kwsd."""
    if folder is not None and (own := folder / f"{name}.yaml").exists():
        return own
    return settings.shipped(name)
