"""Whose voice was heard: the daemon is asked, for only it has the voiceprints."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.detect.embedder import HeardVoice
from kwsd.names import look_up
from kwsd.protocol.commands import SpeakersIdentify
from kwsd.protocol.errors import DaemonError
from kwsd.seldom import Seldom

log = logging.getLogger(__name__)
IDENTIFY_S = 1.0
"""Longest time that a detection waits for the daemon to name its speaker."""


class Voices:
    """Names voices by the daemon, and knows who may wake the service."""

    def __init__(
        self, link: DaemonLink, require: Literal["anyone", "enrolled"] | list[str], encoder_id: str
    ) -> None:
        """`require` is the configuration's `speaker.require`."""
        self.known = False
        """Whether there is somebody whom the daemon could name."""
        self._link = link
        self._require = require
        self._encoder_id = encoder_id
        self._refused = Seldom(log)

    def forget(self) -> None:
        """Name nobody until the daemon is back."""
        self.known = False

    async def name(self, voice: HeardVoice) -> str | None:
        """Return who has a voice, only if it is verified; None where the daemon cannot say."""
        question = SpeakersIdentify(
            encoder_id=self._encoder_id,
            embedding=np.asarray(voice.embedding, "<f4").tobytes(),
            band=voice.band,
            speech_s=voice.speech_s,
        )
        try:
            return (await self._link.request(question, IDENTIFY_S)).name
        except DaemonError as error:
            self._refused("nobody is named: %s", error)
            return None

    def admits(self, name: str | None) -> bool:
        """Return whether the voice of `name`, None for a stranger, may wake the service."""
        if self._require == "anyone":
            return True
        if name is None:
            self._refused("speaker.require admits nobody without a name: a wake was dropped")
            return False
        return self._require == "enrolled" or look_up(name, self._require) is not None
