"""Recordings as blocks of mono int16 at 16 kHz, in constant memory.

The libraries that read files and change sample rates are imported when they are first needed: most
verbs need neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.channels import ChannelMeter
from kwsd.audio.format import SAMPLE_RATE
from kwsd.bounded.file import Damaged, FileError, check_regular

log = logging.getLogger(__name__)
DEAD_DBFS = -60.0
"""A channel that is nowhere louder is silent."""
MAX_FLOAT = 8.0
"""A sample of floating point that is larger counts as this much: nothing overflows."""
NOISE_FOLDER = "_background_noise_"
"""Folder of noise in Speech Commands and in corpora of the same layout."""


MAX_BLOCK = 1 << 20
"""Values of a block, over all channels: a header may claim a thousand channels."""
UNKNOWN_FRAMES = 1 << 60
"""So many frames, or more, are what libsndfile says where it does not know."""
UNKNOWN_BYTES = 0x7FFF0000
"""So many bytes, or more, are what a header says that was written before the samples."""
WHOLE = 0.98
"""Share of the frames that libsndfile promises; for some MP3 files it only estimates them."""
LOUDEST = 8.0
"""Times full scale: a float sample beyond it is clipped before it is resampled."""


class AudioFileError(FileError):
    """A recording cannot be used; the message names it and says why."""


class MonoConverter:
    """Converts blocks of any sample rate and channel count to mono int16 at 16 kHz.

    It holds the resampler's state, so one converter serves one stream.
    """

    def __init__(
        self, rate: int, channels: int, channel: int | str, name: str, *, metered: bool = False
    ) -> None:
        """`channel` is an index from 0, or `mix` for the mean of the channels that carry sound.

        `metered`: the meter measures the channels, as it does for `mix`.

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
        self._metered = metered or channel == "mix"
        self._resampler = _resampler(rate) if rate != SAMPLE_RATE else None

    def step(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """Return `block [sample, channel]` as int16 `[sample]`; `last` drains the resampler.

        `block` is int16, or float between -1 and 1.
        """
        if block.dtype != np.int16:
            block = np.clip(block, -MAX_FLOAT, MAX_FLOAT)
        carrying = self.meter.carrying(block) if self.channel == "mix" else None
        if self._metered:
            self.meter.step(block)
        if self._resampler is None and block.dtype == np.int16 and carrying is None:
            return np.ascontiguousarray(block[:, int(self.channel)])
        samples = block.astype(np.float32)
        if block.dtype == np.int16:
            samples /= 32768
        if carrying is None:
            mono = samples[:, int(self.channel)]
        else:
            parts = np.maximum(carrying.sum(axis=1, dtype=np.float32), 1)
            mono = (samples * carrying).sum(axis=1) / parts
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        return np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)


def _resampler(rate: int) -> Any:
    import soxr

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


def read_blocks(
    path: Path | str, block_s: float = 1.0, channel: int | str = 0
) -> Iterator[np.ndarray]:
    """Yield blocks of int16 `[sample]` at 16 kHz of the recording `path`. Raises AudioFileError.

    `channel` is of one with several, or `mix`; of one channel that is it. A recording that cannot
    be decoded to its end gives what is there before the error. A WAV that was cut off is told by
    its header alone: it gives what is there, and the log says so.
    """
    with open_file(path) as source:
        _warn_of_missing(source, path)
        rate = source.samplerate
        channel = 0 if source.channels == 1 else channel
        mono = MonoConverter(rate, source.channels, channel, str(path))
        # Integer PCM of up to 16 bits is read as it is. Anything else goes through float32, which
        # loses nothing audible of 24 bits.
        dtype = "int16" if source.subtype in ("PCM_16", "PCM_U8", "PCM_S8") else "float32"
        size = max(min(int(rate * block_s), MAX_BLOCK // source.channels), 1)
        claimed = source.frames
        done = 0
        while True:
            block = _read(source, size, dtype, path, done / rate)
            done += len(block)
            last = len(block) < size
            samples = mono.step(block, last=last)
            if len(samples):
                yield samples
            if last:
                break
    if not done:
        raise AudioFileError(f"{path}: contains no samples")
    if done < WHOLE * claimed and claimed < UNKNOWN_FRAMES:
        raise AudioFileError(f"{path}: {_cut_off(done / rate)} (of {claimed / rate:.1f} s)")


def _warn_of_missing(source: Any, path: Path | str) -> None:
    """Log where a header speaks of more bytes than there are."""
    for claimed, there in re.findall(r": (\d+) \(should be (\d+)\)", source.extra_info):
        if int(there) < int(claimed) < UNKNOWN_BYTES:
            text = "cut off: its header speaks of %s bytes, and %s are there, which are read"
            log.warning(f"%s: {text}", path, claimed, there)
            return


def _read(source: Any, size: int, dtype: str, path: Path | str, at_s: float) -> np.ndarray:
    """Return the next block `[sample, channel]`, of finite numbers. Raises AudioFileError."""
    import soundfile

    try:
        block = source.read(size, dtype=dtype, always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError, OSError, MemoryError) as error:
        raise AudioFileError(f"{path}: {_cut_off(at_s)} ({_reason(error)})") from error
    if dtype == "float32":
        if not np.isfinite(block).all():
            text = "contains samples that are not numbers (NaN or infinite)"
            raise AudioFileError(f"{path}: {text}; export it again")
        block = np.clip(block, -LOUDEST, LOUDEST, out=block)
    return np.asarray(block)


def _cut_off(after_s: float) -> str:
    return f"copy or export it again: damaged or cut off after {after_s:.1f} s"


def _reason(error: BaseException) -> str:
    return str(error).split(":", 1)[-1].strip() or type(error).__name__


def open_file(path: Path | str) -> Any:
    """Return the recording `path`, open, as a `soundfile.SoundFile`.

    Raises AudioFileError where it is missing, empty or no audio.
    """
    import soundfile

    path = Path(path)
    try:
        check_regular(path)
        empty = path.stat().st_size == 0
        source = soundfile.SoundFile(path)
    except FileNotFoundError:
        raise AudioFileError(f"{path}: no such file; check its name and folder") from None
    except Damaged as error:
        if path.is_dir():
            raise AudioFileError(f"{path}: is a folder; name the recordings in it") from error
        text = f"not a recording that can be read ({error}); `--source -` reads raw PCM from a pipe"
        raise AudioFileError(f"{path}: {text}") from error
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        reason = "it is empty" if empty else _reason(error)
        text = f"not a recording that can be read ({reason}); WAV, FLAC, OGG and MP3 can"
        raise AudioFileError(f"{path}: {text}") from error
    if source.frames <= 0 or source.channels <= 0 or source.samplerate <= 0:
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
