"""Added words: one small file each, bound to the encoder that made it, never a pickle.

A word is a linear detector over a few frames of the encoder, each of which has heard 0.8 s: the
frame of the chunk that is decided, and some before it. Where a checker that knows words was there
when it was made, it has a second stage too (`SecondStage`), which that very checker hears.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from kwsd.bounded import json as bounded_json
from kwsd.bounded import npz
from kwsd.bounded.file import Damaged
from kwsd.bounded.npz import Kinds, Numbers, Text
from kwsd.names import word_name
from kwsd.protocol.data import AddedWordInfo, MadeFrom, OperatingPoint
from kwsd.state import second_stage, store
from kwsd.state.second_stage import SecondStage
from kwsd.state.store import LATEST, StateError, Store

FORMAT = 3
DAMAGED = "`kwsd word rebuild` it where its takes are kept, add it again, or restore it"
"""What to do with a file that is damaged."""
MAX_BYTES = 4 << 20
"""Bytes of a word's file. A message carries one of three quarters of a MiB at most."""
MAX_STORED = second_stage.MAX_STORED
"""Takes, and wrong clips, whose frames a word's file stores."""
CONTEXT_FRAMES = 15
"""Frames before the present one that a word may look at."""
MAX_WEIGHT = second_stage.MAX_WEIGHT
"""Greatest weight: real ones are below 1, and no sum of products with frames is infinite."""
MAX_LENGTH_S = 10.0
"""Longest word."""
MAX_SCALE = 500.0
"""Greatest scale of frames: 127 times it is still a float16."""
MAX_COUNT = 1 << 31
DEFAULT_RATE = 0.1
"""False accepts per hour of continuous speech that a word is held to where nobody asks for another
rate."""
ARRAYS: Kinds = {
    "head": Text(1 << 18),
    "weights": Numbers("<f4", (CONTEXT_FRAMES + 1, 1024)),
    "scores": Numbers("<f4", (1024, 2)),
    "scale": Numbers("<f4", (1024,)),
    "takes": Numbers("|i1", (MAX_STORED, 64, 64, 1024)),
    "wrong": Numbers("|i1", (MAX_STORED, 64, 1024)),
}
"""What a file holds."""


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
    second: SecondStage | None = None
    """How a checker hears it; None where none did when it was made."""

    @property
    def id(self) -> str:
        """Identifies the weights that give its scores, those of the second stage included."""
        weights = np.append(self.weights, self.bias).astype(np.float32).tobytes()
        checked = self.second.id.encode() if self.second else b""
        return hashlib.sha256(weights + bytes(self.offsets) + checked).hexdigest()[:16]

    def heard_with(self, word_id: str | None) -> AddedWord:
        """Return the word as a checker decides it, whose vectors `word_id` identifies; None for
        none. With another checker than its own, the streaming stage alone decides.

        What is said of its scores (threshold, operating points, left-out takes) is of those.
        """
        second = self.second
        if second is None or second.word_id != word_id:
            return replace(self, second=None)
        return replace(
            self,
            threshold=second.threshold,
            operating_points=second.operating_points,
            scores=second.scores,
        )

    def without_takes(self) -> AddedWord:
        """Return what detects the word, and nothing of its takes and clips: it cannot be made
        again from that."""
        return replace(
            self,
            takes=self.takes[:0],
            scores=self.scores[:0],
            wrong=self.wrong[:0],
            second=self.second and self.second.without_takes(),
        )

    def of_id(self, id: str) -> AddedWord:
        """Return the word as it is where it has this id: with its second stage, or without."""
        both = self.heard_with(self.second.word_id if self.second else None)
        return both if both.id == id else self.heard_with(None)

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
    checked: dict[str, np.ndarray] = {}
    if word.second:
        about, checked = second_stage.to_parts(word.second)
        head["second"] = msgspec.to_builtins(about)
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
        **checked,  # type: ignore[arg-type]
    )
    return buffer.getvalue()


def _quantized(frames: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.round(frames / scale), -127, 127).astype(np.int8)


def from_bytes(data: bytes, encoder_id: str, origin: str, dim: int | None = None) -> AddedWord:
    """Return the word in a file's bytes; errors call the file `origin`.

    `dim` is the length of the encoder's frames; None is any. Raises WordError where the word is
    damaged or of another encoder.
    """
    try:
        head = npz.decode(data, {"head": ARRAYS["head"]})["head"].encode()
        format = bounded_json.decode(head, _Format).format
        if format != FORMAT:
            text = f"word format {format}, this kwsd reads {FORMAT}"
            raise WordError(f"{origin}: {text}; {_again(bounded_json.decode(head, _Name).name)}")
        about = bounded_json.decode(head, _Head)
        name = check_word_name(about.name)
        if about.encoder_id != encoder_id:
            text = f"made for the encoder {about.encoder_id}, this model is {encoder_id}"
            raise WordError(f"{origin}: {text}; {_again(name)}")
        more = second_stage.ARRAYS if about.second else None
        arrays = npz.decode(data, {**ARRAYS, **(more or {})}, MAX_BYTES)
        return _word(name, about, arrays, dim)
    except Damaged as error:
        text = f"damaged, or not a kwsd word file ({error}); {DAMAGED}"
        raise WordError(f"{origin}: {text}") from error


def _again(name: str) -> str:
    """Return what makes a word again that was made for something else."""
    quoted = shlex.quote(check_word_name(name).replace("_", " "))
    return (
        f"make it again from recordings (`kwsd word add {quoted} …`), from its takes where they "
        f"are kept (`kwsd word rebuild {quoted}`), or from its labeled clips where there are any "
        f"(`kwsd word add {quoted} --from-clips`)"
    )


class _Format(Struct, frozen=True):
    format: int


class _Name(Struct, frozen=True):
    name: str


class _Made(Struct, frozen=True):
    made: MadeFrom = MadeFrom()


class _Head(Struct, frozen=True):
    """What a file says of a word, beside its arrays."""

    name: str
    encoder_id: str
    offsets: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=CONTEXT_FRAMES)], ...],
        Meta(min_length=1, max_length=CONTEXT_FRAMES + 1),
    ]
    bias: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
    threshold: Annotated[float, Meta(gt=0, le=1)]
    length_s: Annotated[float, Meta(gt=0, le=MAX_LENGTH_S)]
    operating_points: Annotated[tuple[OperatingPoint, ...], Meta(max_length=16)]
    made: MadeFrom
    second: second_stage.Head | None = None


def _word(name: str, head: _Head, arrays: dict[str, Any], dim: int | None) -> AddedWord:
    """Return the word that a file holds. Raises Damaged where its parts do not fit together."""
    weights, scores, scale = (arrays[key] for key in ("weights", "scores", "scale"))
    if len(weights) != len(head.offsets):
        raise Damaged(f"it has {len(weights)} rows of weights for {len(head.offsets)} offsets")
    if np.abs(weights).max(initial=0) > MAX_WEIGHT:
        raise Damaged("its weights are too large for a finite score")
    lengths = {a.shape[-1] for a in (weights, scale, arrays["takes"], arrays["wrong"])}
    if len(lengths) > 1 or 0 in lengths or (dim is not None and lengths != {dim}):
        expected = f"{dim} numbers" if dim else "as many numbers as each other"
        raise Damaged(f"its weights and frames do not have {expected}")
    if scores.shape[1] != 2 or (np.abs(scores - 0.5) > 0.501).any():  # sums are rounded
        raise Damaged("its scores are no pairs of numbers from 0 to 1")
    if (scale <= 0).any() or (scale > MAX_SCALE).any():
        raise Damaged("the scale of its frames is out of range")
    checked = head.second
    for point in (*head.operating_points, *(checked.operating_points if checked else ())):
        rates = (point.threshold, point.miss_rate, point.miss_rate_10db)
        if any(not 0 <= rate <= 1 for rate in rates) or point.false_accepts_per_hour < 0:
            raise Damaged("it has an operating point that no threshold can have")
    if not (0 <= head.made.takes <= MAX_COUNT and 0 <= head.made.time <= LATEST):
        raise Damaged("it was made from no number of takes, or at no time, that there is")
    second = None
    if checked:
        takes, wrong = len(arrays["takes"]), len(arrays["wrong"])
        second = second_stage.from_parts(checked, arrays, takes, wrong)
    return AddedWord(
        name=name,
        encoder_id=head.encoder_id,
        offsets=head.offsets,
        weights=weights,
        bias=head.bias,
        threshold=head.threshold,
        length_s=head.length_s,
        operating_points=head.operating_points,
        takes=(arrays["takes"] * scale).astype(np.float16),
        made=head.made,
        scores=scores,
        wrong=(arrays["wrong"] * scale).astype(np.float16),
        second=second,
    )


class WordStore(Store[AddedWord]):
    """The added words of a state directory."""

    suffix = ".word"
    thing = "word"
    error = WordError
    max_bytes = MAX_BYTES

    def damaged(self, path: Path, name: str, why: object) -> StateError:
        """Return the error for a file that is damaged: `why` says how."""
        return self.error(f"{path}: damaged ({why}); {DAMAGED}")

    def name_in(self, data: bytes) -> str:
        """Return the name that a file holds. Raises Damaged."""
        head = npz.decode(data, {"head": ARRAYS["head"]})["head"].encode()
        return bounded_json.decode(head, _Name).name

    def made(self, name: str) -> MadeFrom:
        """Return how a word was made, as far as its file tells, of whatever encoder or format."""
        try:
            data = self._read(self.path(name), name)
            head = npz.decode(data, {"head": ARRAYS["head"]})["head"].encode()
            return bounded_json.decode(head, _Made).made
        except (Damaged, WordError):
            return MadeFrom()

    def parse(self, path: Path, name: str, data: bytes) -> AddedWord:
        """Return the word in the file of `name`. Raises WordError."""
        word = from_bytes(data, self.encoder_id, str(path), self.dim)
        return replace(word, name=name or word.name)

    def to_bytes(self, thing: AddedWord) -> bytes:
        """Return the file of a word."""
        return to_bytes(thing)
