"""Cached answers of the teachers, as `kwsd train cache` wrote them in `WORK/targets/NAME`.

A teacher with frames leaves `basis.npz` and parts of many utterances each; a voice teacher leaves
`voices.npz`, one vector per speaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from kwsd.training.data.corpora import Utterance

SCALE = 24.0
"""From a projected number to its byte: five standard deviations fit."""


class TeacherError(ValueError):
    """A teacher cannot be loaded or used, or its targets are missing; the message says why."""


class Voices:
    """The vectors of a voice teacher, one per speaker, with the mean over the speakers removed."""

    def __init__(self, folder: Path) -> None:
        """Raises TeacherError where `folder` holds none."""
        self._folder = folder
        if not (folder / "voices.npz").exists():
            raise TeacherError(
                f"{folder}: holds no voices; run `kwsd train cache --only {folder.name}` first"
            )
        with np.load(folder / "voices.npz", allow_pickle=False) as saved:
            vectors = saved["vectors"] - saved["vectors"].mean(axis=0)
            people = saved["people"].tolist()
        self.vectors = dict(zip(people, vectors.astype(np.float32), strict=True))
        """float32 `[dim]` by person."""
        self.dims = vectors.shape[1]

    def matrix(self, people: Iterable[str]) -> np.ndarray:
        """Return float32 `[person, dim]` of unit length. Raises TeacherError where one is
        missing."""
        missing = [person for person in people if person not in self.vectors]
        if missing:
            raise TeacherError(
                f"{self._folder / 'voices.npz'} does not know {missing[0]} and {len(missing) - 1} "
                "others; remove it and run `kwsd train cache` again"
            )
        vectors = np.stack([self.vectors[person] for person in people])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Targets:
    """The frames and codes of a teacher with frames, by utterance."""

    def __init__(self, folder: Path) -> None:
        """Raises TeacherError where `folder` holds none, or not all of them."""
        parts = sorted(folder.glob("part-*.npz"))
        if not parts or not (folder / "basis.npz").exists():
            raise TeacherError(f"{folder}: holds no targets; run `kwsd train cache` first")
        with np.load(folder / "basis.npz", allow_pickle=False) as saved:
            self.codebook = saved["codebook"]
            """float32 `[code, dim]`; empty for a teacher without one. Of a teacher's own quantizer
            only the codes that occur."""
            groups = saved["groups"]
        frames = []
        codes = []
        self._spans: dict[tuple[str, int], tuple[int, int]] = {}
        position = 0
        for part in parts:
            with np.load(part, allow_pickle=False) as saved:
                store = str(saved["store"])
                for start, chunks in saved["keys"].tolist():
                    self._spans[store, start] = position, position + chunks
                    position += chunks
                frames.append(saved["frames"])
                codes.append(saved["codes"])
        self._frames = np.concatenate(frames)
        self._codes = np.concatenate(codes).astype(np.int64)
        if len(groups):
            self._codes, self.codebook = codes_that_occur(self._codes, groups)
        self.layers: int
        self.dims: int
        self.layers, self.dims = self._frames.shape[1:]

    def __contains__(self, utterance: Utterance) -> bool:
        return (utterance.store, utterance.start) in self._spans

    def of(self, utterance: Utterance) -> tuple[np.ndarray, np.ndarray]:
        """Return the frames, float32 `[layer, chunk, dims]`, and the codes, int64 `[chunk]`.

        Raises KeyError for an utterance that was not cached."""
        begin, end = self._spans[utterance.store, utterance.start]
        frames = self._frames[begin:end].transpose(1, 0, 2).astype(np.float32) / SCALE
        return frames, self._codes[begin:end]

    @cached_property
    def utterances(self) -> int:
        """How many utterances were cached."""
        return len(self._spans)


def codes_that_occur(codes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `codes` renumbered, -1 as it was, and the vectors of those that occur, float32
    `[code, dim]`.

    wav2vec 2.0 has 320 x 320 codes, of which most never occur. A code has one digit for each of
    `groups [group, entry, dim]`, the first the lowest; its vector is that of its entries, joined.
    """
    found, numbered = np.unique(codes, return_inverse=True)
    missing = int((found < 0).sum())
    entries = groups.shape[1]
    vectors = [
        group[found[missing:] // entries**place % entries] for place, group in enumerate(groups)
    ]
    return numbered - missing, np.concatenate(vectors, axis=1).astype(np.float32)


def open_targets(
    folder: Path, teachers: Iterable[str]
) -> tuple[dict[str, Targets], dict[str, Voices]]:
    """Return what was cached of each of `teachers` in `folder`: of frames, and of voices.

    Raises TeacherError."""
    targets: dict[str, Targets] = {}
    voices: dict[str, Voices] = {}
    for name in teachers:
        if (folder / name / "voices.npz").exists():
            voices[name] = Voices(folder / name)
        else:
            targets[name] = Targets(folder / name)
    return targets, voices
