"""What is said of each word: its phrase and languages, and whose recordings taught it."""

from __future__ import annotations

from typing import NamedTuple

from kwsd.protocol.data import MadeFrom

RECORDINGS = "Picovoice wake-word-benchmark recordings"
PRECISE = "Mycroft Precise community data"
SOURCES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("alexa", "jarvis", "smart_mirror", "snowboy", "view_glass"), (RECORDINGS,)),
    "computer": (RECORDINGS, PRECISE),
}
"""Whose recordings taught each word that comes with kwsd, as the model card names them."""
LINKS = {
    RECORDINGS: "https://github.com/Picovoice/wake-word-benchmark",
    PRECISE: "https://github.com/MycroftAI/precise-community-data",
}
LANGUAGES = dict.fromkeys(SOURCES, ("en",))
"""The languages of these recordings."""


class ServedWord(NamedTuple):
    """What is said of a word."""

    name: str
    phrase: str
    languages: tuple[str, ...]
    source: str
    """Whose recordings taught it."""
    link: str
    """Where they are; empty where they are nowhere."""
    version: str
    """Identifies what gives its scores."""


def bundled(name: str, id: str) -> ServedWord:
    """Return what is said of a word of the bundle."""
    sources = SOURCES.get(name, ())
    return ServedWord(
        name=name,
        phrase=name.replace("_", " "),
        languages=LANGUAGES.get(name, ()),
        source=" and ".join(sources) or "whoever made the model bundle",
        link=LINKS[sources[0]] if sources else "",
        version=id,
    )


def added(name: str, id: str, made: MadeFrom) -> ServedWord:
    """Return what is said of an added word. Its language is known where synthetic voices have said
    it; of a person's takes nobody has asked."""
    of = "text, by synthetic voices" if made.of == "text" else f"{made.takes} takes"
    return ServedWord(
        name=name,
        phrase=name.replace("_", " "),
        languages=(made.language,) if made.language else (),
        source=f"added on this machine, from {of}",
        link="",
        version=id,
    )
