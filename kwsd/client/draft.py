"""A word that is made step by step, for programs that guide somebody.

Each take is checked as it comes; takes are redone, trimmed and dropped one by one, and the word is
made from them as often as wanted. It is kept at the end, or not at all: nothing is stored before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from kwsd.audio import pcm
from kwsd.audio.files import read_all
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.client import rebuild, words
from kwsd.client.calibrate import parse_rate
from kwsd.client.enroll import refusal
from kwsd.client.takes import MAX_ORIGIN, Recording, fetch
from kwsd.learn.few_shot import WordTrainer
from kwsd.learn.takes import TakeRejected
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import Requester
from kwsd.state.takes import take_id
from kwsd.state.words import MAX_STORED, WordError

Connect = Callable[[], AbstractContextManager[Requester]]
"""Opens what keeps words: the daemon, or a state directory."""
Number = Annotated[int, Meta(ge=1)]
"""Of a take, from 1."""


class Step(Struct, frozen=True, tag_field="do"):
    """Something to do with a word that is being made."""


class AddTake(Step, frozen=True, tag="take"):
    """Add a take, or put it in the place of another: a recording, or audio from the daemon."""

    path: str | None = None
    audio: bytes | None = None
    """Little-endian int16 at 16 kHz, as the request `take` returns it."""
    name: Annotated[str, Meta(max_length=MAX_ORIGIN)] = ""
    """What it is called; by default its number, or the name of the file."""
    instead_of: Number | None = None


class TrimTake(Step, frozen=True, tag="trim"):
    """Say where the word is in a take; without a span, its voice is looked for again."""

    number: Number
    span: tuple[float, float] | None = None
    """Where it begins and ends, in seconds."""


class DropTake(Step, frozen=True, tag="drop"):
    """Leave a take out."""

    number: Number


class GetAudio(Step, frozen=True, tag="audio"):
    """Ask for the sound of a take."""

    take: str
    """Its id: its number may change meanwhile."""


class MakeWord(Step, frozen=True, tag="make"):
    """Make the word from its takes, and say how good it is."""

    rate: str | None = None
    """As `kwsd word add --rate` takes it."""


class KeepWord(Step, frozen=True, tag="keep"):
    """Keep the word that was made last."""


DraftStep = AddTake | TrimTake | DropTake | GetAudio | MakeWord | KeepWord


class DraftTake(Struct, frozen=True):
    """A take of a word that is being made."""

    id: str
    """Identifies its samples."""
    name: str
    start_s: float
    """Where the word begins in it."""
    end_s: float
    length_s: float
    """Of all of it."""
    span: str
    """Who says where the word is, as in `TakeInfo`."""
    level_dbfs: float
    """Of the word."""
    problem: str | None
    """What a person should know of it."""


class DraftState(Struct, frozen=True):
    """A word that is being made, after a step."""

    word: str
    is_new: bool
    takes: list[DraftTake]
    report: dict[str, Any] | None
    """Of the word that was made from these takes; null before."""
    kept: bool


class Draft:
    """A word that is being made."""

    steps: Any = DraftStep

    def __init__(
        self, connect: Connect, trainer: WordTrainer, name: str, *, is_new: bool, channel: int | str
    ) -> None:
        """`is_new`: there must be no word of this name; else its takes are what it begins with.

        `channel` is that of recordings. Raises WordError or RequestError.
        """
        self._connect = connect
        self._trainer = trainer
        self._channel = channel
        self._is_new = is_new
        self._takes: list[Recording] = []
        self._made: words.Added | None = None
        with connect() as requester:
            found = words.listed(requester)
            if is_new:
                self._name = words.free_name(
                    [one.name for one in found.words], trainer.bundle, name
                )
            else:
                self._name, self._takes = fetch(requester, name)
        self._keeps_takes = found.keeps_takes

    @property
    def is_over(self) -> bool:
        """Whether the word is kept, so that nothing is left to do."""
        return self._made is not None and self._made.kept

    def state(self) -> DraftState:
        """Return what is there now."""
        report = self._made.report(self._trainer.word_id) if self._made else None
        takes = [_told(one) for one in self._takes]
        return DraftState(self._name, self._is_new, takes, report, self.is_over)

    def step(self, step: DraftStep) -> object:
        """Do a step, and return what is there then, or the audio that was asked for.

        Raises TakeRejected, AudioFileError, WordError, RequestError or ValueError, and then nothing
        has changed.
        """
        match step:
            case AddTake():
                self._change(self._with(step))
            case TrimTake():
                span = step.span or ()
                named = self._name, self._takes, step.number
                self._change(rebuild.trimmed(self._trainer, *named, span))
            case DropTake():
                self._change(rebuild.dropped(self._name, self._takes, step.number))
            case GetAudio():
                one = rebuild.readable(self._name, self._takes, self._number(step.take))
                return {"sample_rate": SAMPLE_RATE, "audio": pcm.to_bytes(one.samples)}
            case MakeWord():
                self._made = self._make(None if step.rate is None else parse_rate(step.rate))
            case KeepWord():
                self._keep()
        return self.state()

    def _number(self, take: str) -> int:
        """Return the number of the take with this id, from 1. Raises RequestError."""
        ids = [_id(one) for one in self._takes]
        if take not in ids:
            raise RequestError("no_take", f"{self._name!r} has no take with the id {take[:64]!r}")
        return ids.index(take) + 1

    def _change(self, takes: list[Recording]) -> None:
        self._takes = takes
        self._made = None

    def _with(self, step: AddTake) -> list[Recording]:
        """Return the takes with another one. Raises TakeRejected, AudioFileError or WordError."""
        if not self._is_new and not self._keeps_takes:
            text = "takes.keep is off in the configuration, so that no new takes are kept"
            raise WordError(f"{text}; set `takes: {{keep: on}}`")
        number = step.instead_of
        if number is not None:
            rebuild.numbered(self._name, self._takes, number)
        elif len(self._takes) >= MAX_STORED:
            text = f"{self._name!r} has {len(self._takes)} takes, and cannot have more"
            raise WordError(f"{text}; drop one first")
        called = step.name or f"take {number or len(self._takes) + 1}"
        new = self._recording(step, called)
        if number is None:
            return rebuild.joined(self._takes, new)
        return rebuild.redone(self._name, self._takes, number, new)

    def _recording(self, step: AddTake, called: str) -> Recording:
        encoder = self._trainer.encoder
        if step.audio is not None:
            samples = pcm.from_bytes(step.audio)
            return Recording.of(samples, encoder.take(samples, self._name), called)
        path = Path(step.path or "")
        samples = HighPass().step(read_all(path, channel=self._channel))
        try:
            take = encoder.take(samples, self._name)
        except TakeRejected as error:
            raise TakeRejected(error.reason, refusal(path, self._channel, error)) from error
        return Recording.of(samples, take, step.name or path)

    def _make(self, rate: float | None) -> words.Added:
        trainer = self._trainer
        self._takes = [self._heard(one) for one in self._takes]
        with self._connect() as requester:
            if not self._is_new:
                return rebuild.rebuild(requester, trainer, self._name, _ignore, self._takes, rate)
            takes = words.Takes()
            for one in self._takes:
                assert one.take is not None, "none was added without being heard"
                takes.add(one.take, one, one.info.origin)
            return words.add(
                requester, trainer, self._name, lambda: takes, "recordings", _ignore, rate=rate
            )

    def _heard(self, one: Recording) -> Recording:
        """Return a take as it is heard now; one that cannot be used stays as it is."""
        try:
            return one.encoded(self._trainer.encoder, self._name)
        except TakeRejected:
            return one

    def _keep(self) -> None:
        if self._made is None:
            raise WordError(f"{self._name!r} is not made yet; make it from its takes first")
        with self._connect() as requester:
            if self._is_new:  # somebody else may have added one meanwhile
                names = [one.name for one in words.listed(requester).words]
                words.free_name(names, self._trainer.bundle, self._name)
            self._made = self._made.keep(requester)


def _told(one: Recording) -> DraftTake:
    info = one.info
    word = one.samples[info.start : info.end]
    return DraftTake(
        id=_id(one),
        name=info.origin,
        start_s=round(info.start / SAMPLE_RATE, 2),
        end_s=round(info.end / SAMPLE_RATE, 2),
        length_s=round(info.samples / SAMPLE_RATE, 2),
        span=info.span,
        level_dbfs=round(pcm.level_dbfs(word), 1),
        problem=one.fault or (one.take.warning if one.take else None),
    )


def _id(one: Recording) -> str:
    return one.info.id or take_id(one.samples)


def _ignore(text: str) -> None:
    """Show nobody a line: the report says it."""
