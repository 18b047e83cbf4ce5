"""Names of words and people, in any script: how they are stored, compared and made identifiers.

A name is stored in Unicode's normal form C, and compared without regard to case. Where it must be
an identifier (a file, a topic), it is an ASCII slug and six hex digits of its normal form.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MAX_LENGTH = 63
"""Longest name, in characters."""
ALLOWED = "letters with their marks, digits, spaces, . _ ' and -"
"""What a name is made of, for people."""
PUNCTUATION = frozenset(" ._'-\u2019\u00b7\u05be\u05f3\u05f4\u2010\u30fb")
"""Also the apostrophe, hyphens and middle dots that are part of words in their scripts."""
JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: Persian and the scripts of India spell words with them."""
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f]")
"""Letters and marks that nobody sees, by which two names could look alike."""
VIRAMA = 9
"""Combining class of the mark after which a joiner belongs to the spelling."""
MAX_SLUG = 40
EMPTY_SLUG = "name"
"""The slug of a name without a Latin letter or a digit."""
IDENTIFIER = re.compile(r"[a-z0-9_]+-[0-9a-f]{6}")


def normal(name: str) -> str:
    """Return a name in normal form C."""
    return unicodedata.normalize("NFC", name)


def word_name(text: str) -> str:
    """Return the name of a word as it is stored: `hey_banana` for `hey banana`."""
    return "_".join(normal(text).split())


def is_allowed(name: str) -> bool:
    """Return whether a name, in normal form, is one that a word or a speaker may have.

    It has at most `MAX_LENGTH` characters of `ALLOWED`, a letter or digit first.
    """
    if not 0 < len(name) <= MAX_LENGTH or name != name.strip() or ".." in name:
        return False
    return name[0].isalnum() and all(_fits(name, at) for at in range(len(name)))


def _fits(name: str, at: int) -> bool:
    """Return whether the character at index `at` may be in `name`."""
    character = name[at]
    if character in JOINERS:
        before = name[at - 1]
        arabic = unicodedata.bidirectional(before) == "AL" or unicodedata.category(before) == "Mn"
        return at + 1 < len(name) and (unicodedata.combining(before) == VIRAMA or arabic)
    if INVISIBLE.match(character) or ord(character) >= 0xE0000:
        return False
    is_mark = unicodedata.category(character) in ("Mn", "Mc")
    return character.isalnum() or is_mark or character in PUNCTUATION


def folded(name: str) -> str:
    """Return what two names have in common if they are the same: case and joiners do not count."""
    caseless = unicodedata.normalize("NFD", name).casefold()
    return normal(caseless.translate(dict.fromkeys(map(ord, JOINERS))))


def look_up(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` names that `name` is, or None; the same spelling comes first."""
    names = list(known)
    if normal(name) in names:
        return normal(name)
    return next((each for each in names if folded(each) == folded(name)), None)


def identifier(name: str) -> str:
    """Return an ASCII slug of a name and six hex digits of its normal form, with `-` between."""
    ascii = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", ascii).strip("_")[:MAX_SLUG].rstrip("_")
    digest = hashlib.sha256(normal(name).encode()).hexdigest()[:6]
    return f"{slug or EMPTY_SLUG}-{digest}"
