"""Ridge regressions: logistic over whitened frames, least squares over vectors of unit length."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

RIDGE = 20.0
STEP = 1e-4
"""Longest step, of any weight, after which a search is at its end."""
SHRINKS = 0.5
"""Share of the step before above which a step asks for the curvature where it begins."""
MOST_STEPS = 60
WHITENED_EVERY = 3
"""Frames of the bank for each that the whitening is fitted to."""
SHRINKAGE = 0.3
"""Share of the mean variance that is added to each before whitening."""

VECTOR_RIDGE = 0.1
"""Ridge of the least squares, as a share of the mean variance."""


@dataclass(frozen=True)
class Whitening:
    """The transform that makes the components of frames uncorrelated and of like variance."""

    mean: np.ndarray
    """float32 `[dim]`."""
    matrix: np.ndarray
    """float32 `[dim, dim]`."""

    @classmethod
    def fit(cls, frames: np.ndarray) -> Whitening:
        """Return the whitening of frames `[frame, dim]`."""
        chosen = frames[::WHITENED_EVERY]
        mean = chosen.mean(axis=0)
        centered = (chosen - mean).astype(np.float64)
        variances, axes = np.linalg.eigh(centered.T @ centered / len(centered))
        scaled = axes / np.sqrt(variances + SHRINKAGE * variances.mean())
        return cls(mean, (scaled @ axes.T).astype(np.float32))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Return frames `[n, offset, dim]` whitened, float32 `[n, offset * dim]`."""
        flat = ((frames - self.mean) @ self.matrix).reshape(len(frames), -1)
        return np.asarray(flat / np.float32(np.sqrt(len(self.mean))))

    def undone(self, weights: np.ndarray, bias: float, offsets: int) -> tuple[np.ndarray, float]:
        """Return weights and bias over whitened frames as those over the frames themselves.

        The weights become float32 `[offset, dim]`.
        """
        raw = weights.reshape(offsets, -1) @ self.matrix / np.sqrt(len(self.mean))
        return raw.astype(np.float32), float(bias - (raw @ self.mean).sum())


@dataclass(frozen=True)
class Logistic:
    """A ridge logistic regression, and what makes the next one like it quick."""

    weights: np.ndarray
    """float64 `[dim]`."""
    bias: float
    inverse: np.ndarray = field(repr=False)
    """float64 `[dim + 1, dim + 1]`: the inverse of the curvature of the loss."""


def logistic_regression(
    positives: np.ndarray,
    negatives: np.ndarray,
    weighed: np.ndarray | None = None,
    start: Logistic | None = None,
) -> Logistic:
    """Return a ridge logistic regression, by Newton's method.

    `weighed [negative]` is how often each negative counts. The search begins at `start`, with its
    curvature; another is computed where a step is not far shorter than the one before. Where it
    begins does not move where it ends. Sums over rows are in 32 bits, what is solved in 64.
    """
    x = np.concatenate([positives, negatives]).astype(np.float32)
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    y = np.repeat(np.array([1.0, 0.0], np.float32), [len(positives), len(negatives)])
    count = np.ones(len(x), np.float32)
    if weighed is not None:
        count[len(positives) :] = weighed
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-3
    w = np.append(start.weights, start.bias) if start else np.zeros(x.shape[1])
    inverse = start.inverse if start else None
    longest = np.inf
    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w.astype(np.float32), -30, 30)))
        if inverse is None:
            rooted = x * np.sqrt(count * (p * (1 - p) + np.float32(1e-9)))[:, None]
            inverse = np.linalg.inv((rooted.T @ rooted).astype(np.float64) + np.diag(ridge))
        step = inverse @ (x.T @ (count * (p - y)) + ridge * w)
        length = float(np.abs(step).max())
        if length > SHRINKS * longest and length >= STEP:
            inverse = None  # the step is not taken: the curvature is another here
            longest = np.inf
            continue
        w -= step
        if length < STEP:
            break
        longest = length
    assert inverse is not None
    return Logistic(w[:-1], float(w[-1]), inverse)


@dataclass(frozen=True)
class Moments:
    """The first two moments of vectors, which add up: all that least squares asks of them."""

    weight: float
    first: np.ndarray
    """float64 `[dim]`: their weighted sum."""
    second: np.ndarray
    """float64 `[dim, dim]`: the weighted sum of their outer products."""

    @classmethod
    def of(cls, vectors: np.ndarray, weight: float = 1.0) -> Moments:
        """Return the moments of `vectors [n, dim]`, each of this weight."""
        x = np.asarray(vectors, np.float32)
        return cls(
            weight * len(x),
            weight * x.sum(axis=0, dtype=np.float64),
            weight * (x.T @ x).astype(np.float64),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.weight + other.weight, self.first + other.first, self.second + other.second
        )

    @property
    def means(self) -> Moments:
        """The moments at a weight of one."""
        weight = max(self.weight, 1e-9)
        return Moments(1.0, self.first / weight, self.second / weight)


def least_squares(
    positives: Moments, negatives: Moments, ridge: float = VECTOR_RIDGE
) -> np.ndarray:
    """Return the weights `[dim]` of the ridge regression to 1 and -1.

    Both classes weigh one half. `ridge` is a share of the mean variance of the numbers.
    """
    one, other = positives.means, negatives.means
    mean = (one.first + other.first) / 2
    covariance = (one.second + other.second) / 2 - np.outer(mean, mean)
    slope = (one.first - other.first) / 2
    damping = ridge * np.trace(covariance) / len(mean) + 1e-9
    return np.linalg.solve(covariance + damping * np.eye(len(mean)), slope)
