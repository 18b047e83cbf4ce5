"""The recordings that words are made from, which are kept with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from msgspec import structs

from kwsd.audio import pcm
from kwsd.audio.format import SAMPLE_RATE
from kwsd.learn.takes import TakeRejected
from kwsd.learn.word_takes import TakeEncoder, WordTake
from kwsd.protocol import commands
from kwsd.protocol.data import MAX_TAKE_SAMPLES, TakeInfo
from kwsd.protocol.errors import RequestError
from kwsd.protocol.messages import Requester

MAX_ORIGIN = 128
"""Characters of where a take came from; the last ones tell more."""


@dataclass(frozen=True)
class Recording:
    """A take of a word as audio."""

    samples: np.ndarray = field(repr=False)
    """int16 `[sample]`, which has passed the high-pass; empty where `fault` says why."""
    info: TakeInfo
    """Its id is empty where it is not kept yet."""
    take: WordTake | None = field(default=None, repr=False)
    """It, encoded, where that was done."""
    fault: str | None = None
    """Why a kept one cannot be read."""

    @classmethod
    def of(cls, samples: np.ndarray, take: WordTake, origin: object) -> Recording:
        """Return a recording that is not kept yet, in which the voice of a take was found."""
        start = round(take.start_s * SAMPLE_RATE)
        end = min(round(take.end_s * SAMPLE_RATE), len(samples))
        name = origin.name if isinstance(origin, Path) else str(origin)
        info = TakeInfo("", name[-MAX_ORIGIN:], start, end, len(samples))
        return cls(samples, info, take)

    @classmethod
    def of_clip(
        cls, samples: np.ndarray, take: WordTake, id: str, start: int, end: int
    ) -> Recording:
        """Return a clip in which a detector heard the word in samples `[start, end)`."""
        first = max(end - MAX_TAKE_SAMPLES * 3 // 4, 0)
        cut = samples[first : first + MAX_TAKE_SAMPLES]
        begin = max(start - first, 0)
        info = TakeInfo("", id, begin, end - first, len(cut), "clip")
        return cls(cut, info, take)

    def encoded(self, encoder: TakeEncoder, name: str) -> Recording:
        """Return the take of the word `name`, encoded as the encoder hears it.

        Raises TakeRejected.
        """
        if self.take is not None:
            return self
        if self.fault:
            raise TakeRejected("damaged", self.fault)
        info = self.info
        if info.span == "clip":
            return replace(self, take=encoder.clip_take(self.samples, info.start, info.end))
        span = (info.start, info.end) if info.span == "trimmed" else None
        take = encoder.take(self.samples, name, span)
        found = Recording.of(self.samples, take, info.origin).info
        start, end = span or (found.start, found.end)
        return replace(self, take=take, info=structs.replace(info, start=start, end=end))

    def trimmed(self, start: int, end: int) -> Recording:
        """Return it with the word where a person says: from sample `start` to `end`."""
        info = structs.replace(self.info, start=start, end=end, span="trimmed")
        return replace(self, take=None, info=info)

    def untrimmed(self) -> Recording:
        """Return it with the word where its voice is found."""
        return replace(self, take=None, info=structs.replace(self.info, span="found"))


def seconds(info: TakeInfo) -> str:
    """Return what is used of a take, and of how much."""
    start, end, all = (at / SAMPLE_RATE for at in (info.start, info.end, info.samples))
    return f"{start:.2f}–{end:.2f} of {all:.2f} s"


def fetch(requester: Requester, word: str) -> tuple[str, list[Recording]]:
    """Return the name of a word as it is stored, and its takes as they are kept.

    Raises RequestError, also where there is no such word.
    """
    listed = requester.request(commands.Takes(word=word))
    found = []
    for info in listed.takes:
        try:
            reply = requester.request(commands.TakesGet(word=listed.word, take=info.id))
            found.append(Recording(pcm.from_bytes(reply.pcm), info))
        except RequestError as error:
            if error.code != "no_take":
                raise
            found.append(Recording(np.zeros(0, np.int16), info, fault=str(error)))
    return listed.word, found


def bring(requester: Requester, word: str, recordings: Sequence[Recording]) -> list[TakeInfo]:
    """Return the takes of a word as `words.put` names them; those that are not kept are brought.

    Raises RequestError.
    """
    infos = []
    for one in recordings:
        info = one.info
        if not info.id:
            audio = pcm.to_bytes(one.samples)
            reply = requester.request(commands.TakesPut(word=word, audio=audio))
            info = structs.replace(info, id=reply.take)
        infos.append(info)
    return list({info.id: info for info in infos}.values())
