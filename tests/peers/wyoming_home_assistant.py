"""Home Assistant with its own `wyoming` integration, as the tests' server; run by its own Python.

    python wyoming_home_assistant.py FOLDER PORT…

Adds what answers on each port as its user interface does, and makes a pipeline of the speech
services among it. Prints a line of JSON for each entry and each event of a pipeline.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from homeassistant import auth, bootstrap, config_entries, loader
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component


def say(**fields: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(fields, default=str), flush=True)


async def main(folder: str, ports: list[int]) -> None:
    """Run until it is killed."""
    hass = HomeAssistant(folder)
    hass.config.skip_pip = True
    hass.config.media_dirs = {}
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await hass.config_entries.async_initialize()
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [{"type": "homeassistant"}], [])
    await async_setup_component(hass, "homeassistant", {})
    http = {"server_host": "127.0.0.1", "server_port": ports.pop(0)}
    assert await async_setup_component(hass, "http", {"http": http})
    assert await async_setup_component(hass, "media_source", {})
    assert await async_setup_component(hass, "assist_pipeline", {})
    from homeassistant.components import assist_pipeline
    from homeassistant.components.assist_pipeline.pipeline import PipelineRun

    process_event = PipelineRun.process_event

    def seen(run: PipelineRun, event: assist_pipeline.PipelineEvent) -> None:
        say(event=event.type, data=event.data)
        process_event(run, event)

    PipelineRun.process_event = seen  # type: ignore[method-assign]
    for port in ports:
        result = await hass.config_entries.flow.async_init(
            "wyoming", context={"source": "user"}, data={"host": "127.0.0.1", "port": port}
        )
        await hass.async_block_till_done()
        say(entry=result.get("title"), type=result["type"], reason=result.get("reason"))
    await pipeline(hass)
    await hass.async_start()
    say(states={state.entity_id: state.state for state in hass.states.async_all()})
    while command := await asyncio.to_thread(sys.stdin.readline):
        await obey(hass, json.loads(command))


async def pipeline(hass: HomeAssistant) -> None:
    """Make a pipeline of the services that have been added the preferred one."""
    from homeassistant.components.assist_pipeline import async_get_pipeline, async_update_pipeline

    named = {}
    for state in hass.states.async_all(("stt", "tts", "wake_word")):
        named[state.domain] = state.entity_id
    if not {"stt", "tts"} <= set(named):
        return
    await async_update_pipeline(
        hass,
        async_get_pipeline(hass),
        stt_engine=named["stt"],
        stt_language="en",
        tts_engine=named["tts"],
        tts_language="en",
        wake_word_entity=named.get("wake_word"),
    )


async def obey(hass: HomeAssistant, command: dict[str, Any]) -> None:
    """Do what a line on standard input says."""
    match command.pop("do"):
        case "words":
            from homeassistant.components import wake_word

            entity = wake_word.async_get_wake_word_detection_entity(hass, command["entity"])
            words = await entity.get_supported_wake_words()
            say(words={word.id: word.name for word in words})
        case "wake":
            await detect(hass, **command)
        case "service":
            await hass.services.async_call(
                command["domain"], command["service"], command["data"], blocking=True
            )
            say(done=command["service"])


async def detect(hass: HomeAssistant, entity: str, file: str, word: str | None) -> None:
    """Hand a file of PCM to a wake service, as a pipeline does."""
    from pathlib import Path

    from homeassistant.components import wake_word

    data = Path(file).read_bytes()

    async def stream():  # type: ignore[no-untyped-def]
        at = 0
        while True:  # a microphone does not end
            yield data[at : at + 2048] or bytes(2048), at // 32
            at += 2048
            await asyncio.sleep(0.01)

    found = wake_word.async_get_wake_word_detection_entity(hass, entity)
    result = await found.async_process_audio_stream(stream(), word)
    say(detected=result and result.wake_word_id, timestamp=result and result.timestamp)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(port) for port in sys.argv[2:]]))
