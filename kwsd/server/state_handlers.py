"""What a state directory keeps, by request: voiceprints, added words, calibration, peaks and clips.

The daemon answers the requests of its clients with it, and so can a verb that was given a folder and needs no daemon. Everything
that touches the disk stands here; in the daemon it is done on one thread, in turn.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast, get_args

import numpy as np

from kwsd.config import SAMPLE_RATE, Config, ConfigError
from kwsd.detect.setup import speaker_threshold, vocabulary
from kwsd.model.bundle import Bundle
from kwsd.protocol import messages as protocol
from kwsd.protocol.messages import Body, RequestError
from kwsd.state.calibration import Calibration, CalibrationError, CalibrationStore, of_body, speaker_trials
from kwsd.state.clips import Clip, ClipError, ClipLabel, ClipStore
from kwsd.state.peak_log import PeakLog, WordPeaks, pack
from kwsd.state.store import Named, StateError, Store
from kwsd.state.voiceprints import Likeness, Voiceprint, VoiceprintError, VoiceprintStore, read_cohort
from kwsd.state.words import UserWord, WordError, WordStore, about, check_name, from_bytes, to_bytes

log = logging.getLogger(__name__)
N = TypeVar("N", bound=Named)
T = TypeVar("T")
CHANGING = frozenset({"speakers.delete", "words.put", "words.delete", "calibration.put", "calibration.undo"})
"""Requests after which the detector has something to take up."""
MOST_PEAKS = 4000
"""Of one word, that a message carries."""
MOST_WAITING = 32
"""Pieces of evidence that may wait for a slow disk; more are lost."""


class Keeping:
    def __init__(self, folder: Path, bundle: Bundle, config: Callable[[], Config]) -> None:
        self.bundle, self._config = bundle, config
        self.voiceprints, self.words = VoiceprintStore(folder, bundle.encoder_id), WordStore(folder, bundle.encoder_id)
        self.calibrations = CalibrationStore(folder, bundle.encoder_id)
        self.peaks, self.clips = PeakLog(folder), ClipStore(folder, lambda: config().clips)
        self._does: dict[str, Callable[[Body], Body]] = {
            "speakers": self._speakers, "speakers.delete": self._delete_speaker, "speakers.trials": self._trials, "words": self._words,
            "words.get": self._get_word, "words.put": self._put_word, "words.delete": self._delete_word, "calibration": self._calibration,
            "calibration.put": self._calibrate, "calibration.undo": self._undo, "peaks": self._peaks, "clips": self._clips,
            "clips.get": self._get_clip, "clips.label": self._label_clips, "clips.clear": self._clear_clips,
        }  # fmt: skip
        self.requests = frozenset(self._does)
        self._thread = ThreadPoolExecutor(1, "keeping")
        self._waiting = 0

    def __enter__(self) -> Keeping:
        self.in_turn(self.clips.make_room)  # so that its thread is there from the start, too, not hours later
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)

    def request(self, type: str, **fields: Any) -> Body:
        """Answer a request whose fields the protocol has checked. Raises RequestError."""
        return self._does[type](fields)

    def in_turn(self, do: Callable[[], T]) -> Future[T]:
        """Run `do` on the keeping's own thread, after what was asked before."""
        return self._thread.submit(do)

    def household(self) -> tuple[dict[str, Voiceprint], dict[str, UserWord], Calibration]:
        """What the detector is to know; the log says what of it cannot be used."""
        try:
            calibration = self.calibrations.current()
        except CalibrationError as error:
            log.error("%s", error)
            calibration = Calibration(self.bundle.encoder_id)
        return _usable(self.voiceprints), _usable(self.words), calibration

    def keep_clip(self, clip: Clip, samples: np.ndarray) -> None:
        """Soon, and without anybody waiting for it; a disk that is full costs the clip and a line in the log."""
        self._soon("a clip", lambda: self.clips.add(clip, samples))

    def keep_peaks(self, words: dict[str, WordPeaks]) -> None:
        """What a stretch of time held, where the configuration asks for it; and time has passed for the clips as well."""
        if self._config().log_peaks:
            self._soon("peaks", lambda: self.peaks.append(words))
        self._soon("the clips' age", self.clips.make_room)

    def _soon(self, what: str, do: Callable[[], Any]) -> None:
        if self._waiting >= MOST_WAITING:
            log.error("the disk is too slow: %s could not be kept", what)
            return
        self._waiting += 1

        def done(future: Future[Any]) -> None:
            self._waiting -= 1
            if error := future.exception():
                log.error("%s could not be kept: %s", what, error)

        self._thread.submit(do).add_done_callback(done)

    def _speakers(self, body: Body) -> Body:
        good, bad = self.voiceprints.load_all()
        listed = [{"name": v.name, "takes": len(v.takes), "created": v.created} for v in good.values()]
        return {"speakers": listed, "unusable": [str(e) for e in bad]}

    def _delete_speaker(self, body: Body) -> Body:
        try:
            self.voiceprints.delete(body["name"])
        except VoiceprintError as error:
            raise RequestError("no_speaker", str(error)) from error
        return {"deleted": body["name"]}

    def _trials(self, body: Body) -> Body:
        good, _ = self.voiceprints.load_all()
        people = {name: one.takes for name, one in good.items()}
        own, strange = speaker_trials(people, read_cohort(self.bundle, "strangers"), Likeness(self.bundle))
        return {"people": len(good), "own": np.round(own, 4).tolist(), "strange": np.round(strange, 4).tolist()[:100_000]}

    def _words(self, body: Body) -> Body:
        good, bad = self.words.load_all()
        return {"words": [about(word) for word in good.values()], "unusable": [str(e) for e in bad]}

    def _get_word(self, body: Body) -> Body:
        try:
            word = self.words.load(check_name(body["name"]))
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error
        return {"name": word.name, "file": base64.b64encode(to_bytes(word)).decode()}

    def _put_word(self, body: Body) -> Body:
        try:
            word = from_bytes(unbase64("words.put: file", body["file"]), self.bundle.encoder_id, "words.put")
        except WordError as error:
            raise RequestError("bad_word", str(error)) from error
        if word.name in self.bundle.words:
            raise RequestError("bad_word", f"{word.name!r} comes with kwsd; call yours something else")
        replaces = self.words.path(word.name).exists()
        _save(self.words, word)
        return {"name": word.name, "replaces": replaces}

    def _delete_word(self, body: Body) -> Body:
        try:
            name = check_name(body["name"])
            if name in self._config().words:
                raise RequestError("in_use", f"{name!r} stands in the configuration; take it out of `words` there first")
            self.words.delete(name)
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error
        return {"deleted": name}

    def _calibration(self, body: Body) -> Body:
        try:
            kept = self.calibrations.current()
            listened = vocabulary(self._config(), self.bundle, _usable(self.words), kept)
        except (CalibrationError, ConfigError) as error:
            raise RequestError("bad_calibration" if isinstance(error, CalibrationError) else "bad_config", str(error)) from error
        words = {name: {"threshold": one.threshold, "model": one.known.id, "origin": one.origin} for name, one in listened.items()}
        threshold, origin = speaker_threshold(self._config(), self.bundle, kept)
        return {"words": words, "speaker": {"threshold": threshold, "origin": origin}, "earlier": len(kept.earlier)}

    def _calibrate(self, body: Body) -> Body:
        try:
            new = of_body(self.bundle.encoder_id, body.get("words", {}), body.get("speaker"))
        except CalibrationError as error:
            raise RequestError("bad_calibration", str(error)) from error
        _save(self.calibrations, self._current().changed(new.words, new.speaker))
        return {}

    def _undo(self, body: Body) -> Body:
        try:
            before = self._current().undone()
        except CalibrationError as error:
            raise RequestError("bad_calibration", str(error)) from error
        _save(self.calibrations, before)
        return before.state()

    def _current(self) -> Calibration:
        """One that cannot be used (of another encoder) gives way to a new one."""
        try:
            return self.calibrations.current()
        except CalibrationError:
            return Calibration(self.bundle.encoder_id)

    def _peaks(self, body: Body) -> Body:
        try:
            found = self.peaks.read(float(body.get("since", 0.0)))
        except OSError as error:
            raise RequestError("internal", f"{self.peaks.path}: cannot be read ({error.strerror})") from error
        labels = [[label.word, label.time, label.right] for label in self.clips.labels()]
        return {"words": {name: pack(stretches, MOST_PEAKS) for name, stretches in found.items()}, "labels": labels}

    def _clips(self, body: Body) -> Body:
        return {"clips": [_told(clip) for clip in self.clips.listed()], "enabled": self._config().clips.enabled}

    def _get_clip(self, body: Body) -> Body:
        try:
            (clip,) = self.clips.find([body["name"]])
            return {"clip": asdict(clip), "sample_rate": SAMPLE_RATE, "pcm": protocol.pcm(self.clips.samples(clip))}
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error

    def _label_clips(self, body: Body) -> Body:
        label = body.get("label")
        if label not in (None, *get_args(ClipLabel)):
            raise RequestError("bad_request", f"clips.label: {label!r} is not right, wrong, or null")
        try:
            self.clips.label(body["names"], cast(ClipLabel | None, label))
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error
        return {"labelled": len(body["names"])}

    def _clear_clips(self, body: Body) -> Body:
        try:
            return {"deleted": self.clips.clear(body.get("names"))}
        except ClipError as error:
            raise RequestError("no_clip", str(error)) from error


def _told(clip: Clip) -> Body:
    """A clip in a list, without its chunks' scores."""
    return {k: v for k, v in asdict(clip).items() if k != "scores"}


def _usable(store: Store[N]) -> dict[str, N]:
    """What of a store can be used, by name; the log says what cannot."""
    good, bad = store.load_all()
    for error in bad:
        log.error("%s", error)
    return good


def _save(store: Store[N], thing: N) -> None:
    try:
        store.save(thing)
    except StateError as error:
        raise RequestError("not_saved", str(error)) from error


def unbase64(what: str, text: str) -> bytes:
    """Raises RequestError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("bad_request", f"{what} is not base64 ({error})") from error
