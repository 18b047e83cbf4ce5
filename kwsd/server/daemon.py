"""The daemon's life: start-up as nested contexts, so that the way down is the reverse of the way up.

Signals only set a flag: SIGTERM and SIGINT stop, a second SIGINT exits at once, SIGHUP reloads. READY is sent before the
microphone opens. WATCHDOG=1 is sent only when the listener's beats have risen since the last time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from kwsd import config as configuration
from kwsd.config import Config, ConfigError
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.setup import vocabulary
from kwsd.events import Event, Microphone
from kwsd.model import bundle as bundles
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.protocol.messages import RequestError
from kwsd.server.handlers import Service
from kwsd.server.hub import Hub
from kwsd.server.listener import Listener, open_recording
from kwsd.server.state_handlers import Keeping
from kwsd.server.systemd import Notifier
from kwsd.server.unix_socket import serving

log = logging.getLogger(__name__)
T = TypeVar("T")
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
"""Options of mallopt(3)."""


@dataclass(frozen=True)
class Run:
    """What `kwsd run` was asked for, beside the configuration."""

    config: Config
    config_path: Path | None = None
    source: str = "mic"
    """`mic`, a recording, or `-` for raw PCM on standard input."""
    realtime: bool = False
    wait_for_client: bool = False
    rate: int = 16000
    """Of raw PCM, with `channels`."""
    channels: int = 1
    overrides: Callable[[Config], Config] = lambda config: config
    """What the command line changes in any configuration, also a reloaded one."""
    on_event: Callable[[Event], None] | None = None
    """Told of every event, on the event loop."""


def _frugal_heap() -> None:
    """Ask glibc for one heap instead of one a thread, and for free memory to go back at once: several MiB of a daemon's 80."""
    with contextlib.suppress(AttributeError, OSError):  # another C library does as it likes
        c = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 1 << 16)):
            c.mallopt(option, value)


async def run(asked: Run) -> int:
    """The daemon until it is told to stop or its recording has ended; the exit status.

    Raises ConfigError, BundleError or AudioFileError before anything has started."""
    _frugal_heap()
    notifier, hub, stop = Notifier(), Hub(), asyncio.Event()
    loop = asyncio.get_running_loop()
    failure: list[BaseException] = []
    bundle = bundles.load(Path(asked.config.models) if asked.config.models else None)
    keeping = Keeping(asked.config.state_directory(), bundle, lambda: service.config)
    household = keeping.household()
    vocabulary(asked.config, bundle, household[1], household[2])
    recording = None
    if asked.source != "mic":
        recording = open_recording(asked.source, asked.config, realtime=asked.realtime, rate=asked.rate, channels=asked.channels)
    student, speaker = Student(bundle), SpeakerEncoder(bundle)
    detector = Detector(asked.config, bundle, *household, student=student, speaker=speaker)

    def publish(event: Event) -> None:
        hub.publish(event.to_dict())
        if isinstance(event, Microphone):
            notifier.send(STATUS=_status(service, event))
        if asked.on_event:
            asked.on_event(event)

    def done(error: BaseException | None) -> None:
        if error is not None:
            failure.append(error)
        stop.set()

    listener = Listener(
        asked.config, detector, emit=lambda event: _cross(loop, publish, event),
        done=lambda error: _cross(loop, done, error), recording=recording,
    )  # fmt: skip

    async def reload() -> None:
        notifier.reloading()
        try:
            await _reload(asked, service)
        finally:
            notifier.send(READY=1, STATUS=_status(service, None))

    listener.on_clip, listener.on_peaks = keeping.keep_clip, keeping.keep_peaks
    service = Service(asked.config, listener, hub, keeping, Embedder(bundle, student, speaker), reload)
    if asked.config.speaker.require != "anyone" and not detector.voiceprints:
        log.warning("speaker.require asks for an enrolled speaker, and none is enrolled: every wake will be rejected; run `kwsd enroll NAME`")

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(keeping)
        await stack.enter_async_context(serving(asked.config.socket_path(), asked.config.socket, hub, service.hello, service.dispatch))
        stack.enter_context(_signals(loop, stop, reload))
        stack.enter_context(listener.running())
        if notifier.watchdog_s:
            stack.push_async_callback(_cancel, loop.create_task(_watch(notifier, listener)))
        notifier.send(READY=1, STATUS="starting to listen")
        stack.callback(notifier.send, STOPPING=1)
        log.info("listening for %s on %s; socket %s", ", ".join(detector.triggers), asked.source, asked.config.socket_path())
        if asked.wait_for_client:
            await _either(hub.subscribed, stop)
        listener.go()
        await stop.wait()
        await asyncio.sleep(0)  # events that crossed over with the end are published before the backlogs are looked at
        await hub.drain(5.0 if recording is not None and not failure else 0.2)
    return 70 if failure else 0


def _cross(loop: asyncio.AbstractEventLoop, tell: Callable[[T], None], what: T) -> None:
    """From the listener's thread to the event loop; here and nowhere else."""
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
        loop.call_soon_threadsafe(tell, what)


def _status(service: Service, event: Microphone | None) -> str:
    figures, words = service.listener.figures, ", ".join(service.listener.detector.triggers)
    state, detail = (event.state, event.detail) if event else (figures.microphone, figures.source)
    if state == "lost":
        return f"microphone lost, trying again: {detail}"
    return f"listening for {words} on {detail}; {len(service.listener.detector.voiceprints)} speaker(s) enrolled"


async def _reload(asked: Run, service: Service) -> None:
    """Configuration, words and voiceprints anew; on any error everything stays as it was. Raises RequestError."""
    household = await asyncio.wrap_future(service.keeping.in_turn(service.keeping.household))
    try:
        new = asked.overrides(configuration.load(asked.config_path))
        vocabulary(new, service.listener.detector.bundle, household[1], household[2])
    except ConfigError as error:
        log.error("reload refused, everything stays as it was: %s", error)
        raise RequestError("bad_config", str(error)) from error
    for key in ("models", "state", "socket", "lookback_s"):
        if getattr(new, key) != getattr(service.config, key):
            log.warning("a changed %s takes effect at the next start", key)
            new = replace(new, **{key: getattr(service.config, key)})
    await asyncio.wrap_future(service.listener.call(lambda: service.listener.configure(new, *household)))
    service.config = new
    log.info("reloaded: %s; %d speaker(s)", ", ".join(service.listener.detector.triggers), len(household[0]))


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, reload: Callable[[], object]) -> Iterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    async def reload_quietly() -> None:
        with contextlib.suppress(RequestError):
            await reload()  # type: ignore[misc]

    def hang_up() -> None:
        task = loop.create_task(reload_quietly())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: interrupt, signal.SIGHUP: hang_up}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def _watch(notifier: Notifier, listener: Listener) -> None:
    assert notifier.watchdog_s
    seen = -1
    while True:
        if listener.beats != seen:
            seen = listener.beats
            notifier.send(WATCHDOG=1)
        await asyncio.sleep(notifier.watchdog_s / 3)


async def _either(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(e.wait()) for e in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
