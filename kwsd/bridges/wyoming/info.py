"""What the services say of themselves, as the library's events."""

from __future__ import annotations

from collections.abc import Sequence

from wyoming.event import Event
from wyoming.info import Attribution, Info, Satellite, WakeModel, WakeProgram

from kwsd.bridges.wyoming.served import ServedWord
from kwsd.version import __version__

DESCRIPTION = "Wake words, bundled and your own, and who said them"
SATELLITE = "The microphone of a kwsd daemon"
AUTHORS = "kwsd contributors"


def info(words: Sequence[ServedWord]) -> Event:
    """Return the reply of the wake service to `describe`."""
    return Info(wake=[_program(words)]).event()


def satellite_info(name: str, area: str | None, words: Sequence[ServedWord]) -> Event:
    """Return the reply of the satellite to `describe`, with the `words` that wake it."""
    satellite = Satellite(
        name=name,
        description=SATELLITE,
        attribution=Attribution(name=AUTHORS, url=""),
        installed=True,
        version=__version__,
        area=area,
        has_vad=False,
        active_wake_words=[word.name for word in words],
    )
    return Info(wake=[_program(words)], satellite=satellite).event()


def _program(words: Sequence[ServedWord]) -> WakeProgram:
    """Return one program with a model for each word."""
    return WakeProgram(
        name="kwsd",
        description=DESCRIPTION,
        attribution=Attribution(name=AUTHORS, url=""),
        installed=True,
        version=__version__,
        models=[_model(word) for word in words],
    )


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
