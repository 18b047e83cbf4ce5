"""Reduces a teacher's frames for `kwsd train cache`: averages over chunks, projected by PCA."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True)
class Basis:
    """How frames are projected: each layer's coordinates are standardized, then all layers go onto
    the directions of most variance that they share.

    A transformer's stream has a few coordinates a hundred times as large as the others, which would
    be all that a projection or a codebook holds. Layers share the directions, so that a mixture of
    projected layers is the projection of their mixture."""

    mean: np.ndarray
    """float32 `[layer, dim]`"""
    scale: np.ndarray
    """float32 `[layer, dim]`: one over the deviation of each coordinate."""
    axes: np.ndarray
    """float32 `[dim, dims]`, scaled so that the chunks that it was fitted to have unit variance on
    average over `dims`."""
    codebook: np.ndarray
    """float32 `[code, dims]`; `[0, dims]` where there is none."""
    cluster: np.ndarray
    """int64 `[layer]`: the mean to which each of the teacher's layers belongs; without clusters
    each layer is its own."""

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Return the basis in `path`."""
        with np.load(path, allow_pickle=False) as saved:
            names = ("mean", "scale", "axes", "codebook", "cluster")
            mean, scale, axes, codebook, cluster = (saved[name] for name in names)
        return cls(mean, scale, axes, codebook, cluster)

    @classmethod
    def fit(cls, chunks: np.ndarray, dims: int, clusters: int = 0) -> Basis:
        """Return the basis of chunks `[layer, chunk, dim]`, without a codebook."""
        cluster = cluster_layers(chunks, clusters) if clusters else np.arange(len(chunks))
        chunks = cluster_means(chunks, cluster)
        mean = chunks.mean(axis=1)
        scale = 1 / np.maximum(chunks.std(axis=1), 1e-6)
        standardized = (chunks - mean[:, None]) * scale[:, None]
        pooled = standardized.reshape(-1, chunks.shape[2]).astype(np.float64)
        variances, directions = np.linalg.eigh(pooled.T @ pooled / len(pooled))
        axes = directions[:, ::-1][:, :dims] / np.sqrt(variances[::-1][:dims].mean())
        codebook = np.zeros((0, axes.shape[1]), np.float32)
        mean, scale, axes = (part.astype(np.float32) for part in (mean, scale, axes))
        return cls(mean, scale, axes, codebook, cluster)

    def project(self, chunks: np.ndarray) -> np.ndarray:
        """Return `chunks [layer, chunk, dim]` as float32 `[layer or cluster, chunk, dims]`."""
        centered = cluster_means(chunks, self.cluster) - self.mean[:, None]
        return np.asarray((centered * self.scale[:, None]) @ self.axes)


def cluster_layers(chunks: np.ndarray, clusters: int) -> np.ndarray:
    """Return int64 `[layer]`: neighboring layers of `chunks [layer, chunk, dim]` joined, the most
    similar first, until `clusters` are left.

    Similarity is linear CKA (Kornblith et al. 2019, arXiv 1905.00414); that of clusters is the mean
    over their layers."""
    centered = chunks - chunks.mean(axis=1, keepdims=True)
    grams = np.array([[np.linalg.norm(a.T @ b) ** 2 for b in centered] for a in centered])
    norms = np.diagonal(grams)
    similarity = grams / np.sqrt(norms[:, None] * norms)
    groups = [[n] for n in range(len(chunks))]
    while len(groups) > clusters:
        pairs = [similarity[np.ix_(a, b)].mean() for a, b in pairwise(groups)]
        at = int(np.argmax(pairs))
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return np.concatenate([np.full(len(group), n) for n, group in enumerate(groups)])


def cluster_means(chunks: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Return the means `[cluster, chunk, dim]` of `chunks [layer, chunk, dim]`."""
    return np.stack([chunks[cluster == n].mean(axis=0) for n in range(cluster.max() + 1)])


def per_chunk(frames: np.ndarray, rate_hz: float, chunks: int) -> np.ndarray:
    """Return frames `[layer, frame, dim]` averaged over chunks of 80 ms: `[layer, chunk, dim]`.

    The last frame stands for missing ones."""
    edges = np.arange(chunks + 1) * CHUNK_SAMPLES / SAMPLE_RATE * rate_hz
    missing = max(int(np.ceil(edges[-1])) - frames.shape[1], 0)
    padded = np.pad(frames, ((0, 0), (1, missing), (0, 0)), mode="edge")
    sums = np.cumsum(padded, axis=1, dtype=np.float64)
    sums -= sums[:, :1]
    first = np.floor(edges[:-1]).astype(int)
    last = np.maximum(np.floor(edges[1:]).astype(int), first + 1)
    return np.asarray((sums[:, last] - sums[:, first]) / (last - first)[:, None], np.float32)
