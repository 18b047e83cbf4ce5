"""The room of `echo_cancel.py`: carries sound from the loudspeaker to the microphone.

    python tests/echo_room.py GAIN SAID.raw

It records what comes out of the sink `loudspeaker`, distorts it a little, convolves it with the
response of a room, adds what is said, and plays it into the sink `air`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwsd.audio.pcm import to_int16

RATE = 16000
REVERBERATION_S = 0.35
"""Seconds in which the room's response falls by 60 dB."""
BLOCK = 160
FORM = ("--raw", "--format=s16le", f"--rate={RATE}", "--channels=1")
FloatArray = NDArray[np.float64]


def response(seed: int, direct: float = 1.0) -> FloatArray:
    """Return the response of a room, `[sample]`: the direct sound, then a tail."""
    rng = np.random.default_rng(seed)
    samples = int(REVERBERATION_S * RATE)
    tail = rng.normal(0, 1, samples) * 10 ** (-3 * np.arange(samples) / samples)
    tail[:40] = 0  # the first reflection comes 2.5 ms later
    out = 0.7 * tail / np.sqrt(np.sum(tail**2))
    out[0] += direct
    return np.asarray(out / np.sqrt(np.sum(out**2)))


def loudspeaker(samples: FloatArray) -> FloatArray:
    """Return what a small loudspeaker makes of samples: about 1 % of distortion at -9 dBFS."""
    return np.asarray(np.tanh(samples))


def hurry(pid: int, priority: int) -> None:
    """Let other work of the machine not hold up a process, where root may do so."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(priority))


class Convolver:
    """Convolves a stream with a response, block for block, without delay."""

    def __init__(self, impulse: FloatArray) -> None:
        parts = -(-len(impulse) // BLOCK)
        padded = np.pad(impulse, (0, parts * BLOCK - len(impulse))).reshape(parts, BLOCK)
        self._spectra = np.fft.rfft(padded, 2 * BLOCK, axis=1)
        self._past = np.zeros((parts, BLOCK + 1), complex)
        self._before = np.zeros(BLOCK)

    def step(self, block: FloatArray) -> FloatArray:
        """Return the next block `[BLOCK]`."""
        self._past = np.roll(self._past, 1, axis=0)
        self._past[0] = np.fft.rfft(np.concatenate([self._before, block]))
        self._before = block
        out = np.fft.irfft(np.sum(self._past * self._spectra, axis=0))[BLOCK:]
        return np.asarray(out, np.float64)


def be_the_room(gain: float, said: Path) -> None:
    """Carry the loudspeaker's sound to the microphone until the server goes; from its first sound
    on, add what is said."""
    hurry(os.getpid(), 9)
    near = iter(np.fromfile(said, "<i2").reshape(-1, BLOCK) / 32768)
    begun = False
    convolver = Convolver(response(2) * gain)
    hears = ["parec", *FORM, "--device=loudspeaker.monitor", "--latency-msec=20"]
    plays = ["pacat", *FORM, "--device=air", "--latency-msec=60"]
    with (
        subprocess.Popen(hears, stdout=subprocess.PIPE) as source,
        subprocess.Popen(plays, stdin=subprocess.PIPE) as sink,
    ):
        assert source.stdout
        assert sink.stdin
        while len(data := source.stdout.read(2 * BLOCK)) == 2 * BLOCK:
            block = loudspeaker(np.frombuffer(data, "<i2") / 32768)
            out = convolver.step(block)
            begun = begun or bool(np.abs(block).max() > 0.004)
            if begun:
                out = out + next(near, np.zeros(BLOCK))
            with contextlib.suppress(BrokenPipeError):
                sink.stdin.write(to_int16(32768 * out).astype("<i2").tobytes())
                sink.stdin.flush()


if __name__ == "__main__":
    be_the_room(float(sys.argv[1]), Path(sys.argv[2]))
