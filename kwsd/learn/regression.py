"""Ridge regressions: logistic over whitened frames, least squares over vectors of unit length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGE = 20.0
SHRINKAGE = 0.3
"""Share of the mean variance that is added to each before whitening."""

VECTOR_RIDGE = 1.0
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
        mean = frames.mean(axis=0)
        centered = (frames - mean).astype(np.float64)
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


def logistic_regression(
    positives: np.ndarray, negatives: np.ndarray, steps: int = 12
) -> tuple[np.ndarray, float]:
    """Return weights `[dim]` and bias of a ridge logistic regression, by Newton's method.

    Sums over rows are in 32 bits, what is solved in 64.
    """
    x = np.concatenate([positives, negatives]).astype(np.float32)
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    y = np.repeat(np.array([1.0, 0.0], np.float32), [len(positives), len(negatives)])
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-3
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w.astype(np.float32), -30, 30)))
        rooted = x * np.sqrt(p * (1 - p) + np.float32(1e-9))[:, None]
        curvature = (rooted.T @ rooted).astype(np.float64) + np.diag(ridge)
        step = np.linalg.solve(curvature, x.T @ (p - y) + ridge * w)
        w -= step
        if np.abs(step).max() < 1e-4:
            break
    return w[:-1], float(w[-1])


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
) -> tuple[np.ndarray, float]:
    """Return float32 weights `[dim]` and the bias of the ridge regression to 1 and -1.

    Both classes weigh one half. `ridge` is a share of the mean variance of the numbers.
    """
    one, other = positives.means, negatives.means
    mean = (one.first + other.first) / 2
    covariance = (one.second + other.second) / 2 - np.outer(mean, mean)
    slope = (one.first - other.first) / 2
    damping = ridge * np.trace(covariance) / len(mean) + 1e-9
    weights = np.linalg.solve(covariance + damping * np.eye(len(mean)), slope)
    return weights.astype(np.float32), float(-mean @ weights)
