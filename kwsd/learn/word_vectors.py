"""What a checker hears at the end of windows of audio: vectors that say which word it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.model.runtime import CheckerGraph
from kwsd.state.second_stage import quantized

EVERY_CHUNKS = 2
"""Chunks from one vector of the bank to the next: as often as a candidate is checked."""


def word_vectors(graph: CheckerGraph, samples: np.ndarray, ends: Iterable[int]) -> np.ndarray:
    """Return the vectors `[window, dim]` of the windows that end before these samples, float32.

    `samples` is int16-scaled `[sample]`, a stream from its start on, as the detector hears it;
    zeros come before it.
    """
    length = graph.model.samples
    padded = np.pad(np.asarray(samples, np.float32), (length, 0))
    vectors = [graph.words(padded[end : end + length]) for end in ends]
    return np.stack(vectors) if vectors else np.zeros((0, graph.word_dim or 0), np.float32)


def write_checker_negatives(
    path: Path,
    graph: CheckerGraph,
    segments: Iterable[np.ndarray],
    skipped: int,
    words: Iterable[np.ndarray],
) -> None:
    """Write the vectors of a bank of negatives to the file `path`, whose name the manifest has.

    `segments` are those of the bank in its order, `[sample]` in whole chunks, as the encoder heard
    them: behind the high-pass. `skipped` chunks at the beginning of each have no frame in the bank.
    `words` are windows that end with single words, `[sample]`, behind the high-pass as well.
    """
    vectors = []
    at = []
    row = 0
    for samples in segments:
        chunks = np.arange(skipped, len(samples) // CHUNK_SAMPLES, EVERY_CHUNKS)
        vectors.append(quantized(word_vectors(graph, samples, (chunks + 1) * CHUNK_SAMPLES)))
        at.append(row + chunks - skipped)
        row += max(len(samples) // CHUNK_SAMPLES - skipped, 0)
    single = [graph.words(window) for window in words]
    np.savez(
        path,
        vectors=np.concatenate(vectors),
        at=np.concatenate(at).astype(np.int32),
        words=quantized(np.reshape(single, (-1, graph.word_dim or 0))),
    )
