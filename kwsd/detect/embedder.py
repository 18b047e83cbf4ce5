"""Speaker embeddings of recordings: the detector's encoder and head over the voiced part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE
from kwsd.audio.log_mel import LogMel
from kwsd.metrics import joined
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import CheckerGraph, Runtime
from kwsd.protocol.data import Band

SEGMENT_CHUNKS = 50
"""Voiced chunks that the speaker head gets at once: 4 s."""
BELOW_PEAK_DB = 30.0
"""A chunk this far below the loudest of its block counts as unvoiced."""


class Voice(NamedTuple):
    """The embeddings of one voice, each float32 `[dim]` of unit length."""

    head: np.ndarray
    """The speaker head's."""
    checker: np.ndarray | None
    """The checker's; None without one."""
    speech_s: float
    """Seconds of the voiced chunks."""


class HeardVoice(NamedTuple):
    """A voice in a stream."""

    embedding: np.ndarray
    """float32 `[dim]` of unit length."""
    band: Band
    """Of the audio that it was heard in."""
    speech_s: float
    """Seconds of speech in that audio."""


class Embedder:
    """`embed(blocks) -> [dim]` of unit length. It holds no stream state between calls."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime | None = None, checker: CheckerGraph | None = None
    ) -> None:
        """A `checker` that gives voices has its embedding joined to that of the speaker head."""
        runtime = runtime or Runtime(bundle)
        self.bundle = bundle
        self.dim = runtime.speaker.dim
        self.checker_id = ""
        """Identifies what gives the checker's embeddings; empty where there are none."""
        self._encoder = runtime.encoder
        self._speaker = runtime.speaker
        self._checker = None
        if checker is not None and checker.voice_dim is not None:
            self._checker = checker
            self.dim += checker.voice_dim
            self.checker_id = checker.model.voice_id

    def embed(self, blocks: Iterable[np.ndarray]) -> np.ndarray | None:
        """Return the embedding of a recording, float32 `[dim]`; None where it contains no voice.

        `blocks` are int16 `[sample]`. Memory is constant: voiced chunks are gathered into segments
        of 4 s (windows of 2 s for the checker), whose embeddings are averaged by length.
        """
        voice = self.voice(blocks)
        return None if voice is None else self.joined(voice)

    def joined(self, voice: Voice) -> np.ndarray:
        """Return the parts of a voice as one embedding, float32 `[dim]` of unit length."""
        if voice.checker is None or self._checker is None:
            return voice.head
        return joined(voice.head, voice.checker, self._checker.model.voice_weight)

    def voice(self, blocks: Iterable[np.ndarray]) -> Voice | None:
        """Return what `embed` joins, apart."""
        front_end: LogMel = self.bundle.front_end
        history = max(front_end.history_samples, self._speaker.history_samples)
        state = self._encoder.zero_state()
        segments = _Segments(self._head, SEGMENT_CHUNKS, self._speaker.min_chunks)
        windows = None
        if self._checker is not None:
            most = self._checker.model.samples // self.bundle.chunk_samples
            windows = _Segments(self._spoken, most, self._speaker.min_chunks)
        spoken = 0
        for samples in _whole_chunks(blocks, self.bundle.chunk_samples, history):
            mel = front_end(samples[history - front_end.history_samples :])
            frames, state = self._encoder.step(mel, state)
            bands = self._speaker.fine(samples[history - self._speaker.history_samples :])
            chunks = samples[history:].astype(np.int16).reshape(-1, self.bundle.chunk_samples)
            speech = np.flatnonzero(voiced(chunks))
            spoken += len(speech)
            for k in speech:
                segments.add((frames.intermediate[k], frames.embedding[k], bands[k]))
                if windows is not None:
                    windows.add((chunks[k],))
        head = segments.mean()
        checker = windows.mean() if windows is not None else None
        if head is None or (windows is not None and checker is None):
            return None
        return Voice(head, checker, spoken * CHUNK_SAMPLES / SAMPLE_RATE)

    def _head(self, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        return self._speaker(*parts)

    def _spoken(self, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        assert self._checker is not None
        return self._checker.voice(parts[0].ravel())


class _Segments:
    """Voiced chunks on their way to an encoder of voices."""

    def __init__(
        self, encode: Callable[[tuple[np.ndarray, ...]], np.ndarray], most: int, least: int
    ) -> None:
        """`encode` gets from `least` to `most` chunks at once, each part of them stacked."""
        self._encode = encode
        self._most = most
        self._least = least
        self._chunks: list[tuple[np.ndarray, ...]] = []
        self._total: np.ndarray | float = 0.0
        self._weight = 0

    def add(self, chunk: tuple[np.ndarray, ...]) -> None:
        self._chunks.append(chunk)
        if len(self._chunks) == self._most:
            self._close()

    def mean(self) -> np.ndarray | None:
        enough = len(self._chunks) >= self._least
        if enough or (self._chunks and not self._weight):
            self._close()
        norm = float(np.linalg.norm(self._total))
        if not self._weight or norm <= 0:
            return None
        return np.asarray(self._total / norm, np.float32)

    def _close(self) -> None:
        parts = tuple(np.stack(part) for part in zip(*self._chunks, strict=True))
        vector = self._encode(parts).astype(np.float64)
        self._total = self._total + len(self._chunks) * vector
        self._weight += len(self._chunks)
        self._chunks.clear()


def speech_s(samples: np.ndarray) -> float:
    """Return the seconds of the voiced chunks of int16 `[sample]`, in whole chunks."""
    chunks = samples.reshape(-1, CHUNK_SAMPLES)
    return int(np.count_nonzero(voiced(chunks))) * CHUNK_SAMPLES / SAMPLE_RATE


def voiced(chunks: np.ndarray) -> np.ndarray:
    """Return which of `chunks [k, sample]` (int16) contain more than background, bool `[k]`.

    Background is 30 dB below the loudest of them, or silent.
    """
    level = 10 * np.log10(np.mean(chunks.astype(np.float64) ** 2, axis=1) + 1e-3)
    return np.asarray((level > level.max() - BELOW_PEAK_DB) & (level > 0.0))


def _whole_chunks(
    blocks: Iterable[np.ndarray], chunk_samples: int, history_samples: int
) -> Iterator[np.ndarray]:
    """Yield whole chunks with the samples before them, float32; silence pads the last one."""
    history = np.zeros(history_samples, np.float32)
    rest = np.zeros(0, np.int16)
    for block in _with_end(blocks):
        joined = np.concatenate([rest, block])
        if block.size == 0 and len(joined):
            joined = np.pad(joined, (0, -len(joined) % chunk_samples))
        whole = len(joined) // chunk_samples * chunk_samples
        rest = joined[whole:]
        if whole:
            samples = np.concatenate([history, joined[:whole].astype(np.float32)])
            history = samples[len(samples) - history_samples :]
            yield samples


def _with_end(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks that are not empty, then an empty one for the end."""
    yield from (block for block in blocks if block.size)
    yield np.zeros(0, np.int16)
