"""The thresholds of words: what others would do, put in force, and taken back."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.protocol.data import MAX_RATE, Threshold, WordThreshold
from kwsd.protocol.errors import RequestError
from kwsd.web.answers import answer, json_body

TRADE_OFF_S = 30.0
"""Longest time in which months of a log are read."""
RATES = (1 / 24, 1 / 168, 1 / 730.5)
"""False wakes an hour that one can aim at: one a day, a week, a month."""


class _Put(msgspec.Struct):
    """A threshold that a person has chosen."""

    threshold: Threshold
    model: str
    rate: Annotated[float, Meta(ge=0, le=MAX_RATE)] | None
    hours: Annotated[float, Meta(ge=0, le=1e6)]


class Thresholds:
    """Answers requests about thresholds with what the daemon says."""

    def __init__(self, link: DaemonLink) -> None:
        self._link = link
        self.routes = [
            Route("/api/thresholds", self._list),
            Route("/api/thresholds/undo", self._undo, methods=["POST"]),
            Route("/api/words/{word}/trade-off", self._trade_off),
            Route("/api/words/{word}/threshold", self._put, methods=["POST"]),
        ]

    async def _list(self, _: Request) -> Response:
        """Return the thresholds in force, and how many changes can be undone."""
        return answer(await self._link.request(commands.GetCalibration()))

    async def _trade_off(self, request: Request) -> Response:
        """Return what thresholds would do to a word, by the log `since` a time, and by `days`."""
        try:
            since = float(request.query_params.get("since", "0"))
            days = [float(day) for day in request.query_params.get("days", "").split(",") if day]
        except ValueError as error:
            raise HTTPException(400, f"since and days are seconds since 1970: {error}") from None
        command = commands.CalibrationTradeOff(
            word=request.path_params["word"], since=since, rates=list(RATES), days=days
        )
        return answer(await self._link.request(command, TRADE_OFF_S))

    async def _put(self, request: Request) -> Response:
        """Put a threshold in force, as `kwsd calibrate` does, and return those in force."""
        word = request.path_params["word"]
        put = await json_body(request, _Put)
        in_force = (await self._link.request(commands.GetCalibration())).words.get(word)
        if in_force is None:
            raise RequestError("unknown_word", f"{word!r} is not listened for any more")
        if in_force.origin == "configured":
            text = f"the configuration sets words.{word}.threshold, and it stays so"
            raise RequestError("in_use", f"{text}; remove it there, then `kwsd reload`")
        if in_force.model != put.model:
            text = f"{word!r} was made again, or has another checker: look at its new scores first"
            raise RequestError("in_use", text)
        threshold = WordThreshold(
            threshold=put.threshold,
            model=put.model,
            rate=put.rate,
            hours=round(put.hours, 3),
            time=int(time.time()),
        )
        await self._link.request(commands.CalibrationPut(words={word: threshold}))
        return await self._list(request)

    async def _undo(self, request: Request) -> Response:
        """Take the last calibration back, the page's or another, and return what is in force."""
        await self._link.request(commands.CalibrationUndo())
        return await self._list(request)
