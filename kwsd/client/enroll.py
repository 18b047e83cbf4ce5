"""Guided enrollment from the client's side: the prompts, and the result of each take.

There is no terminal here; a `Guide` shows it to a person.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kwsd.audio import pcm
from kwsd.audio.files import AudioFileError, dead_channel, read_all
from kwsd.client.client import Client
from kwsd.config import Config
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import FREE_TAKES, WORD_TAKES, Enrollment
from kwsd.learn.takes import TakeRejected
from kwsd.model import bundle as bundles
from kwsd.protocol.commands import EnrollAbort, EnrollBegin, EnrollCommit, EnrollNext
from kwsd.protocol.errors import DaemonError
from kwsd.state.voiceprints import VoiceprintStore

MAX_RETRIES = 6
"""Rejected takes after which a guided recording gives up."""
TAKE_TIMEOUT_S = 20.0
FATAL = ("closed", "timeout", "permission_denied", "unknown_word", "internal", "busy")
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


def from_microphone(client: Client, name: str, word: str | None, guide: Guide) -> int:
    """Enroll `name` from the daemon's microphone and return the number of takes.

    `word` is the wake word to say. Raises DaemonError, and then nothing is stored.
    """
    begun = client.request(EnrollBegin(name=name))
    word = word or begun.words[0]
    if word not in begun.words:
        _abort(client)
        known = ", ".join(begun.words)
        text = f"{word!r} is not listened for; the words are {known}"
        raise DaemonError("unknown_word", text)
    free = "say what you like, for about five seconds (what you did today, a poem, the news)"
    spoken = EnrollNext(kind="word", word=word, timeout_s=TAKE_TIMEOUT_S)
    steps = [(spoken, f"say “{word.replace('_', ' ')}”")] * WORD_TAKES
    steps += [(EnrollNext(kind="free", timeout_s=TAKE_TIMEOUT_S), free)] * FREE_TAKES
    rejected = 0
    try:
        for n, (command, text) in enumerate(steps, 1):
            while True:
                guide.ask(text, n, len(steps))
                try:
                    take = client.request(command, on_level=guide.level)
                except DaemonError as error:
                    if error.code in FATAL or rejected >= MAX_RETRIES:
                        raise
                    rejected += 1
                    guide.rejected(str(error))
                    continue
                guide.accepted(take.speech_dbfs, take.speech_s)
                break
        return client.request(EnrollCommit()).takes
    except BaseException:
        _abort(client)
        raise


def refusal(path: Path, channel: int | str, error: TakeRejected | DaemonError) -> str:
    """Return why `channel` of a recording is no take: its sound may be in another channel."""
    reason = error.reason if isinstance(error, TakeRejected) else error.code
    dead = dead_channel(path, channel) if reason == "silent" else None
    return f"{path}: {dead or error}"


def from_recordings(
    client: Client, name: str, paths: Sequence[Path], channel: int | str = 0
) -> tuple[int, list[str]]:
    """Enroll `name` from `channel` of recordings through the daemon.

    Return the number of takes, and why others were left out. Raises DaemonError (for too few good
    takes among them, say), and then nothing is stored.
    """
    client.request(EnrollBegin(name=name))
    refused = []
    try:
        for path in paths:
            try:
                samples = read_all(path, channel=channel)
                client.request(EnrollNext(audio=pcm.to_bytes(samples)))
            except AudioFileError as error:
                refused.append(str(error))
            except DaemonError as error:
                if error.code in FATAL:
                    raise
                refused.append(refusal(path, channel, error))
        try:
            return client.request(EnrollCommit()).takes, refused
        except DaemonError as error:
            raise DaemonError(error.code, "\n".join([*refused, str(error)])) from error
    except BaseException:
        _abort(client)
        raise


def _abort(client: Client) -> None:
    with contextlib.suppress(DaemonError):  # a lost connection has ended the enrollment with it
        client.request(EnrollAbort())


def without_daemon(config: Config, name: str, paths: Sequence[Path]) -> tuple[int, list[str]]:
    """Enroll `name` from recordings straight into the state directory of `config`.

    Return the number of takes, and why others were left out. Raises TakeRejected, VoiceprintError
    or BundleError, and then nothing is stored.
    """
    bundle = bundles.load(config.models_path())
    channel = config.microphone.channel
    enrollment = Enrollment(name, Embedder(bundle))
    refused = []
    for path in paths:
        try:
            enrollment.add(read_all(path, channel=channel))
        except AudioFileError as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(refusal(path, channel, error))
    try:
        voiceprint = enrollment.finish()
    except TakeRejected as error:
        raise TakeRejected(error.reason, "\n".join([*refused, str(error)])) from error
    VoiceprintStore(config.state_directory(), bundle.encoder_id).save(voiceprint)
    return len(voiceprint.takes), refused
