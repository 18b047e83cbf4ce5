"""Fixtures: speech by espeak-ng, the shipped bundle, a daemon in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

# As the verbs do; numpy's threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import forked
import kept
import numpy as np
import pytest
import soundfile
from fake_portaudio import FakePortAudio
from hypothesis import settings

from kwsd.audio import capture, devices
from kwsd.audio.synthesis import espeak
from kwsd.client.client import Client, connect
from kwsd.learn import stream_stage
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.word_takes import FIRING_CHUNKS
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.protocol.data import MadeFrom
from kwsd.protocol.errors import DaemonError
from kwsd.state.words import CONTEXT_FRAMES, AddedWord, check_word_name

if TYPE_CHECKING:
    from kwsd.training.data.training_data import TrainingData

RATE = 16000
PHRASE = "hey banana"
"""A word that a user might add."""
VOICES = ("en-us", "en-us+f3", "en-gb+m3", "en-gb-scotland+f2", "en-us+m7", "en-029+f5")
"""Voices that say it."""
ROOT = Path(__file__).parent.parent
TRAINING = Path(__file__).parent / "training"
"""The folder of the tests that need the extra `[train]`."""

PEERS = Path(__file__).parent / "peers"
"""The folder of the tests that need the libraries and programs that bridges speak to."""
WEB = Path(__file__).parent / "web"
"""The folder of the tests of the page, in a real browser."""
LIBRARIES = {
    "training": ["torch"],
    "peers": ["wyoming", "aiomqtt", "prometheus_client"],
    "web": ["uvicorn", "playwright", "axe_playwright_python"],
}
"""What the tests of a folder cannot even be imported without."""

collect_ignore = [
    folder
    for folder, names in LIBRARIES.items()
    if not all(importlib.util.find_spec(name) for name in names)
]


settings.register_profile("kwsd", deadline=None)  # a slow machine is not a failure
settings.load_profile("kwsd")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of folders, and ignore those that are deselected."""
    kept.keep()
    config.addinivalue_line("markers", "training: needs torch and the rest of the extra [train]")
    config.addinivalue_line("markers", "peers: needs the real peers of the bridges")
    config.addinivalue_line("markers", "web: needs a browser, and the libraries of the page")
    for folder in LIBRARIES:  # to collect them would import what they need
        if f"not {folder}" in config.option.markexpr and folder not in collect_ignore:
            collect_ignore.append(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of folders."""
    for item in items:
        if TRAINING in item.path.parents:
            item.add_marker(pytest.mark.training)
        if PEERS in item.path.parents:
            item.add_marker(pytest.mark.peers)
        if WEB in item.path.parents:
            item.add_marker(pytest.mark.web)


def pytest_sessionfinish() -> None:
    """End the process that others were forked from."""
    forked.close()


def training_data(work: Path, takes: Iterable[tuple[np.ndarray, str, str, str]]) -> TrainingData:
    """Write a store `work/recorded` of `takes` (int16 samples, corpus, speaker, label), and rooms;
    return the data."""
    from kwsd.training.data.corpora import Recording, write_store
    from kwsd.training.data.training_data import TrainingData

    write_store(work / "recorded", (Recording(*take) for take in takes))
    np.savez(
        work / "rirs.npz",
        rirs=np.random.default_rng(0).normal(0, 1, (10, 800)) * np.exp(-np.arange(800) / 100),
    )
    return TrainingData.of(work, work / "rirs.npz")


def open_to_others(folder: Path) -> None:
    """Let other users into a folder of a test, and into those around it; not into that of all
    temporary files, which is as it is."""
    for one in (folder, *folder.parents):
        if one == Path(tempfile.gettempdir()):
            return
        one.chmod(0o755)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wake words and words of Speech Commands in many voices, a little noise, rooms, vectors of a
    voice teacher."""
    from kwsd.training.settings.catalog import default_words

    work = tmp_path_factory.mktemp("work")
    voices = [
        f"{accent}+{variant}"
        for accent in ("en-us", "en-gb")
        for variant in ("f1", "f3", "m1", "m3", "m7", "f4", "m5")
    ]
    takes = [
        (say(word.replace("_", " "), voice), "pico", voice, word)
        for voice in voices
        for word in default_words().names
    ]
    takes += [
        (say(word, voice, 130 + 10 * n), "gsc", voice, word)
        for voice in voices
        for word in ("bed", "cat")
        for n in range(3)
    ]
    takes += [
        (np.random.default_rng(n).normal(0, 300, 32000).astype(np.int16), "noise_mine", "", "")
        for n in range(12)
    ]
    training_data(work, takes)
    (work / "voice").mkdir()
    np.savez(
        work / "voice" / "voices.npz",
        people=np.array([f"gsc/{voice}" for voice in voices]),
        vectors=np.eye(14),
    )
    return work


def train(*arguments: str | Path) -> int:
    """Run `kwsd train` with `arguments`; return the exit status."""
    from kwsd.cli import train as verb

    parser = argparse.ArgumentParser(prog="kwsd train")
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(argument) for argument in arguments]))


def train_on_two_processes(script: Path, module: str, call: str, *arguments: Path) -> None:
    """Run `call` of the test module `module` under torchrun in two processes; `sys.argv[1:]` are
    the `arguments`."""
    script.write_text(
        f"import sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = {[str(path) for path in (ROOT, ROOT / 'tests', TRAINING)]!r}\n"
        f"from kwsd.model import bundle\nfrom kwsd.training import features\n"
        f"from {module} import *\n"
        f"front = bundle.load().front_end\nfeatures.front_end = lambda: front\n{call}\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        str(script),
        *map(str, arguments),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Let no daemon that ran in the test's own process say what is logged after it."""
    logger = logging.getLogger("kwsd")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The first stage of the bundle that comes with kwsd; `checkers` makes bundles of both."""
    return replace(bundles.load(), checkers={})


@pytest.fixture(scope="session")
def runtime(bundle: Bundle) -> Runtime:
    """The sessions of the bundle."""
    return Runtime(bundle)


def say(text: str, voice: str = "en-us", speed: int = 150, pitch: int = 50) -> np.ndarray:
    """Return int16 speech at 16 kHz, at about -23 dBFS."""
    return _said(text, voice, speed, pitch).copy()


@cache
def _said(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    x = espeak(text, voice, speed, pitch).astype(np.float32)
    scaled = np.asarray(x * (2300 / max(np.sqrt(np.mean(x**2)), 1)), np.float32)
    return scaled.clip(-32768, 32767).astype(np.int16)


def hiss(seconds: float, level: float = 3.0, seed: int = 0) -> np.ndarray:
    """Return int16 white noise at 16 kHz."""
    return np.random.default_rng(seed).normal(0, level, int(seconds * RATE)).astype(np.int16)


@pytest.fixture
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit added words to a quarter of the negatives: for tests of what is done with them."""
    monkeypatch.setattr(stream_stage, "DRAWN", stream_stage.DRAWN // 4)
    monkeypatch.setattr(stream_stage, "HARDEST", stream_stage.HARDEST // 4)


@pytest.fixture(scope="session")
def trainer(bundle: Bundle, runtime: Runtime) -> WordTrainer:
    """The trainer of added words."""
    return WordTrainer(bundle, runtime)


@pytest.fixture(scope="session")
def banana(trainer: WordTrainer) -> AddedWord:
    """The word `PHRASE`, made from one take of each voice."""
    takes = [trainer.encoder.take(say(PHRASE, voice)) for voice in VOICES]
    word, quality = trainer.make(PHRASE, takes)
    assert quality.missed <= 2
    assert not quality.outliers
    assert not quality.also_wakes
    return word


@pytest.fixture(scope="session")
def deaf_banana(bundle: Bundle, runtime: Runtime) -> AddedWord:
    """The word `PHRASE`, fitted to nothing: for tests that need its name alone."""
    dim = runtime.encoder.embedding_dim
    return AddedWord(
        name=check_word_name(PHRASE),
        encoder_id=bundle.encoder_id,
        offsets=(0, 2),
        weights=np.zeros((2, dim), np.float32),
        bias=-20.0,
        threshold=0.5,
        length_s=0.7,
        operating_points=(),
        takes=np.zeros((3, 2, CONTEXT_FRAMES + FIRING_CHUNKS, dim), np.float16),
        made=MadeFrom(takes=3),
    )


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """Twelve seconds, int16: quiet, speech, "computer" in two voices, a pause, speech again."""
    parts = [
        hiss(1.0),
        say("good evening, it is raining"),
        hiss(1.0),
        say("computer"),
        hiss(3.5),
        say("computer", "en-us+f3"),
        hiss(1.0),
        say("thank you very much", "en-gb+m2"),
        hiss(1.0),
    ]
    return np.concatenate(parts)


@pytest.fixture(scope="session")
def scene_wav(scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene as a WAV file."""
    path = tmp_path_factory.mktemp("audio") / "scene.wav"
    soundfile.write(path, scene, RATE)
    return path


FIRST_STAGE_ALONE = "checker: off\n"
"""The configuration of daemons whose models are not what is tested: the second stage takes longer
to load than all else."""


class Options(TypedDict, total=False):
    """How a daemon is run."""

    env: dict[str, str]
    """Beside the environment of the tests."""
    stdin: int
    program: Sequence[str]
    """The arguments of Python before those of `kwsd`, instead of `-m kwsd`."""
    wrapper: Sequence[str]
    """A command that runs it, as one that starts Python."""
    alone: bool
    """Whether `env` is its whole environment."""


class Daemon:
    """`kwsd run` in a process of its own, with the configuration `FIRST_STAGE_ALONE` where `folder`
    has none and the arguments name none.

    The process is forked, unless it has a `wrapper`; ["env"] is one that does nothing.
    """

    def __init__(self, folder: Path, *arguments: str, **options: Unpack[Options]) -> None:
        self.socket = folder / "k.sock"
        self.state = folder / "state"
        self.log = folder / "log"
        config = folder / "kwsd" / "kwsd.yaml"
        if not config.exists():
            config.parent.mkdir(exist_ok=True)
            config.write_text(FIRST_STAGE_ALONE)
        where = ["--socket", str(self.socket), "--state", str(self.state)]
        python = [*options.get("program", ("-m", "kwsd")), "run", *where, *arguments]
        env = options.get("env", {})
        if not options.get("alone"):
            given = {"PYTHONUNBUFFERED": "1", "XDG_CONFIG_HOME": str(folder)}
            env = {**os.environ, **given, **env}
        stdin = options.get("stdin", subprocess.DEVNULL)
        wrapper = options.get("wrapper")
        self.process: subprocess.Popen[bytes] | forked.Process
        with self.log.open("ab") as log:
            if wrapper:
                command = [*wrapper, sys.executable, *python]
                self.process = subprocess.Popen(
                    command, stdin=stdin, stdout=log, stderr=log, env=env
                )
            else:
                self.process = forked.Process(python, stdin=stdin, stdout=log, stderr=log, env=env)

    def connect(self) -> Client:
        """Return a client, as soon as the daemon answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return connect(self.socket)
            except DaemonError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    text = f"the daemon does not answer:\n{self.log.read_text()}"
                    raise AssertionError(text) from None
                time.sleep(0.02)

    def hear(self, samples: np.ndarray) -> None:
        """Write int16 samples into its standard input, of which it hears them as fast as it can."""
        assert self.process.stdin is not None
        self.process.stdin.write(samples.astype("<i2").tobytes())
        self.process.stdin.flush()

    def wait(self, timeout_s: float = 60) -> int:
        """Return the exit status, once it has ended."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


class Start:
    """Starts daemons with these arguments of `kwsd run`; their files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []

    def __call__(
        self, *arguments: str, folder: Path | None = None, **options: Unpack[Options]
    ) -> Daemon:
        self.daemons.append(Daemon(folder or self.folder, *arguments, **options))
        return self.daemons[-1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start daemons, and end those that still run."""
    starts = Start(tmp_path)
    yield starts
    for daemon in starts.daemons:
        daemon.kill()


RawClient = Callable[[Path], socket.socket]
"""Opens a plain socket to a daemon."""


@pytest.fixture
def raw_client() -> Iterator[RawClient]:
    """Open plain sockets to a daemon; they have read the greeting."""
    opened: list[socket.socket] = []

    def client(path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.append(sock)
        sock.settimeout(10)
        sock.connect(str(path))
        while sock.recv(1) != b"\n":
            pass
        return sock

    yield client
    for sock in opened:
        sock.close()


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of hiss with a word now and then, for daemons that must live on."""
    path = tmp_path_factory.mktemp("audio") / "endless.wav"
    part = np.concatenate([hiss(2.0), say("computer"), hiss(2.0)])
    soundfile.write(path, np.tile(part, 120), RATE)
    return path


@pytest.fixture(scope="session")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five minutes in which a word is said every two seconds."""
    path = tmp_path_factory.mktemp("audio") / "talkative.wav"
    part = np.concatenate([hiss(0.5), say("computer"), hiss(0.5)])
    soundfile.write(path, np.tile(part, 300 * RATE // len(part)), RATE)
    return path


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    """A PortAudio that the test plays, in place of the real one."""
    fake = FakePortAudio()
    for module in (capture, devices):
        monkeypatch.setattr(module, "portaudio", lambda: fake)
    return fake
