"""The daemon's life. Start-up is nested contexts, so that teardown is the reverse of it.

Signals only set a flag: SIGTERM and SIGINT stop, a second SIGINT exits at once, SIGHUP reloads.
READY is sent before the microphone opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from kwsd import config_file
from kwsd.audio.files import AudioFileError
from kwsd.audio.raw_pcm import RawFormat
from kwsd.config import Config, ConfigError
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.in_force import Origins, overridden
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.events import Event, MicrophoneChange, to_dict
from kwsd.model import bundle as bundles
from kwsd.model.runtime import Runtime
from kwsd.protocol.data import Clip, WordPeaks
from kwsd.protocol.errors import RequestError
from kwsd.server.clients import descriptors, serving
from kwsd.server.clip_recorder import ClipRecorder
from kwsd.server.disk import Disk
from kwsd.server.handlers import Handlers, Parts
from kwsd.server.hub import Hub
from kwsd.server.listener import Listener
from kwsd.server.pauses import Pauses
from kwsd.server.peak_recorder import PeakRecorder
from kwsd.server.process import prepare, return_free_memory, set_log_level
from kwsd.server.sound_server import MoveWatch
from kwsd.server.sources import (
    LiveInput,
    RecordingSource,
    open_recording,
    open_standard_input,
)
from kwsd.server.state_handlers import StateHandlers
from kwsd.server.unix_socket import warn_of_groups
from kwsd.server.watchdog import FAILURE, Watchdog
from kwsd.state.folder import claimed
from kwsd.systemd import Notifier

log = logging.getLogger(__name__)
T = TypeVar("T")
NO_INPUT = 66
"""Exit status after a recording that is damaged (sysexits.h)."""
AT_NEXT_START = ("models", "state", "socket", "lookback_s")
"""Keys of the configuration that a reload leaves as they are."""


@dataclass(frozen=True)
class RunOptions:
    """What `kwsd run` was asked for, beside the configuration."""

    config: Config
    config_path: Path | None = None
    """The file to read again on a reload; None for the first default one that exists."""
    source: str = "mic"
    """`mic`, a recording, or `-` for raw PCM on standard input."""
    realtime: bool = False
    wait_for_client: bool = False
    raw_format: RawFormat = field(default_factory=RawFormat)
    """Format of raw PCM."""
    required_words: Collection[str] = ()
    """Words that must be usable; others in the configuration are left out where they are not."""
    overrides: Callable[[Config], Config] = lambda config: config
    """What the command line changes in any configuration, also a reloaded one."""
    found: Path | None = None
    """The file that `config` was read from."""
    origins: Origins = field(default_factory=dict)
    """Where the keys of `config` were set."""
    on_event: Callable[[Event], None] | None = None
    """Called with every event, on the event loop."""


class Daemon:
    """Owns the configuration in force and the detector's setup, and all parts."""

    def __init__(self, options: RunOptions) -> None:
        """Load everything that a start needs.

        Raises ConfigError, BundleError or AudioFileError.
        """
        self.config = options.config
        set_log_level(self.config.log_level)
        self._options = options
        self._config_path = options.found
        self._origins = options.origins
        self._notifier = Notifier()
        self._hub = Hub()
        self._disk = Disk()
        self._stop = asyncio.Event()
        self._applying = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._failure: BaseException | None = None
        self._recording_ended = False
        self._bundle = bundles.load(self.config.models_path())
        folder = self.config.state_directory()
        self._state = StateHandlers(
            folder, self._bundle, lambda: self.config, lambda: self._origins
        )
        self._runtime = Runtime(self._bundle)
        self.setup = self._resolve(self.config)
        channel = self.config.microphone.channel
        source: RecordingSource | LiveInput | None = None
        if options.source == "-":
            source = open_standard_input(options.raw_format, channel, realtime=options.realtime)
        elif options.source != "mic":
            source = open_recording(options.source, channel, realtime=options.realtime)
        self._listener = Listener(
            self.config,
            Detector(self._bundle, self.setup, self._runtime),
            emit=lambda event: self._cross(self.publish, event),
            done=lambda error: self._cross(self._ended, error),
            source=source,
        )
        self._pauses = Pauses(self._listener)
        self._moves = MoveWatch(self._moved)
        self._clips = ClipRecorder(self._keep_clip, self._state.keeps_clips(self.config))
        self._peaks = PeakRecorder(self._keep_peaks, self._listener.clock)
        self._listener.consumers += [self._clips, self._peaks]
        parts = Parts(
            config=lambda: self.config,
            listener=self._listener,
            hub=self._hub,
            state=self._state,
            disk=self._disk,
            embedder=self._embedder,
            peaks=self._peaks,
            pauses=self._pauses,
            apply=self._apply_state,
            reload=self.reload,
            config_path=lambda: self._config_path,
        )
        self._handlers = Handlers(parts)

    async def start(self) -> int:
        """Start, and run until `stop` is called or the recording has ended; return the exit status.

        Raises ConfigError or OSError where the socket cannot be bound.
        """
        options = self._options
        _warn(self.setup)
        warn_of_groups(self.config.socket)
        path = self.config.socket_path()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._notifier.close)
            stack.enter_context(self._disk)
            if stack.enter_context(claimed(self._state.folder)):
                self._disk.write("what a crash has left behind", self._tidy)
            else:
                text = "state: another daemon uses %s too; give each one of its own"
                log.warning(text, self._state.folder)
            self._disk.write("the age of clips", self._state.clips.make_room)
            self._disk.write("the check of clips and peaks", self._state.check_records)
            handlers = self._handlers
            socket = self.config.socket
            served = serving(
                path, socket, self._hub, handlers.greeting, handlers.dispatch, handlers.left
            )
            try:
                await stack.enter_async_context(served)
            except ConfigError as error:
                raise self._located(error) from error
            stack.enter_context(self._signals())
            stack.enter_context(self._listener.running())
            watchdog = Watchdog(self._listener, self._notifier, self._disk, self.publish)
            watching = [watchdog.watch(lambda: self.config.microphone.stall_s)]
            if options.source == "mic":
                watching.append(self._moves.watch())
            for task in [self._loop.create_task(watch) for watch in watching]:
                stack.push_async_callback(_cancel, task)
            self._notifier.send(READY=1, STATUS="starting to listen")
            stack.callback(self._notifier.send, STOPPING=1)
            words = ", ".join(self.setup.words) or "no word"
            log.info("listening for %s on %s; socket %s", words, options.source, path)
            if options.wait_for_client:
                await _either(self._hub.subscribed, self._stop)
            # What is loaded stays: to look through it for garbage would hold a wake up for 50 ms.
            gc.collect()
            gc.freeze()
            return_free_memory()
            self._listener.go()
            await self._stop.wait()
            # Events that crossed over with the end are published before the backlogs are checked.
            await asyncio.sleep(0)
            if self._recording_ended:
                self._hub.end()
            await self._hub.drain(5.0 if self._recording_ended else 0.2)
        if isinstance(self._failure, AudioFileError):  # the log names it
            return NO_INPUT
        return FAILURE if self._failure else 0

    def stop(self) -> None:
        """Stop soon."""
        self._stop.set()

    def publish(self, event: Event) -> None:
        """Send an event to every subscriber. Call it on the event loop."""
        log.debug("event: %s", to_dict(event))
        self._hub.publish(event)
        if isinstance(event, MicrophoneChange):
            self._notifier.send(STATUS=self._status(event.state, event.detail))
            if event.state == "ok":
                self._moves.look()
        if self._options.on_event:
            self._options.on_event(event)

    def _moved(self, source: str) -> None:
        """Report that a sound server gives the sound of another source."""
        log.warning("microphone moved: the sound server now gives %s", source)
        self.publish(MicrophoneChange(state="moved", detail=source))

    async def reload(self) -> None:
        """Read the configuration and the state directory again.

        Raises RequestError, and then nothing has changed.
        """
        self._notifier.reloading()
        try:
            async with self._applying:
                try:
                    loaded = config_file.read(self._options.config_path)
                except ConfigError as error:
                    raise self._refused(error) from error
                config = self._options.overrides(loaded.config)
                await self._apply(self._without_later_keys(config))
                self._config_path = loaded.path
                self._origins = {**loaded.origins, **overridden(loaded.config, config)}
                warn_of_groups(self.config.socket)
        finally:
            stats = self._listener.stats
            detail = f"by {', '.join(stats.paused_by)}" if stats.paused_by else stats.source
            self._notifier.send(READY=1, STATUS=self._status(stats.microphone, detail))
        words = ", ".join(self.setup.words) or "no word"
        log.info("reloaded: %s; %d speaker(s)", words, len(self.setup.speakers.voiceprints))

    async def _apply_state(self) -> None:
        """Apply a changed state directory. Raises RequestError, and then nothing has changed."""
        async with self._applying:
            await self._apply(self.config)

    async def _apply(self, config: Config) -> None:
        """Put `config` and the state directory in force; one at a time, under the lock.

        Raises RequestError, and then nothing has changed.
        """
        resolved = self._disk.run(lambda: self._resolve(config))
        try:
            setup = await asyncio.wrap_future(resolved)
        except (ConfigError, bundles.BundleError, OSError) as error:
            raise self._refused(error) from error
        configured = self._listener.call(lambda: self._configure(config, setup))
        await asyncio.wrap_future(configured)
        self.config = config
        self.setup = setup
        set_log_level(config.log_level)
        _warn(setup)

    def _configure(self, config: Config, setup: DetectorSetup) -> None:
        """Configure the listener, on its thread."""
        self._listener.configure(config, setup)
        self._clips.enabled = self._state.keeps_clips(config)

    def _resolve(self, config: Config) -> DetectorSetup:
        """Return the setup, for which the runtime has loaded all: the listener must not wait."""
        library = self._state.library()
        required = self._options.required_words
        setup = resolve(config, self._bundle, library, required, self._state.enabled)
        self._runtime.checker(setup.checker, voices=bool(setup.speakers.voiceprints))
        return setup

    def _embedder(self) -> Embedder:
        checker = self._listener.detector.checker
        return Embedder(self._bundle, self._runtime, checker.graph if checker else None)

    def _without_later_keys(self, config: Config) -> Config:
        for key in AT_NEXT_START:
            present = getattr(self.config, key)
            if getattr(config, key) != present:
                log.warning("a changed %s takes effect at the next start", key)
                config = msgspec.structs.replace(config, **{key: present})
        return config

    def _located(self, error: ConfigError) -> ConfigError:
        """Return an error about a key with the file and line that set the key."""
        where = self._origins.get(str(error).partition(":")[0])
        return ConfigError(f"{where}: {error}") if where else error

    @staticmethod
    def _refused(error: Exception) -> RequestError:
        log.error("reload refused, everything stays as it was: %s", error)
        return RequestError("bad_config", str(error))

    def _tidy(self) -> None:
        for path in self._state.tidy():
            log.warning("%s was left behind by a crash, and is deleted", path)

    def _keep_clip(self, clip: Clip, samples: np.ndarray) -> None:
        self._disk.write("a clip", lambda: self._state.clips.add(clip, samples))

    def _keep_peaks(self, words: dict[str, WordPeaks]) -> None:
        """Log a stretch of peaks, and delete clips that have grown too old meanwhile."""
        if self.config.log_peaks:
            self._disk.write("peaks", lambda: self._state.calibration.log.append(words))
        self._disk.write("the age of clips", self._state.clips.make_room)

    def _status(self, state: str, detail: str) -> str:
        if state == "lost":
            return f"microphone lost, trying again: {detail}"
        if state in ("silent", "paused"):
            return f"microphone {state}: {detail}"
        words = ", ".join(self.setup.words) or "no word"
        enrolled = len(self.setup.speakers.voiceprints)
        return f"listening for {words} on {detail}; {enrolled} speaker(s) enrolled"

    def _ended(self, error: BaseException | None) -> None:
        self._failure = error
        self._recording_ended = error is None and not self._stop.is_set()
        self.stop()

    def _cross(self, do: Callable[[T], None], value: T) -> None:
        """Go from the listener's thread to the event loop, as every event does."""
        with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody listens
            self._loop.call_soon_threadsafe(do, value)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        tasks: set[asyncio.Task[None]] = set()

        def interrupt() -> None:
            if self._stop.is_set():
                os._exit(130)
            self.stop()

        def hang_up() -> None:
            task = self._loop.create_task(_ignoring_refusal(self.reload))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: interrupt, signal.SIGHUP: hang_up}
        for number, handler in handlers.items():
            self._loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                self._loop.remove_signal_handler(number)


def run(options: RunOptions) -> int:
    """Run a daemon and return its exit status.

    Raises ConfigError, BundleError or AudioFileError before anything has started.
    """
    prepare(descriptors(options.config.socket.max_clients))

    async def live() -> int:
        return await Daemon(options).start()

    return asyncio.run(live())


def _warn(setup: DetectorSetup) -> None:
    for warning in setup.warnings:
        log.warning("%s", warning)


async def _ignoring_refusal(reload: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(RequestError):
        await reload()


async def _either(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
