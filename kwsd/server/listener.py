"""The listener: the one thread that owns the microphone and the detector.

Promises:
- What it hears goes to `emit` (called on this thread; the daemon crosses to the event loop there and nowhere else).
- What others want of the detector is done between two blocks (`call`), so that nothing needs a lock.
- A lost microphone is reported and retried for ever; an error of any other kind ends the thread and is given to `done`.
- `beats` rises when audio and inference have moved forward, or a known loss is being mended. Nothing else moves it.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from kwsd.audio import capture, files
from kwsd.audio.capture import Block, MicrophoneError
from kwsd.audio.ring import Ring
from kwsd.config import SAMPLE_RATE, Config
from kwsd.detect.detector import Detector, Trace
from kwsd.detect.offline import with_tail
from kwsd.detect.peaks import PeakMeter
from kwsd.events import Event, Microphone, Wake
from kwsd.state.calibration import Calibration
from kwsd.state.clips import AFTER_S, BEFORE_S, Clip
from kwsd.state.peak_log import WordPeaks
from kwsd.state.voiceprints import Voiceprint
from kwsd.state.words import UserWord

log = logging.getLogger(__name__)
T = TypeVar("T")
BLOCK_S = 0.08
PEAKS_EVERY_S = 600
LONGEST_CLIP_S = 8.0
RETRY_MAX_S = 15.0


class Source(Protocol):
    """Something to listen to."""

    name: str

    def read(self, blocks: int = 1) -> Block | None:
        """The next `blocks` of 80 ms in one (fewer at the end), or None at the end. Raises MicrophoneError where it was lost."""


class Recording:
    """A file or a pipe as a source; in `realtime`, no faster than it was spoken."""

    def __init__(self, name: str, blocks: Iterator[np.ndarray], realtime: bool) -> None:
        self.name, self._blocks, self._realtime = name, blocks, realtime
        self._due = 0.0

    def read(self, blocks: int = 1) -> Block | None:
        parts = list(islice(self._blocks, blocks))
        if not parts:
            return None
        samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + len(samples) / SAMPLE_RATE if self._due else now + len(samples) / SAMPLE_RATE
        if self._realtime and self._due > now:
            time.sleep(self._due - now)
        return Block(samples, time.monotonic())


def open_recording(path: str, config: Config, *, realtime: bool, rate: int, channels: int) -> Recording:
    """The recording `path`, or raw PCM on standard input for `-`. Raises AudioFileError."""
    channel = config.microphone.channel
    if path == "-":
        blocks = files.raw_blocks(sys.stdin.buffer, rate, channels, channel, BLOCK_S)
        return Recording("standard input", with_tail(blocks), realtime)
    files.open_file(path).close()  # what is no recording is refused before anything starts
    return Recording(path, with_tail(files.read_blocks(Path(path), BLOCK_S, channel)), realtime)


@dataclass
class Figures:
    """Running counts, written by the listener alone."""

    samples: int = 0
    cpu_s: float = 0.0
    microphone: str = "lost"
    source: str = ""
    wakes: int = 0


class Listener:
    def __init__(
        self,
        config: Config,
        detector: Detector,
        emit: Callable[[Event], None],
        done: Callable[[BaseException | None], None],
        recording: Recording | None = None,
    ) -> None:
        self.detector, self.figures, self.beats = detector, Figures(), 0
        self.audio = Ring(int(config.lookback_s * SAMPLE_RATE), np.int16)
        """The look-back; its indices are the stream's."""
        self.on_block: Callable[[Block], None] | None = None
        self.on_heard: Callable[[Wake], None] | None = None
        """Set by an enrolment, on this thread, through `call`."""
        self.on_clip: Callable[[Clip, np.ndarray], None] | None = None
        """Told of each clip that the configuration asks to keep."""
        self.on_peaks: Callable[[dict[str, WordPeaks]], None] | None = None
        """Told every ten minutes what came near a word in them."""
        detector.on_trace = self._traced
        self._meter, self._metered = PeakMeter(), 0
        self._traces: deque[Trace] = deque(maxlen=int(LONGEST_CLIP_S / BLOCK_S))
        self._wanted: list[Wake] = []
        self._config, self._emit, self._done, self._recording = config, emit, done, recording
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stop, self._reopen = threading.Event(), False
        self._go = threading.Event()
        self._heard_until, self._began = 0.0, time.time()
        self._thread = threading.Thread(target=self._main, name="listener", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._go.set()
            self._thread.join(timeout=0.6)
            if self._thread.is_alive():
                log.error("the listener did not stop in time; leaving it behind")

    def go(self) -> None:
        """Begin to read; until then the source stays untouched."""
        self._go.set()

    def call(self, do: Callable[[], T]) -> Future[T]:
        """Run `do` on the listener's thread between two blocks."""
        future: Future[T] = Future()
        self._calls.put((do, future))
        return future

    def configure(self, config: Config, voiceprints: Mapping[str, Voiceprint], words: Mapping[str, UserWord], calibration: Calibration) -> None:
        """On the listener's thread: take up another configuration and what a state directory holds. Raises ConfigError, and then nothing has changed."""
        self.tell_peaks()
        self.detector.configure(config, voiceprints, words, calibration)
        self._traces.clear()  # their columns are other words'
        self._reopen = self._recording is None and config.microphone != self._config.microphone
        self._config = config

    def _main(self) -> None:
        try:
            while not self._go.wait(0.05):
                self._serve_calls()
                self.beats += 1
            if self._recording is not None:
                self._listen(self._recording)
            else:
                self._listen_for_ever()
            self._done(None)
        except BaseException as error:
            log.exception("the listener died")
            self._done(error)
        finally:
            self._cut_clips(at_the_end=True)
            self.tell_peaks()

    def _listen_for_ever(self) -> None:
        pause, lost_at = self._config.microphone.retry_s, None
        while not self._stop.is_set():
            try:
                with self._open() as microphone:
                    if lost_at is not None:
                        self._gap(int((time.monotonic() - lost_at) * SAMPLE_RATE))
                    pause, lost_at, self._reopen = self._config.microphone.retry_s, None, False
                    self.figures.microphone, self.figures.source = "ok", microphone.name
                    log.info("microphone ok: %s, %d Hz, %d channel(s)", microphone.name, microphone.rate, microphone.channels)
                    self._emit(Microphone("ok", microphone.name))
                    self._listen(microphone)
                    lost_at = time.monotonic()
            except MicrophoneError as error:
                if self.figures.microphone != "lost" or lost_at is None:
                    log.error("microphone lost: %s; trying again", error)
                    self._emit(Microphone("lost", str(error)))
                lost_at = lost_at if lost_at is not None else time.monotonic()
                self.figures.microphone = "lost"
                self._idle(pause)
                pause = min(pause * 2, RETRY_MAX_S)
                capture.rescan()

    def _open(self) -> AbstractContextManager[capture.Microphone]:
        return capture.open_microphone(self._config.microphone, BLOCK_S, self._stop.is_set)

    def _listen(self, source: Source) -> None:
        self.figures.source = source.name
        if source is self._recording:
            self.figures.microphone = "ok"
            self._emit(Microphone("ok", source.name))
        while not (self._stop.is_set() or self._reopen):
            block = source.read(1 if self.on_block else self.detector.patience)
            if block is None:
                return
            self._hear(block)
            self._serve_calls()

    def _hear(self, block: Block) -> None:
        if block.overflowed:
            lost = max(round((block.arrived - self._heard_until) * SAMPLE_RATE) - len(block.samples), 1) if self._heard_until else 1
            log.warning("the microphone overflowed: about %d samples lost", lost)
            self._gap(lost)
            self._emit(Microphone("overflow", self.figures.source, lost))
        self._heard_until = block.arrived
        began = time.thread_time()
        self.audio.append(block.samples)
        wakes = self.detector.feed(block.samples)
        self.figures.cpu_s += time.thread_time() - began
        self.figures.samples += len(block.samples)
        self.beats += 1
        for wake in wakes:
            self._tell(wake, block.arrived)
        if self._wanted:
            self._cut_clips()
        if self.figures.samples - self._metered >= PEAKS_EVERY_S * SAMPLE_RATE:
            self.tell_peaks()
        if self.on_block:
            self.on_block(block)

    def _tell(self, wake: Wake, arrived: float) -> None:
        now = time.monotonic()
        self.figures.wakes += wake.reason is None
        wake = replace(wake, time=round(self._wall(wake.end, now - arrived), 3), latency_ms=round(1000 * (now - arrived), 2))
        self._emit(wake)
        if self._config.clips.enabled:
            self._wanted.append(wake)
        if self.on_heard:
            self.on_heard(wake)

    def _wall(self, sample: int, since_last_s: float = 0.0) -> float:
        """When `sample` was, seconds since the epoch; of a recording: as if it had been played since it was opened."""
        if self._recording is not None:
            return self._began + sample / SAMPLE_RATE
        return time.time() - since_last_s - (self.audio.end - sample) / SAMPLE_RATE

    def _traced(self, trace: Trace) -> None:
        self._meter.add(trace)
        if self._config.clips.enabled:
            self._traces.append(trace)

    def _cut_clips(self, at_the_end: bool = False) -> None:
        """Hand out the clips whose last half second has been heard."""
        ready = [w for w in self._wanted if at_the_end or self.audio.end >= w.end + AFTER_S * SAMPLE_RATE]
        self._wanted = [w for w in self._wanted if w not in ready]
        for wake in ready:
            begin = max(wake.start - int(BEFORE_S * SAMPLE_RATE), self.audio.begin)
            end = min(wake.end + int(AFTER_S * SAMPLE_RATE), self.audio.end)
            if self.on_clip and begin < wake.end <= end:
                self.on_clip(self._clip(wake, begin, end), cast(np.ndarray, self.audio.read(begin, end)))

    def _clip(self, wake: Wake, begin: int, end: int) -> Clip:
        scores = [
            (int(at) - begin, round(float(row[trace.words.index(wake.word)]), 4))
            for trace in self._traces if wake.word in trace.words
            for at, row in zip(trace.end, trace.scores, strict=True) if begin < at <= end
        ]  # fmt: skip
        known = self.detector.listened.get(wake.word)
        return Clip(
            "", wake.word, known.known.id if known else "", wake.reason or "wake", wake.time or 0.0, wake.score, wake.threshold, max(wake.start - begin, 0),
            wake.end - begin, tuple(scores), asdict(wake.speaker) if wake.speaker else None,
        )  # fmt: skip

    def tell_peaks(self) -> None:
        """On the listener's thread, or when it has ended: hand out the peaks since the last time."""
        samples, found = self.figures.samples - self._metered, self._meter.take()
        self._metered = self.figures.samples
        if not self.on_peaks or samples < SAMPLE_RATE:
            return
        words = {}
        for name, one in self.detector.listened.items():
            peaks = [(self._wall(at), score, score >= one.threshold) for at, score in found.get(name, ())]
            words[name] = WordPeaks(one.known.id, samples / SAMPLE_RATE, tuple(peaks))
        self.on_peaks(words)

    def _gap(self, samples: int) -> None:
        """`samples` are missing: the stream's index moves on, the detector starts anew."""
        self.detector.discontinuity(samples)
        self.audio.restart(self.detector.end)

    def _idle(self, seconds: float) -> None:
        """Wait for the microphone to come back, and go on answering. This loss is known: it counts as a beat."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.wait(0.05):
            self.beats += 1
            self._serve_calls()

    def _serve_calls(self) -> None:
        while not self._calls.empty():
            do, future = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)
