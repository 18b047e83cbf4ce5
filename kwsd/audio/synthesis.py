"""Speech from text by espeak-ng, where that is installed: rough voices, dozens of them."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave

import numpy as np

from kwsd.audio.files import RATE

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")


class SynthesisError(OSError):
    """Nothing can be spoken; the message says what is missing."""


def espeak_variants() -> list[str]:
    """The names of its variants of a voice. Raises SynthesisError where espeak-ng is not installed."""
    listing = _espeak("--voices=variant").decode()
    return sorted({line.split("!v/")[1].split()[0] for line in listing.splitlines() if "!v/" in line})


def espeak(text: str, voice: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
    """int16 `[sample]` at 16 kHz of `text`. Raises SynthesisError where espeak-ng is not installed, or fails."""
    return read_wav(_espeak("--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), "--", text))


def espeak_takes(text: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """`text` in `count` different voices, accents, speeds and pitches. Raises SynthesisError."""
    rng, variants = np.random.default_rng(seed), espeak_variants()
    return [
        espeak(text, f"{rng.choice(ACCENTS)}+{variant}", int(rng.integers(120, 210)), int(rng.integers(25, 80)))
        for variant in rng.choice(variants, min(count, len(variants)), replace=False)
    ]


def read_wav(data: bytes) -> np.ndarray:
    """int16 `[sample]` at 16 kHz of what a synthesiser wrote: a WAV of 16 bit, whose length its header may not tell."""
    with wave.open(io.BytesIO(data)) as wav:
        rate, width = wav.getframerate(), wav.getsampwidth()
        frames = wav.readframes(1 << 26)
    if width != 2:
        raise SynthesisError(f"a synthesiser wrote {8 * width} bit")
    pcm = np.frombuffer(frames, np.int16)
    if rate == RATE:
        return pcm
    import soxr

    return np.asarray(soxr.resample(pcm, rate, RATE))


def _espeak(*arguments: str) -> bytes:
    if shutil.which("espeak-ng") is None:
        raise SynthesisError("speaking needs espeak-ng: apt install espeak-ng")
    done = subprocess.run(["espeak-ng", *arguments], capture_output=True)
    if done.returncode:
        raise SynthesisError(f"espeak-ng failed: {done.stderr.decode(errors='replace').strip() or done.returncode}")
    return done.stdout
