"""How words are said, by espeak-ng, and how near they sound: edits of phones."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence

from kwsd.audio.synthesis import SynthesisError

Phones = tuple[str, ...]
VOWELS = frozenset("aeiouyæɐɑɒɔəɚɛɜɝɪᵻʊʌɨ")
"""First letters of vowels: to replace one by another is half an edit."""
VOICED = {
    "b": "p",
    "d": "t",
    "ɡ": "k",
    "v": "f",
    "z": "s",
    "ʒ": "ʃ",
    "ð": "θ",
    "dʒ": "tʃ",
    "ɾ": "t",
}
"""Consonants that differ by the voice alone: a quarter of an edit."""
WORDS_AT_ONCE = 2000
UNSTRESSED = {"a": ("ɐ",)}
"""Words that are said otherwise within a phrase than by themselves."""


def phones_of(words: Sequence[str]) -> dict[str, Phones]:
    """Return the phones of each of `words` (or phrases), without stress and length.

    Raises SynthesisError where espeak-ng is not installed."""
    found: dict[str, Phones] = {}
    for at in range(0, len(words), WORDS_AT_ONCE):
        asked = words[at : at + WORDS_AT_ONCE]
        # A paragraph each, or espeak-ng runs them together.
        said = _espeak("\n\n".join(asked)).splitlines()
        if len(said) != len(asked):  # one of them is no single clause
            said = [" ".join(_espeak(word).split()) for word in asked]
        found |= dict(zip(asked, map(_parse, said), strict=True))
    return found | {word: phones for word, phones in UNSTRESSED.items() if word in found}


def sounding_alike(words: Iterable[str]) -> dict[str, set[str]]:
    """Return the words that sound as each of `words` does, itself among them.

    Raises SynthesisError where espeak-ng is not installed."""
    found: dict[Phones, set[str]] = {}
    phones = phones_of(sorted(words))
    for word, sound in phones.items():
        found.setdefault(sound, set()).add(word)
    return {word: found[sound] if sound else {word} for word, sound in phones.items()}


def _espeak(text: str) -> str:
    command = ["espeak-ng", "-v", "en-us", "-q", "--ipa", "--sep=_", "--stdin"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise SynthesisError(f"espeak-ng cannot say what words sound like: {error}") from error
    return "\n".join(line.strip() for line in done.stdout.decode().splitlines() if line.strip())


def _parse(said: str) -> Phones:
    """Return the phones of a line of espeak-ng, which parts them by `_` and spaces."""
    plain = re.sub(r"\([a-z-]+\)|[ˈˌː]", "", unicodedata.normalize("NFC", said))
    return tuple(phone for phone in re.split(r"[_\s]+", plain) if phone)


def distance(word: Phones, heard: Phones) -> float:
    """Return how many edits make of `word` the part of `heard` that is nearest to it.

    What is said before and after that part costs nothing. A vowel for another is half an edit, a
    voiced consonant for its voiceless one a quarter."""
    previous = [0.0] * (len(heard) + 1)
    for n, wanted in enumerate(word, 1):
        row = [float(n)]
        for k, phone in enumerate(heard, 1):
            row.append(
                min(previous[k] + 1, row[k - 1] + 1, previous[k - 1] + _replace(wanted, phone))
            )
        previous = row
    return min(previous)


def _replace(one: str, other: str) -> float:
    if one == other:
        return 0.0
    if one[0] in VOWELS and other[0] in VOWELS:
        return 0.5
    if VOICED.get(one, one) == VOICED.get(other, other):
        return 0.25
    return 1.0
