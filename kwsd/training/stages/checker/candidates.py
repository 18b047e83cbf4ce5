"""What the first stage thinks is a wake word: the windows on which the checker's head is trained.

The streaming bundle hears scenes of wake words among other words, and passes over everything else,
clean and degraded. Where a word's score peaks over a lenient threshold, the window that the daemon
would check is kept, with what is truly in it. Of recordings that the first stage was trained on it
is nearly always sure: that is why they are degraded.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.scenes import IGNORED_SAMPLES, Scenes
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import WINDOW_SAMPLES
from kwsd.training.settings import Settings

log = logging.getLogger(__name__)
TRAINING, DEVELOPMENT, VALIDATION = (
    f"candidates{split}" for split in ("", "-development", "-validation")
)
"""The folders of the candidates of each split, in WORK/checker."""
MARGIN_SAMPLES = SAMPLE_RATE // 4
"""Kept before and after a window, so that training can shift it."""
AFTER_PEAK_SAMPLES = CHUNK_SAMPLES
"""From the end of the chunk of the peak to the end of the window."""
APART_SAMPLES = 2 * SAMPLE_RATE
"""Least distance of two candidates of a word."""
SCENE_SAMPLES = 8 * SAMPLE_RATE // CHUNK_SAMPLES * CHUNK_SAMPLES
LEAD_SAMPLES = 2 * SAMPLE_RATE // CHUNK_SAMPLES * CHUNK_SAMPLES
"""Near-silence before and after a scene: a candidate may lie at its end."""
SHARD = 200
"""Scenes of a file."""
DEGRADED = " degraded"
"""What follows the corpus of a source that was degraded."""
SCENES = "words"
"""The source of the scenes with wake words."""


class CandidateSettings(Settings, frozen=True):
    """The settings `candidates` of `checker.yaml`."""

    word_scenes: int
    """Scenes of eight seconds with wake words among other words."""
    held_back_scenes: int
    """The same, of the development split and for validation."""
    passes: float
    """How often everything else is heard, degraded; of a part of a pass, a random share."""
    clean_passes: float
    """How often it is heard as recorded."""
    least: float = 0.02
    """The streaming score of a candidate."""
    seed: int = 5


@dataclass(frozen=True)
class Candidates:
    """Windows, and what the first stage thought of them."""

    windows: np.ndarray
    """int16 `[n, sample]`: `WINDOW_SAMPLES` with `MARGIN_SAMPLES` on either side."""
    word: np.ndarray
    """int64 `[n]`: the index of the word whose score peaked."""
    spoken: np.ndarray
    """int64 `[n]`: the index of the word that has just ended, -1 for none."""
    stream: np.ndarray
    """float32 `[n]`: the streaming score of the peak."""
    source: np.ndarray
    """str `[n]`: the corpus, with `DEGRADED` after it where it was, or `SCENES`."""
    hours: dict[str, float]
    """Hours that were heard, by source."""

    @property
    def heard(self) -> np.ndarray:
        """int16 `[n, sample]`: the window of each that the checker hears."""
        return self.windows[:, MARGIN_SAMPLES : MARGIN_SAMPLES + WINDOW_SAMPLES]

    @classmethod
    def load(cls, folder: Path) -> Candidates:
        """Return all candidates in `folder`. Raises FileNotFoundError where it holds none."""
        shards = sorted(folder.glob("*.npz"))
        if not shards:
            raise FileNotFoundError(f"{folder}: holds no candidates; run `kwsd train checker`")
        parts = [np.load(shard) for shard in shards]
        hours: dict[str, float] = {}
        for part in parts:
            source = str(part["heard"])
            hours[source] = hours.get(source, 0.0) + float(part["hours"])
        names = ("windows", "word", "spoken", "stream", "source")
        columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return cls(**columns, hours=hours)


class _Scene(NamedTuple):
    """Audio to go through the first stage."""

    samples: np.ndarray
    """int16 `[sample]`"""
    words: list[tuple[int, int, int]]
    """`(word, start, end)` of each wake word in it."""


def gather(
    data: TrainingData,
    bundle: Path,
    out: Path,
    settings: CandidateSettings,
    *,
    development: bool = False,
) -> None:
    """Write the candidates of one split into the folder `out`, a file for each `SHARD` scenes; what
    is there already is not made again."""
    out.mkdir(parents=True, exist_ok=True)
    models = BundleRuntime(bundle, gated=False)
    for name, shard in _shards(data, settings, development):
        path = out / f"{name}.npz"
        if path.exists():
            continue
        found: list[tuple[np.ndarray, int, int, float]] = []
        samples = 0
        for scene in shard():
            found += _candidates(models, scene, settings.least)
            samples += len(scene.samples)
        columns = [[row[n] for row in found] for n in range(4)]
        windows = np.array(columns[0], np.int16).reshape(-1, WINDOW_SAMPLES + 2 * MARGIN_SAMPLES)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                windows=windows,
                word=np.array(columns[1], np.int64),
                spoken=np.array(columns[2], np.int64),
                stream=np.array(columns[3], np.float32),
                source=np.full(len(found), shard.source),
                heard=shard.source,
                hours=samples / SAMPLE_RATE / 3600,
            )
        partial.rename(path)
        log.info("%s: %d candidates", name, len(windows))


class _Shard(ABC):
    """Some scenes, drawn with a seed of their own when their turn comes."""

    def __init__(
        self, data: TrainingData, development: bool, seed: Sequence[int], source: str
    ) -> None:
        self.data = data
        self.development = development
        self.seed = seed
        self.source = source

    @abstractmethod
    def __call__(self) -> Iterator[_Scene]:
        """Draw the scenes."""

    def scenes(self) -> Scenes:
        found = self.data.scenes(development=self.development, transcripts=self.data.transcripts())
        found.reseed(self.seed)
        return found


class _WordShard(_Shard):
    """Scenes of wake words among other words."""

    def __init__(
        self, data: TrainingData, development: bool, seed: Sequence[int], count: int
    ) -> None:
        super().__init__(data, development, seed, SCENES)
        self.count = count

    def __call__(self) -> Iterator[_Scene]:
        scenes = self.scenes()
        for _ in range(self.count):
            scene = scenes.draw(SCENE_SAMPLES, word_share=0.65)
            heard = scenes.hear(scene.clean[None], [scene.degradation])[0]
            yield _Scene(heard.astype(np.int16), scene.words)


class _OtherShard(_Shard):
    """A stretch of one corpus without wake words."""

    def __init__(
        self,
        data: TrainingData,
        development: bool,
        seed: Sequence[int],
        utterances: list[Utterance],
        harsh: float,
    ) -> None:
        super().__init__(data, development, seed, utterances[0].corpus + DEGRADED * bool(harsh))
        self.utterances = utterances
        self.harsh = harsh

    def __call__(self) -> Iterator[_Scene]:
        scenes = self.scenes()
        pause = np.zeros(SAMPLE_RATE // 8, np.float32)
        rows = [part for one in self.utterances for part in (scenes.corpora.read(one), pause)]
        joined = np.concatenate(rows)
        for start in range(0, len(joined), SCENE_SAMPLES):
            part = joined[start : start + SCENE_SAMPLES]
            gain = np.float32(10 ** (scenes.rng.uniform(-12, 6) / 20))
            heard = scenes.degrade(part * gain, harsh=self.harsh)
            yield _Scene(heard.astype(np.int16), [])


def _shards(
    data: TrainingData, settings: CandidateSettings, development: bool
) -> Iterator[tuple[str, _Shard]]:
    """Yield the name of each shard, and the shard."""
    scenes = settings.held_back_scenes if development else settings.word_scenes
    for n in range(-(-scenes // SHARD)):
        count = min(SHARD, scenes - n * SHARD)
        yield f"words-{n:03}", _WordShard(data, development, [settings.seed, 0, n], count)
    by_corpus: dict[str, list[Utterance]] = {}
    for one in data.corpora().utterances:
        if one.development == development and one.word < 0:
            by_corpus.setdefault(one.corpus, []).append(one)
    parts = [(0, "clean", share) for share in _shares(settings.clean_passes)]
    parts += [(1, "degraded", share) for share in _shares(settings.passes)]
    for n, (degraded, kind, share) in enumerate(parts):
        rng = np.random.default_rng([settings.seed, 1, n])
        for corpus, utterances in by_corpus.items():
            harsh = degraded * (0.3 if utterances[0].noise else 1.0)
            drawn = rng.permutation(len(utterances))[: math.ceil(share * len(utterances))]
            for at, stretch in enumerate(_stretches([utterances[i] for i in drawn])):
                seed = [settings.seed, 2, n, at]
                name = f"{kind}{n}-{corpus}-{at:03}"
                yield name, _OtherShard(data, development, seed, stretch, harsh)


def _shares(passes: float) -> list[float]:
    """Return the share of everything that each of `passes` hears."""
    whole = int(passes)
    return [1.0] * whole + ([passes - whole] if passes > whole else [])


def _stretches(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """Cut `utterances` into lists of about `SHARD` scenes."""
    part: list[Utterance] = []
    length = 0
    for one in utterances:
        part.append(one)
        length += one.samples
        if length >= SHARD * SCENE_SAMPLES:
            yield part
            part, length = [], 0
    if part:
        yield part


def _candidates(
    models: BundleRuntime, scene: _Scene, least: float
) -> Iterator[tuple[np.ndarray, int, int, float]]:
    """Yield window, word, spoken word and score of each candidate of `scene`."""
    rng = np.random.default_rng(len(scene.samples))
    before, after = rng.normal(0, 3, (2, LEAD_SAMPLES)).astype(np.int16)
    samples = np.concatenate([before, scene.samples, after])
    scores = models.scores(samples)
    heard = HighPass().step(samples)
    padding = WINDOW_SAMPLES + MARGIN_SAMPLES
    heard = np.pad(heard, (padding, MARGIN_SAMPLES + AFTER_PEAK_SAMPLES))
    shifted = [(word, start + LEAD_SAMPLES, end + LEAD_SAMPLES) for word, start, end in scene.words]
    for word in range(scores.shape[1]):
        for chunk in _peaks(scores[:, word], least):
            at = (chunk + 1) * CHUNK_SAMPLES
            spoken = _spoken(shifted, at)
            if spoken is None:
                continue
            end = at + AFTER_PEAK_SAMPLES + padding + MARGIN_SAMPLES
            window = heard[end - WINDOW_SAMPLES - 2 * MARGIN_SAMPLES : end]
            yield window, word, spoken, float(scores[chunk, word])


def _peaks(scores: np.ndarray, least: float) -> list[int]:
    """Return the chunks at which `scores` peaks over `least`, the highest first, none within
    `APART_SAMPLES` of a higher one."""
    found: list[int] = []
    for chunk in np.argsort(-scores, kind="stable"):
        if scores[chunk] < least:
            break
        if all(abs(chunk - other) * CHUNK_SAMPLES >= APART_SAMPLES for other in found):
            found.append(int(chunk))
    return found


def _spoken(words: list[tuple[int, int, int]], at: int) -> int | None:
    """Return the wake word that has just ended at sample `at`, -1 for none; None where one is being
    said, or has ended too long ago to be asked for but lies in the window."""
    before, after = IGNORED_SAMPLES
    for word, _, end in words:
        if end - before <= at <= end + after:
            return word
    for _, start, end in words:
        if start < at and end > at + AFTER_PEAK_SAMPLES - WINDOW_SAMPLES // 2:
            return None
    return -1
