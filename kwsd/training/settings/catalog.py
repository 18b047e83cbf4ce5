"""The words to train and what each corpus is used for: `words.yaml` and `corpora.yaml`.

Files of these names in the working folder replace those that come with kwsd, for every stage alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from msgspec import field

from kwsd.config import ConfigError
from kwsd.training import settings
from kwsd.training.settings import Settings


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
    """Corpora whose speakers are not people."""
    other_language: list[str]
    """Corpora whose labels are English names of words of another language."""
    word_accuracy: list[str]
    """Corpora of single words that `compare` classifies."""
    speaker_groups: dict[str, list[str]]
    """Groups of corpora on whose speakers `evaluate` measures verification; `all` is needed."""
    negatives_s: dict[str, float]
    """Seconds of each corpus in the bank of negatives."""

    def is_speech(self, corpus: str) -> bool:
        """Return whether `corpus` holds speech."""
        return not corpus.startswith(tuple(self.no_speech))


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
    """Return the roles of `folder/corpora.yaml` if it exists, else those that come with kwsd.

    Raises ConfigError."""
    path = _path("corpora", folder)
    roles = settings.parse(CorpusRoles, path.read_text(encoding="utf-8"), str(path))
    if "all" not in roles.speaker_groups:
        raise ConfigError(
            f"{path}: speaker_groups has no group 'all', to which speakers are calibrated"
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
