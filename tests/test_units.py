"""The systemd units are valid, and as closed as SECURITY.md states."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kwsd.cli import main as cli
from kwsd.cli.verbs import build_parser
from kwsd.config import Config
from kwsd.server import watchdog
from kwsd.web import links

UNITS = Path(__file__).parent.parent / "systemd"
BRIDGES = ["kwsd-wyoming", "kwsd-mqtt", "kwsd-metrics", "kwsd-web"]
GROUPS = {
    "kwsd-web": ["g kwsd -", "g kwsd-admin -", "m kwsd-web kwsd", "m kwsd-web kwsd-admin"],
}
"""The groups of a bridge's user, where a subscriber's rights are not enough: the page does what the
verbs do."""
BOTH = pytest.mark.parametrize("whose", ["system", "user"])
analyzed = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def settings(whose: str, name: str = "kwsd.service") -> dict[str, str]:
    """Return the settings of a unit, the last of those that are there twice."""
    lines = (UNITS / whose / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def analyze(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    command = ["systemd-analyze", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("name", ["kwsd", "kwsd-satellite", *BRIDGES])
@BOTH
def test_only_what_another_start_cannot_mend_prevents_it(whose: str, name: str) -> None:
    unit = settings(whose, f"{name}.service")
    assert unit["Restart"] == "always"
    prevented = {int(status) for status in unit["RestartPreventExitStatus"].split()}
    assert prevented == {cli.USAGE, cli.DATA, cli.CONFIGURATION}
    assert watchdog.FAILURE not in prevented
    assert unit["StartLimitIntervalSec"] == "0"  # `systemctl restart` needs no reset-failed


def test_the_users_state_is_where_every_verb_looks() -> None:
    unit = settings("user")
    assert "StateDirectory" not in unit
    assert "--state" not in unit["ExecStart"]


@pytest.mark.parametrize("name", BRIDGES)
def test_a_bridge_is_a_user_of_its_own_with_the_rights_that_it_needs(name: str) -> None:
    assert settings("system", f"{name}.service")["User"] == name
    users = (UNITS / "sysusers.d" / f"{name}.conf").read_text().splitlines()
    assert users[0].startswith(f"u {name} - ")
    assert users[1:] == GROUPS.get(name, ["g kwsd -", f"m {name} kwsd"])
    assert f"kwsd {name.removeprefix('kwsd-')}" in settings("user", f"{name}.service")["ExecStart"]


@BOTH
def test_links_to_the_page_lie_where_they_are_looked_for(whose: str) -> None:
    unit = settings(whose, "kwsd-web.service")
    assert unit["RuntimeDirectory"] == "kwsd-web"
    assert str(links.SYSTEM) == "/run/kwsd-web"
    mode = int(unit["RuntimeDirectoryMode"], 8)
    assert (unit.get("Group"), mode) == (
        ("kwsd-admin", 0o750) if whose == "system" else (None, 0o700)
    )


def test_the_satellite_may_receive_commands_and_play_sound() -> None:
    unit = settings("system", "kwsd-satellite.service")
    assert unit["User"] == "kwsd-satellite"
    assert unit["DeviceAllow"] == "char-alsa rw"
    assert "DeviceAllow" not in settings("system", "kwsd-wyoming.service")
    users = (UNITS / "sysusers.d" / "kwsd-satellite.conf").read_text().splitlines()
    groups = {line.split()[2] for line in users if line.startswith("m kwsd-satellite ")}
    assert groups == {"kwsd", "kwsd-stream", "audio"}, "and neither kwsd-admin"
    for whose in ("system", "user"):
        command = settings(whose, "kwsd-satellite.service")["ExecStart"]
        assert command == "/usr/bin/env kwsd wyoming --satellite"


@pytest.mark.parametrize("name", ["wyoming", "satellite"])
def test_avahi_announces_the_port_that_is_the_default(name: str) -> None:
    root = ElementTree.parse(UNITS / "avahi" / f"kwsd-{name}.service").getroot()
    config = Config().wyoming
    _, port = (config if name == "wyoming" else config.satellite).address()
    assert root.findtext("service/port") == str(port)
    assert root.findtext("service/type") == "_wyoming._tcp"


@BOTH
def test_an_instance_differs_from_the_service_in_its_name_alone(whose: str) -> None:
    own, instance = settings(whose), settings(whose, "kwsd@.service")
    differing = {key for key in own | instance if own.get(key) != instance.get(key)}
    named = {"Description", "ExecReload", "ExecStart", "RuntimeDirectory", "SyslogIdentifier"}
    # Its home is the state directory, the only folder on a disk that it may write to.
    system = {"StateDirectory", "Environment"}
    assert differing == named | (system if whose == "system" else set())
    assert all("%i" in instance[key] for key in differing)
    if whose == "system":
        assert instance["Environment"] == f"HOME=/var/lib/{instance['StateDirectory']}"


@BOTH
def test_a_program_on_wake_runs_the_verb_with_what_it_has(whose: str) -> None:
    unit = settings(whose, "kwsd-exec@.service")
    command = unit["ExecStart"].removeprefix("/usr/bin/env kwsd ").split()
    arguments = build_parser("events").parse_args(command)
    assert (arguments.types, arguments.reconnect) == (["wake"], True)
    assert arguments.command.endswith("kwsd/exec/%i")


INSTANCES = (
    "kwsd.service",
    "kwsd@kitchen.service",
    "kwsd-exec@lamp.service",
    "kwsd-satellite.service",
    *(f"{name}.service" for name in BRIDGES),
)


def unit_of(name: str, whose: str, folder: Path) -> Path:
    """Return the file of a unit; that of a template as if it were the instance."""
    template = re.sub("@.*", "@.service", name)
    return Path(shutil.copy(UNITS / whose / template, folder / name))


@analyzed
@pytest.mark.parametrize("name", INSTANCES)
def test_a_system_unit_is_sound_and_closed(name: str, tmp_path: Path) -> None:
    unit = unit_of(name, "system", tmp_path)
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = analyze("security", "--offline=yes", "--no-pager", unit)
    assert rated.returncode == 0
    exposure = re.search(rf"Overall exposure level for {name}: ([\d.]+)", rated.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.5


@analyzed
@pytest.mark.parametrize("name", INSTANCES)
def test_a_user_unit_is_sound(name: str, tmp_path: Path) -> None:
    unit = unit_of(name, "user", tmp_path)
    verified = analyze("--user", "verify", unit, XDG_RUNTIME_DIR=str(tmp_path))
    assert (verified.returncode, verified.stderr) == (0, "")
