"""Guided enrollment from the client's side: the prompts, and the result of each take.

There is no terminal here; a `Guide` shows it to a person.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kwsd.audio import pcm
from kwsd.audio.files import AudioFileError, dead_channel, read_all
from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.high_pass import HighPass
from kwsd.client.client import Client
from kwsd.config import Config
from kwsd.detect.offline import Recordings
from kwsd.detect.setup import resolve
from kwsd.learn.enrollment import (
    FREE_TAKES,
    MIN_TAKES,
    WORD_TAKES,
    Enrollment,
    compared,
    voice_in,
)
from kwsd.learn.takes import TakeRejected
from kwsd.model import bundle as bundles
from kwsd.names import look_up, word_name
from kwsd.protocol.commands import EnrollAbort, EnrollBegin, EnrollCommit, EnrollNext, Status
from kwsd.protocol.data import ClipInfo
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.protocol.replies import EnrollNextReply
from kwsd.protocol.request import MAX_AUDIO_S
from kwsd.state.clips import ClipError, ClipStore
from kwsd.state.folder import check as check_folder
from kwsd.state.library import Library
from kwsd.state.voiceprints import VoiceprintError, VoiceprintStore

FEW_TAKES = 3
"""A voice of fewer takes than this is one to be warned of."""
MAX_RETRIES = 6
"""Rejected takes after which a guided recording gives up."""
TAKE_TIMEOUT_S = 20.0
SOMEBODY_ELSE = "sounds like somebody else than most of the takes"
FATAL = ("closed", "timeout", "permission_denied", "unknown_word", "internal", "busy", "paused")
"""Codes of errors that another take does not fix."""


class Guide(Protocol):
    """Shows a person what to say and what came of it."""

    def ask(self, text: str, take: int, takes: int) -> None:
        """Ask for a take; `text` says what to say."""

    def level(self, dbfs: float) -> None:
        """Show the level of the microphone."""

    def accepted(self, speech_dbfs: float, speech_s: float) -> None:
        """Show that a take was accepted."""

    def rejected(self, why: str) -> None:
        """Show why a take was not accepted."""


@dataclass(frozen=True)
class Enrolled:
    """A voiceprint that was stored, or was not because a person said no."""

    takes: int
    refused: list[str]
    """Why other takes were left out."""
    known_as: list[str]
    """Other names under which this voice is enrolled."""
    unlike: bool = False
    """Whether it does not resemble the speaker's other references."""
    kept: bool = True

    @property
    def warning(self) -> str | None:
        """What a person should know of it."""
        if not self.kept or self.takes >= FEW_TAKES:
            return None
        return (
            f"from {self.takes} takes alone the voice is known less surely: enroll it again from "
            "three at least, better more"
        )


NOT_KEPT = Enrolled(0, [], [], kept=False)
Confirm = Callable[[Sequence[str]], bool]
"""Asks whether a speaker's reference is to be replaced, who has references of these names."""
Given = Path | str
"""A recording, or the id of a clip."""


def check_rights(client: Client, what: str) -> None:
    """Raise DaemonError where this client may not make privileged requests, for instance `what`.

    It is for verbs that would else find out after minutes or hours.
    """
    if why := client.request(Status()).refused:
        raise DaemonError("permission_denied", f"{what} is {why}")


class Enrolling:
    """An enrollment at the daemon, take by take; nothing is stored before `commit`."""

    def __init__(self, client: Client, name: str, reference: str = "") -> None:
        """Begin it. Raises DaemonError."""
        self.begun = client.request(EnrollBegin(name=name, reference=reference))
        self.accepted: list[str] = []
        """What the takes that were accepted are called."""
        self.refused: list[str] = []
        """Why others were not, of those that cannot be said again."""
        self._client = client

    def phrases(self, word: str | None) -> list[tuple[EnrollNext, str]]:
        """Return what is recorded, and what to say, with a wake word, by default the first.

        Raises DaemonError where it is not listened for.
        """
        words = self.begun.words
        if not words:
            text = "the daemon listens for no word; `kwsd status` says why"
            raise DaemonError("unknown_word", text)
        wanted = word_name(word or words[0])
        word = look_up(wanted, words)
        if word is None:
            text = f"{wanted!r} is not listened for; the words are {', '.join(words)}"
            raise DaemonError("unknown_word", text)
        free = "say what you like, for about five seconds (what you did today, a poem, the news)"
        spoken = EnrollNext(kind="word", word=word, timeout_s=TAKE_TIMEOUT_S)
        phrases = [(spoken, f"say “{word.replace('_', ' ')}”")] * WORD_TAKES
        return phrases + [(EnrollNext(kind="free", timeout_s=TAKE_TIMEOUT_S), free)] * FREE_TAKES

    def record(
        self, command: EnrollNext, on_level: Callable[[float], None] | None = None
    ) -> EnrollNextReply:
        """Record a take, and return what was accepted. Raises DaemonError."""
        reply = self._client.request(command, on_level=on_level)
        self.accepted.append(f"take {reply.take}")
        return reply

    def give(self, one: Given, channel: int | str) -> EnrollNextReply | None:
        """Add a recording or a clip; one that cannot be used is refused, and None returned.

        Raises DaemonError for an error that is not of the take.
        """
        try:
            if isinstance(one, Path):
                samples = read_all(one, channel=channel)
                if len(samples) > MAX_AUDIO_S * SAMPLE_RATE:
                    text = f"the take lasts {len(samples) / SAMPLE_RATE:.0f} s"
                    raise AudioFileError(f"{one}: {text}; at most {MAX_AUDIO_S:.0f} s are of use")
                reply = self._client.request(EnrollNext(audio=pcm.to_bytes(samples)))
            else:
                reply = self._client.request(EnrollNext(clip=one))
        except AudioFileError as error:
            self.refused.append(str(error))
            return None
        except DaemonError as error:
            if error.code in FATAL:
                raise
            self.refused.append(refusal(one, channel, error))
            return None
        self.accepted.append(_called(one))
        return reply

    def commit(self) -> Enrolled:
        """Store the voiceprint. Raises DaemonError."""
        done = self._client.request(EnrollCommit())
        left_out = [f"{self.accepted[n - 1]}: {SOMEBODY_ELSE}" for n in done.left_out]
        return Enrolled(done.takes, [*self.refused, *left_out], done.known_as, done.unlike)

    def abort(self) -> None:
        """Drop it."""
        with contextlib.suppress(DaemonError):  # a lost connection has ended it
            self._client.request(EnrollAbort())


def from_microphone(
    client: Client,
    name: str,
    word: str | None,
    guide: Guide,
    confirm: Confirm,
    reference: str = "",
) -> Enrolled:
    """Enroll `name` from the daemon's microphone.

    `word` is the wake word to say. A take that cannot be used is asked for again. After
    `MAX_RETRIES` of them, what there is must do. Raises DaemonError, and then nothing is stored.
    """
    enrolling = Enrolling(client, name, reference)
    try:
        steps = enrolling.phrases(word)
        if enrolling.begun.replaces and not confirm(enrolling.begun.references):
            enrolling.abort()
            return NOT_KEPT
        rejected = 0
        while (accepted := len(enrolling.accepted)) < len(steps):
            command, text = steps[accepted]
            guide.ask(text, accepted + 1, len(steps))
            try:
                take = enrolling.record(command, guide.level)
            except DaemonError as error:
                is_last = rejected >= MAX_RETRIES
                if error.code in FATAL or (is_last and accepted < MIN_TAKES):
                    raise
                guide.rejected(str(error))
                if is_last:
                    enrolling.refused.append(f"take {accepted + 1} and later: {error}")
                    break
                rejected += 1
                continue
            guide.accepted(take.speech_dbfs, take.speech_s)
        return enrolling.commit()
    except BaseException:
        enrolling.abort()
        raise


def refusal(one: Given, channel: int | str, error: TakeRejected | DaemonError) -> str:
    """Return why a clip, or `channel` of a recording, is no take: its sound may be in another
    channel."""
    reason = error.reason if isinstance(error, TakeRejected) else error.code
    dead = None
    if reason == "silent" and isinstance(one, Path):
        dead = dead_channel(one, channel)
    return f"{_called(one)}: {dead or error}"


def _called(one: Given) -> str:
    return str(one) if isinstance(one, Path) else f"the clip {one}"


def from_given(
    client: Client,
    name: str,
    given: Sequence[Given],
    confirm: Confirm,
    channel: int | str = 0,
    reference: str = "",
) -> Enrolled:
    """Enroll `name` from clips and from `channel` of recordings, through the daemon.

    Raises DaemonError (for too few good takes among them, say), and then nothing is stored.
    """
    enrolling = Enrolling(client, name, reference)
    try:
        if enrolling.begun.replaces and not confirm(enrolling.begun.references):
            enrolling.abort()
            return NOT_KEPT
        for one in given:
            enrolling.give(one, channel)
        try:
            return enrolling.commit()
        except DaemonError as error:
            raise DaemonError(error.code, "\n".join([*enrolling.refused, str(error)])) from error
    except BaseException:
        enrolling.abort()
        raise


def clips_of(name: str, clips: Sequence[ClipInfo], ids: Sequence[str]) -> list[str]:
    """Return the ids of the clips to enroll a speaker from: `ids`, or where there are none, those
    that are labeled right and not verified as somebody else. Raises ClipError where none is.
    """
    if ids:
        return list(ids)
    found = [
        one.id
        for one in clips
        if one.label == "right"
        and (not one.speaker or not one.speaker.name or look_up(name, [one.speaker.name]))
    ]
    if not found:
        text = f"no clips are labeled right, of which {name!r} could be the speaker"
        fix = "`clips: on` keeps clips, and `kwsd clips label right ID…` labels them"
        raise ClipError(f"{text}; {fix}, or name clips: `--from-clips ID…`")
    return found


def without_daemon(
    config: Config,
    name: str,
    given: Sequence[Path] | Sequence[str],
    confirm: Confirm,
    reference: str = "",
    *,
    from_clips: bool = False,
) -> Enrolled:
    """Enroll `name` straight into the state directory of `config`: from recordings, or `from_clips`
    of these ids, as `clips_of` reads them.

    Raises TakeRejected, VoiceprintError, ClipError, RequestError, ConfigError or BundleError, and
    then nothing is stored.
    """
    bundle = bundles.load(config.models_path())
    channel = config.microphone.channel
    folder = config.state_directory()
    check_folder(folder)
    store = VoiceprintStore(folder, bundle.encoder_id, bundle.voice_dim)
    clips = ClipStore(folder, lambda: config.clips)
    chosen: list[Given] = list(given)
    if from_clips:
        chosen = [*clips_of(name, clips.listed(), [str(id) for id in given])]
    library, _ = Library.load(folder, bundle.encoder_id, bundle.voice_dim, bundle.frame_dim)
    setup = resolve(config, bundle, library)
    enrollment = Enrollment(name, Recordings(bundle, setup, channel).embedder(), reference)
    replaces, there = store.replaced(enrollment.name, enrollment.reference)
    if replaces and not confirm(there):
        return NOT_KEPT
    accepted: list[Given] = []
    refused = []
    for one in chosen:
        try:
            if isinstance(one, Path):
                samples = HighPass().step(read_all(one, channel=channel))
            else:
                samples = voice_in(clips, one)
            enrollment.add(samples, judged_now=False)
            accepted.append(one)
        except (AudioFileError, ClipError) as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(refusal(one, channel, error))
    try:
        voiceprint, left_out = enrollment.finish()
    except TakeRejected as error:
        raise TakeRejected(error.reason, "\n".join([*refused, str(error)])) from error
    refused += [f"{_called(accepted[number - 1])}: {SOMEBODY_ELSE}" for number in left_out]
    known, unlike = compared(voiceprint, setup.speakers)
    try:
        store.add(voiceprint)
    except VoiceprintError as error:
        raise RequestError("not_saved", str(error)) from error
    return Enrolled(len(voiceprint.takes), refused, known, unlike)
