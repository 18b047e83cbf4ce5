"""The listener: the one thread that owns the source and the detector.

Promises:
- What it hears goes to `emit` (called on this thread; the daemon crosses to the event loop
  there) and to the consumers.
- What others want of the detector runs between two blocks (`call`), so that nothing needs a lock.
- A lost microphone is reported and retried for ever; any other error ends the thread and is given
  to `done`.
- `heartbeats` rises when audio and inference have moved forward, before the source is read at all
  (`go`), and while a known loss is being retried. Nothing else moves it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np

from kwsd.audio import capture, devices
from kwsd.audio.capture import Block
from kwsd.audio.devices import MicrophoneError
from kwsd.audio.format import BLOCK_S, SAMPLE_RATE
from kwsd.audio.ring import Ring
from kwsd.config import Config
from kwsd.detect.detector import Detector
from kwsd.detect.setup import DetectorSetup
from kwsd.events import Detection, Event, MicrophoneChange, MicrophoneState, Wake
from kwsd.server.consumer import Consumer, Heard
from kwsd.server.sources import RecordingSource, Source, StreamClock

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_MAX_S = 15.0
"""Longest pause between two attempts to open a lost device."""


@dataclass
class Stats:
    """Running counts, which the listener alone writes."""

    samples: int = 0
    cpu_s: float = 0.0
    microphone: MicrophoneState = "lost"
    source: str = ""
    wakes: int = 0


class Listener:
    """The listener thread."""

    def __init__(
        self,
        config: Config,
        detector: Detector,
        emit: Callable[[Event], None],
        done: Callable[[BaseException | None], None],
        recording: RecordingSource | None = None,
    ) -> None:
        """`recording` is the source in place of the microphone.

        `emit` gets every event; `done` gets the error that ended the thread, or None.
        """
        self.detector = detector
        self.stats = Stats()
        self.heartbeats = 0
        self.audio = Ring(int(config.lookback_s * SAMPLE_RATE), np.int16)
        """The look-back, whose indices are the stream's."""
        self.clock = StreamClock(began=time.time() if recording else None)
        self.consumers: list[Consumer] = []
        """Changed before the thread starts, and on it (through `call`)."""
        self._config = config
        self._emit = emit
        self._done = done
        self._recording = recording
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._go = threading.Event()
        self._reopen = False
        self._heard_until = 0.0
        self._thread = threading.Thread(target=self._main, name="listener", daemon=True)

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
        microphone_changed = config.microphone != self._config.microphone
        self._reopen = self._recording is None and microphone_changed
        self._config = config

    def _main(self) -> None:
        try:
            while not self._go.wait(0.05):
                self.heartbeats += 1
                self._serve_calls()
            if self._recording is not None:
                self._listen(self._recording)
            else:
                self._listen_for_ever()
            self._done(None)
        except BaseException as error:
            log.exception("the listener died")
            self._done(error)
        finally:
            for consumer in self.consumers:
                consumer.close()

    def _listen_for_ever(self) -> None:
        pause_s = self._config.microphone.retry_s
        lost_at: float | None = None
        while not self._stop.is_set():
            try:
                with self._open() as microphone:
                    if lost_at is not None:
                        self._gap(int((time.monotonic() - lost_at) * SAMPLE_RATE))
                    pause_s = self._config.microphone.retry_s
                    lost_at = None
                    self._reopen = False
                    self._opened(microphone)
                    self._listen(microphone)
                    lost_at = time.monotonic()
            except MicrophoneError as error:
                if self.stats.microphone != "lost" or lost_at is None:
                    log.error("microphone lost: %s; trying again", error)
                    self._emit(MicrophoneChange(state="lost", detail=str(error)))
                lost_at = lost_at if lost_at is not None else time.monotonic()
                self.stats.microphone = "lost"
                self._idle(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                devices.rescan()

    def _open(self) -> AbstractContextManager[capture.Microphone]:
        return capture.open_microphone(self._config.microphone, BLOCK_S, self._stop.is_set)

    def _opened(self, microphone: capture.Microphone) -> None:
        self.stats.microphone = "ok"
        self.stats.source = microphone.name
        rate = microphone.rate
        log.info(
            "microphone ok: %s, %d Hz, %d channel(s)", microphone.name, rate, microphone.channels
        )
        self._emit(MicrophoneChange(state="ok", detail=microphone.name))

    def _listen(self, source: Source) -> None:
        self.stats.source = source.name
        if source is self._recording:
            self.stats.microphone = "ok"
            self._emit(MicrophoneChange(state="ok", detail=source.name))
        while not (self._stop.is_set() or self._reopen):
            every_block = any(consumer.every_block for consumer in self.consumers)
            block = source.read(1 if every_block else self.detector.max_chunks_per_call)
            if block is None:
                return
            self._hear(block)
            self._serve_calls()

    def _hear(self, block: Block) -> None:
        if block.overflowed:
            self._overflowed(block)
        self._heard_until = block.arrived
        began = time.thread_time()
        self.audio.append(block.samples)
        self.clock.advance(self.audio.end, block.arrived)
        step = self.detector.feed(block.samples)
        self.stats.cpu_s += time.thread_time() - began
        self.stats.samples += len(block.samples)
        self.heartbeats += 1
        wakes = tuple(self._stamped(wake, block.arrived) for wake in step.wakes)
        heard = Heard(block, self.audio, wakes, step.trace, self.detector.setup.words)
        for consumer in list(self.consumers):
            consumer.consume(heard)

    def _overflowed(self, block: Block) -> None:
        lost = 1
        if self._heard_until:
            elapsed = round((block.arrived - self._heard_until) * SAMPLE_RATE)
            lost = max(elapsed - len(block.samples), 1)
        log.warning("the microphone overflowed: about %d samples lost", lost)
        self._gap(lost)
        change = MicrophoneChange(state="overflow", detail=self.stats.source, samples_lost=lost)
        self._emit(change)

    def _stamped(self, wake: Detection, arrived: float) -> Detection:
        """Emit an event with its wall-clock time and latency, and return it."""
        self.stats.wakes += isinstance(wake, Wake)
        stamped = msgspec.structs.replace(
            wake,
            time=round(self.clock.wall(wake.end), 3),
            latency_ms=round(1000 * (time.monotonic() - arrived), 2),
        )
        self._emit(stamped)
        return stamped

    def _gap(self, samples: int) -> None:
        """Skip `samples` that were lost: the index moves on, the detector starts again."""
        self.detector.discontinuity(samples)
        self.audio.restart(self.detector.end)

    def _idle(self, seconds: float) -> None:
        """Wait for the microphone to come back, and go on answering.

        This loss is known, so it counts as a heartbeat.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.wait(0.05):
            self.heartbeats += 1
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
