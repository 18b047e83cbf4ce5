"""Clips: recordings of wakes and near misses, kept on this machine alone, each with its scores, until they are too many or too old.

A clip is a WAV and a JSON file beside it, 0600; the WAV is written first, so that a clip that is listed is whole.
"""

from __future__ import annotations

import io
import json
import time
import wave
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kwsd.config import SAMPLE_RATE
from kwsd.config import Clips as Limits
from kwsd.state.calibration import Label
from kwsd.state.store import StateError, write_atomically

BEFORE_S, AFTER_S = 1.5, 0.5
"""What a clip holds beside the word."""
ClipLabel = Literal["right", "wrong"]


class ClipError(StateError):
    """A clip is not there, or cannot be kept or labelled; the message says why."""


@dataclass(frozen=True)
class Clip:
    id: str
    word: str
    model: str
    """Id of the model of the word that gave the score."""
    kind: str
    """`wake`, or why it was rejected."""
    time: float
    """Of the end of the word, seconds since the epoch."""
    score: float
    threshold: float
    start: int
    """First sample of the word in the clip."""
    end: int
    scores: tuple[tuple[int, float], ...]
    """Of the chunks in the clip: the sample after each, and the score there."""
    speaker: dict[str, Any] | None = None
    label: ClipLabel | None = None
    """Whether it was the word, as a user has said."""


class ClipStore:
    """The folder `clips` of a state directory. `limits` are read anew at every turn."""

    def __init__(self, state: Path, limits: Callable[[], Limits]) -> None:
        self.folder, self._limits = state / "clips", limits

    def add(self, clip: Clip, samples: np.ndarray) -> Clip:
        """Keep int16 `[sample]` under a name of its time and word, and make room. Raises ClipError."""
        base = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clip.time)) + f"-{clip.word}"
        id, n = base, 1
        while self._file(id, ".json").exists():
            n += 1
            id = f"{base}-{n}"
        clip = replace(clip, id=id)
        try:
            write_atomically(self._file(id, ".wav"), wav_bytes(samples))
            self._write(clip)
        except OSError as error:
            self._file(id, ".wav").unlink(missing_ok=True)
            raise ClipError(f"{self.folder}: the clip {id} could not be kept ({error.strerror}); make room, or lower clips.max_mib") from error
        self.make_room()
        return clip

    def listed(self) -> list[Clip]:
        """All clips, the oldest first; what is damaged is passed over."""
        clips = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                body = json.loads(path.read_bytes())
                clip = Clip(**{**body, "scores": tuple((int(at), float(score)) for at, score in body["scores"])})
                if clip.id == path.stem and clip.label in (None, *get_args(ClipLabel)):
                    clips.append(clip)
        return sorted(clips, key=lambda clip: (clip.time, clip.id))

    def find(self, ids: Iterable[str]) -> list[Clip]:
        """Raises ClipError where one is not there."""
        known = {clip.id: clip for clip in self.listed()}
        for id in ids:
            if id not in known:
                raise ClipError(f"there is no clip {id!r}; `kwsd clips list` names them")
        return [known[id] for id in ids]

    def samples(self, clip: Clip) -> np.ndarray:
        """int16 `[sample]` at 16 kHz. Raises ClipError."""
        try:
            with wave.open(str(self._file(clip.id, ".wav")), "rb") as wav:
                return np.frombuffer(wav.readframes(wav.getnframes()), "<i2").astype(np.int16)
        except (OSError, EOFError, wave.Error) as error:
            raise ClipError(f"{self._file(clip.id, '.wav')}: cannot be read ({error})") from error

    def label(self, ids: Iterable[str], label: ClipLabel | None) -> None:
        """Say of clips whether they were the word; None takes it back. Raises ClipError, where one is not there before any is changed."""
        for clip in self.find(list(ids)):
            try:
                self._write(replace(clip, label=label))
            except OSError as error:
                raise ClipError(f"{self.folder}: {clip.id} could not be labelled ({error.strerror}); make room and try again") from error

    def labels(self) -> list[Label]:
        return [Label(clip.word, clip.time, clip.label == "right") for clip in self.listed() if clip.label]

    def clear(self, ids: Iterable[str] | None = None) -> int:
        """Delete these clips, or all; how many. Raises ClipError."""
        clips = self.listed() if ids is None else self.find(list(ids))
        try:
            for clip in clips:
                self._delete(clip)
            if ids is None:  # with what is damaged or half there
                for path in [*self.folder.glob("*.json"), *self.folder.glob("*.wav"), *self.folder.glob(".*.partial")]:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise ClipError(f"{self.folder}: could not be cleared ({error.strerror})") from error
        return len(clips)

    def make_room(self) -> None:
        """Delete what is too old, and the oldest of what is too many or too large."""
        limits, clips = self._limits(), self.listed()
        sizes = {}
        for clip in clips:
            with suppress(OSError):
                sizes[clip.id] = sum(self._file(clip.id, suffix).stat().st_size for suffix in (".wav", ".json"))
        oldest_first = sorted(clips, key=lambda clip: (clip.label is not None, clip.time))
        count, total, now = len(clips), sum(sizes.values()), time.time()
        for clip in oldest_first:
            if count > limits.max_count or total > limits.max_mib * 2**20 or now - clip.time > limits.max_age_days * 86400:
                with suppress(OSError):
                    self._delete(clip)
                count, total = count - 1, total - sizes.get(clip.id, 0)

    def _delete(self, clip: Clip) -> None:
        self._file(clip.id, ".json").unlink(missing_ok=True)
        self._file(clip.id, ".wav").unlink(missing_ok=True)

    def _write(self, clip: Clip) -> None:
        write_atomically(self._file(clip.id, ".json"), json.dumps(asdict(clip), ensure_ascii=False).encode())

    def _file(self, id: str, suffix: str) -> Path:
        return self.folder / (id + suffix)


def wav_bytes(samples: np.ndarray) -> bytes:
    """int16 `[sample]` at 16 kHz as a WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE)
        wav.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
