"""Clips: recordings of wakes and near misses, kept on this machine until they are too many or too
old.

A clip is a WAV and a JSON file beside it, mode 0600. The WAV is written first, so that a clip that
is listed is whole. Their ages and their order do not depend on a wall clock that jumps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.bounded import file as bounded
from kwsd.bounded import json as bounded_json
from kwsd.bounded.file import Damaged
from kwsd.config import ClipsConfig
from kwsd.names import identifier
from kwsd.protocol.data import Clip, ClipLabel, LabeledTime
from kwsd.state.clip_ages import ClipAges
from kwsd.state.folder import CLIPS
from kwsd.state.store import LATEST, StateError, write_atomically

BEFORE_S = 1.5
"""Seconds of a clip before the word."""
AFTER_S = 0.5
"""Seconds of a clip after the word."""
MAX_JSON = 256 << 10
"""Bytes of the JSON file of a clip."""
MAX_SAMPLES = 60 * SAMPLE_RATE
"""Samples of a clip: no word is nearly so long."""
MAX_WAV = 2 * MAX_SAMPLES + 1024
"""Bytes of the WAV file of a clip."""
CLEAR = "remove it, or clear all clips with `kwsd clips clear --all`"


class ClipError(StateError):
    """A clip is missing, or cannot be kept or labeled; the message says why."""


class ClipStore:
    """The folder `clips` of a state directory; `limits` are read again for every clip."""

    def __init__(self, state: Path, limits: Callable[[], ClipsConfig]) -> None:
        self.folder = state / CLIPS
        self._limits = limits
        self._ages = ClipAges(self.folder / "ages")

    def add(self, clip: Clip, samples: np.ndarray) -> Clip:
        """Store int16 `[sample]` under an id made of its time and word, and make room.

        Return the clip with its id. Raises ClipError.
        """
        base = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clip.time)) + f"-{identifier(clip.word)}"
        id = base
        number = 1
        while self._file(id, ".json").exists():
            number += 1
            id = f"{base}-{number}"
        clip = msgspec.structs.replace(clip, id=id)
        try:
            write_atomically(self._file(id, ".wav"), pcm.wav_bytes(samples))
            self._write(clip)
        except OSError as error:
            self._file(id, ".wav").unlink(missing_ok=True)
            text = f"{self.folder}: the clip {id} could not be kept ({error.strerror})"
            raise ClipError(f"{text}; make room, or lower clips.max_mib") from error
        self.make_room(new=id)
        return clip

    def listed(self) -> list[Clip]:
        """Return all clips, the oldest first; damaged ones are skipped."""
        return self.load_all()[0]

    def load_all(self) -> tuple[list[Clip], list[StateError]]:
        """Return all clips, the oldest first, and why others cannot be used.

        Raises OSError where descriptors or memory have run out.
        """
        clips: list[Clip] = []
        bad: list[StateError] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                clips.append(_read(path))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                if error.errno in bounded.STARVED:
                    raise
                bad.append(ClipError(f"{path}: cannot be read ({error.strerror}); {CLEAR}"))
            except Damaged as error:
                bad.append(ClipError(f"{path}: damaged ({error}); {CLEAR}"))
        recorded = self._ages.recorded()
        return sorted(clips, key=lambda clip: (recorded.get(clip.id, clip.time), clip.id)), bad

    def find(self, ids: Iterable[str]) -> list[Clip]:
        """Return the clips with these ids. Raises ClipError where one is missing."""
        ids = list(ids)
        known = {clip.id: clip for clip in self.listed()}
        for id in ids:
            if id not in known:
                raise ClipError(f"there is no clip {id!r}; `kwsd clips list` names them")
        return [known[id] for id in ids]

    def samples(self, clip: Clip) -> np.ndarray:
        """Return the audio of a clip, int16 `[sample]` at 16 kHz. Raises ClipError."""
        path = self._file(clip.id, ".wav")
        try:
            return pcm.from_wav_bytes(bounded.read(path, MAX_WAV, links=False))
        except OSError as error:
            raise ClipError(f"{path}: cannot be read ({error.strerror}); {CLEAR}") from error
        except ValueError as error:
            raise ClipError(f"{path}: damaged ({error}); {CLEAR}") from error

    def label(self, ids: Iterable[str], label: ClipLabel | None) -> None:
        """Label clips as the word or not; None takes the label back.

        Raises ClipError; where a clip is missing, before any is changed.
        """
        for clip in self.find(ids):
            try:
                self._write(msgspec.structs.replace(clip, label=label))
            except OSError as error:
                text = f"{self.folder}: {clip.id} could not be labeled ({error.strerror})"
                raise ClipError(f"{text}; make room and try again") from error

    def labels(self) -> list[LabeledTime]:
        """Return all labels, by the time of their clips."""
        return [
            LabeledTime(clip.word, clip.time, clip.label == "right")
            for clip in self.listed()
            if clip.label
        ]

    def clear(self, ids: Iterable[str] | None = None) -> int:
        """Delete these clips, or all, and return how many. Raises ClipError."""
        clips = self.listed() if ids is None else self.find(ids)
        try:
            for clip in clips:
                self._delete(clip)
            if ids is None:  # also what is damaged or half there
                for pattern in ("*.json", "*.wav", ".*.partial", "ages"):
                    for path in self.folder.glob(pattern):
                        path.unlink(missing_ok=True)
        except OSError as error:
            text = f"{self.folder}: could not be cleared ({error.strerror})"
            raise ClipError(text) from error
        return len(clips)

    def size(self) -> int:
        """Return how many bytes all files of clips take."""
        total = 0
        for path in self.folder.glob("*"):
            with suppress(OSError):  # deleted meanwhile
                total += path.lstat().st_size
        return total

    def make_room(self, new: str = "") -> None:
        """Delete what is too old, and the oldest of what is too many or too large.

        `new` is the id of a clip that was recorded just now.
        """
        limits = self._limits()
        clips = self.listed()
        sizes = {}
        for clip in clips:
            with suppress(OSError):
                files = (self._file(clip.id, suffix) for suffix in (".wav", ".json"))
                sizes[clip.id] = sum(file.stat().st_size for file in files)
        count = len(clips)
        total = sum(sizes.values())
        ages = self._ages.update(clips, new)
        for clip in sorted(clips, key=lambda clip: (clip.label is not None, -ages[clip.id])):
            too_old = ages[clip.id] > limits.max_age_days * 86400
            if count > limits.max_count or total > limits.max_mib * 2**20 or too_old:
                with suppress(OSError):
                    self._delete(clip)
                    clips.remove(clip)
                count -= 1
                total -= sizes.get(clip.id, 0)
        if not clips:
            self._ages.update(clips)

    def _delete(self, clip: Clip) -> None:
        self._file(clip.id, ".json").unlink(missing_ok=True)
        self._file(clip.id, ".wav").unlink(missing_ok=True)

    def _write(self, clip: Clip) -> None:
        write_atomically(self._file(clip.id, ".json"), msgspec.json.encode(clip))

    def _file(self, id: str, suffix: str) -> Path:
        return self.folder / (id + suffix)


def _read(path: Path) -> Clip:
    """Return the clip that a JSON file describes. Raises OSError or Damaged."""
    clip = bounded_json.decode(bounded.read(path, MAX_JSON, links=False), Clip)
    if clip.id != path.stem:
        raise Damaged(f"it describes the clip {clip.id!r}")
    if not 0 <= clip.time <= LATEST:
        raise Damaged("it was recorded at no time that there is")
    if not 0 <= clip.start <= clip.end <= MAX_SAMPLES:
        raise Damaged(f"its word lies in samples {clip.start} to {clip.end}")
    scores = [clip.score, clip.threshold, *(score for _, score in clip.scores)]
    if clip.speaker:
        scores += [clip.speaker.score, clip.speaker.threshold]
    if not all(0 <= score <= 1 for score in scores):
        raise Damaged("a score lies between 0 and 1")
    if not all(0 <= at <= MAX_SAMPLES for at, _ in clip.scores):
        raise Damaged("it has a score where it has no sample")
    return clip
