"""Words that users add, seen from the client: made here, kept by the daemon or in a state directory."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kwsd import __version__
from kwsd.audio.files import AudioFileError, read_all
from kwsd.config import Config, Word
from kwsd.detect.detector import Trace
from kwsd.detect.fewshot import Quality, WordTake, WordTrainer
from kwsd.detect.recordings import Recordings
from kwsd.detect.takes import TakeRejected, level_dbfs
from kwsd.detect.words import UserWord, WordError, WordStore, about, check_name, from_bytes, to_bytes
from kwsd.model.bundle import Bundle
from kwsd.service.client import Connection, DaemonError
from kwsd.service.guide import RETRIES, Voice


class Keeper(Protocol):
    """Where words are kept."""

    def listed(self) -> tuple[list[dict[str, Any]], list[str]]:
        """What is known of each word, and why others cannot be used."""

    def get(self, name: str) -> UserWord: ...
    def put(self, word: UserWord) -> None: ...
    def delete(self, name: str) -> None: ...


class Folder:
    """A state directory of which no daemon need know."""

    def __init__(self, store: WordStore) -> None:
        self._store = store

    def listed(self) -> tuple[list[dict[str, Any]], list[str]]:
        good, bad = self._store.load_all()
        return [about(word) for word in good.values()], [str(error) for error in bad]

    def get(self, name: str) -> UserWord:
        return self._store.load(check_name(name))

    def put(self, word: UserWord) -> None:
        self._store.save(word)

    def delete(self, name: str) -> None:
        self._store.delete(check_name(name))


class Daemon:
    """The running daemon, which takes up what is put there."""

    def __init__(self, connection: Connection, encoder_id: str) -> None:
        self.connection, self._encoder_id = connection, encoder_id

    def listed(self) -> tuple[list[dict[str, Any]], list[str]]:
        body = self.connection.request("words")
        return body["words"], body["unusable"]

    def get(self, name: str) -> UserWord:
        body = self.connection.request("words.get", name=name)
        return from_bytes(base64.b64decode(body["file"]), self._encoder_id, name)

    def put(self, word: UserWord) -> None:
        self.connection.request("words.put", file=base64.b64encode(to_bytes(word)).decode())

    def delete(self, name: str) -> None:
        self.connection.request("words.delete", name=name)


TEXT_ONLY = ("made of synthetic voices alone. On the development split such words caught 63 % where "
             "words of three recordings caught 90 % (at 1 % false accepts): record it three times, and it will be far better")  # fmt: skip


Heard = tuple[list[WordTake], list[str]]
"""Takes that can be used, and why others cannot."""


def of_recordings(trainer: WordTrainer, paths: Sequence[Path]) -> Heard:
    """The takes in recordings."""
    takes, refused = list[WordTake](), []
    for path in paths:
        try:
            takes.append(trainer.take(read_all(path)))
        except AudioFileError as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(f"{path}: {error}")
    return takes, refused


def of_microphone(trainer: WordTrainer, daemon: Connection, name: str, count: int, voice: Voice) -> Heard:
    """`count` takes from the daemon's microphone, guided. Raises DaemonError."""
    takes, rejected = list[WordTake](), 0
    while len(takes) < count:
        voice.ask(f"say “{name.replace('_', ' ')}”", len(takes) + 1, count)
        try:
            pcm = daemon.request("take", timeout_s=20, on_level=voice.level)["pcm"]
            samples = np.frombuffer(base64.b64decode(pcm), "<i2")
            takes.append(trainer.take(samples))
            voice.accepted(level_dbfs(samples), takes[-1].length_s)
        except (DaemonError, TakeRejected) as error:
            rejected += 1
            if rejected > RETRIES or (isinstance(error, DaemonError) and error.code != "no_speech"):
                raise
            voice.rejected(str(error))
    return takes, []


def free_name(kept: Sequence[str], bundle: Bundle, name: str) -> str:
    """`name` as a word is called, if none of those `kept` is called so. Raises WordError."""
    name = check_name(name)
    if name in bundle.words:
        raise WordError(f"{name!r} comes with kwsd: put it under `words` in the configuration, or call yours something else")
    if name in kept:
        raise WordError(f"{name!r} is there already; `kwsd word remove {name}` makes room for another")
    return name


def add(keeper: Keeper, trainer: WordTrainer, name: str, hear: Callable[[], Heard] | None, tell: Callable[[str], None], keep: Callable[[], bool]) -> bool:
    """Make a word of what `hear()` gives (None: of its text), `tell` how good it is, and keep it if `keep()` says so; whether it was kept.

    Raises WordError: there is such a word already, or too few takes can be used; SynthesisError: its text cannot be spoken."""
    kept = [one["name"] for one in keeper.listed()[0]]
    text, name = name.replace("_", " "), free_name(kept, trainer.bundle, name)
    takes, refused = hear() if hear else (trainer.spoken(text), [])
    others = [keeper.get(other) for other in kept]
    for why in refused:
        tell(f"left out: {why}")
    word, quality = trainer.make(name, takes, others)
    word = replace(word, made={**word.made, "of": "recordings" if hear else "text", "kwsd": __version__})
    tell(describe(name, quality))
    for warning in quality.warnings if hear else [TEXT_ONLY, *quality.warnings]:
        tell(f"warning: {warning}")
    if not keep():
        return False
    keeper.put(word)
    return True


def describe(name: str, quality: Quality) -> str:
    """How good a word is, for a person."""
    return (f"{name}: {quality.takes} takes of {quality.length_s:.1f} s. Left out one after the other, {quality.missed} of them would be missed, "
            f"{quality.missed_in_noise} in noise at 10 dB; about {quality.false_accepts_per_hour:g} false wakes an hour of ceaseless speech "
            f"(continued from {quality.bank_hours:.1f} h of it)")  # fmt: skip


def import_file(keeper: Keeper, bundle: Bundle, path: Path) -> str:
    """Keep the word in the file `path`; its name. Raises WordError or OSError."""
    word = from_bytes(path.read_bytes(), bundle.encoder_id, str(path))
    free_name([one["name"] for one in keeper.listed()[0]], bundle, word.name)
    keeper.put(word)
    return word.name


def test(word: UserWord, bundle: Bundle, paths: Sequence[Path]) -> list[tuple[Path, float, bool]]:
    """The highest score of `word` in each recording, and whether it wakes. Raises AudioFileError."""
    recordings, results = Recordings(Config(words={word.name: Word()}, added_words=False), bundle, words={word.name: word}), []
    for path in paths:
        tops = [0.0]

        def note(trace: Trace, tops: list[float] = tops) -> None:
            tops.append(float(trace.scores.max(initial=0.0)))

        woke = [wake for wake in recordings.detect(path, note) if wake.reason is None]
        results.append((path, max(tops), bool(woke)))
    return results
