"""Raw PCM, as programs write it into a pipe: bytes to mono int16 at 16 kHz."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np

from kwsd.audio.channels import ChannelMeter
from kwsd.audio.files import AudioFileError, MonoConverter
from kwsd.audio.format import BLOCK_S, SAMPLE_RATE

log = logging.getLogger(__name__)
SampleFormat = Literal["s8", "s16", "s24", "s32", "f32"]
SAMPLE_BYTES: dict[SampleFormat, int] = {"s8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4}
"""Bytes of a sample of each format."""
MAX_CHANNELS = 64


@dataclass(frozen=True)
class RawFormat:
    """The format of raw PCM: interleaved, little-endian."""

    samples: SampleFormat = "s16"
    rate: int = SAMPLE_RATE
    """Sample rate in Hz."""
    channels: int = 1

    def __post_init__(self) -> None:
        """Raise AudioFileError where there is no such format."""
        if self.samples not in SAMPLE_BYTES:
            text = f"raw PCM of format {self.samples!r}; expected one of {', '.join(SAMPLE_BYTES)}"
            raise AudioFileError(text)
        if not 1 <= self.channels <= MAX_CHANNELS:
            text = f"raw PCM of {self.channels} channel(s); expected 1…{MAX_CHANNELS}"
            raise AudioFileError(text)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * SAMPLE_BYTES[self.samples]


class RawConverter:
    """Converts raw PCM to mono int16 at 16 kHz, whatever the pieces in which it comes."""

    def __init__(self, format: RawFormat, channel: int | str, name: str) -> None:
        """`channel` is an index from 0 or `mix`; `name` is the stream's, for messages.

        Raises AudioFileError where the format has no such channel, or a rate that cannot be.
        """
        self._format = format
        self._name = name
        self._mono = MonoConverter(format.rate, format.channels, channel, name, metered=True)
        self._rest = b""
        self._warned = False

    @property
    def meter(self) -> ChannelMeter:
        """What the channels carry."""
        return self._mono.meter

    def step(self, data: bytes) -> np.ndarray:
        """Return the samples of the next bytes, int16 `[sample]`.

        A sample that is not a number (NaN or infinite) counts as 0.
        """
        data = self._rest + data
        whole = len(data) // self._format.frame_bytes * self._format.frame_bytes
        self._rest = data[whole:]
        samples = _decoded(data[:whole], self._format.samples)
        if self._format.samples == "f32" and not np.isfinite(samples).all():
            samples = np.where(np.isfinite(samples), samples, np.float32(0))
            if not self._warned:
                log.warning("%s contains samples that are not numbers; they count as 0", self._name)
            self._warned = True
        return self._mono.step(samples.reshape(-1, self._format.channels))

    def finish(self) -> np.ndarray:
        """Return the samples that are still in the resampler, at the end of the stream."""
        if self._rest:
            text = "%s ended within a sample; %d bytes dropped"
            log.warning(text, self._name, len(self._rest))
        nothing = np.zeros((0, self._format.channels), np.int16)
        return self._mono.step(nothing, last=True)


def _decoded(data: bytes, format: SampleFormat) -> np.ndarray:
    """Return whole samples as int16 `[sample]`, or as float32 where they have more bits."""
    match format:
        case "s8":
            return np.frombuffer(data, "<i1").astype(np.int16) << 8
        case "s16":
            return np.frombuffer(data, "<i2")
        case "s24":
            padded = np.zeros((len(data) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return padded.reshape(-1).view("<i4").astype(np.float32) / 2**31
        case "s32":
            return np.frombuffer(data, "<i4").astype(np.float32) / 2**31
        case "f32":
            return np.frombuffer(data, "<f4")


def raw_blocks(
    stream: IO[bytes],
    format: RawFormat,
    channel: int | str,
    block_s: float = BLOCK_S,
    name: str = "standard input",
) -> Iterator[np.ndarray]:
    """Return an iterator over blocks of int16 `[sample]` until the end of `stream`.

    Raises AudioFileError as `RawConverter` does, at once.
    """
    return _blocks(stream, format, RawConverter(format, channel, name), block_s, name)


def _read(stream: IO[bytes], size: int, name: str) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise AudioFileError(f"{name} cannot be read ({error.strerror})") from error


def _blocks(
    stream: IO[bytes], format: RawFormat, converter: RawConverter, block_s: float, name: str
) -> Iterator[np.ndarray]:
    size = max(int(format.rate * block_s), 1) * format.frame_bytes
    while data := _read(stream, size, name):
        samples = converter.step(data)
        if len(samples):
            yield samples
    samples = converter.finish()
    if len(samples):
        yield samples
