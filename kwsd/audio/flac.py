"""Short recordings as FLAC, without loss.

libsndfile reads and writes a file in memory by its descriptor: the callbacks of Python's file
objects need memory that is written and executed, which the service may not have.
"""

from __future__ import annotations

import os

import numpy as np

from kwsd.audio.format import SAMPLE_RATE


def to_bytes(samples: np.ndarray) -> bytes:
    """Return int16 `[sample]` at 16 kHz as a FLAC file."""
    import soundfile

    handle = os.memfd_create("kwsd-flac", os.MFD_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        with soundfile.SoundFile(
            handle, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC", closefd=False
        ) as flac:
            flac.write(samples)
        file.seek(0)
        return file.read()


def from_bytes(data: bytes, most: int) -> np.ndarray:
    """Return the samples of a FLAC file as `to_bytes` makes it, int16 `[sample]`, at most `most`.

    Raises ValueError.
    """
    import soundfile

    handle = os.memfd_create("kwsd-flac", os.MFD_CLOEXEC)
    with os.fdopen(handle, "r+b") as file:
        file.write(data)
        file.seek(0)
        try:
            with soundfile.SoundFile(handle, closefd=False) as flac:
                form = (flac.format, flac.subtype, flac.channels, flac.samplerate)
                if form != ("FLAC", "PCM_16", 1, SAMPLE_RATE):
                    raise ValueError("it is not FLAC of mono int16 at 16 kHz")
                if not 0 < flac.frames <= most:
                    raise ValueError(f"it claims {flac.frames} samples; at most {most} are read")
                samples = np.asarray(flac.read(flac.frames, dtype="int16"))
                claimed = flac.frames
        except (soundfile.SoundFileError, RuntimeError, TypeError, MemoryError) as error:
            raise ValueError(f"it is no FLAC file ({error})") from error
    if len(samples) != claimed:
        raise ValueError(f"it is cut off after {len(samples)} of {claimed} samples")
    return samples
