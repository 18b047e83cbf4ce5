"""Home Assistant's core with its `mqtt` component, run by the Python that has the package.

    PYTHON home_assistant.py FOLDER PORT

It is set up through the component's own dialog, for the broker at PORT, and keeps its files in
FOLDER. Each line of standard input asks for something, and is answered by a line of JSON. It knows
nothing of kwsd but what the broker says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any

from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.components import device_automation
from homeassistant.const import __version__
from homeassistant.helpers import device_registry, entity_registry, trigger
from homeassistant.setup import async_setup_component


async def begin(folder: Path) -> core.HomeAssistant:
    """Return Home Assistant without any integration."""
    (folder / "configuration.yaml").touch()
    hass = core.HomeAssistant(str(folder))
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    if hasattr(loader, "async_setup"):
        loader.async_setup(hass)
    load = getattr(bootstrap, "async_load_base_functionality", None) or bootstrap.load_registries
    await load(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    await hass.config_entries.async_initialize()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        here = {"server_host": "127.0.0.1", "server_port": free.getsockname()[1]}
    for name, config in (("homeassistant", {}), ("http", {"http": here})):
        assert await async_setup_component(hass, name, config)
    await hass.async_start()
    return hass


async def add_broker(hass: core.HomeAssistant, port: int) -> str:
    """Add the integration as a user does; return what came of it."""
    flow = hass.config_entries.flow
    shown = await flow.async_init("mqtt", context={"source": "user"})
    while shown["type"] == "menu":
        shown = await flow.async_configure(shown["flow_id"], {"next_step_id": "broker"})
    given = {"broker": "127.0.0.1", "port": port}
    done = await flow.async_configure(shown["flow_id"], given)
    await hass.async_block_till_done()
    return str(done["type"])


class Asked:
    """What can be asked for."""

    def __init__(self, hass: core.HomeAssistant) -> None:
        self.hass = hass
        self.fired: list[str] = []

    async def report(self) -> dict[str, Any]:
        """Return the devices, entities and triggers that there are, and the triggers that fired."""
        await self.hass.async_block_till_done()
        entities = {}
        for entry in entity_registry.async_get(self.hass).entities.values():
            state = self.hass.states.get(entry.entity_id)
            attributes = dict(state.attributes) if state else {}
            entities[entry.entity_id] = {"state": state and state.state, "attributes": attributes}
        triggers = [
            {key: one[key] for key in ("type", "subtype")}
            for one in await self._triggers()
            if one["domain"] == "mqtt"
        ]
        devices = [device.name for device in device_registry.async_get(self.hass).devices.values()]
        return {
            "devices": devices,
            "entities": entities,
            "triggers": triggers,
            "fired": list(self.fired),
        }

    async def _triggers(self) -> list[dict[str, Any]]:
        devices = [device.id for device in device_registry.async_get(self.hass).devices.values()]
        kind = device_automation.DeviceAutomationType.TRIGGER
        found = await device_automation.async_get_device_automations(self.hass, kind, devices)
        return [one for each in found.values() for one in each]

    async def listen(self) -> None:
        """Let every trigger of the device be noted when it fires."""
        for found in await self._triggers():
            if found["domain"] != "mqtt":
                continue
            conf = {key: value for key, value in found.items() if key != "metadata"}
            checked = await trigger.async_validate_trigger_config(self.hass, [conf])

            async def note(variables: dict[str, Any], _: Any = None) -> None:
                self.fired.append(variables["trigger"]["payload_json"]["word"])

            await trigger.async_initialize_triggers(
                self.hass, checked, note, "test", "test", lambda *_, **__: None
            )

    async def call(self, domain: str, service: str, entity: str) -> None:
        """Call a service for an entity."""
        await self.hass.services.async_call(domain, service, {"entity_id": entity}, blocking=True)


async def main(folder: Path, port: int) -> None:
    """Answer until standard input ends."""
    hass = await begin(folder)
    asked = Asked(hass)
    say({"version": __version__, "added": await add_broker(hass, port)})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, *arguments = json.loads(line)
        say(await getattr(asked, what)(*arguments))
    await hass.async_stop(force=True)


def say(answer: Any) -> None:
    """Write a line of JSON."""
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)  # to standard error
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
