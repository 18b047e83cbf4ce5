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
from kwsd.audio.high_pass import HighPass
from kwsd.client.client import Client
from kwsd.config import Config
from kwsd.detect.offline import Recordings
from kwsd.detect.setup import resolve
from kwsd.learn.enrollment import FREE_TAKES, MIN_TAKES, WORD_TAKES, Enrollment, known_as
from kwsd.learn.takes import TakeRejected
from kwsd.model import bundle as bundles
from kwsd.names import look_up, word_name
from kwsd.protocol.commands import EnrollAbort, EnrollBegin, EnrollCommit, EnrollNext, Status
from kwsd.protocol.errors import DaemonError, RequestError
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
Confirm = Callable[[], bool]
"""Asks whether an enrolled speaker is to be replaced."""


def check_rights(client: Client, what: str) -> None:
    """Raise DaemonError where this client may not make privileged requests, for instance `what`.

    It is for verbs that would else find out after minutes or hours.
    """
    if why := client.request(Status()).refused:
        raise DaemonError("permission_denied", f"{what} is {why}")


def from_microphone(
    client: Client, name: str, word: str | None, guide: Guide, confirm: Confirm
) -> Enrolled:
    """Enroll `name` from the daemon's microphone.

    `word` is the wake word to say. A take that cannot be used is asked for again. After
    `MAX_RETRIES` of them, what there is must do. Raises DaemonError, and then nothing is stored.
    """
    begun = client.request(EnrollBegin(name=name))
    if not begun.words:
        _abort(client)
        text = "the daemon listens for no word; `kwsd status` says why"
        raise DaemonError("unknown_word", text)
    wanted = word_name(word or begun.words[0])
    word = look_up(wanted, begun.words)
    if word is None:
        _abort(client)
        known = ", ".join(begun.words)
        text = f"{wanted!r} is not listened for; the words are {known}"
        raise DaemonError("unknown_word", text)
    if begun.replaces and not confirm():
        _abort(client)
        return NOT_KEPT
    free = "say what you like, for about five seconds (what you did today, a poem, the news)"
    spoken = EnrollNext(kind="word", word=word, timeout_s=TAKE_TIMEOUT_S)
    steps = [(spoken, f"say “{word.replace('_', ' ')}”")] * WORD_TAKES
    steps += [(EnrollNext(kind="free", timeout_s=TAKE_TIMEOUT_S), free)] * FREE_TAKES
    rejected = 0
    accepted = 0
    refused = []
    try:
        while accepted < len(steps):
            command, text = steps[accepted]
            guide.ask(text, accepted + 1, len(steps))
            try:
                take = client.request(command, on_level=guide.level)
            except DaemonError as error:
                is_last = rejected >= MAX_RETRIES
                if error.code in FATAL or (is_last and accepted < MIN_TAKES):
                    raise
                guide.rejected(str(error))
                if is_last:
                    refused.append(f"take {accepted + 1} and later: {error}")
                    break
                rejected += 1
                continue
            guide.accepted(take.speech_dbfs, take.speech_s)
            accepted += 1
        done = client.request(EnrollCommit())
    except BaseException:
        _abort(client)
        raise
    refused += [f"take {number}: {SOMEBODY_ELSE}" for number in done.left_out]
    return Enrolled(done.takes, refused, done.known_as)


def refusal(path: Path, channel: int | str, error: TakeRejected | DaemonError) -> str:
    """Return why `channel` of a recording is no take: its sound may be in another channel."""
    reason = error.reason if isinstance(error, TakeRejected) else error.code
    dead = dead_channel(path, channel) if reason == "silent" else None
    return f"{path}: {dead or error}"


def from_recordings(
    client: Client, name: str, paths: Sequence[Path], confirm: Confirm, channel: int | str = 0
) -> Enrolled:
    """Enroll `name` from `channel` of recordings through the daemon.

    Raises DaemonError (for too few good takes among them, say), and then nothing is stored.
    """
    if client.request(EnrollBegin(name=name)).replaces and not confirm():
        _abort(client)
        return NOT_KEPT
    accepted: list[Path] = []
    refused = []
    try:
        for path in paths:
            try:
                samples = read_all(path, channel=channel)
                client.request(EnrollNext(audio=pcm.to_bytes(samples)))
                accepted.append(path)
            except AudioFileError as error:
                refused.append(str(error))
            except DaemonError as error:
                if error.code in FATAL:
                    raise
                refused.append(refusal(path, channel, error))
        try:
            done = client.request(EnrollCommit())
        except DaemonError as error:
            raise DaemonError(error.code, "\n".join([*refused, str(error)])) from error
    except BaseException:
        _abort(client)
        raise
    refused += [f"{accepted[number - 1]}: {SOMEBODY_ELSE}" for number in done.left_out]
    return Enrolled(done.takes, refused, done.known_as)


def _abort(client: Client) -> None:
    with contextlib.suppress(DaemonError):  # a lost connection has ended the enrollment with it
        client.request(EnrollAbort())


def without_daemon(config: Config, name: str, paths: Sequence[Path], confirm: Confirm) -> Enrolled:
    """Enroll `name` from recordings straight into the state directory of `config`.

    Raises TakeRejected, VoiceprintError, RequestError, ConfigError or BundleError, and then nothing
    is stored.
    """
    bundle = bundles.load(config.models_path())
    channel = config.microphone.channel
    folder = config.state_directory()
    check_folder(folder)
    store = VoiceprintStore(folder, bundle.encoder_id, bundle.voice_dim)
    library, _ = Library.load(folder, bundle.encoder_id, bundle.voice_dim, bundle.frame_dim)
    setup = resolve(config, bundle, library)
    enrollment = Enrollment(name, Recordings(bundle, setup, channel).embedder())
    if store.path(name).exists() and not confirm():
        return NOT_KEPT
    accepted: list[Path] = []
    refused = []
    for path in paths:
        try:
            samples = HighPass().step(read_all(path, channel=channel))
            enrollment.add(samples, judged_now=False)
            accepted.append(path)
        except AudioFileError as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(refusal(path, channel, error))
    try:
        voiceprint, left_out = enrollment.finish()
    except TakeRejected as error:
        raise TakeRejected(error.reason, "\n".join([*refused, str(error)])) from error
    refused += [f"{accepted[number - 1]}: {SOMEBODY_ELSE}" for number in left_out]
    speakers = setup.speakers
    known: list[str] = []
    if speakers.scorer:
        seen = speakers.as_compared(voiceprint)
        known = known_as(seen, speakers.voiceprints, speakers.scorer, speakers.threshold)
    try:
        store.save(voiceprint)
    except VoiceprintError as error:
        raise RequestError("not_saved", str(error)) from error
    return Enrolled(len(voiceprint.takes), refused, known)
