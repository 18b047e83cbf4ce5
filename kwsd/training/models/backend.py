"""The last layer of the speaker head: the directions that distinguish people, fitted in closed form
once the head is trained.

Two-covariance model (Brümmer and de Villiers 2010): people's mean vectors are drawn from one normal
distribution, their utterances from another about them. Vectors are centered, whitened by the
covariance within people (WCCN, Hatch et al. 2006) and turned to the directions in which people
differ most (linear discriminants). Each direction is weighed by the share of its variance that is
the person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kwsd.audio.format import SAMPLE_RATE
from kwsd.training.data.corpora import Corpora

log = logging.getLogger(__name__)
MAX_SAMPLES = 2 * SAMPLE_RATE
"""The length of an utterance that is used."""


class Backend(nn.Module):
    """`voice [batch, dim]` to `[batch, directions]`, of unit length."""

    def __init__(self, dim: int = 192, directions: int = 64) -> None:
        """The weights start as a cut to the first `directions` numbers."""
        super().__init__()
        self.shape = {"dim": dim, "directions": directions}
        self.center = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.axes = nn.Parameter(torch.eye(dim, directions), requires_grad=False)

    def forward(self, voice: Tensor) -> Tensor:
        """Return the embedding of `voice`."""
        return F.normalize((voice - self.center) @ self.axes, dim=1)


def fit(
    voices: np.ndarray, people: np.ndarray, directions: int = 64, shrinkage: float = 1.0
) -> Backend:
    """Return the backend of `voices [utterance, dim]`; `people [utterance]` says whose each is.

    Most people need two utterances. `shrinkage` times the mean variance within people is added to
    each direction's, since hundreds of people do not show them all. Raises ValueError where nobody
    has two utterances."""
    voices = voices.astype(np.float64)
    _, owner, counts = np.unique(people, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        raise ValueError("nobody has two takes, so the variance within a person is unknown")
    sums = np.zeros((len(counts), voices.shape[1]))
    np.add.at(sums, owner, voices)
    means = sums / counts[:, None]
    residuals = (voices - means[owner])[counts[owner] > 1]
    within = residuals.T @ residuals / (counts[counts > 1] - 1).sum()
    between = np.cov(means.T) - within / counts.mean()
    ridge = shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    whiten = np.linalg.cholesky(np.linalg.inv(within + ridge))
    variances, turn = np.linalg.eigh(whiten.T @ ((between + between.T) / 2) @ whiten)
    directions = min(directions, len(variances))
    variances = np.maximum(variances[::-1][:directions], 0)
    turn = turn[:, ::-1][:, :directions]
    backend = Backend(voices.shape[1], directions)
    backend.center.copy_(torch.from_numpy(voices.mean(axis=0)))
    backend.axes.copy_(torch.from_numpy(whiten @ turn * np.sqrt(variances / (1 + variances))))
    return backend


def fit_to_people(
    corpora: Corpora,
    embed: Callable[[np.ndarray], np.ndarray | None],
    per_person: int = 6,
    seed: int = 3,
) -> Backend:
    """Return the backend of the training split's people: `per_person` clean utterances of each, at
    most 2 s long.

    `embed` gives the vector of an utterance `[sample]`, or None where nobody speaks. Raises
    ValueError as `fit`."""
    rng = np.random.default_rng(seed)
    voices = []
    owners = []
    people = corpora.people(development=False)
    for n, utterances in enumerate(people.values()):
        one = len(utterances) == 1
        drawn = [0] * per_person if one else rng.permutation(len(utterances))[:per_person]
        for i in drawn:
            samples = corpora.read(utterances[i])
            spare = len(samples) - MAX_SAMPLES
            begin = int(rng.integers(spare)) if len(samples) > 3 * SAMPLE_RATE else 0
            voice = embed(samples[begin : begin + MAX_SAMPLES])
            if voice is not None:
                voices.append(voice)
                owners.append(n)
    log.info("the backend is fitted to %d utterances of %d people", len(voices), len(people))
    return fit(np.stack(voices), np.array(owners))
