"""Voices: takes of an enrollment that clients send, and whose voice was heard."""

from __future__ import annotations

import numpy as np

from kwsd.audio import pcm
from kwsd.audio.diagnosis import band
from kwsd.detect.embedder import Embedder
from kwsd.detect.setup import SpeakerSetup
from kwsd.learn.enrollment import MIN_SPEECH_S
from kwsd.learn.takes import TakeRejected, check_take
from kwsd.model.bundle import Bundle
from kwsd.protocol.commands import SpeakersIdentify
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import SpeakersHearReply, SpeakersIdentifyReply


def decoded(audio: bytes) -> np.ndarray:
    """Return the samples of a take, int16 `[sample]`. Raises RequestError."""
    try:
        return pcm.from_bytes(audio)
    except ValueError as error:
        text = "enroll.next: audio must be whole int16 samples at 16 kHz"
        raise RequestError("bad_request", text) from error


def hear(samples: np.ndarray, embedder: Embedder, speakers: SpeakerSetup) -> SpeakersHearReply:
    """Return whose voice is in an utterance, int16 `[sample]`. Raises RequestError."""
    try:
        speech_dbfs, speech_s = check_take(samples, MIN_SPEECH_S)
        voice = embedder.voice([samples])
        match = voice and speakers.match(embedder.joined(voice), band(samples), voice.speech_s)
        if match is None:
            raise TakeRejected("too_short", "the take contains too little speech")
    except TakeRejected as error:
        raise RequestError(error.reason, str(error)) from error
    return SpeakersHearReply(
        speaker=match, speech_dbfs=round(speech_dbfs, 1), speech_s=round(speech_s, 2)
    )


def identify(
    command: SpeakersIdentify, bundle: Bundle, speakers: SpeakerSetup
) -> SpeakersIdentifyReply:
    """Return who of those who are enrolled has a voice, and nothing of those who only resemble it.

    Raises RequestError for a voice that another model has embedded.
    """
    if command.encoder_id != bundle.encoder_id:
        text = f"a voice of the encoder {command.encoder_id}, and the daemon's is"
        raise RequestError("bad_request", f"{text} {bundle.encoder_id}; restart both")
    given = command.embedding
    voice = np.frombuffer(given[: len(given) // 4 * 4], "<f4")
    # Speaker heads give so many numbers, and a checker's voice may follow them.
    least = bundle.voice_dim or 1
    if len(given) % 4 or len(voice) < least:
        text = f"embedding: {len(given)} bytes are not {least} float32 numbers or more"
        raise RequestError("bad_request", text)
    if not np.isfinite(voice).all() or abs(float(np.linalg.norm(voice)) - 1) > 0.01:
        raise RequestError("bad_request", "embedding: it is not of unit length")
    match = speakers.match(voice, command.band, command.speech_s)
    return SpeakersIdentifyReply(name=match.name if match else None)
