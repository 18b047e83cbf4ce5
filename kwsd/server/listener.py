"""The listener: the one thread that owns the source and the detector.

Promises:
- What it hears goes to `emit` (called on this thread; the daemon crosses to the event loop
  there) and to the consumers.
- What others want of the detector runs between two blocks (`call`), so that nothing needs a lock.
- A lost microphone or pipe is reported and retried for ever; any other error ends the thread and is
  given to `done`.
- While it is paused (`paused_by`), the microphone is released, what a pipe gives is dropped, and a
  recording is held. `paused` is reported when that is so.
- `ok` is reported when sound has come, not when a device was opened.
- `heartbeats` rises when audio and inference have moved forward, before the source is read at all
  (`go`), in a pause, and while a known loss is being retried. Nothing else moves it.
- `moves` rises also while a read waits. Where it stands still, the thread hangs in a call.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from kwsd.audio.capture import Block, Microphone
from kwsd.audio.devices import MicrophoneError
from kwsd.audio.files import AudioFileError
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.audio.ring import Ring
from kwsd.config import Config
from kwsd.detect.detector import Detector
from kwsd.detect.setup import DetectorSetup
from kwsd.events import Detection, Event, MicrophoneChange, MicrophoneState, Wake
from kwsd.server.consumer import Break, Consumer, Heard
from kwsd.server.source_health import LagWatch, silence
from kwsd.server.sources import LiveInput, MicrophoneInput, RecordingSource, Source, StreamClock
from kwsd.server.stats import Stats

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_MAX_S = 15.0
"""Longest pause between two attempts to open a lost device."""
STEADY_S = 1.0
"""A device that has delivered for this long is not about to be lost again at once."""
STALE_S = 1.0
"""An event that is later than this is stale."""


class Listener:
    """The listener thread."""

    def __init__(
        self,
        config: Config,
        detector: Detector,
        emit: Callable[[Event], None],
        done: Callable[[BaseException | None], None],
        source: RecordingSource | LiveInput | None = None,
    ) -> None:
        """`source` stands in place of the microphone.

        `emit` gets every event; `done` gets the error that ended the thread, or None.
        """
        self.detector = detector
        self.stats = Stats()
        self.heartbeats = 0
        self.moves = 0
        self.audio = Ring(int(config.lookback_s * SAMPLE_RATE), np.int16)
        """The look-back, whose indices are the stream's."""
        recording = source if isinstance(source, RecordingSource) else None
        timeless = recording is not None and not recording.realtime
        self.clock = StreamClock(began=time.time() if timeless else None)
        self.consumers: list[Consumer] = []
        """Changed before the thread starts, and on it (through `call`)."""
        self._config = config
        self._emit = emit
        self._done = done
        self._recording = recording
        self.live = recording is None
        """Whether it listens to something that goes on for ever."""
        self._input: LiveInput = MicrophoneInput()
        if source is not None and not isinstance(source, RecordingSource):
            self._input = source
        self.paused_by: tuple[str, ...] = ()
        """Who has paused it. The event loop sets it; it is so once `stats.paused_by` is the same.
        """
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._go = threading.Event()
        self._reopen = False
        self._broken_off = False  # reading was to stop, and the source has not ended
        self._reported_lost = False
        self._interrupted = True  # nothing has come from the source since it was opened
        self._heard_until = 0.0
        self._looked_at_s = -1  # the second of audio at which the channels were looked at last
        self._lag = LagWatch()
        self._high_pass = HighPass()
        self._thread = threading.Thread(target=self._main, name="listener", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether a loss was reported, and no sound has come since."""
        return self._reported_lost

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the thread for as long as the context lasts."""
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
        """Begin to read; until then the source is not touched."""
        self._go.set()

    def call(self, do: Callable[[], T]) -> Future[T]:
        """Run `do` on the listener's thread between two blocks."""
        future: Future[T] = Future()
        self._calls.put((do, future))
        return future

    def configure(self, config: Config, setup: DetectorSetup) -> None:
        """Apply another configuration and setup. Call it on the listener's thread."""
        for consumer in self.consumers:
            consumer.reset()
        self.detector.configure(setup)
        if config.microphone != self._config.microphone:
            self._reopen = isinstance(self._input, MicrophoneInput) and self._recording is None
        self._config = config

    def _main(self) -> None:
        try:
            while not self._go.wait(0.05):
                self._beat()
                self._serve_calls()
                self._rest(lambda: not self._go.wait(0.05))
            if self._recording is not None:
                self._listen_to(self._recording)
            else:
                self._listen_for_ever()
            self._close(None)
        except AudioFileError as error:  # a recording ends where it is damaged
            log.error("%s", error)
            self._close(error)
        except BaseException as error:
            log.exception("the listener died")
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """Say that it has ended, after what the consumers have to say."""
        try:
            for consumer in self.consumers:
                consumer.close()
        finally:
            self._done(error)

    def _listen_to(self, recording: RecordingSource) -> None:
        """Hear a recording to its end. Raises AudioFileError."""
        while not self._stop.is_set():
            self._rest(recording.rest)
            self._listen(recording)
            if not self._broken_off:
                return

    def _listen_for_ever(self) -> None:
        pause_s = self._config.microphone.retry_s
        while not self._stop.is_set():
            if self.paused_by:
                if not self._rest(self._input.rest):
                    return
                if not self._stop.is_set():
                    self._input.rescan()
                continue
            began = time.monotonic()
            try:
                with self._input.open(self._config.microphone, self._breaks_off) as source:
                    self._interrupted = True
                    self._reopen = False
                    began = time.monotonic()
                    self._listen(source)
                    if not (self._reopen or self._broken_off):
                        return
            except MicrophoneError as error:
                self._lost(str(error))
                if self._heard_until - began > STEADY_S:
                    pause_s = self._config.microphone.retry_s
                self._idle(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                self._input.rescan()

    def _listen(self, source: Source) -> None:
        """Hear a source until it ends, or until this is stopped or paused.

        Raises MicrophoneError.
        """
        self._broken_off = False
        while not (self._breaks_off() or self._reopen):
            every_block = any(consumer.every_block for consumer in self.consumers)
            block = source.read(1 if every_block else self.detector.max_chunks_per_call)
            if block is None:
                return
            self._watch(source, block)
            self._hear(block)
            self._serve_calls()

    def _breaks_off(self) -> bool:
        """Return whether to stop reading; whoever waits for sound asks this all the time."""
        self.moves += 1
        self._broken_off = self._broken_off or self._stop.is_set() or bool(self.paused_by)
        return self._broken_off

    def _rest(self, rest: Callable[[], bool]) -> bool:
        """Stay paused while somebody wants that, with `rest` again and again; go on answering.

        Return whether the source goes on, as `rest` says.
        """
        goes_on = True
        while goes_on and (holders := self.paused_by) and not self._stop.is_set():
            if holders != self.stats.paused_by:
                self._report_pause(holders)
            goes_on = rest()
            self._beat()
            self._serve_calls()
        if self.stats.paused_by and not self.paused_by:
            log.info("microphone resumed")
            self.stats.paused_by = ()
            self._reported_lost = False
            self._interrupted = True
            self.stats.microphone = "lost"  # until sound comes
        return goes_on

    def _report_pause(self, holders: tuple[str, ...]) -> None:
        detail = f"by {', '.join(holders)}"
        log.info("microphone paused: %s", detail)
        self._emit(MicrophoneChange(state="paused", detail=detail, holders=holders))
        self.stats.meter = None
        self.stats.microphone = "paused"
        self.stats.paused_by = holders
        self._break_off("paused")

    def _beat(self) -> None:
        self.moves += 1
        self.heartbeats += 1

    def _lost(self, why: str) -> None:
        if self.stats.microphone != "lost" or not self._reported_lost:
            log.error("microphone lost: %s; trying again", why)
            self._emit(MicrophoneChange(state="lost", detail=why))
        self._reported_lost = True
        self.stats.microphone = "lost"
        self.stats.meter = None
        self._break_off("lost")

    def _watch(self, source: Source, block: Block) -> None:
        """Report what a block says about its source."""
        if self._interrupted or self.stats.microphone == "lost":
            self._arrived(source, block)
        elif block.overflowed:
            self._overflowed(block)
        self._interrupted = False
        self._heard_until = block.arrived
        meter = source.meter
        if meter is None:
            return
        self.stats.meter = meter
        if self.stats.samples // SAMPLE_RATE == self._looked_at_s:
            return
        self._looked_at_s = self.stats.samples // SAMPLE_RATE
        text = silence(meter, source.channel, source.name)
        if text and self.stats.microphone == "ok":
            self._change("silent", text)
        elif not text and self.stats.microphone == "silent":
            self._change("ok", source.name)

    def _arrived(self, source: Source, block: Block) -> None:
        """Report the first block of a source that was opened, or that comes again."""
        if self._heard_until and self.live:  # a recording was held meanwhile
            self._gap(max(self._missing(block), 0))
        self.stats.source = source.name
        self._reported_lost = False
        format = ""
        if isinstance(source, Microphone):
            format = f", {source.rate} Hz, {source.channels} channel(s)"
        self._change("ok", source.name, format)

    def _change(self, state: MicrophoneState, detail: str, more: str = "") -> None:
        log.log(
            logging.INFO if state == "ok" else logging.WARNING,
            "microphone %s: %s%s",
            state,
            detail,
            more,
        )
        self.stats.microphone = state
        self._emit(MicrophoneChange(state=state, detail=detail))

    def _missing(self, block: Block) -> int:
        """Return how many samples are missing before a block, by the clock."""
        elapsed = round((block.arrived - self._heard_until) * SAMPLE_RATE)
        return elapsed - len(block.samples)

    def _hear(self, block: Block) -> None:
        began = time.thread_time()
        block = replace(block, samples=self._high_pass.step(block.samples))
        self.audio.append(block.samples)
        self.clock.advance(self.audio.end, block.arrived)
        step = self.detector.feed(block.samples)
        self.stats.cpu_s += time.thread_time() - began
        self.stats.samples += len(block.samples)
        self._beat()
        self._note_lag(block)
        wakes = tuple(self._stamped(wake, block.arrived) for wake in step.wakes)
        loudness, words = self.detector.loudness, self.detector.setup.words
        heard = Heard(block, self.audio, wakes, step.trace, loudness, words)
        for consumer in list(self.consumers):
            consumer.consume(heard)

    def _note_lag(self, block: Block) -> None:
        if self._recording is not None and not self._recording.realtime:
            return
        now = time.monotonic()
        change = self._lag.step(max(now - block.arrived, 0.0), now)
        self.stats.lag_s = self._lag.lag_s
        if change is not None:
            if change.behind:
                text = "%.1f s behind %s: kwsd was held up, or this machine is too slow or too busy"
                log.warning(text, change.lag_s, self.stats.source)
            else:
                log.info("caught up with %s", self.stats.source)
            self._emit(change)

    def _overflowed(self, block: Block) -> None:
        lost = max(self._missing(block), 1)
        log.warning("the microphone overflowed: about %d samples lost", lost)
        self._gap(lost)
        change = MicrophoneChange(state="overflow", detail=self.stats.source, samples_lost=lost)
        self._emit(change)

    def _stamped(self, wake: Detection, arrived: float) -> Detection:
        """Emit an event with its wall-clock time and latency, and return it."""
        self.stats.wakes += isinstance(wake, Wake)
        latency_s = time.monotonic() - arrived
        stamped = msgspec.structs.replace(
            wake,
            time=round(self.clock.wall(wake.end), 3),
            latency_ms=round(1000 * latency_s, 2),
            stale=True if latency_s > STALE_S else None,
        )
        self._emit(stamped)
        return stamped

    def _gap(self, samples: int) -> None:
        """Skip `samples` that were lost: the index moves on, the detector starts again."""
        self._break_off("gap")
        self.detector.discontinuity(samples)
        self._high_pass = HighPass()
        self.audio.restart(self.detector.end)

    def _break_off(self, why: Break) -> None:
        for consumer in list(self.consumers):
            consumer.broken_off(why)

    def _idle(self, seconds: float) -> None:
        """Wait for the microphone to come back, unless it is paused, and go on answering.

        This loss is known, so it counts as a heartbeat.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.paused_by and not self._stop.wait(0.05):
            self._beat()
            self._serve_calls()

    def _serve_calls(self) -> None:
        while not self._calls.empty():
            do, future = self._calls.get()
            self.moves += 1
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)
