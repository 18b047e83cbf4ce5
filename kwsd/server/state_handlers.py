"""Requests that are answered from a state directory alone.

The daemon answers its clients with them, on the disk's thread; a verb that was given `--state` uses
them without a daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from kwsd.config import Config, ConfigError
from kwsd.detect import in_force
from kwsd.detect.in_force import Origins
from kwsd.detect.setup import DetectorSetup, chosen_checker, resolve
from kwsd.detect.speaker_id import SpeakerScorer, read_cohort
from kwsd.learn.thresholds import speaker_trials
from kwsd.model.bundle import COHORT, Bundle
from kwsd.names import look_up, word_name
from kwsd.protocol import commands, replies
from kwsd.protocol.commands import Command
from kwsd.protocol.errors import RequestError
from kwsd.protocol.paging import Pages
from kwsd.protocol.replies import Page, Reply
from kwsd.protocol.request import Request
from kwsd.server.calibration_handlers import CalibrationHandlers
from kwsd.server.clip_handlers import ClipHandlers
from kwsd.server.take_handlers import TakeHandlers
from kwsd.state import folder as state_folder
from kwsd.state import words
from kwsd.state.library import Library
from kwsd.state.peak_log import PeakLogError
from kwsd.state.store import Named, StateError, Store
from kwsd.state.voiceprints import VoiceprintError, VoiceprintStore
from kwsd.state.words import AddedWord, WordError, WordStore

log = logging.getLogger(__name__)
N = TypeVar("N", bound=Named)
R = TypeVar("R", bound=Reply)
MAX_IMPOSTORS = 100_000
"""Impostor scores that a message carries."""


def _log(fault: str) -> None:
    log.error("%s", fault)


class StateHandlers:
    """The handlers over the state directory `folder`.

    `config` returns the configuration in force, and `origins` where its keys were set.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        config: Callable[[], Config],
        origins: Callable[[], Origins] = dict,
        report: Callable[[str], None] = _log,
    ) -> None:
        """`report` is called with why a file cannot be used, once for each reason.

        Raises ConfigError where the folder is a symbolic link.
        """
        state_folder.check(folder)
        self.bundle = bundle
        self.folder = folder
        self.voiceprints = VoiceprintStore(folder, bundle.encoder_id, bundle.voice_dim)
        self.words = WordStore(folder, bundle.encoder_id, bundle.frame_dim)
        self.takes = TakeHandlers(folder, self.words, lambda: config().takes.keep)
        self._clip_handlers = ClipHandlers(folder, config, self._note)
        self.clips = self._clip_handlers.store
        self.voice_in = self._clip_handlers.voice_in
        self.keeps_clips = self._clip_handlers.keeps
        self.calibration = CalibrationHandlers(
            folder, bundle, config, self._resolved, self._clip_handlers, self._note
        )
        self.enabled: dict[str, bool] = {}
        """Whether words are listened for, where a client has said so since the start."""
        self._config = config
        self._origins = origins
        self._report = report
        self._pages = Pages()
        self._faults: dict[str, tuple[str, ...]] = {}
        self._handlers: dict[type[Command], Callable[[Any], Reply]] = {
            commands.Speakers: self._list_speakers,
            commands.SpeakersDelete: self._delete_speaker,
            commands.SpeakersTrials: self._speaker_trials,
            commands.Words: self._list_words,
            commands.WordsGet: self._get_word,
            commands.WordsDetector: self._get_detector,
            commands.WordsPut: self._put_word,
            commands.WordsDelete: self._delete_word,
            commands.WordsEnable: self._enable_word,
            commands.WordsDisable: self._enable_word,
            commands.GetConfig: self._get_config,
            **self.calibration.handlers,
            **self._clip_handlers.handlers,
            **self.takes.handlers,
        }
        self.handled = frozenset(self._handlers)
        """The types of the requests that are answered here."""

    def request(self, command: Request[R]) -> R:
        """Answer a request, whole. Raises RequestError."""
        return cast(R, self._handlers[cast("type[Command]", type(command))](command))

    def answer(self, command: Request[Any] | Command) -> Reply:
        """Answer a request of any type in `handled`, a page at a time. Raises RequestError."""
        if cursor := getattr(command, "after", None):
            return self._pages.after(command, cursor)
        reply = self._handlers[cast("type[Command]", type(command))](command)
        return self._pages.first(command, reply) if isinstance(reply, Page) else reply

    def library(self) -> Library:
        """Return what the detector must know; what cannot be used is reported once."""
        bundle = self.bundle
        library, faults = Library.load(
            self.folder, bundle.encoder_id, bundle.voice_dim, bundle.frame_dim
        )
        self._note("library", faults)
        self._clip_handlers.load_switch()
        return library

    def tidy(self) -> list[Path]:
        """Delete what a crash has left, and return it. Nobody else may be writing there."""
        deleted = state_folder.tidy(self.folder)
        with suppress(WordError):
            deleted += self.takes.tidy()
        return deleted

    def check_records(self) -> None:
        """Read the clips, the indexes of takes and the log of peaks; what cannot be used is
        reported once."""
        self._clip_handlers.all()
        self._check_takes()
        with suppress(PeakLogError):
            self.calibration.check_log()

    def _check_takes(self) -> None:
        self._note("takes", self.takes.store.faults())

    @property
    def unusable(self) -> list[str]:
        """Why files of the state directory cannot be used, as they were read last."""
        return [text for faults in list(self._faults.values()) for text in faults]

    def _note(self, what: str, faults: Sequence[StateError]) -> None:
        """Keep what is wrong with the files of one kind, and report what is new of it."""
        before = self._faults.get(what, ())
        self._faults[what] = tuple(str(fault) for fault in faults)
        for text in self._faults[what]:
            if text not in before:
                self._report(text)

    def _list_speakers(self, command: commands.Speakers) -> replies.SpeakersReply:
        good, bad = self.voiceprints.load_all()
        listed = [one.info() for one in good.values()]
        return replies.SpeakersReply(speakers=listed, unusable=[str(error) for error in bad])

    def _delete_speaker(self, command: commands.SpeakersDelete) -> replies.DeletedReply:
        try:
            name = look_up(command.name, self.voiceprints.names()) or command.name
            left = None
            if command.reference is not None:
                left = self.voiceprints.load(name).without_reference(command.reference)
            if left:
                _save(self.voiceprints, left)
            else:
                self.voiceprints.delete(name)
        except VoiceprintError as error:
            raise RequestError("no_speaker", str(error)) from error
        return replies.DeletedReply(deleted=name)

    def _speaker_trials(self, command: commands.SpeakersTrials) -> replies.SpeakersTrialsReply:
        speakers = self._setup().speakers
        people = speakers.voiceprints
        joined = speakers.joins and speakers.joins.voices
        strangers = read_cohort(self.bundle, "strangers", joined.cohort if joined else COHORT)
        scorer = speakers.scorer or SpeakerScorer(self.bundle)
        target, impostor = speaker_trials(people, strangers, scorer)
        return replies.SpeakersTrialsReply(
            people=len(people),
            target=np.round(target, 4).tolist(),
            impostor=np.round(impostor, 4).tolist()[:MAX_IMPOSTORS],
        )

    def _list_words(self, command: commands.Words) -> replies.WordsReply:
        good, bad = self.words.load_all()
        try:
            checker = chosen_checker(self._config(), self.bundle)
        except ConfigError:  # the daemon goes on with what it has
            checker = None
        word_id = checker.word_id if checker else None
        listed = [word.heard_with(word_id).info() for word in good.values()]
        lost = [error.thing for error in bad if error.thing]
        return replies.WordsReply(
            bundled=list(self.bundle.words),
            words=listed,
            unusable=[str(error) for error in bad],
            unusable_words=[self.takes.word_of(name) for name in lost],
            unusable_made=[self.words.made(name) for name in lost],
            keeps_takes=self.takes.keeps(),
        )

    def _get_word(self, command: commands.WordsGet) -> replies.WordsGetReply:
        word = self._word(command.name)
        return replies.WordsGetReply(name=word.name, file=words.to_bytes(word))

    def _get_detector(self, command: commands.WordsDetector) -> replies.WordsDetectorReply:
        word = self._word(command.name).without_takes()
        return replies.WordsDetectorReply(name=word.name, file=words.to_bytes(word))

    def _word(self, name: str) -> AddedWord:
        try:
            return self.words.load(words.check_word_name(name))
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error

    def _put_word(self, command: commands.WordsPut) -> replies.WordsPutReply:
        try:
            word = words.from_bytes(
                command.file, self.bundle.encoder_id, "words.put", self.bundle.frame_dim
            )
        except WordError as error:
            raise RequestError("bad_word", str(error)) from error
        if bundled := look_up(word.name, self.bundle.words):
            text = f"{bundled!r} comes with kwsd; choose another name"
            raise RequestError("bad_word", text)
        replaces = self.words.path(word.name).exists()
        with self.takes.replacing(word.name, command.takes, replaces=replaces):
            _save(self.words, word)
        self._check_takes()
        return replies.WordsPutReply(name=word.name, replaces=replaces)

    def _delete_word(self, command: commands.WordsDelete) -> replies.DeletedReply:
        try:
            name = words.check_word_name(command.name)
            name = look_up(name, self.words.names()) or name
            if look_up(name, self._config().words):
                text = f"{name!r} is in the configuration; remove it from `words` there first"
                raise RequestError("in_use", text)
            self.words.delete(name)
            self.enabled.pop(name, None)
            self.takes.delete(name)
            self._check_takes()
        except WordError as error:
            raise RequestError("unknown_word", str(error)) from error
        return replies.DeletedReply(deleted=name)

    def _enable_word(
        self, command: commands.WordsEnable | commands.WordsDisable
    ) -> replies.WordsEnabledReply:
        setup = self._setup()
        known = [*setup.words, *setup.disabled]
        name = look_up(word_name(command.name), known)
        if name is None:
            text = f"{command.name!r} is neither in the configuration nor added"
            raise RequestError("unknown_word", f"{text}; the words are {', '.join(known)}")
        self.enabled[name] = isinstance(command, commands.WordsEnable)
        setup = self._setup()
        return replies.WordsEnabledReply(words=list(setup.words), disabled=list(setup.disabled))

    def _setup(self) -> DetectorSetup:
        """Return what is asked for now. Raises RequestError."""
        return self._resolved()[0]

    def _resolved(self) -> tuple[DetectorSetup, Library]:
        """Return what is asked for now, and what it was resolved with. Raises RequestError."""
        library = self.library()
        try:
            setup = resolve(self._config(), self.bundle, library, enabled=self.enabled)
        except ConfigError as error:
            raise RequestError("bad_config", str(error)) from error
        return setup, library

    def _get_config(self, command: commands.GetConfig) -> replies.ConfigReply:
        setup = self._setup()
        config, origins = self._clip_handlers.in_force(self._config(), self._origins())
        text, sources = in_force.describe(config, setup, self.bundle, origins)
        return replies.ConfigReply(text=text, sources=sources)


def _save(store: Store[N], thing: N) -> None:
    try:
        store.save(thing)
    except StateError as error:
        raise RequestError("not_saved", str(error)) from error
