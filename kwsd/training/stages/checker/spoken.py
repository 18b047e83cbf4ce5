"""Windows of single words, each as it is heard in a room and noise: what the head of added words
learns from, and what the encoder is tuned with.

Words of sentences and of single-word corpora are heard, and those that synthesizers say: the rarer
ones of the sentences, all of WORK/vocabulary.tsv, where it exists, and syllables.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kwsd.audio.high_pass import HighPass
from kwsd.audio.synthesis import SynthesisError
from kwsd.training.data import spoken
from kwsd.training.data.loading import worker_seed
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.spoken import ENGLISH, HeldOut, SpokenTake, Vocabulary
from kwsd.training.data.training_data import TrainingData
from kwsd.training.settings import Settings
from kwsd.training.stages.checker.kept import Kept, is_kept, keep
from kwsd.training.stages.checker.said import Said, Synthesizers, plan

log = logging.getLogger(__name__)
SHARD = 500
"""Windows of a file."""


class SpokenSettings(Settings, frozen=True):
    """The settings `spoken` of `checker.yaml`."""

    held_out: list[str]
    """Words that are in no class, so that they can be measured as added words."""
    vocabulary: int
    """Words of the sentences that synthesizers say, those with the fewest takes first."""
    takes: int = 150
    """Takes of a word at most."""
    least: int = 4
    """Takes of a word at least, recorded or spoken."""
    heard: int = 4
    """Windows of a word at least: rare takes are heard in several rooms."""
    synthetic: int = 4
    """Synthetic takes of a word."""
    syllables: bool = True
    """Whether synthesizers say syllables as well."""
    seed: int = 3


def gather(data: TrainingData, out: Path, settings: SpokenSettings) -> None:
    """Write windows of the training split's words into the folder `out`, int16 `[window, sample]`
    behind the high-pass, a file for each `SHARD`, with the `kind` of word and `who` says it; what
    is there is not made again.

    Raises SynthesisError where espeak-ng is missing."""
    out.mkdir(parents=True, exist_ok=True)
    scenes = data.scenes(seed=settings.seed)
    planned = _plan(data, scenes, settings)
    synthesizers = Synthesizers()
    made_by = {"words": len(planned), "seed": settings.seed}
    for n, at in enumerate(range(0, len(planned), SHARD)):
        path = out / f"{n:03}.npz"
        if is_kept(path, made_by):
            continue
        scenes.reseed([settings.seed, n])
        found = list(_hear(scenes, planned[at : at + SHARD], synthesizers))
        keep(
            path,
            np.stack([window for window, _ in found]),
            made_by,
            kind=np.array([take.kind for _, take in found]),
            who=np.array([take.who for _, take in found]),
        )
        log.info("%s: %d of %d windows", path.name, at + len(found), len(planned))


def _plan(data: TrainingData, scenes: Scenes, settings: SpokenSettings) -> list[SpokenTake | Said]:
    """Return every window that is to be heard, in an order by chance."""
    held_out = HeldOut.of(settings.held_out)
    transcripts = data.transcripts()
    corpora = scenes.corpora
    found: dict[str, list[SpokenTake | Said]] = {
        kind: list(takes)
        for kind, takes in spoken.takes(corpora, transcripts, held_out, settings.takes).items()
    }
    recorded = sum(map(len, found.values()))
    sentences = [u for u in corpora.utterances if not u.label and not u.development]
    said = transcripts.types(sentences, least=1)
    rarest = sorted(said, key=lambda text: (transcripts.count(text), text))
    words = [Vocabulary(ENGLISH, text) for text in rarest[: settings.vocabulary]]
    listed = data.aligned.with_name("vocabulary.tsv")
    if listed.exists():
        words += spoken.read_vocabulary(listed)
    for take in plan(words, settings.syllables, held_out, settings.synthetic):
        found.setdefault(take.kind, []).append(take)
    found = {kind: takes for kind, takes in found.items() if len(takes) >= settings.least}
    log.info("%d words; %d takes are recorded, rare ones counted", len(found), recorded)
    planned = [
        takes[n % len(takes)]
        for takes in found.values()
        for n in range(max(len(takes), settings.heard))
    ]
    order = np.random.default_rng(settings.seed).permutation(len(planned))
    return [planned[n] for n in order]


def _hear(
    scenes: Scenes, planned: Sequence[SpokenTake | Said], synthesizers: Synthesizers
) -> Iterator[tuple[np.ndarray, SpokenTake | Said]]:
    """Yield each window, int16 `[sample]`, and what it is; what cannot be spoken is left out."""
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(lambda take: _said(take, synthesizers), planned)
        for take, samples in zip(planned, said, strict=True):
            if isinstance(take, SpokenTake):
                samples = scenes.corpora.read(take.utterance)
                place = take.start, take.end
            else:
                place = 0, 0
            if samples is None or not samples.any():
                continue
            clean, degradation = spoken.window(scenes, samples, *place)
            heard = scenes.hear(clean[None], [degradation])[0].astype(np.int16)
            yield HighPass().step(heard), take


def _said(take: SpokenTake | Said, synthesizers: Synthesizers) -> np.ndarray | None:
    """Return what a synthesizer says, float32 `[sample]`; None of what is recorded, or not said."""
    if isinstance(take, SpokenTake):
        return None
    try:
        return synthesizers(take)
    except (SynthesisError, EOFError):
        log.warning("%s cannot say %r", take.engine, take.text)
        return None


class PairBatch(NamedTuple):
    """Two windows of each of some words, side by side."""

    windows: Tensor
    """float32 `[2 word, …]`."""
    kind: Tensor
    """int64 `[2 word]`."""

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`."""
        return PairBatch(self.windows.to(device), self.kind.to(device))


class WordPairs(IterableDataset[PairBatch]):
    """Endless batches of pairs: words by the root of their windows, by two people where there are
    two."""

    def __init__(self, found: Kept, words: int, seed: int, left_out: Collection[str] = ()) -> None:
        """Raises ValueError where there are not two words with two windows each, besides those that
        are `left_out`."""
        self.found = found
        self.seed = seed
        kinds, of, counts = np.unique(found.known["kind"], return_inverse=True, return_counts=True)
        enough = (counts >= 2) & ~np.isin(kinds, list(left_out))
        self.kinds = kinds[enough].tolist()
        if len(self.kinds) < 2:
            raise ValueError(
                "there are not two words with two windows each; import single words, or run "
                "`kwsd train align` first"
            )
        order = np.argsort(of, kind="stable")
        rows = np.split(order, np.cumsum(counts)[:-1])
        self.rows = [rows[n] for n in np.flatnonzero(enough)]
        self.count = min(words, len(self.kinds))
        weight = np.sqrt(counts[enough])
        self.share = weight / weight.sum()

    def prepare(self, batch: PairBatch) -> PairBatch:
        """Return the batch in single precision."""
        return PairBatch(batch.windows.float(), batch.kind)

    def __iter__(self) -> Iterator[PairBatch]:
        rng = np.random.default_rng(worker_seed(self.seed))
        who = self.found.known["who"]
        while True:
            drawn = rng.choice(len(self.kinds), self.count, replace=False, p=self.share)
            rows: list[int] = []
            for kind in drawn:
                first = rng.choice(self.rows[kind])
                others = self.rows[kind][self.rows[kind] != first]
                different = others[who[others] != who[first]]
                rows += [first, rng.choice(different if len(different) else others)]
            windows = torch.from_numpy(self.found.rows(np.array(rows)))
            yield PairBatch(windows, torch.from_numpy(np.repeat(drawn, 2)))
