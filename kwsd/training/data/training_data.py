"""Everything that a stage trains on: the stores, the rooms, the words, the corpora's roles and the
transcripts, as the working folder holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kwsd.config import ConfigError
from kwsd.training.data.augment import Rooms
from kwsd.training.data.corpora import VALIDATION, Corpora, Place
from kwsd.training.data.duplicates import find_once
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.transcripts import Transcripts
from kwsd.training.settings.catalog import (
    CorpusRoles,
    WordList,
    default_roles,
    default_words,
    read_roles,
    read_words,
)

ROOMS = "rirs.npz"
"""The file of room impulse responses in a store's folder."""


@dataclass(frozen=True)
class TrainingData:
    """Paths and settings only, so that every worker can open the data for itself."""

    stores: Sequence[Path]
    """The folders of the stores."""
    rooms: Path | Sequence[Path]
    """Files of room impulse responses, `rirs.npz` each."""
    aligned: Path
    """What `kwsd train align` wrote; it may be missing."""
    words: WordList = field(default_factory=default_words)
    roles: CorpusRoles = field(default_factory=default_roles)
    duplicates: frozenset[Place] = frozenset()
    """Neither trained on nor measured."""
    saying: frozenset[Place] = frozenset()
    """Sentences that say a word of the list, neither trained on nor measured: they would count as
    without it."""
    held_back: Path | None = None
    """The store for validation, where there is one."""

    @classmethod
    def of(cls, work: Path, rooms: Path | None) -> TrainingData:
        """Return the data of the working folder `work`: all its stores but the one for validation.

        The file `rooms`, None where none are needed, is joined by those that `kwsd train import`
        left in the stores. The first call writes WORK/duplicates.tsv. Raises FileNotFoundError
        where there is no store or no room, ConfigError for a bad words.yaml or corpora.yaml."""
        folders = sorted(path.parent for path in work.glob("*/audio.npy"))
        stores = [folder for folder in folders if folder.name != VALIDATION]
        held_back = next((folder for folder in folders if folder.name == VALIDATION), None)
        if not stores:
            raise FileNotFoundError(
                f"{work} holds no corpora yet: run `kwsd train unpack` (or import) "
                "and `kwsd train synthesize` first"
            )
        found = [folder / ROOMS for folder in stores if (folder / ROOMS).exists()]
        if rooms is not None and rooms.exists():
            found.insert(0, rooms)
        elif rooms is not None and not found:
            raise FileNotFoundError(
                f"{rooms}: no such file; --data names the folder with the room responses {ROOMS}, "
                "and `kwsd train import --layout collected` brings some"
            )
        roles = read_roles(work)
        words = read_words(work)
        aligned = work / "aligned.tsv"
        duplicates = find_once(work / "duplicates.tsv", folders, roles.synthetic)
        saying = Transcripts(aligned).saying(words.texts.values(), folders)
        return cls(
            stores,
            found,
            aligned,
            words,
            roles,
            frozenset(duplicates),
            frozenset(saying),
            held_back,
        )

    def validation(self) -> TrainingData | None:
        """Return the data for validation, None where the working folder holds none.

        All of it is of the development split, so that no training or cohort can be drawn of it."""
        if self.held_back is None:
            return None
        return replace(self, stores=[self.held_back], held_back=None)

    def corpora(self, *, saying: bool = False) -> Corpora:
        """Return the opened stores, without what is left out; `saying`: with the sentences that say
        a word of the list."""
        left_out = self.duplicates if saying else self.duplicates | self.saying
        return Corpora(*self.stores, words=self.words, roles=self.roles, left_out=left_out)

    def responses(self) -> Rooms:
        """Return the room responses of the training split."""
        return Rooms(self.rooms)

    def transcripts(self) -> Transcripts:
        """Return the transcripts. Raises ConfigError where a store they are of is gone."""
        transcripts = Transcripts(self.aligned)
        work = self.aligned.parent
        named = transcripts.stores - {store.name for store in self.stores} - {VALIDATION}
        unknown = sorted(name for name in named if not (work / name).is_dir())
        if unknown:
            raise ConfigError(
                f"{self.aligned}: words of {unknown[0]!r}, which {work} does not "
                "hold; remove the file and run `kwsd train align` again"
            )
        return transcripts

    def scenes(
        self, *, development: bool = False, seed: int = 0, transcripts: Transcripts | None = None
    ) -> Scenes:
        """Return a source of scenes from one split of the stores."""
        return Scenes(
            self.corpora(),
            self.rooms,
            development=development,
            seed=seed,
            transcripts=transcripts,
        )
