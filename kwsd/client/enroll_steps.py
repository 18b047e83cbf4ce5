"""An enrollment that is done step by step, for programs that guide somebody."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from kwsd.client.client import Client
from kwsd.client.enroll import Enrolled, Enrolling
from kwsd.client.takes import MAX_ORIGIN
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import EnrollNextReply


class Step(Struct, frozen=True, tag_field="do"):
    """Something to do in an enrollment."""


class Record(Step, frozen=True, tag="record"):
    """Record the phrase that is asked for, through the daemon's microphone."""


class AddRecording(Step, frozen=True, tag="take"):
    """Add a recording of the speaker."""

    path: str
    name: Annotated[str, Meta(max_length=MAX_ORIGIN)] = ""
    """What it is called; by default as the file."""


class Commit(Step, frozen=True, tag="commit"):
    """Store the voiceprint, in place of the reference that it replaces, if it does."""


EnrollStep = Record | AddRecording | Commit


class Phrase(Struct, frozen=True):
    """What is to be said next."""

    text: str
    number: int
    """From 1."""
    of: int


class EnrollTake(Struct, frozen=True):
    """A take that was accepted."""

    name: str
    speech_s: float
    speech_dbfs: float


class EnrollState(Struct, frozen=True):
    """An enrollment, after a step."""

    name: str
    reference: str
    replaces: bool
    """Whether the speaker has this reference already."""
    references: list[str]
    words: list[str]
    """Those that can be said."""
    word: str | None
    """The one that is asked for."""
    ask: Phrase | None
    """Null where all phrases were said, or none can be."""
    takes: list[EnrollTake]
    done: dict[str, Any] | None
    """How it has ended, as `kwsd enroll --json` says it."""


class GuidedEnrollment:
    """An enrollment at the daemon, step by step."""

    steps: Any = EnrollStep

    def __init__(
        self, client: Client, name: str, reference: str, word: str | None, channel: int | str
    ) -> None:
        """`word` is the wake word to say; `channel` that of recordings. Raises DaemonError."""
        self._enrolling = Enrolling(client, name, reference)
        self._reference = reference
        self._channel = channel
        self._phrases = self._enrolling.phrases(word) if self._enrolling.begun.words else []
        self._recorded = 0
        self._takes: list[EnrollTake] = []
        self._done: Enrolled | None = None

    @property
    def is_over(self) -> bool:
        """Whether the voiceprint is stored."""
        return self._done is not None

    def state(self) -> EnrollState:
        """Return what is there now."""
        begun = self._enrolling.begun
        ask = None
        if self._recorded < len(self._phrases):
            text = self._phrases[self._recorded][1]
            ask = Phrase(text, self._recorded + 1, len(self._phrases))
        done = None
        if self._done:
            done = {**asdict(self._done), "warning": self._done.warning}
        return EnrollState(
            name=begun.name,
            reference=self._reference,
            replaces=begun.replaces,
            references=begun.references,
            words=begun.words,
            word=self._phrases[0][0].word if self._phrases else None,
            ask=ask,
            takes=self._takes,
            done=done,
        )

    def step(self, step: EnrollStep) -> EnrollState:
        """Do a step, and return what is there then.

        Raises RequestError, and then nothing has changed.
        """
        match step:
            case Record():
                self._record()
            case AddRecording():
                self._give(Path(step.path), step.name)
            case Commit():
                self._done = self._enrolling.commit()
        return self.state()

    def _record(self) -> None:
        if self._recorded >= len(self._phrases):
            text = "there is nothing more to say; add recordings, or commit"
            raise RequestError("bad_request", text)
        reply = self._enrolling.record(self._phrases[self._recorded][0])
        self._recorded += 1
        self._takes = [*self._takes, _take(f"phrase {self._recorded}", reply)]

    def _give(self, path: Path, called: str) -> None:
        reply = self._enrolling.give(path, self._channel)
        if reply is None:  # it can be given again
            raise RequestError("refused", self._enrolling.refused.pop())
        self._takes = [*self._takes, _take(called or path.name, reply)]


def _take(called: str, reply: EnrollNextReply) -> EnrollTake:
    return EnrollTake(called, reply.speech_s, reply.speech_dbfs)
