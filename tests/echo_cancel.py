"""Measure what a sound server's echo canceller does for wake words while the device itself plays.

    python tests/echo_cancel.py pulseaudio          # or pipewire
    python tests/echo_cancel.py pipewire --words DIR --takes 60 --as-it-comes

A sound server of its own is started, without any sound card: one null sink stands for the
loudspeaker, another for the air in front of the microphone. Between them this program plays the
part of the room: it takes what comes out of the loudspeaker, distorts it a little, convolves it
with the response of a room, and plays it into the air, where somebody says words (of a
`--words` folder, one folder a word inside; else "computer", ten bundled takes). The device plays
talk all the time, and now and then says "computer" itself. What is recorded with and without the
canceller goes to the detector, with the default configuration.

Everything runs in real time, so leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import echo_room
import numpy as np
from echo_room import BLOCK, FORM, RATE, FloatArray, hurry, loudspeaker, response

from kwsd.audio.files import read_all
from kwsd.audio.high_pass import high_passed
from kwsd.audio.pcm import to_int16
from kwsd.bench import scenes
from kwsd.config import Config, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.offline import with_tail
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.model import bundle as bundles
from kwsd.model.runtime import Runtime

NEAR_DBFS = -32.0
"""Level of the words at the microphone, while they are said."""
SLOT_S = 4.0
"""Seconds from one word to the next."""
DEVICE_EVERY = 5
"""In one slot of so many nobody speaks, and the device says "computer"."""
LEAD_S = 6.0
"""Seconds before the first slot: a beep that aligns the recordings, then playback alone."""
LATE_S = 1.2
"""A wake that ends so long after the end of a word, and no later, is of that word."""

PULSEAUDIO = """
load-module module-native-protocol-unix
load-module module-null-sink sink_name=air rate=48000 channels=1
load-module module-null-sink sink_name=loudspeaker rate=48000 channels=1
load-module module-echo-cancel source_master=air.monitor sink_master=loudspeaker \
source_name=canceled sink_name=device aec_method=webrtc {arguments}
"""
PULSEAUDIO_TUNED = (
    'aec_args="analog_gain_control=0 digital_gain_control=0 noise_suppression=0 extended_filter=1"'
)
PIPEWIRE = """
context.properties = {{ default.clock.quantum = 480 default.clock.min-quantum = 480
  default.clock.max-quantum = 480 }}
context.modules = [
  {{ name = libpipewire-module-echo-cancel
    args = {{
      audio.channels = 1
      audio.position = [ MONO ]
      capture.props = {{ node.name = capture target.object = air stream.capture.sink = true }}
      source.props = {{ node.name = canceled }}
      sink.props = {{ node.name = device }}
      playback.props = {{ node.name = playback target.object = loudspeaker }}
      {arguments}
    }}
  }}
]
context.objects = [
  {{ factory = adapter args = {{ factory.name = support.null-audio-sink node.name = air
      media.class = Audio/Sink audio.position = [ MONO ] monitor.channel-volumes = true }} }}
  {{ factory = adapter args = {{ factory.name = support.null-audio-sink node.name = loudspeaker
      media.class = Audio/Sink audio.position = [ MONO ] monitor.channel-volumes = true }} }}
]
"""
PIPEWIRE_TUNED = (
    "aec.args = { webrtc.gain_control = false webrtc.noise_suppression = false "
    "webrtc.extended_filter = true webrtc.voice_detection = false }"
)


class Take(NamedTuple):
    """A word that is said in the room."""

    word: str
    end: int
    """The sample of the track at which it ends."""


@dataclass(frozen=True)
class Count:
    """What the detector made of one recording."""

    takes: int
    """Words that somebody said."""
    heard: int
    false_wakes: int
    """Wakes while nobody said that word, but the device may have."""
    own_words: int
    """How often the device said "computer"."""


def level(samples: FloatArray) -> float:
    """Return the RMS of where there is sound."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    power = np.mean(frames**2, axis=1)
    return float(np.sqrt(np.mean(power[power > power.max() / 1000])))


def gain_of(far: FloatArray, playback_db: float) -> float:
    """Return by how much the room is louder than `response` says, so that the playback is so many
    dB louder at the microphone than the words."""
    echo = np.convolve(loudspeaker(far[: 60 * RATE]), response(2))
    return float(10 ** ((NEAR_DBFS + playback_db) / 20) / level(echo))


def takes_of(folder: Path | None, most: int) -> list[tuple[str, FloatArray]]:
    """Return words and their takes, evenly chosen."""
    found: list[tuple[str, FloatArray]] = []
    if folder is None:
        found = [("computer", take.astype(float)) for take, _ in scenes.wakes()]
    else:
        for path in sorted(path for path in folder.glob("*/*") if path.is_file()):
            found.append((path.parent.name, read_all(path).astype(float)))
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)
    return [found[n] for n in chosen]


def tracks(
    takes: Sequence[tuple[str, FloatArray]],
) -> tuple[FloatArray, FloatArray, list[Take], list[Take]]:
    """Return what is said in the room and what the device plays, each float `[sample]` up to 1, and
    the words in both."""
    slots = len(takes) + len(takes) // (DEVICE_EVERY - 1) + 1
    samples = int((LEAD_S + slots * SLOT_S + 2) * RATE) // BLOCK * BLOCK
    near = np.zeros(samples)
    near[RATE // 2 : RATE // 2 + 1600] = 0.3 * np.sin(2 * np.pi * 1000 / RATE * np.arange(1600))
    far = np.resize(scenes.television(), samples).astype(float) / 32768
    far[: 2 * RATE] = 0
    far *= 0.1 / level(far[2 * RATE :])
    hum = 0.02 * np.sin(2 * np.pi * 300 / RATE * np.arange(RATE // 3))
    far[: len(hum)] = hum  # on which the room begins
    own_takes = [take / 32768 for take, _ in scenes.wakes()]
    room = response(1, direct=1.5)
    said: list[Take] = []
    own: list[Take] = []
    left = list(takes)
    for slot in range(slots):
        begin = int((LEAD_S + slot * SLOT_S) * RATE)
        if slot % DEVICE_EVERY == DEVICE_EVERY - 1 or not left:
            take = own_takes[(len(own) + 5) % len(own_takes)]
            far[begin - RATE // 2 : begin + int(SLOT_S - 0.5) * RATE] = 0
            far[begin : begin + len(take)] = 0.1 * take / level(take)
            own.append(Take("computer", begin + len(take)))
            continue
        word, take = left.pop(0)
        take = take[: int(2.5 * RATE)]
        heard = np.convolve(take, room)
        heard *= 10 ** (NEAR_DBFS / 20) / level(heard)
        near[begin : begin + len(heard)] += heard
        loud = np.flatnonzero(np.abs(take) > 0.1 * np.abs(take).max())
        said.append(Take(word, begin + int(loud[-1])))
    return near, far, said, own


class Server:
    """A sound server without a sound card, for as long as the context lasts."""

    def __init__(self, kind: str, folder: Path, *, tuned: bool) -> None:
        self._kind = kind
        self.folder = folder
        self._tuned = tuned
        self.env = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "HOME": str(folder),
            "PULSE_SERVER": f"unix:{folder}/pulse/native",
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Server:
        if self._kind == "pulseaudio":
            script = self.folder / "script.pa"
            script.write_text(PULSEAUDIO.format(arguments=PULSEAUDIO_TUNED * self._tuned))
            options = ["-n", "--exit-idle-time=-1", "--daemonize=no", "-F", str(script)]
            self._start("pulseaudio", *options)
        else:
            drop_in = self.folder / "pipewire" / "pipewire.conf.d" / "echo.conf"
            drop_in.parent.mkdir(parents=True)
            drop_in.write_text(PIPEWIRE.format(arguments=PIPEWIRE_TUNED * self._tuned))
            for program in ("pipewire", "wireplumber", "pipewire-pulse"):
                self._start(program)
                time.sleep(1.5)
        for _ in range(100):
            listed = self.ask("list", "short", "sources")
            if "canceled" in listed and "air.monitor" in listed:
                time.sleep(1)
                for process in self._running:
                    hurry(process.pid, 10)
                return self
            time.sleep(0.2)
        raise SystemExit(f"the server has no canceller; see {self.folder}/log")

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *command: str) -> None:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        self._running.append(process)

    def ask(self, *command: str) -> str:
        """Return what pactl prints."""
        asked = subprocess.run(["pactl", *command], env=self.env, capture_output=True, text=True)
        return asked.stdout

    def play(self, device: str, path: Path) -> subprocess.Popen[bytes]:
        """Play raw samples."""
        command = ["pacat", *FORM, f"--device={device}", "--latency-msec=200"]
        with path.open("rb") as data:
            return subprocess.Popen(command, env=self.env, stdin=data)

    def record(self, device: str, path: Path) -> subprocess.Popen[bytes]:
        """Record raw samples."""
        command = ["parec", *FORM, f"--device={device}", "--latency-msec=100"]
        with path.open("wb") as out:
            return subprocess.Popen(command, env=self.env, stdout=out)


def record(
    server: Server, near: FloatArray, far: FloatArray, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return what came to the canceller and out of it, int16 `[sample]`, from the beep on."""
    files = {name: server.folder / name for name in ("air.monitor", "canceled", "said", "played")}
    for name, track in (("said", near), ("played", far)):
        to_int16(32768 * track).astype("<i2").tofile(files[name])
    command = [sys.executable, echo_room.__file__, str(gain), str(files["said"])]
    echo = subprocess.Popen(command, env=server.env)
    recorders = [server.record(name, files[name]) for name in ("air.monitor", "canceled")]
    time.sleep(4)
    server.play("device", files["played"]).wait()
    time.sleep(3)
    for process in (*recorders, echo):
        process.terminate()
        process.wait()
    before, after = (np.fromfile(files[name], "<i2") for name in ("air.monitor", "canceled"))
    if not len(after):
        raise SystemExit(f"the canceller has delivered nothing; see {server.folder}/log")
    beep = int(np.argmax(np.abs(before.astype(int)) > 5000)) - RATE // 2
    return before[max(beep, 0) :], after[max(beep, 0) :]


def count(samples: np.ndarray, said: Sequence[Take], own: Sequence[Take]) -> Count:
    """Return what the detector makes of a recording."""
    bundle = bundles.load()
    words = {take.word: WordConfig() for take in (*said, *own)}
    setup = resolve(Config(words=words), bundle)
    detector = Detector(bundle, setup, Runtime(bundle))
    wakes = [
        event
        for block in high_passed(with_tail(np.array_split(samples, max(len(samples) // RATE, 1))))
        for event in detector.feed(block).wakes
        if isinstance(event, Wake)
    ]

    late = int(LATE_S * RATE)
    takes = [
        next(
            (t for t in said if t.word == wake.word and -late < 2 * (wake.end - t.end) < 2 * late),
            None,
        )
        for wake in wakes
    ]
    return Count(
        takes=len(said),
        heard=len({take for take in takes if take}),
        false_wakes=takes.count(None),
        own_words=len(own),
    )


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield a row for each level and each recording."""
    takes = takes_of(arguments.words, arguments.takes)
    near, far, said, own = tracks(takes)
    hours = len(near) / RATE / 3600
    quiet = count(to_int16(32768 * near), said, own)
    yield {"playback_db": None, "canceller": "none", "hours": hours, **asdict(quiet)}
    for playback_db in arguments.levels:
        gain = gain_of(far, playback_db)
        with tempfile.TemporaryDirectory() as folder:
            with Server(arguments.server, Path(folder), tuned=not arguments.as_it_comes) as server:
                before, after = record(server, near, far, gain)
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                np.savez(arguments.keep / f"{playback_db:g}.npz", before=before, after=after)
        kind = arguments.server + (", as it comes" if arguments.as_it_comes else "")
        for name, samples in (("none", before), (kind, after)):
            counted = count(samples, said, own)
            yield {"playback_db": playback_db, "canceller": name, "hours": hours, **asdict(counted)}


def main() -> None:
    """Print a line of JSON for each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("server", choices=("pulseaudio", "pipewire"))
    parser.add_argument("--words", type=Path, help="takes, one folder a word")
    parser.add_argument("--takes", type=int, default=1000, help="how many of them at most")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 10.0], metavar="DB")
    parser.add_argument("--as-it-comes", action="store_true", help="the canceller's own defaults")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what was recorded")
    for row in rows(parser.parse_args()):
        print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
