"""Recordings as blocks of mono int16 at 16 kHz, in constant memory.

The libraries that read files and change sample rates are imported when they are first needed: a
microphone at 16 kHz needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.channels import ChannelMeter
from kwsd.audio.format import SAMPLE_RATE

DEAD_DBFS = -60.0
"""A channel that is nowhere louder is silent."""
NOISE_FOLDER = "_background_noise_"
"""Folder of noise in Speech Commands and in corpora of the same layout."""


class AudioFileError(ValueError):
    """A recording cannot be used; the message names it and says why."""


class MonoConverter:
    """Converts blocks of any sample rate and channel count to mono int16 at 16 kHz.

    It holds the resampler's state, so one converter serves one stream.
    """

    def __init__(self, rate: int, channels: int, channel: int | str, name: str) -> None:
        """`channel` is an index from 0, or `mix` for the mean of the channels that carry sound.

        Raises AudioFileError where the stream `name` has no such channel.
        """
        if channel != "mix" and int(channel) >= channels:
            raise AudioFileError(
                f"{name} has {channels} channel(s), so no channel {channel}; "
                f"set microphone.channel to 0…{channels - 1} or mix"
            )
        if not 1000 <= rate <= 768000:
            raise AudioFileError(f"{name}: a sample rate of {rate} Hz is outside 1000…768000")
        self.channel = channel
        self.meter = ChannelMeter(channels, rate)
        self._resampler = _resampler(rate) if rate != SAMPLE_RATE else None

    def step(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """Return `block [sample, channel]` as int16 `[sample]`; `last` drains the resampler.

        `block` is int16, or float between -1 and 1.
        """
        carrying = self.meter.carrying(block) if self.channel == "mix" else None
        self.meter.step(block)
        if self._resampler is None and block.dtype == np.int16 and carrying is None:
            return np.ascontiguousarray(block[:, int(self.channel)])
        samples = block.astype(np.float32)
        if block.dtype == np.int16:
            samples /= 32768
        if carrying is None:
            mono = samples[:, int(self.channel)]
        else:
            mono = (samples * carrying).sum(axis=1) / np.maximum(carrying.sum(axis=1), 1)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        return np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)


def _resampler(rate: int) -> Any:
    import soxr

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


def read_blocks(
    path: Path | str, block_s: float = 1.0, channel: int | str = 0
) -> Iterator[np.ndarray]:
    """Yield blocks of int16 `[sample]` at 16 kHz of the recording `path`.

    `channel` of one with several, or `mix`; of one channel that is it. Raises AudioFileError.
    """
    with open_file(path) as source:
        channel = 0 if source.channels == 1 else channel
        mono = MonoConverter(source.samplerate, source.channels, channel, str(path))
        # Integer PCM of up to 16 bits is read as it is. Anything else goes through float32, which
        # loses nothing audible of 24 bits.
        dtype = "int16" if source.subtype in ("PCM_16", "PCM_U8", "PCM_S8") else "float32"
        size = max(int(source.samplerate * block_s), 1)
        while True:
            block = source.read(size, dtype=dtype, always_2d=True)
            if dtype == "float32" and not np.isfinite(block).all():
                text = "contains samples that are not numbers (NaN or infinite)"
                raise AudioFileError(f"{path}: {text}; export it again")
            last = len(block) < size
            samples = mono.step(block, last=last)
            if len(samples):
                yield samples
            if last:
                return


def open_file(path: Path | str) -> Any:
    """Return the recording `path`, open, as a `soundfile.SoundFile`.

    Raises AudioFileError where it is missing, empty or no audio.
    """
    import soundfile

    path = Path(path)
    if not path.exists():
        raise AudioFileError(f"{path}: no such file")
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder; name the recordings in it")
    try:
        source = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        empty = path.stat().st_size == 0
        reason = "it is empty" if empty else str(error).split(":", 1)[-1].strip()
        text = f"not a recording that can be read ({reason}); WAV, FLAC, OGG and MP3 can"
        raise AudioFileError(f"{path}: {text}") from error
    if source.frames == 0:
        source.close()
        raise AudioFileError(f"{path}: contains no samples")
    return source


def read_all(path: Path | str, limit_s: float = 600.0, channel: int | str = 0) -> np.ndarray:
    """Return all samples of a short recording, int16 `[sample]`.

    Raises AudioFileError, also for a recording longer than `limit_s`.
    """
    blocks = []
    samples = 0
    for block in read_blocks(path, channel=channel):
        blocks.append(block)
        samples += len(block)
        if samples > limit_s * SAMPLE_RATE:
            raise AudioFileError(f"{path}: longer than {limit_s / 60:.0f} minutes; cut it")
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def dead_channel(path: Path | str, channel: int | str) -> str | None:
    """Return that `channel` of a recording is silent and which one is not, with the remedy.

    None where that is not so. Raises AudioFileError.
    """
    with open_file(path) as source:
        if channel == "mix" or int(channel) >= source.channels:
            return None
        loudest = np.zeros(source.channels)
        while len(block := source.read(source.samplerate // 10, dtype="float32", always_2d=True)):
            loudest = np.maximum(loudest, block.std(axis=0))
    alive = np.flatnonzero(loudest > 10 ** (DEAD_DBFS / 20))
    if channel in alive or not len(alive):
        return None
    names = ", ".join(map(str, alive))
    others = f"channel {names} is not" if len(alive) == 1 else f"channels {names} are not"
    return f"channel {channel} is silent, {others}; set microphone.channel to {alive[0]}, or to mix"


def total_seconds(path: Path) -> float:
    """Return the length of a recording in seconds. Raises AudioFileError."""
    with open_file(path) as source:
        return float(source.frames / source.samplerate)
