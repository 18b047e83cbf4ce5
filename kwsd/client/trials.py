"""Added words that are tried on recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kwsd.client.words import get
from kwsd.config import Config, WordConfig
from kwsd.detect.offline import Recordings
from kwsd.detect.setup import resolve
from kwsd.events import Wake
from kwsd.model.bundle import Bundle
from kwsd.protocol import commands
from kwsd.protocol.messages import Requester
from kwsd.state.library import Library


@dataclass(frozen=True)
class Trial:
    """A recording on which a word was tried."""

    path: Path
    score: float
    """The highest score."""
    wakes: bool


def test(
    requester: Requester,
    bundle: Bundle,
    name: str,
    paths: Sequence[Path],
    config: Config,
) -> list[Trial]:
    """Try the word `name` on recordings, with the channel and the checker of a configuration.

    Raises AudioFileError, ConfigError, WordError or RequestError.
    """
    word = get(requester, bundle, name)
    in_force = requester.request(commands.GetCalibration()).words.get(word.name)
    words = {word.name: WordConfig(threshold=in_force.threshold if in_force else None)}
    alone = Config(words=words, added_words=False, checker=config.checker)
    setup = resolve(alone, bundle, Library(words={word.name: word}))
    channel = config.microphone.channel
    recordings = Recordings(bundle, setup, channel)
    trials = []
    for path in paths:
        highest = 0.0
        woke = False
        for step in recordings.detect(path):
            highest = max(highest, float(step.trace.scores.max(initial=0.0)))
            woke = woke or any(isinstance(wake, Wake) for wake in step.wakes)
        trials.append(Trial(path, highest, woke))
    return trials
