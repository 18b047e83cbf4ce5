"""The high-pass at the door: no offset and no hum reach the ring, the gate, the features or a take.

Up to 60 Hz it is at least 24 dB down, at 0 Hz (an offset) and at the two frequencies of the mains
without end; from 75 Hz on it is at most 0.1 dB down. It is causal and delays nothing.

The output does not depend on how the samples are cut into blocks, to the last bit. Everything that
is added up is a multiple of one power of two and less than 2**53 times it, so doubles hold each sum
exactly, in whatever order it is added. What is rounded is the state, at fixed places of the stream.
Why this filter, and what else was measured: ADR 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kwsd.audio.format import CHUNK_SAMPLES, SAMPLE_RATE

MAINS_HZ = (50.0, 60.0)
PASS_HZ = 75.0
"""From here on the filter changes nothing but for the ripple."""
RIPPLE_DB = 0.1
ROW_SAMPLES = 64
"""A chunk is filtered in rows of so many samples, all rows at once."""
ROWS = CHUNK_SAMPLES // ROW_SAMPLES
MOST_CHUNKS = 5
"""Chunks that are filtered at once: the four that the daemon reads in a quiet room, and a rest."""
STATE_BITS = 10
"""Bits of the state below one step of int16: the state is whole numbers of 2**-10."""
GAIN_BITS = 22
"""Bits behind the point of the factors by which states are multiplied."""

FloatArray = NDArray[np.float64]


class HighPass:
    """The filter of one stream. Not thread-safe.

    Before the first sample the stream counts as having been constant at its value: a stream that
    begins with an offset begins with silence, not with a thump.
    """

    def __init__(self) -> None:
        rows = MOST_CHUNKS * ROWS
        self._held = 0  # samples of the present chunk so far, at the beginning of _samples
        self._samples = np.zeros(rows * ROW_SAMPLES)
        self._rows = self._samples.reshape(rows, ROW_SAMPLES)
        self._from_row = np.zeros((rows, ROW_SAMPLES + ORDER))
        self._out = np.zeros((rows, ROW_SAMPLES))
        self._started = False
        # By chunk: the state at its start, and what its rows add.
        self._joined = np.zeros((MOST_CHUNKS + 1, ORDER + ROWS * ORDER))
        self._state = self._joined[0, :ORDER]
        self._states = np.zeros((MOST_CHUNKS, ROWS * ORDER))  # before each row

    def step(self, samples: np.ndarray) -> np.ndarray:
        """Return int16 `[sample]` filtered, as many as there are, int16 `[sample]`."""
        most = (MOST_CHUNKS - 1) * CHUNK_SAMPLES
        if len(samples) > most:
            starts = range(0, len(samples), most)
            return np.concatenate([self.step(samples[at : at + most]) for at in starts])
        if not len(samples):
            return np.zeros(0, np.int16)
        if not self._started:
            self._state[:] = np.rint(_STEADY * float(samples[0]))
            self._started = True
        begin = self._held
        end = begin + len(samples)
        # What is left behind `end` of earlier calls reaches no output and no state that is kept.
        self._samples[begin:end] = samples
        rows = -(-end // CHUNK_SAMPLES) * ROWS
        from_row = np.matmul(self._rows[:rows], _FROM_ROW, out=self._from_row[:rows])
        states = self._advance(from_row[:, ROW_SAMPLES:], end // CHUNK_SAMPLES)
        out = np.matmul(states, _FROM_STATE, out=self._out[:rows])
        out += from_row[:, :ROW_SAMPLES]
        np.rint(out, out=out)
        out.clip(-32768.0, 32767.0, out=out)
        self._held = end % CHUNK_SAMPLES
        self._samples[: self._held] = self._samples[end - self._held : end]
        return out.reshape(-1)[begin:end].astype(np.int16)

    def _advance(self, inputs: FloatArray, whole: int) -> FloatArray:
        """Return the state before each row, `[row, order]`; keep the one after `whole` chunks.

        `inputs [row, order]` is what each row adds to the state, before it is rounded.
        """
        chunks = len(inputs) // ROWS
        joined = self._joined
        np.rint(inputs.reshape(chunks, -1), out=joined[:chunks, ORDER:])
        for n in range(chunks):
            after = joined[n + 1, :ORDER]
            np.matmul(joined[n], _AFTER, out=after)
            np.rint(after, out=after)
        states = np.matmul(joined[:chunks], _BEFORE, out=self._states[:chunks])
        np.rint(states, out=states)
        self._state[:] = joined[whole, :ORDER]
        return states.reshape(-1, ORDER)


def high_passed(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks of one stream, int16 `[sample]`, filtered."""
    high_pass = HighPass()
    for block in blocks:
        yield high_pass.step(block)


def _design() -> tuple[NDArray[np.complex128], NDArray[np.complex128], float]:
    """Return the filter's zeros, poles and gain.

    It is a generalized Chebyshev filter: its zeros are given, and from `PASS_HZ` on it ripples by
    `RIPPLE_DB`, so that between the two it is as steep as can be. In the low-pass prototype, whose
    frequency w is inverse to the high-pass's, the power gain is 1 / (1 + e C(w)**2) with
    C = cos(the sum of acos((w - 1/z) / (1 - w/z)) over the zeros z), a polynomial over the product
    of the (1 - w/z) (Cameron, Kudsia, Mansour, Microwave Filters for Communication Systems, 6.3).
    The bilinear transform makes it digital.
    """
    edge = np.tan(np.pi * PASS_HZ / SAMPLE_RATE)
    mains = np.tan(np.pi * np.array([*MAINS_HZ, *(-hz for hz in MAINS_HZ)]) / SAMPLE_RATE)
    zeros = edge / mains  # of the prototype, beside one at infinity for an offset
    order = len(zeros) + 1
    w = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
    below = 1 - w[:, None] / zeros
    angle = np.arccos(w) + np.arccos((w[:, None] - 1 / zeros) / below).sum(axis=1)
    above = np.poly1d(np.polyfit(w, np.cos(angle) * below.prod(axis=1), order))
    product = np.poly1d(np.poly(zeros) / np.prod(-zeros))
    ripple = 10 ** (RIPPLE_DB / 10) - 1
    poles = edge / (1j * (product * product + ripple * above * above).roots)
    poles = poles[poles.real < 0]
    digital_poles = (1 + poles) / (1 - poles)
    digital_zeros = (1 + 1j * np.append(mains, 0.0)) / (1 - 1j * np.append(mains, 0.0))
    gain = np.real(np.prod(1 + digital_poles) / np.prod(1 + digital_zeros))
    return digital_zeros, digital_poles, float(gain)


def _state_space() -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return A, b, c and d of s' = A s + b x, y = c s + d x.

    A has a block for each real pole or pair of poles. No state exceeds full scale.
    """
    zeros, poles, gain = _design()
    real = poles[np.abs(poles.imag) < 1e-9].real + 0j
    pairs = poles[poles.imag >= 1e-9]
    order = len(real) + 2 * len(pairs)
    a = np.zeros((order, order))
    b = np.zeros(order)
    c = np.zeros(order)
    at = 0
    for pole in np.concatenate([real, pairs]):
        residue = gain * np.prod(pole - zeros) / np.prod(pole - poles[np.abs(poles - pole) > 1e-9])
        b[at] = 1 - abs(pole)
        if not pole.imag:
            a[at, at] = pole.real
            c[at] = residue.real / b[at]
            at += 1
        else:
            pair = slice(at, at + 2)
            a[pair, pair] = [[pole.real, -pole.imag], [pole.imag, pole.real]]
            c[pair] = 2 * residue.real / b[at], -2 * residue.imag / b[at]
            at += 2
    return a, b, c, gain


def _powers(a: FloatArray, count: int) -> list[FloatArray]:
    """Return the powers of a square matrix from 0 to `count`."""
    found = [np.eye(len(a))]
    for _ in range(count):
        found.append(found[-1] @ a)
    return found


def _tables() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the matrices by which `HighPass` multiplies, rounded to multiples of powers of two.

    They are what a row of samples adds to its own output and to the state, what the state before a
    row adds to its output, the state before each row and after all of them by the state before a
    chunk and what its rows add, and the state of a stream that has always been one.
    """
    a, b, c, d = _state_space()
    order = len(b)
    of_sample = _powers(a, ROW_SAMPLES)
    response = np.array([d, *(float(c @ power @ b) for power in of_sample[:-1])])
    output = np.zeros((ROW_SAMPLES, ROW_SAMPLES))
    for n in range(ROW_SAMPLES):
        output[n, n:] = response[: ROW_SAMPLES - n]
    state = np.stack([power @ b for power in of_sample[-2::-1]])
    from_state = np.stack([c @ power for power in of_sample[:-1]], axis=1)
    of_row = _powers(of_sample[-1], ROWS)
    states = np.zeros((1 + ROWS, order, 1 + ROWS, order))
    for row in range(1 + ROWS):
        states[0, :, row] = of_row[row].T
        for before in range(row):
            states[1 + before, :, row] = of_row[row - 1 - before].T
    unit = 2.0**STATE_BITS
    return (
        np.concatenate(
            [_rounded(output, STATE_BITS + GAIN_BITS), _rounded(state * unit, GAIN_BITS)], axis=1
        ),
        _rounded(from_state, GAIN_BITS) / unit,
        _rounded(states.reshape((1 + ROWS) * order, -1), GAIN_BITS),
        np.asarray(np.linalg.solve(np.eye(order) - a, b) * unit, np.float64),
    )


def _rounded(values: FloatArray, bits: int) -> FloatArray:
    """Return the nearest multiples of 2**-bits."""
    return np.rint(values * 2.0**bits) * 2.0**-bits


_FROM_ROW, _FROM_STATE, _STATES, _STEADY = _tables()
ORDER = len(_STEADY)
"""Numbers of the state: the order of the filter."""
_BEFORE, _AFTER = map(np.ascontiguousarray, np.split(_STATES, [ROWS * ORDER], axis=1))
"""The state before each row, and after all of them."""
