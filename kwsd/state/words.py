"""Added words: one small file each, bound to the encoder that made it, never a pickle.

A word is a linear detector over a few frames of the encoder, each of which has heard 0.8 s: the
frame of the chunk that is decided, and some before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from kwsd.config import word_name
from kwsd.protocol.data import AddedWordInfo, MadeFrom, OperatingPoint
from kwsd.state import store
from kwsd.state.store import StateError, Store

FORMAT = 2
ZIP = b"PK\x03\x04"
"""What every file of `numpy.savez` begins with."""
MAX_STORED = 32
"""Takes, and wrong clips, whose frames a word's file stores."""
CONTEXT_FRAMES = 15
"""Frames before the present one that a word may look at."""


class WordError(StateError):
    """A word cannot be made, read, written or used; the message names it and the fix."""


@dataclass(frozen=True)
class AddedWord:
    """A wake word that a user added."""

    name: str
    encoder_id: str
    offsets: tuple[int, ...]
    """How many chunks ago each of its frames was, 0 to `CONTEXT_FRAMES`."""
    weights: np.ndarray = field(repr=False)
    """float32 `[offset, dim]`."""
    bias: float
    threshold: float
    length_s: float
    """Mean length of its takes, in seconds."""
    operating_points: tuple[OperatingPoint, ...]
    takes: np.ndarray = field(repr=False)
    """float16 `[take, version, frame, dim]`: the frames around the end of the word, from which it
    can be made again."""
    made: MadeFrom
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32), repr=False)
    """float32 `[take, 2]`: the score of each take, clean and in noise, by a detector that was made
    from the other takes."""
    wrong: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1), np.float16), repr=False)
    """float16 `[clip, frame, dim]`: frames of clips that woke it and that the user labeled wrong.
    """

    @property
    def id(self) -> str:
        """Identifies the weights that give its scores."""
        weights = np.append(self.weights, self.bias).astype(np.float32)
        return hashlib.sha256(weights.tobytes() + bytes(self.offsets)).hexdigest()[:16]

    def missed(self, threshold: float) -> tuple[float, float] | None:
        """Return the share of its takes below `threshold`, clean and in noise; None without takes.

        Each take is scored by a detector that was made from the others.
        """
        if not len(self.scores):
            return None
        clean, noisy = (self.scores < threshold).mean(axis=0).tolist()
        return clean, noisy

    def logits(self, embedding: np.ndarray) -> np.ndarray:
        """Return the logits `[k]` of the last of frames `[CONTEXT_FRAMES + k, dim]`, float32."""
        k = len(embedding) - CONTEXT_FRAMES
        logits = np.full(k, self.bias, np.float32)
        for offset, weights in zip(self.offsets, self.weights, strict=True):
            first = CONTEXT_FRAMES - offset
            logits += embedding[first : first + k] @ weights
        return logits

    def info(self) -> AddedWordInfo:
        """Return what programs may know of it."""
        return AddedWordInfo(
            name=self.name,
            id=self.id,
            threshold=self.threshold,
            length_s=round(self.length_s, 2),
            operating_points=list(self.operating_points),
            made=self.made,
        )


def check_word_name(name: str) -> str:
    """Return a word's name as it is stored, underscores for spaces. Raises WordError."""
    return store.check_name(word_name(name), "word", WordError)


def to_bytes(word: AddedWord) -> bytes:
    """Return the file of a word."""
    head = {
        "format": FORMAT,
        "name": word.name,
        "encoder_id": word.encoder_id,
        "offsets": word.offsets,
        "bias": word.bias,
        "threshold": word.threshold,
        "length_s": word.length_s,
        "operating_points": msgspec.to_builtins(word.operating_points),
        "made": msgspec.to_builtins(word.made),
    }
    buffer = io.BytesIO()
    # One byte a number: messages carry whole words, and a line has a greatest length.
    flat = np.abs(word.takes).reshape(-1, word.takes.shape[-1])
    scale = np.maximum(flat.max(axis=0, initial=1e-3), 1e-3).astype(np.float32) / 127
    np.savez(
        buffer,
        head=np.str_(json.dumps(head)),
        weights=word.weights.astype(np.float32),
        scores=word.scores.astype(np.float32),
        scale=scale,
        takes=_quantized(word.takes[:MAX_STORED], scale),
        wrong=_quantized(word.wrong, scale),
    )
    return buffer.getvalue()


def _quantized(frames: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.round(frames / scale), -127, 127).astype(np.int8)


def from_bytes(data: bytes, encoder_id: str, origin: str) -> AddedWord:
    """Return the word in a file's bytes; errors call the file `origin`.

    Raises WordError where it is damaged or of another encoder.
    """
    if not data.startswith(ZIP):
        text = "damaged, or not a kwsd word file; `kwsd word export` writes them"
        raise WordError(f"{origin}: {text}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = json.loads(str(arrays["head"]))
            if head["format"] != FORMAT:
                text = f"word format {head['format']}, this kwsd reads {FORMAT}"
                raise WordError(f"{origin}: {text}; add the word again")
            word = _parse(head, arrays)
    except WordError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        text = f"damaged, or not a kwsd word file ({error}); add the word again, or restore it"
        raise WordError(f"{origin}: {text}") from error
    if word.encoder_id != encoder_id:
        text = f"made for the encoder {word.encoder_id}, this model is {encoder_id}"
        raise WordError(f"{origin}: {text}; add {word.name!r} again")
    if not _consistent(word):
        text = f"damaged (its numbers do not fit together); add {word.name!r} again, or restore it"
        raise WordError(f"{origin}: {text}")
    return word


def _parse(head: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> AddedWord:
    return AddedWord(
        name=check_word_name(head["name"]),
        encoder_id=str(head["encoder_id"]),
        offsets=tuple(int(o) for o in head["offsets"]),
        weights=np.asarray(arrays["weights"], np.float32),
        bias=float(head["bias"]),
        threshold=float(head["threshold"]),
        length_s=float(head["length_s"]),
        operating_points=msgspec.convert(head["operating_points"], tuple[OperatingPoint, ...]),
        takes=(arrays["takes"] * arrays["scale"]).astype(np.float16),
        made=msgspec.convert(head["made"], MadeFrom),
        scores=np.asarray(arrays["scores"], np.float32),
        wrong=(arrays["wrong"] * arrays["scale"]).astype(np.float16),
    )


def _consistent(word: AddedWord) -> bool:
    """Return whether shapes and ranges fit together, and every number is finite."""
    if word.weights.ndim != 2 or len(word.weights) != len(word.offsets) or word.scores.ndim != 2:
        return False
    if word.takes.shape[-1:] != word.weights.shape[-1:]:
        return False
    if not all(0 <= o <= CONTEXT_FRAMES for o in word.offsets) or not 0 < word.threshold <= 1:
        return False
    return bool(np.isfinite(word.weights).all() and np.isfinite(word.bias))


class WordStore(Store[AddedWord]):
    """The added words of a state directory."""

    suffix = ".word"
    thing = "word"
    error = WordError

    def parse(self, name: str, data: bytes) -> AddedWord:
        """Return the word in a file. Raises WordError."""
        return from_bytes(data, self.encoder_id, str(self.path(name)))

    def to_bytes(self, thing: AddedWord) -> bytes:
        """Return the file of a word."""
        return to_bytes(thing)
