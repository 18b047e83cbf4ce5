"""Builds the Debian packages: kwsd with its libraries, and a small one for each bridge.

`./dev deb` runs it. Nothing is compiled: the wheels of the architecture and of the release's Python
are unpacked into /usr/lib/kwsd, so that any machine builds the packages of any other.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import Parser
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
NO_WHEELS = (
    "kwsd needs a 64-bit system, amd64 or arm64, since onnxruntime, which computes its models, is "
    "not made for {}"
)
PREFIX = Path("usr/lib/kwsd")
WITH = {"wyoming": ["satellite"]}
"""What comes with a bridge, and is started by its owner alone."""
SHARED = {
    "docs/kwsd.1": "usr/share/man/man1/kwsd.1",
    "completions/kwsd.bash": "usr/share/bash-completion/completions/kwsd",
    "completions/kwsd.fish": "usr/share/fish/vendor_completions.d/kwsd.fish",
    "completions/kwsd.zsh": "usr/share/zsh/vendor-completions/_kwsd",
}


@dataclass(frozen=True)
class Release:
    """A release of Debian or Ubuntu."""

    suffix: str
    """Of the package's version; later releases sort higher."""
    python: str
    """Its Python, without the last number."""
    glibc: int
    """The number behind 2. of its C library, which bounds the wheels that run there."""


RELEASES = {
    "bookworm": Release("deb12", "3.11", 36),
    "trixie": Release("deb13", "3.13", 41),
    "noble": Release("ubuntu24.04", "3.12", 39),
}


@dataclass(frozen=True)
class Build:
    """What is built, and from what."""

    architecture: str
    release: Release
    bridges: tuple[str, ...]
    site_packages: Path | None
    """Wheels that are unpacked already, instead of those that pip fetches."""
    out: Path

    @property
    def site(self) -> Path:
        """The folder of the libraries, below that of the package."""
        return PREFIX / "lib" / f"python{self.release.python}" / "site-packages"

    @property
    def version(self) -> str:
        """The version of the packages."""
        text = (CHECKOUT / "kwsd" / "version.py").read_text(encoding="utf-8")
        found = re.search(r'__version__ = "(.+)"', text)
        assert found is not None
        return f"{found[1]}-1~{self.release.suffix}"


def main(argv: list[str]) -> int:
    """Build the packages that `argv` asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="./dev deb", description="Build the Debian packages.")
    native = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True)
    parser.add_argument("--arch", default=native.stdout.strip(), help="amd64 or arm64")
    parser.add_argument("--release", default=codename(), help=" or ".join(RELEASES))
    parser.add_argument("--out", type=Path, default=CHECKOUT / "dist", help="folder to write into")
    parser.add_argument("--bridges", default="", help=argparse.SUPPRESS)
    parser.add_argument("--site-packages", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.arch not in MACHINES:
        print(f"./dev: {NO_WHEELS.format(given.arch)}", file=sys.stderr)
        return 69
    if given.release not in RELEASES:
        known = ", ".join(RELEASES)
        print(f"./dev: --release is one of {known}, not {given.release!r}", file=sys.stderr)
        return 64
    build = Build(
        given.arch,
        RELEASES[given.release],
        tuple(given.bridges.split()),
        given.site_packages,
        given.out,
    )
    build.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwsd-deb-") as folder:
        packages = [daemon(build, Path(folder) / "kwsd")]
        packages += [bridge(build, name, Path(folder) / name) for name in build.bridges]
    for package in packages:
        print(package)
    return 0


def codename() -> str:
    """Return the name of this machine's release, or that of the first one that is known."""
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    return found[1] if found and found[1] in RELEASES else next(iter(RELEASES))


def daemon(build: Build, root: Path) -> Path:
    """Build the package kwsd below `root` and return its file."""
    site = root / build.site
    site.mkdir(parents=True)
    if build.site_packages:
        shutil.copytree(build.site_packages, site, dirs_exist_ok=True)
    else:
        unpack_wheels(build, site)
    for name in ("bin", "share"):  # scripts for another interpreter; completions, see SHARED
        shutil.rmtree(site / name, ignore_errors=True)
    environment(build, root)
    for origin, target in SHARED.items():
        install(CHECKOUT / origin, root / target)
    compress(root / "usr/share/man/man1/kwsd.1")
    units(root, ["kwsd.service", "kwsd@.service", "kwsd-exec@.service"])
    for kind in ("sysusers.d", "tmpfiles.d"):
        install(CHECKOUT / "systemd" / kind / "kwsd.conf", root / "usr/lib" / kind / "kwsd.conf")
    install(CHECKOUT / "systemd" / "kwsd.yaml", root / "usr/share/kwsd/kwsd.yaml")
    for name in ("README.md", "SECURITY.md"):
        install(CHECKOUT / name, root / "usr/share/doc/kwsd" / name)
    scripts = root / "usr/share/lintian/overrides/kwsd"
    install(HERE / "lintian-overrides", scripts)
    parts = [part for name in build.bridges for part in parts_of(name)]
    return pack(build, root, "kwsd", build.architecture, {"bridges": " ".join(parts)})


def parts_of(bridge: str) -> list[str]:
    """Return the names of its unit and user, and of those that come with it."""
    return [f"kwsd-{part}" for part in (bridge, *WITH.get(bridge, []))]


def bridge(build: Build, name: str, root: Path) -> Path:
    """Build the package of a bridge below `root` and return its file."""
    package, *optional = parts_of(name)
    service = CHECKOUT / "systemd"
    units(root, [f"{part}.service" for part in (package, *optional)])
    for part in (package, *optional):
        install(service / f"sysusers.d/{part}.conf", root / f"usr/lib/sysusers.d/{part}.conf")
        announced = service / "avahi" / f"{part}.service"
        if announced.exists():  # what its owner starts, its owner announces
            examples = f"usr/share/doc/{package}/examples"
            folder = examples if part in optional else "etc/avahi/services"
            install(announced, root / folder / announced.name)
    install(HERE / "lintian-overrides-bridge", root / f"usr/share/lintian/overrides/{package}")
    unit = (service / "system" / f"{package}.service").read_text(encoding="utf-8")
    found = re.search(r"^Description=(.+)$", unit, re.MULTILINE)
    assert found is not None
    what = found[1][0].lower() + found[1][1:]
    values = {"name": name, "what": what, "optional": " ".join(optional)}
    return pack(build, root, package, "all", values)


def unpack_wheels(build: Build, site: Path) -> None:
    """Build kwsd's wheel, and unpack it and all that it needs for the architecture and release."""
    wheels = site.parents[4] / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(CHECKOUT)], check=True)
    (wheel,) = wheels.glob("kwsd-*.whl")
    machine = MACHINES[build.architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(build.release.glibc, 4, -1)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    command = [*pip, "install", "--target", str(site), "--no-compile", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", build.release.python]
    command += [part for platform in platforms for part in ("--platform", platform)]
    subprocess.run([*command, f"{wheel}[{','.join(build.bridges)}]"], check=True)
    shutil.rmtree(wheels)


def environment(build: Build, root: Path) -> None:
    """Make a virtual environment of the folder of the libraries, and the command."""
    python = f"/usr/bin/python{build.release.python}"
    prefix = root / PREFIX
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(python)
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nexecutable = {python}\n",
        encoding="utf-8",
    )
    script = prefix / "bin" / "kwsd"
    script.write_text((HERE / "launcher").read_text(encoding="utf-8"), encoding="utf-8")
    script.chmod(0o755)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/kwsd").symlink_to("../lib/kwsd/bin/kwsd")
    for path in (root / build.site).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)


def units(root: Path, names: list[str]) -> None:
    """Install units of the machine and of users."""
    for whose in ("system", "user"):
        for name in names:
            origin = CHECKOUT / "systemd" / whose / name
            if origin.exists():
                install(origin, root / "usr/lib/systemd" / whose / name)


def pack(
    build: Build, root: Path, package: str, architecture: str, values: Mapping[str, str]
) -> Path:
    """Write what dpkg reads beside the files below `root`, and return the package's file."""
    kind = "daemon" if package == "kwsd" else "bridge"
    documents = root / "usr/share/doc" / package
    documents.mkdir(parents=True, exist_ok=True)
    (documents / "copyright").write_text(copyright_of(build, root, package), encoding="utf-8")
    changelog = documents / "changelog.Debian"
    changelog.write_text(changes(build, package), encoding="utf-8")
    compress(changelog)
    if package == "kwsd":
        install(CHECKOUT / "CHANGELOG.md", documents / "changelog")
        compress(documents / "changelog")
    control = root / "DEBIAN"
    control.mkdir()
    major, minor = build.release.python.split(".")
    values = {
        **values,
        "package": package,
        "version": build.version,
        "architecture": architecture,
        "maintainer": maintainer(),
        "size": str(sum(path.lstat().st_size for path in root.rglob("*")) // 1024 + 1),
        "python": build.release.python,
        "next": f"{major}.{int(minor) + 1}",
        "site": f"/{build.site}",
    }
    for path in sorted((HERE / kind).iterdir()):
        text = filled(path.read_text(encoding="utf-8"), values)
        (control / path.name).write_text(text, encoding="utf-8")
        (control / path.name).chmod(0o644 if path.name == "control" else 0o755)
    configured = sorted(path for path in (root / "etc").rglob("*") if path.is_file())
    if configured:
        names = "".join(f"/{path.relative_to(root)}\n" for path in configured)
        (control / "conffiles").write_text(names, encoding="utf-8")
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if not path.is_relative_to(control) and path not in configured
    )
    (control / "md5sums").write_text(sums, encoding="utf-8")
    file = build.out / f"{package}_{build.version}_{architecture}.deb"
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", str(root), str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return file


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its fields, `@{name}`, filled in. Raises KeyError."""
    return re.sub(r"@\{(\w+)\}", lambda found: values[found[1]], text)


def maintainer() -> str:
    """Return who maintains kwsd, as pyproject.toml says."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name: str = project["maintainers"][0]["name"]
    return name


def changes(build: Build, package: str) -> str:
    """Return the changelog of the packaging, which has one entry: that of this version."""
    date = formatdate(int(os.environ.get("SOURCE_DATE_EPOCH", modified())))
    return (
        f"{package} ({build.version}) unstable; urgency=medium\n\n"
        f"  * Version {build.version.partition('-')[0]}; what has changed is in the changelog of "
        f"kwsd.\n\n -- {maintainer()}  {date.replace('-0000', '+0000')}\n"
    )


def modified() -> int:
    """Return when the changelog was changed last, so that a build can be repeated."""
    return int((CHECKOUT / "CHANGELOG.md").stat().st_mtime)


def copyright_of(build: Build, root: Path, package: str) -> str:
    """Return the licenses of kwsd and of the libraries that are in the package."""
    text = (HERE / "copyright").read_text(encoding="utf-8")
    if package != "kwsd":
        return text
    for info in sorted((root / build.site).glob("*.dist-info")):
        fields = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
        if fields["Name"] == "kwsd":
            continue
        classified = [
            one.rpartition(" :: ")[2]
            for one in fields.get_all("Classifier", [])
            if one.startswith("License")
        ]
        plain = (fields["License"] or "").strip().splitlines()
        license = fields["License-Expression"] or ", ".join(classified) or "".join(plain[:1])
        text += (
            f"\nFiles: {build.site}/{fields['Name'].replace('-', '_')}*\n"
            f"Copyright: the authors of {fields['Name']}\n"
            f"License: {fields['Name']}\n {license or 'see the files of the distribution'}.\n"
            f" Its texts are in /{build.site}/{info.name}.\n"
        )
    return text


def install(origin: Path, target: Path) -> None:
    """Copy a file that everybody may read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)
    target.chmod(0o644)


def compress(path: Path) -> None:
    """Replace a file by what gzip makes of it, without a date."""
    data = gzip.compress(path.read_bytes(), 9, mtime=0)
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
