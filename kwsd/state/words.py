"""Words that a user added: one small file each, bound to the encoder that made it, never half-written, never a pickle.

A word is a linear detector over a few frames of the encoder, each of which has heard 0.8 s: those of the chunk that is decided and
of some before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kwsd.model.bundle import Bundle, OperatingPoint
from kwsd.model.runtime import Student
from kwsd.state import store as state
from kwsd.state.store import StateError, Store

FORMAT = 2
MOST_KEPT = 32
"""Takes, and wrong clips, whose frames a word's file keeps."""
REACH = 15
"""Frames before the present one that a word may look at."""


class WordError(StateError):
    """A word cannot be made, read, written or used; the message names it and the mend."""


@dataclass(frozen=True)
class UserWord:
    name: str
    encoder_id: str
    offsets: tuple[int, ...]
    """How many chunks ago each of its frames was, 0 to `REACH`."""
    weights: np.ndarray = field(repr=False)
    """float32 `[offset, dim]`"""
    bias: float
    threshold: float
    length_s: float
    """How long its takes last, on average."""
    operating_points: tuple[OperatingPoint, ...]
    takes: np.ndarray = field(repr=False)
    """float16 `[take, version, frame, dim]`: the frames about the end of the word, from which it can be made anew."""
    made: dict[str, Any]
    """How it was made: counts of takes, kwsd's version, the time."""
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32), repr=False)
    """float32 `[take, 2]`: what a detector made of the other takes gave each, as it is and in noise."""
    wrong: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1), np.float16), repr=False)
    """float16 `[clip, frame, dim]`: frames of what it took for the word and its user said was not; none of them is to wake it again."""

    @property
    def id(self) -> str:
        """Of what gives its scores."""
        return hashlib.sha256(np.append(self.weights, self.bias).astype(np.float32).tobytes() + bytes(self.offsets)).hexdigest()[:16]

    def missed(self, threshold: float) -> tuple[float, float] | None:
        """Share of its takes that would be missed at `threshold`, left out one after the other: as they are, and in noise."""
        if not len(self.scores):
            return None
        clean, noisy = (self.scores < threshold).mean(axis=0).tolist()
        return clean, noisy

    def logits(self, high: np.ndarray) -> np.ndarray:
        """Frames `[REACH + k, dim]` to the logits of the last `k`, float32 `[k]`."""
        k = len(high) - REACH
        logits = np.full(k, self.bias, np.float32)
        for offset, weights in zip(self.offsets, self.weights, strict=True):
            logits += high[REACH - offset : REACH - offset + k] @ weights
        return logits


def after_silence(high: np.ndarray, student: Student, bundle: Bundle, rows: int) -> np.ndarray:
    """`high [k, dim]` from the start of a stream, with `rows` before it as if there had been silence for ever."""
    front = bundle.front_end
    mel = front(np.zeros(front.history_samples + bundle.receptive_chunks * bundle.chunk_samples, np.float32))
    quiet = student.step(mel, student.zero_state())[0].embedding[-1:]
    return np.concatenate([np.repeat(quiet, rows, axis=0), high])


def check_name(name: str) -> str:
    """`name` as a word is called: spaces become underscores. Raises WordError."""
    return state.check_name(name.strip().replace(" ", "_"), "word", WordError)


def about(word: UserWord) -> dict[str, Any]:
    """What programs may know of a word."""
    points = [asdict(p) for p in word.operating_points]
    return {"name": word.name, "id": word.id, "threshold": word.threshold, "length_s": round(word.length_s, 2), "operating_points": points,
            "made": word.made}  # fmt: skip


def to_bytes(word: UserWord) -> bytes:
    """The file of a word."""
    head = {"format": FORMAT, "name": word.name, "encoder_id": word.encoder_id, "offsets": word.offsets, "bias": word.bias, "threshold": word.threshold,
            "length_s": word.length_s, "operating_points": [asdict(p) for p in word.operating_points], "made": word.made}  # fmt: skip
    buffer = io.BytesIO()
    # A byte a number: messages carry whole words, and have a longest line.
    scale = np.maximum(np.abs(word.takes).reshape(-1, word.takes.shape[-1]).max(axis=0, initial=1e-3), 1e-3).astype(np.float32) / 127
    packed = {name: np.clip(np.round(kept / scale), -127, 127).astype(np.int8) for name, kept in (("takes", word.takes[:MOST_KEPT]), ("wrong", word.wrong))}
    np.savez(buffer, head=np.str_(json.dumps(head)), weights=word.weights.astype(np.float32), scores=word.scores.astype(np.float32), scale=scale, **packed)
    return buffer.getvalue()


def from_bytes(data: bytes, encoder_id: str, origin: str) -> UserWord:
    """The word in a file's bytes; `origin` names it in errors. Raises WordError where it is damaged or of another encoder."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            head = json.loads(str(kept["head"]))
            if head["format"] != FORMAT:
                raise WordError(f"{origin}: word format {head['format']}, this kwsd reads {FORMAT}; add the word again")
            word = UserWord(
                check_name(head["name"]), str(head["encoder_id"]), tuple(int(o) for o in head["offsets"]), np.asarray(kept["weights"], np.float32),
                float(head["bias"]), float(head["threshold"]), float(head["length_s"]), tuple(OperatingPoint(**p) for p in head["operating_points"]),
                (kept["takes"] * kept["scale"]).astype(np.float16), dict(head["made"]), np.asarray(kept["scores"], np.float32),
                (kept["wrong"] * kept["scale"]).astype(np.float16),
            )  # fmt: skip
    except WordError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WordError(f"{origin}: damaged, or no word of kwsd ({error}); add the word again, or restore it") from error
    if word.encoder_id != encoder_id:
        raise WordError(f"{origin}: made for the encoder {word.encoder_id}, this model is {encoder_id}; add {word.name!r} again")
    fits = word.weights.ndim == 2 and len(word.weights) == len(word.offsets) and word.takes.shape[-1:] == word.weights.shape[-1:]
    fits = fits and all(0 <= o <= REACH for o in word.offsets) and 0 < word.threshold <= 1 and word.scores.ndim == 2
    if not fits or not np.isfinite(word.weights).all() or not np.isfinite(word.bias):
        raise WordError(f"{origin}: damaged (its numbers do not fit together); add {word.name!r} again, or restore it")
    return word


class WordStore(Store[UserWord]):
    """The words of a state directory."""

    suffix, thing, error = ".word", "word", WordError

    def parse(self, name: str, data: bytes) -> UserWord:
        return from_bytes(data, self.encoder_id, str(self.path(name)))

    def to_bytes(self, thing: UserWord) -> bytes:
        return to_bytes(thing)
