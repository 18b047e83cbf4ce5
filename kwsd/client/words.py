"""Added words from the client's side: made here, kept by the daemon or in a state directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.audio.files import AudioFileError, read_all
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.audio.synthesis import language_of, spoken
from kwsd.bounded.file import Damaged, read
from kwsd.client import alike
from kwsd.client.client import Client
from kwsd.client.enroll import MAX_RETRIES, TAKE_TIMEOUT_S, Guide, refusal
from kwsd.client.takes import Recording, bring
from kwsd.learn.few_shot import MIN_TAKES, WordTrainer
from kwsd.learn.quality import Quality
from kwsd.learn.takes import REPEATED, KnownRecordings, TakeRejected
from kwsd.learn.word_takes import WordTake, WrongClip
from kwsd.metrics import COUNTED
from kwsd.model.bundle import Bundle
from kwsd.names import look_up
from kwsd.protocol import commands
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.messages import Requester
from kwsd.protocol.replies import WordsReply
from kwsd.state.words import (
    MAX_BYTES,
    MAX_STORED,
    AddedWord,
    WordError,
    check_word_name,
    from_bytes,
    to_bytes,
)
from kwsd.version import __version__

TEXT_ONLY = (
    "made from synthetic voices alone. On the development split such English words caught 63 % (71 "
    "% with the extra `voices`) where words of three recordings caught 90 % (at 1 % "
    "false accepts): record it three times, and it will be far better"
)
Origin = Literal["recordings", "text"]
KEPT = (
    "its takes are kept as recordings on this machine until the word is removed, so that it can be "
    "made again (`kwsd word takes` lists them; `takes: {keep: off}` keeps none)"
)
LOOK_BACK_STEP_S = 15
SYNTHETIC_TAKES = 16
"""Voices of each kind that speak a word that is made from text."""


def listed(requester: Requester) -> WordsReply:
    """Return the added words, and why others cannot be used. Raises RequestError."""
    return requester.request(commands.Words())


def get(requester: Requester, bundle: Bundle, name: str) -> AddedWord:
    """Return an added word. Raises RequestError or WordError."""
    file = requester.request(commands.WordsGet(name=check_word_name(name))).file
    return from_bytes(file, bundle.encoder_id, name, bundle.frame_dim)


def put(
    requester: Requester, word: AddedWord, recordings: Sequence[Recording] | None = None
) -> None:
    """Keep an added word, with these takes in place of those it has, if any are given.

    Raises RequestError.
    """
    takes = None if recordings is None else bring(requester, word.name, recordings)
    requester.request(commands.WordsPut(file=to_bytes(word), takes=takes))


def import_file(requester: Requester, bundle: Bundle, path: Path) -> str:
    """Keep the word in the file `path` and return its name.

    Raises WordError, RequestError or FileNotFoundError.
    """
    try:
        data = read(path, MAX_BYTES)
    except FileNotFoundError:
        fix = "check the name; `kwsd word export` makes one"
        raise FileNotFoundError(f"{path}: no such file; {fix}") from None
    except OSError as error:
        raise WordError(f"{path}: cannot be read ({error.strerror})") from error
    except Damaged as error:
        raise WordError(
            f"{path}: not a kwsd word file ({error}); `kwsd word export` makes one"
        ) from error
    word = from_bytes(data, bundle.encoder_id, str(path), bundle.frame_dim)
    free_name([one.name for one in listed(requester).words], bundle, word.name)
    put(requester, word)
    return word.name


@dataclass(frozen=True)
class Span:
    """Where the word was found in a recording."""

    take: str
    start_s: float
    end_s: float

    def __str__(self) -> str:
        return f"{self.take}: the word is at {self.start_s:.2f}–{self.end_s:.2f} s"


@dataclass(frozen=True)
class Takes:
    """Takes of a word."""

    usable: list[WordTake] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Why others cannot be used."""
    warnings: list[str] = field(default_factory=list)
    """What a person should know of those that are used."""
    wrong: list[WrongClip] = field(default_factory=list)
    """Clips that are not the word."""
    clips: list[str] = field(default_factory=list)
    """The ids of the clips that they are."""
    spans: list[Span] = field(default_factory=list)
    """What was used of recordings."""
    recordings: list[Recording] = field(default_factory=list)
    """What is to be kept of them."""
    language: str | None = None
    """The language of synthetic voices among them."""

    def add(self, take: WordTake, recording: Recording, origin: object) -> None:
        """Add a take that can be used, which came from `origin`."""
        self.usable.append(take)
        self.recordings.append(recording)
        self.spans.append(Span(str(origin), round(take.start_s, 2), round(take.end_s, 2)))
        if take.warning:
            self.warnings.append(f"{origin}: {take.warning}")


def from_recordings(
    trainer: WordTrainer, name: str, paths: Sequence[Path], channel: int | str = 0
) -> Takes:
    """Return the takes of the word `name` in `channel` of recordings."""
    takes = Takes()
    known = KnownRecordings()
    used: list[Path] = []
    for path in paths:
        try:
            samples = HighPass().step(read_all(path, channel=channel))
            take = trainer.encoder.take(samples, name)
            said = take.said(samples)
            again = known.find(said)
            if again is not None:
                text = f"the same recording as {used[again]}; it is one take"
                takes.refused.append(f"{path}: {text}")
                continue
            takes.add(take, Recording.of(samples, take, path), path)
            known.add(said)
            used.append(path)
        except AudioFileError as error:
            takes.refused.append(str(error))
        except TakeRejected as error:
            takes.refused.append(refusal(path, channel, error))
    return takes


def from_microphone(
    trainer: WordTrainer, client: Client, name: str, count: int, guide: Guide
) -> Takes:
    """Return `count` takes from the daemon's microphone, guided.

    A take that cannot be used is asked for again. After `MAX_RETRIES` of them, what there is must
    do. Raises DaemonError or TakeRejected where it does not.
    """
    takes = Takes()
    known = KnownRecordings()
    rejected = 0
    while len(takes.usable) < count:
        guide.ask(f"say “{name.replace('_', ' ')}”", len(takes.usable) + 1, count)
        try:
            command = commands.RecordTake(timeout_s=TAKE_TIMEOUT_S)
            samples = pcm.from_bytes(client.request(command, on_level=guide.level).pcm)
            take = trainer.encoder.take(samples, name)
            said = take.said(samples)
            if known.find(said) is not None:
                raise TakeRejected("repeated", REPEATED)
            known.add(said)
            origin = f"take {len(takes.usable) + 1}"
            takes.add(take, Recording.of(samples, take, origin), origin)
            guide.accepted(take.speech_dbfs, take.length_s)
        except (DaemonError, TakeRejected) as error:
            rejected += 1
            fatal = isinstance(error, DaemonError) and error.code != "no_speech"
            if fatal or (rejected > MAX_RETRIES and len(takes.usable) < MIN_TAKES):
                raise
            guide.rejected(str(error))
            if rejected > MAX_RETRIES:
                takes.refused.append(f"take {len(takes.usable) + 1} and later: {error}")
                break
    return takes


def from_text(trainer: WordTrainer, name: str, language: str | None = None) -> Takes:
    """Return takes of the word `name` by synthetic voices of a language, by default the one that
    its script is read in.

    Raises UnreadableText or SynthesisError.
    """
    text = name.replace("_", " ")
    read_as = language or language_of(text)
    takes = Takes(language=read_as)
    if language is None and read_as != "en":
        takes.warnings.append(f"its script is read as {read_as!r}; `--language` names another")
    for voice, samples in spoken(text, SYNTHETIC_TAKES, read_as):
        filtered = HighPass().step(samples)
        origin = f"the voice {voice}"
        try:
            take = trainer.encoder.take(filtered, name)
        except TakeRejected as error:  # some voices whisper, some shout
            takes.refused.append(f"{origin}: {error}")
            continue
        takes.usable.append(take)
        takes.recordings.append(Recording.of(filtered, take, origin))
    return takes


def free_name(names: Sequence[str], bundle: Bundle, name: str) -> str:
    """Return `name` in its stored form if no word of `names` or the bundle has it.

    Raises WordError.
    """
    name = check_word_name(name)
    if bundled := look_up(name, bundle.words):
        fix = "put it under `words` in the configuration, or choose another name"
        raise WordError(f"{bundled!r} comes with kwsd: {fix}")
    if added := look_up(name, names):
        fix = f"`kwsd word remove {added}` makes room for another"
        raise WordError(f"{added!r} exists already; {fix}")
    return name


@dataclass(frozen=True)
class Added:
    """A word that was made, and is kept once `keep` is called."""

    word: AddedWord
    quality: Quality
    refused: list[str]
    """Why takes were left out."""
    warnings: list[str]
    """What a person should know before it is kept."""
    again: list[AddedWord]
    """Other added words that were made again, so that they tell it from themselves."""
    spans: list[Span]
    """What was used of each take."""
    recordings: list[Recording]
    """What is to be kept with it."""
    kept: bool = False

    @property
    def takes_kept(self) -> int:
        """How many recordings are kept with it."""
        return len(self.recordings) if self.kept else 0

    def report(self, word_id: str | None) -> dict[str, Any]:
        """Return what a program is told of it; `word_id` as `AddedWord.heard_with` takes it."""
        return {
            "word": self.word.name,
            "added": self.kept,
            "threshold": self.word.heard_with(word_id).threshold,
            "quality": asdict(self.quality),
            "warnings": self.warnings,
            "left_out": self.refused,
            "made_again": [one.name for one in self.again],
            "takes": [asdict(span) for span in self.spans],
            "takes_kept": self.takes_kept,
        }

    def keep(self, requester: Requester) -> Added:
        """Keep it, with its recordings, and the words that were made again. Raises RequestError."""
        put(requester, self.word, self.recordings)
        for each in self.again:
            put(requester, each)
        return replace(self, kept=True)


def add(
    requester: Requester,
    trainer: WordTrainer,
    name: str,
    record: Callable[[], Takes],
    origin: Origin,
    show: Callable[[str], None],
    room: np.ndarray | None = None,
    rate: float | None = None,
) -> Added:
    """Make a word from the takes of `record()`, and `show` how good it is.

    `room`: int16 `[sample]` of the room, without the word; `rate`: as `WordTrainer.make` takes it.
    Raises WordError (such a word exists, or too few takes can be used), SynthesisError (its text
    cannot be spoken) or RequestError.
    """
    names = [one.name for one in listed(requester).words]
    name = free_name(names, trainer.bundle, name)
    return make(requester, trainer, name, record(), origin, show, room, rate)


def make(
    requester: Requester,
    trainer: WordTrainer,
    name: str,
    takes: Takes,
    origin: Origin | None,
    show: Callable[[str], None],
    room: np.ndarray | None = None,
    rate: float | None = None,
) -> Added:
    """Make the word `name` from takes, and `show` how good it is.

    One of this name is replaced once it is kept. Raises WordError (too few takes can be used) or
    RequestError.
    """
    found = listed(requester)
    names = [one.name for one in found.words if one.name != name]
    others = [get(requester, trainer.bundle, other) for other in names]
    for span in takes.spans:
        show(str(span))
    for why in takes.refused:
        show(f"left out: {why}")
    if len(takes.usable) > MAX_STORED:
        show(f"of {len(takes.usable)} takes the last {MAX_STORED} are used")
    word, quality = trainer.make(
        name, takes.usable, others, wrong=takes.wrong, room=room, rate=rate
    )
    again = alike.made_again(trainer, word, takes.usable, others)
    by_name = {one.name: one for one in [*others, *(each.word for each in again)]}
    also_wakes = trainer.also_wakes(name, takes.usable, [*by_name.values()])
    quality = replace(quality, also_wakes=also_wakes)
    made = msgspec.structs.replace(
        word.made,
        of=origin,
        kwsd=__version__,
        clips=takes.clips,
        rate=rate,
        language=takes.language,
    )
    word = replace(word, made=made)
    show(describe(name, quality))
    for each in again:
        show(alike.describe(name, each))
    warnings = [*takes.warnings, *([TEXT_ONLY] if origin == "text" else []), *quality.warnings]
    for warning in warnings:
        show(f"warning: {warning}")
    recordings = takes.recordings[-MAX_STORED:]
    if not found.keeps_takes:
        recordings = [one for one in recordings if one.info.id]
    if any(not one.info.id for one in recordings):
        show(KEPT)
    again_words = [each.word for each in again]
    return Added(word, quality, takes.refused, warnings, again_words, takes.spans, recordings)


def look_back(client: Client) -> np.ndarray:
    """Return what the daemon has heard of late, int16 `[sample]`: `lookback_s` of it.

    Raises DaemonError.
    """
    span = client.request(commands.Status()).look_back
    step = LOOK_BACK_STEP_S * SAMPLE_RATE
    parts = []
    for at in range(span.start, span.end, step):
        command = commands.Audio(start=at, end=min(at + step, span.end))
        parts.append(client.request(command).pcm or b"")
    return pcm.from_bytes(b"".join(parts))


def describe(name: str, quality: Quality) -> str:
    """Return how good a word is, for a person."""
    checks = ""
    if quality.candidates:
        checks = f"; the checker is asked {quality.candidates.checks_per_hour:.0f} times in one"
    low, high = quality.interval
    expected = quality.false_accepts_per_hour
    told = f"counted in {quality.bank_hours:.1f} h of it"
    if expected * quality.bank_hours < COUNTED:
        told = f"extrapolated: {quality.bank_hours:.1f} h of it are too few to count so rare ones"
    return (
        f"{name}: {quality.takes} takes of {quality.length_s:.1f} s. Left out one after the other, "
        f"{quality.missed} of them would be missed, {quality.missed_in_noise} in noise at 10 dB; "
        f"about {expected:.2g} false wakes an hour of continuous speech "
        f"({low:.1g} to {high:.1g}, {told}){checks}"
    )
