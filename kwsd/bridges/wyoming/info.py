"""What the service says of itself, as the library's events."""

from __future__ import annotations

from collections.abc import Sequence

from wyoming.event import Event
from wyoming.info import Attribution, Info, WakeModel, WakeProgram

from kwsd.bridges.wyoming.words import ServedWord
from kwsd.version import __version__

DESCRIPTION = "Wake words, bundled and your own, and who said them"
AUTHORS = "kwsd contributors"


def info(words: Sequence[ServedWord]) -> Event:
    """Return the reply to `describe`: one program with a model for each word."""
    program = WakeProgram(
        name="kwsd",
        description=DESCRIPTION,
        attribution=Attribution(name=AUTHORS, url=""),
        installed=True,
        version=__version__,
        models=[_model(word) for word in words],
    )
    return Info(wake=[program]).event()


def _model(word: ServedWord) -> WakeModel:
    return WakeModel(
        name=word.name,
        description=word.phrase,
        phrase=word.phrase,
        languages=list(word.languages),
        attribution=Attribution(name=word.source, url=word.link),
        installed=True,
        version=word.version,
    )
