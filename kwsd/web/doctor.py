"""What is wrong with the machine, and the configuration in force."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kwsd import config_file
from kwsd.bridges.daemon_link import DaemonLink
from kwsd.protocol import commands
from kwsd.web.answers import answer
from kwsd.web.verbs import Verbs

EXAMINE_S = 60.0
"""Longest time in which the machine is examined."""


class Doctor:
    """Answers requests about the machine and the configuration."""

    def __init__(self, link: DaemonLink, verbs: Verbs) -> None:
        self._link = link
        self._verbs = verbs
        self._examination: asyncio.Task[list[Any]] | None = None
        self.routes = [
            Route("/api/doctor", self._examine, methods=["POST"]),
            Route("/api/config", self._config),
        ]

    async def _examine(self, _: Request) -> Response:
        """Return the findings of `kwsd doctor`, of one examination for all who ask meanwhile."""
        if self._examination is None or self._examination.done():
            # The microphone is the daemon's, and the page must never be what listens to it.
            verb = ("doctor", "--no-microphone")
            running = self._verbs.run(*verb, seconds=EXAMINE_S, fine=(0, os.EX_UNAVAILABLE))
            self._examination = asyncio.ensure_future(running)
        return answer(await asyncio.shield(self._examination))

    async def _config(self, _: Request) -> Response:
        """Return each key of the configuration in force, with its value, source and meaning."""
        schema = _schema()
        reply = await self._link.request(commands.GetConfig())
        values = msgspec.to_builtins(config_file.parse(reply.text))
        return answer(
            [
                {
                    "key": key,
                    "value": value,
                    "source": reply.sources.get(key, "default"),
                    "about": _about(schema, path),
                }
                for path, value in _leaves(values)
                for key in [".".join(path)]
            ]
        )


@functools.cache
def _schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration, which takes a moment to make."""
    return config_file.schema()


def _leaves(
    values: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of each key; a word's name may have dots."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _about(schema: Mapping[str, Any], path: Sequence[str]) -> str:
    """Return what the JSON Schema says of the key at a path, empty where it says nothing."""
    here = schema
    for key in path:
        for inner in (here, *here.get("anyOf", ())):
            named = schema["$defs"].get(inner.get("$ref", "").rpartition("/")[2], inner)
            found = named.get("properties", {}).get(key) or named.get("additionalProperties")
            if found:
                here = found
                break
        else:
            return ""
    return str(here.get("description", ""))
