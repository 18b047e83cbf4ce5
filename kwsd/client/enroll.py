"""The guided enrolment, seen from the client: what to say next, what came of it. No terminal in here; `Voice` is told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kwsd.audio.files import AudioFileError, read_all
from kwsd.client.client import Connection
from kwsd.config import Config
from kwsd.detect.embedder import Embedder
from kwsd.learn.enrollment import FREE_TAKES, WORD_TAKES, Enrolment
from kwsd.learn.takes import TakeRejected
from kwsd.model import bundle
from kwsd.protocol import messages as protocol
from kwsd.protocol.errors import DaemonError
from kwsd.state.voiceprints import VoiceprintStore

RETRIES = 6
"""Rejected takes after which a guided enrolment gives up."""


class Voice(Protocol):
    """How the guide speaks to a person."""

    def ask(self, text: str, take: int, takes: int) -> None: ...
    def level(self, dbfs: float) -> None: ...
    def accepted(self, level_dbfs: float, speech_s: float) -> None: ...
    def rejected(self, why: str) -> None: ...


def guide(daemon: Connection, name: str, word: str | None, voice: Voice) -> int:
    """Enrol `name` from the daemon's microphone; the number of takes kept. Raises DaemonError, and then nothing is stored."""
    begun = daemon.request("enroll.begin", name=name)
    word = word or begun["words"][0]
    steps = [("word", f"say “{word.replace('_', ' ')}”")] * WORD_TAKES
    steps += [("free", "say what you like, for about five seconds (what you did today, a poem, the news)")] * FREE_TAKES
    rejected = 0
    try:
        for n, (kind, text) in enumerate(steps):
            while True:
                voice.ask(text, n + 1, len(steps))
                fields: dict[str, Any] = {"word": word} if kind == "word" else {}
                try:
                    take = daemon.request("enroll.next", kind=kind, timeout_s=20, on_level=voice.level, **fields)
                except DaemonError as error:
                    if error.code in ("closed", "timeout", "permission_denied", "unknown_word", "internal", "busy") or rejected >= RETRIES:
                        raise
                    rejected += 1
                    voice.rejected(str(error))
                    continue
                voice.accepted(take["level_dbfs"], take["speech_s"])
                break
        return int(daemon.request("enroll.commit")["takes"])
    except BaseException:
        _abort(daemon)
        raise


def from_recordings(daemon: Connection, name: str, paths: Sequence[Path]) -> tuple[int, list[str]]:
    """Enrol `name` from recordings through the daemon: the number of takes kept, and why others were not.

    Raises DaemonError (too few good takes among them), and then nothing is stored."""
    daemon.request("enroll.begin", name=name)
    refused = []
    try:
        for path in paths:
            try:
                samples = read_all(path)
                daemon.request("enroll.next", audio=protocol.pcm(samples))
            except AudioFileError as error:
                refused.append(str(error))
            except DaemonError as error:
                if error.code in ("closed", "timeout", "permission_denied", "internal", "too_long_line"):
                    raise
                refused.append(f"{path}: {error}")
        try:
            return int(daemon.request("enroll.commit")["takes"]), refused
        except DaemonError as error:
            raise DaemonError(error.code, "\n".join([*refused, str(error)])) from error
    except BaseException:
        _abort(daemon)
        raise


def _abort(daemon: Connection) -> None:
    with contextlib.suppress(DaemonError):  # where the connection is what failed, the daemon has forgotten the session with it
        daemon.request("enroll.abort")


def without_daemon(config: Config, name: str, paths: Sequence[Path]) -> tuple[int, list[str]]:
    """Enrol `name` from recordings straight into the state directory of `config`.

    Raises TakeRejected, VoiceprintError or BundleError, and then nothing is stored."""
    models = bundle.load(Path(config.models) if config.models else None)
    session, refused = Enrolment(name, Embedder(models)), []
    for path in paths:
        try:
            session.add(read_all(path))
        except AudioFileError as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(f"{path}: {error}")
    try:
        voiceprint = session.finish()
    except TakeRejected as error:
        raise TakeRejected(error.reason, "\n".join([*refused, str(error)])) from error
    VoiceprintStore(config.state_directory(), models.encoder_id).save(voiceprint)
    return len(voiceprint.takes), refused
