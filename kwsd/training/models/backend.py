"""The last layer of the speaker head, fitted in closed form once the head is trained: which directions tell people apart.

Two-covariance model (Brümmer and de Villiers 2010): people's own vectors are drawn from one normal distribution, their takes from another
about them. Vectors are centred, whitened by the covariance within people (WCCN, Hatch et al. 2006), turned to the directions in which
people differ most (linear discriminants), and each of these is weighed by how much of what it shows is the person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.training.data.corpora import RATE, Clip, Corpora

log = logging.getLogger(__name__)


class Backend(nn.Module):
    """`voice [batch, dim]` to `[batch, kept]`, both of unit length."""

    def __init__(self, dim: int = 192, kept: int = 64) -> None:
        super().__init__()
        self.shape = {"dim": dim, "kept": kept}
        self.centre = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.axes = nn.Parameter(torch.eye(dim, kept), requires_grad=False)

    def forward(self, voice: Tensor) -> Tensor:
        return F.normalize((voice - self.centre) @ self.axes, dim=1)


def fit(voices: np.ndarray, people: np.ndarray, kept: int = 64, shrinkage: float = 1.0) -> Backend:
    """Of takes `voices [take, dim]` and whose each is `people [take]`, at least two of most.

    `shrinkage`: a multiple of the mean variance within people that is added to each direction's, since hundreds of people do not show them
    all. Raises ValueError where nobody has two takes."""
    voices = voices.astype(np.float64)
    _, whose, takes = np.unique(people, return_inverse=True, return_counts=True)
    if takes.max() < 2:
        raise ValueError("nobody has two takes: what differs within a person is not to be seen")
    sums = np.zeros((len(takes), voices.shape[1]))
    np.add.at(sums, whose, voices)
    means = sums / takes[:, None]
    rest = (voices - means[whose])[takes[whose] > 1]
    within = rest.T @ rest / (takes[takes > 1] - 1).sum()
    between = np.cov(means.T) - within / takes.mean()
    whiten = np.linalg.cholesky(np.linalg.inv(within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))))
    share, turn = np.linalg.eigh(whiten.T @ ((between + between.T) / 2) @ whiten)
    kept = min(kept, len(share))
    share, turn = np.maximum(share[::-1][:kept], 0), turn[:, ::-1][:, :kept]
    backend = Backend(voices.shape[1], kept)
    backend.centre.copy_(torch.from_numpy(voices.mean(axis=0)))
    backend.axes.copy_(torch.from_numpy(whiten @ turn * np.sqrt(share / (1 + share))))
    return backend


def fit_to(people: dict[str, list[Clip]], corpora: Corpora, embed: Callable[[np.ndarray], np.ndarray | None], takes: int = 6, seed: int = 3) -> Backend:
    """Fit to `people`, so many takes of each of at most 2 s, clean; `embed` gives the vector of a take `[sample]`, or None where nobody speaks."""
    rng = np.random.default_rng(seed)
    voices, whose = [], []
    for n, clips in enumerate(people.values()):
        for i in rng.permutation(len(clips))[:takes] if len(clips) > 1 else [0] * takes:
            samples = corpora.read(clips[i])
            at = int(rng.integers(len(samples) - 2 * RATE)) if len(samples) > 3 * RATE else 0
            voice = embed(samples[at : at + 2 * RATE])
            if voice is not None:
                voices.append(voice)
                whose.append(n)
    log.info("the backend is fitted to %d takes of %d people", len(voices), len(people))
    return fit(np.stack(voices), np.array(whose))
