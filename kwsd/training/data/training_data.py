"""Everything that a stage trains on: the stores, the rooms, the words, the corpora's roles and the
transcripts, as the working folder holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kwsd.config import ConfigError
from kwsd.training.data.corpora import Corpora
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


@dataclass(frozen=True)
class TrainingData:
    """Paths and settings only, so that every worker can open the data for itself."""

    stores: Sequence[Path]
    """The folders of the stores."""
    rooms: Path
    """`rirs.npz`: room impulse responses."""
    aligned: Path
    """What `kwsd train align` wrote; it may be missing."""
    words: WordList = field(default_factory=default_words)
    roles: CorpusRoles = field(default_factory=default_roles)

    @classmethod
    def of(cls, work: Path, rooms: Path) -> TrainingData:
        """Return the data of the working folder `work`.

        Raises FileNotFoundError where it holds no store, ConfigError for a bad words.yaml or
        corpora.yaml."""
        stores = sorted(path.parent for path in work.glob("*/audio.npy"))
        if not stores:
            raise FileNotFoundError(
                f"{work} holds no corpora yet: run `kwsd train unpack` (or import) "
                "and `kwsd train synthesize` first"
            )
        return cls(stores, rooms, work / "aligned.tsv", read_words(work), read_roles(work))

    def corpora(self) -> Corpora:
        """Return the opened stores."""
        return Corpora(*self.stores, words=self.words, roles=self.roles)

    def transcripts(self) -> Transcripts:
        """Return the transcripts. Raises ConfigError where they are of other stores."""
        transcripts = Transcripts(self.aligned)
        unknown = transcripts.stores - {store.name for store in self.stores}
        if unknown:
            raise ConfigError(
                f"{self.aligned}: words of {min(unknown)!r}, which {self.aligned.parent} does not "
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
