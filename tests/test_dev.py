"""`./dev install` and `uninstall`, in a folder that stands for the machine, with stand-ins for its
commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAND_INS = {
    "systemctl": 'echo "systemctl $*" >>"$CALLS"',
    "systemd-sysusers": 'echo "systemd-sysusers $*" >>"$CALLS"',
    "systemd-tmpfiles": 'echo "systemd-tmpfiles $*" >>"$CALLS"',
    "dpkg-query": "echo install ok installed",
    "userdel": 'echo "userdel $*" >>"$CALLS"',
    "groupdel": 'echo "groupdel $*" >>"$CALLS"',
    "id": 'echo "$AS"',
    "sudo": 'AS=0 "$@"',
    # A virtual environment whose python only notes what it is asked for.
    "python3": (
        'if [ "$1" = -m ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
        'echo "python $*" >>"$CALLS"'
    ),
}


class Machine:
    """A machine below a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.home = folder / "home"
        self.calls = folder / "calls"
        self.calls.touch()
        self.home.mkdir()
        checkout = folder / "checkout"
        checkout.mkdir()
        shutil.copy(ROOT / "dev", checkout)
        shutil.copytree(ROOT / "systemd", checkout / "systemd")
        self._dev = checkout / "dev"
        bin = folder / "bin"
        bin.mkdir()
        self._bin = bin
        for name, body in STAND_INS.items():
            self.stand_in(name, body)

    def stand_in(self, name: str, body: str) -> None:
        """Replace a command."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def dev(self, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `./dev` as a user."""
        env = {
            "AS": str(uid),
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "DESTDIR": str(self.root),
            "HOME": str(self.home),
            "CALLS": str(self.calls),
            "USER": "ann",
        }
        command = [str(self._dev), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)

    def files(self) -> list[str]:
        """Return the paths of all files and links of the machine and the home folder."""
        return sorted(
            str(path.relative_to(self.root.parent))
            for top in (self.root, self.home)
            for path in top.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )

    def folders(self, top: str) -> set[str]:
        """Return the paths of all folders below a folder of the machine, from there."""
        below = self.root / top
        return {str(path.relative_to(below)) for path in below.rglob("*") if path.is_dir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def next_steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the commands that an installation ends with."""
    assert done.returncode == 0, done.stderr
    assert "Next:" in done.stderr.splitlines()[-1]
    return [line.strip() for line in done.stdout.splitlines()]


def test_the_machines_service_comes_and_goes(machine: Machine) -> None:
    steps = next_steps(machine.dev("install"))
    assert len(steps) == 3
    assert steps[0].startswith("sudo usermod -aG kwsd,kwsd-admin ")
    assert steps[1].startswith("kwsd doctor")
    config = machine.root / "etc/kwsd/kwsd.yaml"
    assert "\n  admin_group: kwsd-admin\n" in config.read_text()
    assert "g kwsd-admin -" in (machine.root / "etc/sysusers.d/kwsd.conf").read_text()
    assert (machine.root / "usr/local/bin/kwsd").readlink() == Path("/opt/kwsd/bin/kwsd")
    shared = machine.root / "usr/local/share"
    assert (shared / "man/man1/kwsd.1").readlink() == Path("/opt/kwsd/share/man/man1/kwsd.1")
    assert len([path for path in shared.rglob("*") if path.is_symlink()]) == 4
    assert not (machine.root / "etc/systemd/user").exists()
    calls = machine.calls.read_text()
    assert "systemd-sysusers kwsd.conf" in calls
    assert "systemctl restart kwsd.service" in calls
    voiceprint = machine.root / "var/lib/kwsd/ann.voiceprint"
    voiceprint.parent.mkdir(parents=True)
    voiceprint.touch()
    done = machine.dev("uninstall")
    assert done.returncode == 0
    assert machine.files() == ["root/var/lib/kwsd/ann.voiceprint"]
    assert f"kept {voiceprint.parent}" in done.stderr
    assert "systemctl disable --now kwsd.service" in machine.calls.read_text()
    assert "userdel" not in machine.calls.read_text()
    assert machine.dev("uninstall", "--purge").returncode == 0
    assert machine.files() == []
    removed = machine.calls.read_text()
    assert all(f"groupdel kwsd-{group}" in removed for group in ("admin", "stream"))
    assert "userdel kwsd-exec" in removed


def test_templates_come_with_the_service_and_their_instances_go_with_it(machine: Machine) -> None:
    units = {"kwsd.service", "kwsd@.service", "kwsd-exec@.service"}
    machine.dev("install")
    folder = machine.root / "etc/systemd/system"
    assert {path.name for path in folder.iterdir()} == units
    users = (machine.root / "etc/sysusers.d/kwsd.conf").read_text()
    assert "\nu kwsd-exec - " in users
    assert "\ng kwsd-stream -" in users
    wanted = folder / "multi-user.target.wants"
    wanted.mkdir()
    (wanted / "kwsd@kitchen.service").symlink_to(folder / "kwsd@.service")
    (wanted / "kwsd-exec@lamp.service").symlink_to(folder / "kwsd-exec@.service")
    kept = machine.root / "var/lib/kwsd-kitchen/ann.voiceprint"
    kept.parent.mkdir(parents=True)
    kept.touch()
    machine.calls.write_text("")
    done = machine.dev("uninstall")
    assert f"kept {kept.parent}" in done.stderr
    for name in ("kwsd@kitchen", "kwsd-exec@lamp"):
        assert f"systemctl disable --now {name}.service" in machine.calls.read_text()
        (wanted / f"{name}.service").unlink()  # as systemctl does
    assert machine.files() == ["root/var/lib/kwsd-kitchen/ann.voiceprint"]
    machine.dev("install", "--user", uid=1000)
    own = machine.home / ".config/systemd/user"
    assert {path.name for path in own.iterdir()} == units
    machine.dev("uninstall", "--user", "--purge", uid=1000)
    machine.dev("uninstall", "--purge")
    assert machine.files() == []


def test_a_purge_takes_drop_ins_and_empty_folders_along(machine: Machine) -> None:
    machine.dev("install", "--with", "wyoming")
    units = machine.root / "etc/systemd/system"
    names = ("kwsd", "kwsd@kitchen", "kwsd-exec@lamp", "kwsd-mqtt", "kwsd-other", "other")
    for name in names:
        (units / f"{name}.service.d").mkdir()
        (units / f"{name}.service.d/override.conf").touch()
    machine.dev("uninstall")
    assert machine.folders("etc/systemd/system") == {f"{name}.service.d" for name in names}
    assert machine.folders("etc") == {
        *("sysusers.d", "tmpfiles.d", "systemd", "systemd/system"),
        *(f"systemd/system/{name}.service.d" for name in names),
    }
    assert machine.folders("usr/local/share") == {"man"}, "which is Debian's"
    machine.dev("uninstall", "--purge")
    kept = {"kwsd-other.service.d", "other.service.d"}
    assert machine.folders("etc/systemd/system") == kept, "which are of no unit of kwsd"


def test_a_configuration_of_the_users_is_neither_overwritten_nor_removed(machine: Machine) -> None:
    config = machine.root / "etc/kwsd/kwsd.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("words: {alexa: }\n# admin_group: none\n")
    done = machine.dev("install")
    assert "`socket: {admin_group: kwsd-admin}`" in done.stderr
    config.write_text("socket: {admin_group: people}\n")
    done = machine.dev("install")  # also the upgrade
    assert "admin_group" not in done.stderr
    machine.dev("uninstall")
    assert config.read_text() == "socket: {admin_group: people}\n"
    machine.dev("uninstall", "--purge")
    assert machine.files() == []


BRIDGE_FILES = {
    "root/etc/systemd/system/kwsd-satellite.service",
    "root/etc/sysusers.d/kwsd-satellite.conf",
    "root/etc/systemd/system/kwsd-wyoming.service",
    "root/etc/sysusers.d/kwsd-wyoming.conf",
    "root/etc/avahi/services/kwsd-wyoming.service",
}


def test_a_bridge_comes_where_it_is_asked_for_and_stays(machine: Machine) -> None:
    machine.dev("install")
    assert not BRIDGE_FILES & set(machine.files())
    assert "install --quiet --disable-pip-version-check --upgrade .\n" in machine.calls.read_text()
    steps = next_steps(machine.dev("install", "--with", "wyoming"))
    assert len(steps) == 3
    assert set(machine.files()) >= BRIDGE_FILES
    calls = machine.calls.read_text()
    assert "--upgrade .[wyoming]" in calls
    assert "systemd-sysusers kwsd-wyoming.conf" in calls
    assert "systemctl enable kwsd-wyoming.service" in calls
    # Sound leaves the machine where its owner says so, and is not announced before.
    assert "systemd-sysusers kwsd-satellite.conf" in calls
    assert "enable kwsd-satellite" not in calls
    assert "restart kwsd-satellite" not in calls
    assert "root/etc/avahi/services/kwsd-satellite.service" not in machine.files()
    machine.calls.write_text("")
    done = machine.dev("install")  # an upgrade
    assert "kwsd-wyoming serves" in done.stderr
    assert "--upgrade .[wyoming]" in machine.calls.read_text()
    assert machine.dev("uninstall", "--purge").returncode == 0
    assert machine.files() == []
    calls = machine.calls.read_text()
    assert "systemctl disable --now kwsd-wyoming.service" in calls
    assert "systemctl disable --now kwsd-satellite.service" in calls
    assert "userdel kwsd-wyoming" in calls
    assert "userdel kwsd-satellite" in calls


def test_an_upgrade_restarts_the_satellite_that_its_owner_has_enabled(machine: Machine) -> None:
    machine.dev("install", "--with", "wyoming")
    machine.stand_in(
        "systemctl", 'echo "systemctl $*" >>"$CALLS"; [ "$1" != is-enabled ] || echo enabled'
    )
    assert machine.dev("install").returncode == 0
    assert "systemctl restart kwsd-satellite.service" in machine.calls.read_text()


def test_several_bridges_come_at_once(machine: Machine) -> None:
    next_steps(machine.dev("install", "--with", "mqtt,metrics"))
    units = {path for path in machine.files() if "/systemd/system/kwsd-m" in path}
    assert {Path(path).name for path in units} == {"kwsd-mqtt.service", "kwsd-metrics.service"}
    calls = machine.calls.read_text()
    assert "--upgrade .[mqtt,metrics]" in calls
    assert "systemd-sysusers kwsd-mqtt.conf" in calls
    assert "systemctl restart kwsd-metrics.service" in calls
    assert machine.dev("uninstall", "--purge").returncode == 0
    assert machine.files() == []


def test_a_bridge_of_ones_own(machine: Machine) -> None:
    next_steps(machine.dev("install", "--user", "--with=wyoming", uid=1000))
    units = machine.home / ".config/systemd/user"
    names = {path.name for path in units.iterdir()}
    templates = {"kwsd.service", "kwsd@.service", "kwsd-exec@.service"}
    assert names == {*templates, "kwsd-wyoming.service", "kwsd-satellite.service"}
    assert "restart kwsd-satellite" not in machine.calls.read_text()
    assert "systemctl --user restart kwsd-wyoming.service" in machine.calls.read_text()
    assert machine.dev("uninstall", "--user", "--purge", uid=1000).returncode == 0
    assert machine.files() == []
    assert "systemctl --user disable --now kwsd-wyoming.service" in machine.calls.read_text()


def test_the_page_comes_with_its_user_and_its_groups(machine: Machine) -> None:
    next_steps(machine.dev("install", "--with", "wyoming,web"))
    page = {"root/etc/systemd/system/kwsd-web.service", "root/etc/sysusers.d/kwsd-web.conf"}
    assert set(machine.files()) >= page
    calls = machine.calls.read_text()
    assert "--upgrade .[wyoming,web]" in calls
    assert calls.index("systemd-sysusers kwsd-web.conf") < calls.index("enable kwsd-web.service")
    config = (machine.root / "etc/kwsd/kwsd.yaml").read_text()
    assert "\n  admin_group: kwsd-admin\n" in config, "the page's rights"
    assert machine.dev("uninstall", "--purge").returncode == 0
    assert machine.files() == []
    assert "userdel kwsd-web" in machine.calls.read_text()


def test_a_users_service_leaves_none_of_the_machine(machine: Machine) -> None:
    machine.dev("install")
    old = machine.home / ".config/kwsd"
    (old / "clips").mkdir(parents=True)
    for name in ("ann.voiceprint", "room.calibration", "kwsd.yaml", "clips/a.wav"):
        (old / name).touch()
    steps = next_steps(machine.dev("install", "--user", uid=1000))
    assert len(steps) == 3
    assert steps[0].startswith(f"{machine.home}/.local/bin/kwsd doctor")
    assert steps[2].endswith("enroll ann")
    assert [file for file in machine.files() if file.startswith("root/")] == []
    state = machine.home / ".local/state/kwsd"
    moved = sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())
    assert moved == ["ann.voiceprint", "clips/a.wav", "room.calibration"]
    assert state.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in old.iterdir()] == ["kwsd.yaml"]
    assert "systemctl --user restart kwsd.service" in machine.calls.read_text()
    done = machine.dev("uninstall", "--user", uid=1000)
    assert done.returncode == 0
    assert {Path(file).name for file in machine.files()} == {
        *map(os.path.basename, moved),
        "kwsd.yaml",
    }
    assert machine.dev("uninstall", "--user", "--purge", uid=1000).returncode == 0
    assert machine.files() == []


@pytest.mark.parametrize("whose", [[], ["--user"]])
def test_the_debian_packages_units_are_not_hidden(machine: Machine, whose: list[str]) -> None:
    unit = machine.root / "usr/lib/systemd/system/kwsd.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    done = machine.dev("install", *whose, uid=1000 if whose else 0)
    assert done.returncode == 69
    assert "or remove it first: sudo apt-get remove kwsd" in done.stderr
    assert machine.files() == ["root/usr/lib/systemd/system/kwsd.service"]


def test_32_bit_is_refused_in_one_sentence(machine: Machine) -> None:
    machine.stand_in("python3", 'case "$2" in *maxsize*) exit 1 ;; esac')
    for command in (["install"], ["run"], ["test", "--core"]):
        done = machine.dev(*command)
        assert done.returncode == 69
        assert done.stderr.splitlines()[-1].startswith("./dev: kwsd needs a 64-bit system")
    assert not (machine.root / "etc").exists()


@pytest.mark.parametrize(
    ("arguments", "uid", "status", "message"),
    [
        (["install"], 1000, 77, "sudo ./dev install"),
        (["uninstall"], 1000, 77, "sudo ./dev uninstall"),
        (["install", "--user"], 0, 64, "not by root"),
        (
            ["install", "--purge"],
            0,
            64,
            "install takes --user and --with wyoming mqtt metrics web, not --purge",
        ),
        (
            ["install", "--with", "pigeons"],
            0,
            64,
            "--with takes names of wyoming mqtt metrics web with commas",
        ),
        (["install", "--with"], 0, 64, "between them, not nothing"),
        (["uninstall", "--everything"], 0, 64, "uninstall takes --user and --purge"),
    ],
)
def test_what_is_refused(
    machine: Machine, arguments: list[str], uid: int, status: int, message: str
) -> None:
    done = machine.dev(*arguments, uid=uid)
    assert done.returncode == status
    assert message in done.stderr
    assert machine.files() == []


def test_a_step_is_one_line_and_its_output_is_shown_if_it_fails(machine: Machine) -> None:
    machine.stand_in("dpkg-query", "exit 1")
    machine.stand_in("apt-get", 'echo "Reading package lists"; echo "apt-get $*" >>"$CALLS"')
    done = machine.dev("install")
    assert done.returncode == 0
    assert "Reading" not in done.stdout + done.stderr
    assert done.stderr.count("installing") == 2
    assert all(line.startswith("./dev: ") for line in done.stderr.splitlines())
    machine.stand_in("apt-get", 'echo "E: no network"; exit 100')
    done = machine.dev("install")
    assert done.returncode == 100
    assert "E: no network" in done.stderr


def test_a_service_that_does_not_start_is_an_error(machine: Machine) -> None:
    machine.stand_in("systemctl", '[ "$1" != restart ]')
    done = machine.dev("install")
    assert done.returncode == 69
    assert "kwsd.service does not start; `kwsd doctor`" in done.stderr
