"""The pauses: who wants nobody to listen, and until when. Runs on the event loop only.

The listener is paused while there is one. A pause without a time belongs to the client that asked
for it, and ends with its connection. None is kept across restarts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kwsd.protocol import commands
from kwsd.protocol.data import PauseInfo, why_paused
from kwsd.protocol.errors import RequestError
from kwsd.protocol.replies import PauseReply, ResumeReply
from kwsd.server.listener import Listener

MAX_HOLDERS = 16
"""Holders that may pause at the same time."""
LOOK_S = 0.02
"""Seconds between two looks at whether the microphone is released."""
RELEASE_S = 10.0
"""Longest time that a request waits for that."""


@dataclass(frozen=True)
class _Pause:
    """A pause: it ends with its `owner`, or by its `timer`."""

    owner: object | None = None
    timer: asyncio.TimerHandle | None = None


class Pauses:
    """All pauses, by their holders."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._pauses: dict[str, _Pause] = {}
        self.any = asyncio.Event()
        """Set while there is a pause."""

    @property
    def holders(self) -> tuple[str, ...]:
        """Who has paused, the first before the others."""
        return tuple(self._pauses)

    async def pause(self, owner: object, command: commands.Pause) -> PauseReply:
        """Begin a pause, which replaces the holder's before it, and wait until it is in force.

        Without a time, it ends when `owner` has left. Raises RequestError for a name that is not
        printable, where there are too many holders, and where the listener hangs.
        """
        holder = command.holder
        self._begin(holder, owner, command.for_s)
        try:
            async with asyncio.timeout(RELEASE_S):
                while holder in self._pauses and holder not in self._listener.stats.paused_by:
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            text = f"the source of the audio has stalled for {RELEASE_S:g} s"
            effect = "the pause takes effect as soon as it is back"
            raise RequestError("stalled", f"{text}; {effect}") from None
        return PauseReply(pauses=self.infos())

    async def resume(self, owner: object, command: commands.Resume) -> ResumeReply:
        """End a holder's pause, whoever owns it."""
        return ResumeReply(resumed=self._end(command.holder), pauses=self.infos())

    def left(self, owner: object) -> None:
        """End the pauses of an owner who has left."""
        for holder in [name for name, pause in self._pauses.items() if pause.owner is owner]:
            self._end(holder)

    def infos(self) -> list[PauseInfo]:
        """Return every pause, with the time that is left."""
        now = asyncio.get_running_loop().time()
        return [
            PauseInfo(name, round(max(one.timer.when() - now, 0.0), 1) if one.timer else None)
            for name, one in self._pauses.items()
        ]

    def refusal(self) -> RequestError:
        """Return the error for whoever needs the microphone now."""
        return RequestError("paused", why_paused(self.infos()))

    def _begin(self, holder: str, owner: object, for_s: float | None) -> None:
        if not (holder.strip() and holder.isprintable()):
            text = f"pause: holder: {holder!r} is not a name of printable characters"
            raise RequestError("bad_request", text)
        before = self._pauses.get(holder)
        if before is None and len(self._pauses) >= MAX_HOLDERS:
            text = f"{MAX_HOLDERS} holders have paused the microphone, and no more may"
            raise RequestError("busy", f"{text}: {', '.join(self.holders)}")
        if before and before.timer:
            before.timer.cancel()
        if for_s is None:
            self._pauses[holder] = _Pause(owner=owner)
        else:
            timer = asyncio.get_running_loop().call_later(for_s, self._end, holder)
            self._pauses[holder] = _Pause(timer=timer)
        self._tell()

    def _end(self, holder: str) -> bool:
        """End the pause of `holder`; return whether there was one."""
        pause = self._pauses.pop(holder, None)
        if pause is None:
            return False
        if pause.timer:
            pause.timer.cancel()
        self._tell()
        return True

    def _tell(self) -> None:
        if self._pauses:
            self.any.set()
        else:
            self.any.clear()
        self._listener.paused_by = self.holders
