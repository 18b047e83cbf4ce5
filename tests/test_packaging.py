"""The Debian packages, the image of containers and the app for Home Assistant."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_units import BRIDGES

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "packaging" / "deb" / "build.py"
HOME_ASSISTANT = ROOT / "packaging" / "home-assistant"
NAMES = [name.removeprefix("kwsd-") for name in BRIDGES]
dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb")


def build(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of packages that have a stand-in for the libraries."""
    folder = tmp_path_factory.mktemp("packages")
    site = folder / "site"
    info = site / "near-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: near\nLicense: MIT\n")
    (site / "near.py").write_text("")
    (site / "bin").mkdir()
    (site / "bin" / "kwsd").write_text("#!/elsewhere")
    shutil.copytree(ROOT / "systemd", site / "kwsd" / "service")
    given = ["--arch", "arm64", "--release", "trixie", "--site-packages", str(site)]
    done = build(folder, *given, "--bridges", " ".join(NAMES))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(NAMES)
    return folder


def unpacked(package: Path, folder: Path) -> Path:
    root = folder / package.name
    subprocess.run(["dpkg-deb", "-R", str(package), str(root)], check=True)
    return root


def fields(package: Path) -> dict[str, str]:
    done = subprocess.run(
        ["dpkg-deb", "-f", str(package)], capture_output=True, text=True, check=True
    )
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if line[0].isalpha())


@dpkg
def test_the_package_is_for_one_architecture_and_one_python(packages: Path) -> None:
    (package,) = packages.glob("kwsd_*.deb")
    found = fields(package)
    assert package.name == f"kwsd_{found['Version']}_arm64.deb"
    assert found["Version"].endswith("-1~deb13")
    assert found["Maintainer"] == "kwsd contributors"
    depends = found["Depends"].split(", ")
    assert {"python3 (>= 3.13)", "python3 (<< 3.14)", "libportaudio2"} <= set(depends)


@dpkg
def test_what_is_in_the_package(packages: Path, tmp_path: Path) -> None:
    (package,) = packages.glob("kwsd_*.deb")
    root = unpacked(package, tmp_path)
    prefix = root / "usr/lib/kwsd"
    site = prefix / "lib/python3.13/site-packages"
    assert (site / "near.py").exists()
    assert not (site / "bin").exists()
    assert (prefix / "bin/python").readlink() == Path("/usr/bin/python3.13")
    assert (root / "usr/bin/kwsd").readlink() == Path("../lib/kwsd/bin/kwsd")
    assert os.access(prefix / "bin/kwsd", os.X_OK)
    for whose in ("system", "user"):
        units = {path.name for path in (root / "usr/lib/systemd" / whose).iterdir()}
        assert units == {"kwsd.service", "kwsd@.service", "kwsd-exec@.service"}
    page = gzip.decompress((root / "usr/share/man/man1/kwsd.1.gz").read_bytes())
    assert page == (ROOT / "docs/kwsd.1").read_bytes()
    shared = root / "usr/share"
    for path in ("bash-completion/completions/kwsd", "zsh/vendor-completions/_kwsd"):
        assert (shared / path).read_text().startswith("#")
    assert "License: near\n MIT." in (shared / "doc/kwsd/copyright").read_text()
    assert not (root / "etc").exists()  # the configuration is made, not overwritten
    sums = (root / "DEBIAN/md5sums").read_text().splitlines()
    assert any(
        line.endswith("  usr/lib/kwsd/lib/python3.13/site-packages/near.py") for line in sums
    )
    assert not any(line.split("  ")[1].startswith("DEBIAN") for line in sums)


@dpkg
@pytest.mark.parametrize("name", NAMES)
def test_a_bridge_is_a_package_of_its_own(packages: Path, tmp_path: Path, name: str) -> None:
    (package,) = packages.glob(f"kwsd-{name}_*_all.deb")
    root = unpacked(package, tmp_path)
    found = fields(package)
    assert f"kwsd (= {found['Version']})" in found["Depends"]
    assert (root / f"usr/lib/systemd/system/kwsd-{name}.service").exists()
    assert (root / f"usr/lib/sysusers.d/kwsd-{name}.conf").exists()
    avahi = f"etc/avahi/services/kwsd-{name}.service"
    conffiles = root / "DEBIAN/conffiles"
    listed = conffiles.read_text().splitlines() if conffiles.exists() else []
    assert listed == ([f"/{avahi}"] if (root / avahi).exists() else [])


@dpkg
def test_the_satellite_comes_with_the_wake_service_and_waits_for_its_owner(
    packages: Path, tmp_path: Path
) -> None:
    (package,) = packages.glob("kwsd-wyoming_*_all.deb")
    root = unpacked(package, tmp_path)
    for path in ("systemd/system/{}.service", "systemd/user/{}.service", "sysusers.d/{}.conf"):
        for name in ("kwsd-wyoming", "kwsd-satellite"):
            assert (root / "usr/lib" / path.format(name)).exists()
    announced = "kwsd-satellite.service"
    assert not (root / "etc/avahi/services" / announced).exists()
    assert (root / "usr/share/doc/kwsd-wyoming/examples" / announced).exists()
    calls = run_script(root / "DEBIAN/postinst", tmp_path, "configure")
    assert "systemd-sysusers kwsd-satellite.conf" in calls
    assert "deb-systemd-helper enable kwsd-wyoming.service" in calls
    assert not any("enable kwsd-satellite" in line for line in calls)
    calls = run_script(root / "DEBIAN/postrm", tmp_path, "purge")
    assert {"userdel kwsd-wyoming", "userdel kwsd-satellite"} <= set(calls)


@dpkg
def test_a_purge_takes_the_users_along_that_dev_install_had_made(
    packages: Path, tmp_path: Path
) -> None:
    (package,) = packages.glob("kwsd_*.deb")
    calls = run_script(unpacked(package, tmp_path) / "DEBIAN/postrm", tmp_path, "purge")
    users = {line.split()[1] for line in calls if line.startswith("userdel ")}
    assert users == {"kwsd", "kwsd-exec", "kwsd-satellite", *BRIDGES}


def run_script(script: Path, folder: Path, *arguments: str) -> list[str]:
    """Return the commands that a script of a package gives, by stand-ins: only what is installed
    the first time is enabled, and nothing was before."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    calls = folder / "calls"
    calls.write_text("")
    helper = 'case "$*" in debian-installed*) exit 1 ;; esac'
    bodies = {"deb-systemd-helper": helper}
    bodies |= dict.fromkeys(["systemd-sysusers", "userdel", "groupdel"], "")
    for name, body in bodies.items():
        (bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n{body}\n')
        (bin / name).chmod(0o755)
    text = script.read_text().replace("/run/systemd/system", str(folder / "no-systemd"))
    for top in ("/var/lib/", "/etc/", "/run/", "/usr/lib/"):  # never the machine's own
        text = re.sub(rf"(?<![\w/])({top})", rf"{folder}\1", text)
    assert not re.search(r"\s/(etc|var|run|usr)/", text)
    env = {"PATH": f"{bin}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", text, str(script), *arguments], env=env, check=True)
    return calls.read_text().splitlines()


@dpkg
def test_the_scripts_are_sound_and_need_no_network(packages: Path, tmp_path: Path) -> None:
    scripts = []
    for package in packages.glob("*.deb"):
        control = unpacked(package, tmp_path) / "DEBIAN"
        scripts += [control / name for name in ("postinst", "prerm", "postrm")]
    for script in scripts:
        text = script.read_text()
        assert "@{" not in text
        assert "set -e" in text
        assert not re.search(r"\b(pip|curl|wget|apt-get (?!install kwsd|remove kwsd))\b", text)
        subprocess.run(["sh", "-n", str(script)], check=True)
    if checker := shutil.which("shellcheck", path=str(Path(sys.executable).parent)):
        subprocess.run([checker, "-e", "SC1091", *map(str, scripts)], check=True)


def test_what_cannot_be_built_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = build(tmp_path, "--arch", "armhf")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("./dev: kwsd needs a 64-bit system")
    assert len(done.stderr.splitlines()) == 1
    done = build(tmp_path, "--arch", "arm64", "--release", "buzz")
    assert done.returncode == 64
    assert "one of bookworm, trixie, noble, not 'buzz'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_compose_offers_three_ways_to_a_microphone() -> None:
    text = (ROOT / "packaging/docker/compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"alsa", "pulse", "pipewire", *NAMES}
    for name, service in services.items():
        bridge = name in NAMES
        assert service.get("command", [""])[0] == (name if bridge else "")
        assert service["profiles"] == [name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert (service.get("network_mode") == "none") == (not bridge)
    assert services["alsa"]["devices"] == ["/dev/snd"]
    assert services["mqtt"]["hostname"] == "kwsd", "else each container is a new device"
    dockerfile = (ROOT / "packaging/docker/Dockerfile").read_text(encoding="utf-8")
    for name in ("pulse", "pipewire"):
        config = services[name]["environment"]["ALSA_CONFIG_PATH"].rpartition("/")[2]
        assert config == f"asound-{name}.conf"
        assert config in dockerfile
        assert (ROOT / "packaging/docker" / config).exists()


def test_the_app_is_the_last_stage_of_the_same_image() -> None:
    dockerfile = (ROOT / "packaging/docker/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile, re.MULTILINE) == [
        ("${BASE}", "build"),
        ("${BASE}", "kwsd"),
        ("kwsd", "app"),
    ]
    config = yaml.safe_load((HOME_ASSISTANT / "config.yaml").read_text(encoding="utf-8"))
    assert config["discovery"] == ["wyoming"]
    assert config["ports"] == {"10400/tcp": None}
    assert config["audio"] is True
    assert set(config["options"]) == set(config["schema"])
    assert config["arch"] == ["aarch64", "amd64"]


class Supervisor(BaseHTTPRequestHandler):
    """Home Assistant's Supervisor, as far as an app announces itself to it."""

    seen: list[tuple[str, str | None, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"result": "ok", "data": {"uuid": "1"}}')
        self.server.done.set()  # type: ignore[attr-defined]

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""


@pytest.fixture
def supervisor() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Supervisor)
    Supervisor.seen = []
    server.done = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


KWSD = """\
#!{python}
import signal, socket, sys
with open({calls!r}, "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + chr(10))
if "wyoming" in sys.argv:
    listening = socket.create_server(("127.0.0.1", {port}))
signal.pause()
"""


def test_the_app_starts_its_parts_and_announces_the_service(
    supervisor: HTTPServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    calls = tmp_path / "calls"
    kwsd = tmp_path / "kwsd"
    kwsd.write_text(KWSD.format(python=sys.executable, calls=str(calls), port=port))
    kwsd.chmod(0o755)
    (tmp_path / "options.json").write_text('{"microphone": true, "log_level": "debug"}')
    (tmp_path / "kwsd.yaml").write_text("words: {alexa: }\n")
    app = (HOME_ASSISTANT / "app.py").read_text(encoding="utf-8")
    (tmp_path / "app.py").write_text(app.replace("PORT = 10400", f"PORT = {port}"))
    env = {
        **os.environ,
        "KWSD": str(kwsd),
        "KWSD_OPTIONS": str(tmp_path / "options.json"),
        "KWSD_FOLDER": str(tmp_path),
        "KWSD_SUPERVISOR": f"http://127.0.0.1:{supervisor.server_port}",
        "SUPERVISOR_TOKEN": "secret",
    }
    command = [sys.executable, str(tmp_path / "app.py")]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert supervisor.done.wait(30)  # type: ignore[attr-defined]
        for _ in range(600):
            if len(calls.read_text().splitlines()) == 2:
                break
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert "app: announced to Home Assistant: ok" in err
    ((path, authorization, body),) = Supervisor.seen
    assert (path, authorization) == ("/discovery", "Bearer secret")
    assert body["service"] == "wyoming"
    assert body["config"]["uri"].endswith(f":{port}")
    config = tmp_path / "kwsd.yaml"
    started = sorted(calls.read_text().splitlines())
    assert started == [f"-v run --config {config}", f"-v wyoming --config {config}"]
