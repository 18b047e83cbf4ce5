"""Windows as the checker hears them: two seconds of anything, clean and as a microphone hears
them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data import augment
from kwsd.training.data.augment import Degradation, Rooms
from kwsd.training.data.corpora import Utterance
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.training_data import TrainingData

WINDOW_SAMPLES = 2 * SAMPLE_RATE + 240
"""200 frames of 25 ms, 10 ms apart."""
PEAK = 0.5
"""Every window is brought to this peak, of full scale: the checker knows no levels."""
REMEMBERED = 32
"""Steps for which windows are heard again."""
Draw = tuple[int, int]
"""Which window it is: the step and the row at which it is heard first."""


def at_peak(x: Tensor) -> Tensor:
    """Return windows `[batch, sample]` in int16 scale, each at the peak `PEAK`."""
    peak = x.abs().amax(1, keepdim=True).clamp(min=1.0)
    return x * (PEAK * 32768 / peak)


@dataclass(frozen=True)
class WindowPair:
    """A batch of windows, and what happens to them."""

    clean: Tensor
    """float32 `[batch, sample]`, int16 scale."""
    degradation: Degradation | None
    """None once it has happened."""
    heard: Tensor
    """float32 `[batch, sample]`: what a microphone hears of them."""
    draws: list[Draw]
    """Which windows they are."""
    seeds: list[list[int]]
    """For what else is drawn for each."""

    def to(self, device: torch.device) -> WindowPair:
        """Return the batch on `device`."""
        degradation = self.degradation.to(device) if self.degradation else None
        clean, heard = self.clean.to(device), self.heard.to(device)
        return replace(self, clean=clean, degradation=degradation, heard=heard)


class Windows(IterableDataset[WindowPair]):
    """Batches of windows of one split, whatever is in them, for every step from one on.

    A corpus is drawn by the root of its hours, so that the largest do not drown the others. The
    batch of a step depends on nothing but the seed: a run that resumes goes on as it would have,
    and two processes with half of the batch each hear what one would with all of it."""

    def __init__(
        self,
        data: TrainingData,
        batch: int,
        seed: int,
        views: int = 1,
        *,
        first: int = 0,
        rank: int = 0,
        parts: int = 1,
        harsh: float = 1.0,
        development: bool = False,
    ) -> None:
        """`views`: how often, on average, a window is heard, each time through another room, noise
        and microphone; `first` step and `rank` of this process; `parts`: batches of a step;
        `harsh` as for scenes; `development`: of that split."""
        self.data = data
        self.batch = batch
        self.seed = seed
        self.views = views
        self.first = first
        self.rank = rank
        self.parts = parts
        self.harsh = harsh
        self.development = development
        self.responses = Rooms(data.rooms, development)

    def prepare(self, pair: WindowPair) -> WindowPair:
        """Return the batch with its degradation applied; both sides at the checker's level."""
        assert pair.degradation is not None
        heard = augment.degrade(pair.clean, pair.degradation, self.responses)
        return replace(pair, clean=at_peak(pair.clean), degradation=None, heard=at_peak(heard))

    def __iter__(self) -> Iterator[WindowPair]:
        scenes = self.data.scenes(development=self.development)
        pools: dict[str, list[Utterance]] = {}
        for utterance in scenes.corpora.utterances:
            if utterance.development == self.development:
                pools.setdefault(utterance.corpus, []).append(utterance)
        corpora = [_Pool(utterances) for utterances in pools.values()]
        weights = np.sqrt([pool.samples for pool in corpora])
        weights /= weights.sum()
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for at in itertools.count(self.first * self.parts + first, stride):
            clean = []
            degradations = []
            step, part = divmod(at, self.parts)
            part += self.rank * self.parts
            draws = self._draws(step, part)
            seeds = [[self.seed, 1, step, part * self.batch + n] for n in range(self.batch)]
            for draw, seed in zip(draws, seeds, strict=True):
                scenes.reseed([self.seed, 0, draw[0] + REMEMBERED, draw[1]])
                clean.append(_window(scenes, corpora[scenes.rng.choice(len(corpora), p=weights)]))
                scenes.reseed(seed)
                degradations.append(scenes.degradation(WINDOW_SAMPLES, self.harsh))
            samples = torch.from_numpy(np.stack(clean))
            yield WindowPair(samples, augment.stack(degradations), samples, draws, seeds)

    def _draws(self, step: int, part: int) -> list[Draw]:
        """Return which windows are heard in a part of a step, of those of all processes: new ones,
        and some that were in the `REMEMBERED` steps before."""
        new = -(-self.batch // self.views)
        begin = part * self.batch
        draws = [(step, begin + n) for n in range(new)]
        rng = np.random.default_rng([self.seed, 2, step, part])
        others = rng.choice(REMEMBERED * new, self.batch - new, replace=False)
        return draws + [(step - 1 - int(n) // new, begin + int(n) % new) for n in others]


class _Pool:
    """The utterances of one corpus, the longer the likelier."""

    def __init__(self, utterances: list[Utterance]) -> None:
        self.utterances = utterances
        self._ends = np.cumsum([utterance.samples for utterance in utterances])
        self.samples = int(self._ends[-1])

    def draw(self, rng: np.random.Generator) -> Utterance:
        return self.utterances[np.searchsorted(self._ends, rng.integers(self.samples), "right")]


def _window(scenes: Scenes, pool: _Pool) -> np.ndarray:
    """Return a window out of one corpus, float32 `[sample]`: a piece of one utterance, or several
    with pauses."""
    rng = scenes.rng
    out = np.zeros(WINDOW_SAMPLES, np.float32)
    at = 0
    while at < WINDOW_SAMPLES:
        x = augment.gain_to(scenes.corpora.read(pool.draw(rng)), float(rng.normal(-26, 3)))
        begin = 0
        if len(x) > WINDOW_SAMPLES:
            begin = int(rng.integers(len(x) - WINDOW_SAMPLES + 1))
        elif at == 0:  # a window may begin and end within a word
            begin = int(rng.integers(max(len(x) // 2, 1)))
        part = x[begin : begin + WINDOW_SAMPLES - at]
        out[at : at + len(part)] = part
        at += len(part) + int(rng.uniform(0, 0.4) * SAMPLE_RATE)
    return out
