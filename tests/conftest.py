"""Fixtures: speech by espeak-ng, the shipped bundle, a daemon in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the verbs do; numpy's threads would only wait for each other

import numpy as np
import pytest
import soundfile

from kwsd.audio.synthesis import espeak
from kwsd.client.client import Connection, connect
from kwsd.learn.few_shot import WordTrainer
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.state.words import UserWord

RATE = 16000
PHRASE = "hey banana"
VOICES = ("en-us", "en-us+f3", "en-gb+m3", "en-gb-scotland+f2", "en-us+m7", "en-029+f5")
"""A word that a user might add, and voices that say it."""


def training_data(work: Path, takes: Iterable[tuple[np.ndarray, str, str, str]]) -> Path:
    """`work` with a store `recorded` of `takes` (int16 samples, corpus, speaker, label), and rooms."""
    from kwsd.training.data.corpora import Take, write_store

    write_store(work / "recorded", (Take(*take) for take in takes))
    np.savez(work / "rirs.npz", rirs=np.random.default_rng(0).normal(0, 1, (10, 800)) * np.exp(-np.arange(800) / 100))
    return work


def train_on_two_processes(script: Path, module: str, call: str, *arguments: Path) -> None:
    """Run `call` of the test module `module` under torchrun in two processes; `sys.argv[1:]` are the `arguments`."""
    script.write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parent.parent)!r})\nfrom kwsd.model import bundle\n"
        f"from kwsd.training import distill, trunk\nfrom {module} import *\nfront = bundle.load().front_end\n"
        f"distill.front_end = trunk.front_end = lambda: front\n{call}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return bundles.load()


@pytest.fixture(scope="session")
def student(bundle: Bundle) -> Student:
    return Student(bundle)


@pytest.fixture(scope="session")
def speaker(bundle: Bundle) -> SpeakerEncoder:
    return SpeakerEncoder(bundle)


def say(text: str, voice: str = "en-us", speed: int = 150, pitch: int = 50) -> np.ndarray:
    """int16 speech at 16 kHz, at about -23 dBFS."""
    x = espeak(text, voice, speed, pitch).astype(np.float32)
    return np.asarray(x * (2300 / max(np.sqrt(np.mean(x**2)), 1)), np.float32).clip(-32768, 32767).astype(np.int16)


def hiss(seconds: float, level: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, int(seconds * RATE)).astype(np.int16)


@pytest.fixture(scope="session")
def trainer(bundle: Bundle, student: Student) -> WordTrainer:
    return WordTrainer(bundle, student)


@pytest.fixture(scope="session")
def banana(trainer: WordTrainer) -> UserWord:
    """The word, made of one take of each voice."""
    word, quality = trainer.make(PHRASE, [trainer.take(say(PHRASE, voice)) for voice in VOICES])
    assert quality.missed <= 2
    assert not quality.odd
    assert not quality.alike
    return word


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """Twelve seconds: quiet, speech, "computer" in two voices, a long pause, speech again; int16."""
    parts = [
        hiss(1.0), say("good evening, it is raining"), hiss(1.0), say("computer"), hiss(3.5), say("computer", "en-us+f3"), hiss(1.0),
        say("thank you very much", "en-gb+m2"), hiss(1.0),
    ]  # fmt: skip
    return np.concatenate(parts)


@pytest.fixture(scope="session")
def scene_wav(scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "scene.wav"
    soundfile.write(path, scene, RATE)
    return path


class Daemon:
    """`kwsd run` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None, stdin: int | None = subprocess.DEVNULL) -> None:
        self.socket, self.state, self.log = folder / "k.sock", folder / "state", folder / "log"
        command = [sys.executable, "-m", "kwsd", "run", "--socket", str(self.socket), "--state", str(self.state), *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CONFIG_HOME": str(folder), **(env or {})}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, env=environment)

    def connect(self) -> Connection:
        """A client, as soon as the daemon answers."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return connect(self.socket)
            except RuntimeError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError(f"the daemon does not answer:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def wait(self, timeout_s: float = 20) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons, and ends those that still run."""
    daemons: list[Daemon] = []

    def run(*arguments: str, folder: Path = tmp_path, **more: object) -> Daemon:
        daemons.append(Daemon(folder, *arguments, **more))  # type: ignore[arg-type]
        return daemons[-1]

    yield run
    for daemon in daemons:
        daemon.kill()


@pytest.fixture
def raw_client() -> Iterator[Callable[[Path], socket.socket]]:
    """Opens plain sockets to a daemon; they have read the greeting."""
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


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Ten minutes of hiss with a word now and then, for daemons that must live on."""
    path = tmp_path / "endless.wav"
    part = np.concatenate([hiss(2.0), say("computer"), hiss(2.0)])
    soundfile.write(path, np.tile(part, 120), RATE)
    return path
