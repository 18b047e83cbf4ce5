"""Recordings: any WAV file or raw pipe as blocks of mono int16 at 16 kHz, in constant memory.

The libraries that read files and change rates are loaded when first wanted: a microphone at 16 kHz wants neither."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

log = logging.getLogger(__name__)
RATE = 16000
NOISE_FOLDER = "_background_noise_"
"""Of Speech Commands, and of corpora laid out like it: recordings of noise."""


class AudioFileError(ValueError):
    """A recording cannot be used; the message names it and says why."""


def _resampler(rate: int) -> Any:
    import soxr

    return soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")


class Mono:
    """Blocks of any rate and channel count to mono int16 at 16 kHz; holds the resampler's state.

    `channel` is an index from 0, or `mix` for the mean. Raises AudioFileError where the stream has no such channel.
    """

    def __init__(self, rate: int, channels: int, channel: int | str, name: str) -> None:
        if channel != "mix" and int(channel) >= channels:
            raise AudioFileError(f"{name} has {channels} channel(s), so none of number {channel}; set microphone.channel to 0…{channels - 1} or mix")
        if not 1000 <= rate <= 768000:
            raise AudioFileError(f"{name}: a sample rate of {rate} Hz is outside 1000…768000")
        self._channel = channel
        self._resampler = _resampler(rate) if rate != RATE else None

    def step(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """`block [sample, channel]`, int16 or float in -1…1, to int16 `[sample]`; `last` drains the resampler."""
        if self._resampler is None and block.dtype == np.int16 and self._channel != "mix":
            return np.ascontiguousarray(block[:, int(self._channel)])
        x = block.astype(np.float32) / 32768 if block.dtype == np.int16 else block.astype(np.float32)
        mono = x.mean(axis=1) if self._channel == "mix" else x[:, int(self._channel)]
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        return np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)


def read_blocks(path: Path | str, block_s: float = 1.0, channel: int | str = 0) -> Iterator[np.ndarray]:
    """Blocks of int16 `[sample]` at 16 kHz of the recording `path`. Raises AudioFileError."""
    with open_file(path) as source:
        mono = Mono(source.samplerate, source.channels, channel, str(path))
        # Integer PCM of up to 16 bit is read as it is; anything else goes through float, where 24 bit loses nothing audible.
        dtype = "int16" if source.subtype in ("PCM_16", "PCM_U8", "PCM_S8") else "float32"
        size = max(int(source.samplerate * block_s), 1)
        while True:
            block = source.read(size, dtype=dtype, always_2d=True)
            if dtype == "float32" and not np.isfinite(block).all():
                raise AudioFileError(f"{path}: holds samples that are no numbers (NaN or infinite); export it again")
            last = len(block) < size
            out = mono.step(block, last=last)
            if len(out):
                yield out
            if last:
                return


def open_file(path: Path | str) -> Any:
    """The recording `path`, open (`soundfile.SoundFile`). Raises AudioFileError where it is missing, empty or no audio."""
    import soundfile

    path = Path(path)
    if not path.exists():
        raise AudioFileError(f"{path}: no such file")
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder; name the recordings in it")
    try:
        source = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        reason = "it is empty" if path.stat().st_size == 0 else str(error).split(":", 1)[-1].strip()
        raise AudioFileError(f"{path}: not a recording that can be read ({reason}); WAV, FLAC, OGG and MP3 can") from error
    if source.frames == 0:
        source.close()
        raise AudioFileError(f"{path}: holds no samples")
    return source


def read_all(path: Path | str, limit_s: float = 600.0) -> np.ndarray:
    """All samples of a short recording, int16 `[sample]`. Raises AudioFileError, also past `limit_s`."""
    blocks, have = [], 0
    for block in read_blocks(path):
        blocks.append(block)
        have += len(block)
        if have > limit_s * RATE:
            raise AudioFileError(f"{path}: longer than {limit_s / 60:.0f} minutes; cut it")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def raw_blocks(stream: IO[bytes], rate: int, channels: int, channel: int | str, block_s: float = 0.08) -> Iterator[np.ndarray]:
    """Blocks of int16 `[sample]` at 16 kHz from raw little-endian int16 PCM, interleaved, until the end of `stream`."""
    mono = Mono(rate, channels, channel, "standard input")
    frame = 2 * channels
    size = max(int(rate * block_s), 1) * frame
    rest = b""
    while data := stream.read(size):
        data = rest + data
        whole = len(data) // frame * frame
        rest = data[whole:]
        out = mono.step(np.frombuffer(data[:whole], "<i2").reshape(-1, channels))
        if len(out):
            yield out
    if rest:
        log.warning("standard input ended within a sample; %d bytes dropped", len(rest))
    out = mono.step(np.zeros((0, channels), np.int16), last=True)
    if len(out):
        yield out
