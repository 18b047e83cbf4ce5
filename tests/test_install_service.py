"""`kwsd install-service`: kwsd copies itself, and runs what `./dev install` runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_dev import STAND_INS

from kwsd.cli import main as cli
from kwsd.cli import put_into, service

ROOT = Path(__file__).parent.parent
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def distribution(site: Path, name: str, requires: list[str], files: dict[str, str]) -> None:
    """Install a distribution that pip would have installed."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"]
    lines += [f"Requires-Dist: {requirement}\n" for requirement in requires]
    files = {**files, f"{info}/METADATA": "".join(lines)}
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    for path, text in {**files, f"{info}/RECORD": record}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


KWSD = {
    "kwsd/__init__.py": "",
    "kwsd/cli/__init__.py": "",
    "kwsd/cli/main.py": "import near\ndef main():\n    print('it runs', near.HERE)\n    return 3\n",
    "../../../share/man/man1/kwsd.1": "a page",
    "../../../bin/kwsd": "#!/elsewhere/python",
}
REQUIRES = [
    "near[fast]>=1",
    'elsewhere; sys_platform == "win32"',
    'wyoming>=1; extra == "wyoming"',
    'torch; extra == "train"',
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return site-packages of an environment with kwsd and what it needs."""
    site = tmp_path / "env" / "lib" / VERSION / "site-packages"
    distribution(site, "kwsd", REQUIRES, KWSD)
    requires = ['speed; extra == "fast"', 'kwsd; extra == "never"']
    distribution(site, "near", requires, {"near.py": "HERE = __file__"})
    distribution(site, "speed", ["near"], {"speed.py": ""})
    distribution(site, "stranger", [], {"stranger.py": ""})
    monkeypatch.syspath_prepend(str(site))
    return site


def copied(folder: Path) -> set[str]:
    site = folder / "lib" / VERSION / "site-packages"
    return {path.name for path in site.iterdir() if path.suffix != ".dist-info"}


def test_kwsd_copies_itself_and_what_it_needs(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "opt" / "kwsd"
    folder.mkdir(parents=True)
    (folder / "stale").touch()
    assert put_into.main([str(folder), ""]) == 0
    assert copied(folder) == {"kwsd", "near.py", "speed.py"}
    assert (folder / "share/man/man1/kwsd.1").read_text() == "a page"
    assert not (folder / "stale").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["kwsd"]
    shutil.rmtree(site)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(folder / "bin" / "kwsd")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert (done.returncode, done.stdout.split()[:2]) == (3, ["it", "runs"])
    assert done.stdout.split()[2] == str(folder / f"lib/{VERSION}/site-packages/near.py")


def test_a_bridge_is_copied_where_its_library_is(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kwsd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [str(site)])
        assert put_into.main([str(folder), "wyoming"]) == cli.UNAVAILABLE
    assert not folder.exists()
    err = capsys.readouterr().err
    assert "wyoming, which wyoming needs, is not installed beside kwsd" in err
    assert "-m pip install './kwsd-VERSION-py3-none-any.whl[wyoming]'" in err
    distribution(site, "wyoming", [], {"wyoming/__init__.py": ""})
    assert put_into.main([str(folder), "wyoming"]) == 0
    assert "wyoming" in copied(folder)


def test_what_cannot_be_copied(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert put_into.main([str(tmp_path / "file" / "kwsd"), ""]) == cli.DATA
    monkeypatch.setattr(sys, "_base_executable", "/home/ann/.pyenv/python")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert put_into.main(["/opt/kwsd-of-a-test", ""]) == cli.UNAVAILABLE
    assert "lies in a home" in capsys.readouterr().err
    distribution(site, "kwsd", [], {"kwsd.pth": "/checkout"})
    assert put_into.main([str(tmp_path / "kwsd"), ""]) == cli.UNAVAILABLE
    assert "./dev install" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [str(site)])
        distribution(site, "kwsd", ["nowhere>=1"], KWSD)
        assert put_into.main([str(tmp_path / "kwsd"), ""]) == cli.UNAVAILABLE
    assert "nowhere, which kwsd needs" in capsys.readouterr().err


def test_a_checkout_says_what_it_has_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["install-service"]) == cli.UNAVAILABLE
    assert "it is ./dev install" in capsys.readouterr().err
    assert cli.main(["uninstall-service", "--user"]) == cli.UNAVAILABLE
    assert "it is ./dev uninstall" in capsys.readouterr().err


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine with stand-ins; the files of the service are the checkout's."""
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "CALLS": str(tmp_path / "calls"),
        "DESTDIR": str(tmp_path / "root"),
        "HOME": str(tmp_path / "home"),
        "AS": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(service, "FOLDER", ROOT / "systemd")
    return tmp_path / "root"


def test_it_installs_what_dev_installs(
    machine: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    # `python -m kwsd.cli.put_into` finds the checkout's code, and copies the made distributions.
    (site / "kwsd" / "cli" / "__init__.py").write_text(f"__path__ = [{str(ROOT / 'kwsd/cli')!r}]\n")
    (site / "kwsd" / "__init__.py").write_text(f"__path__ = [{str(ROOT / 'kwsd')!r}]\n")
    assert cli.main(["install-service"]) == 0
    out, err = capfd.readouterr()
    assert "kwsd install-service: the service listens" in err
    assert "kwsd doctor" in out
    assert (machine / "opt/kwsd/bin/kwsd").is_file()
    assert (machine / "etc/systemd/system/kwsd.service").is_file()
    assert (machine / "usr/local/bin/kwsd").readlink() == Path("/opt/kwsd/bin/kwsd")
    assert cli.main(["uninstall-service", "--purge"]) == 0
    left = [path for path in machine.rglob("*") if not path.is_dir() or path.is_symlink()]
    assert left == []


def test_what_is_refused_is_said_in_the_words_of_the_verb(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["install-service", "--with", "pigeons"]) == cli.USAGE
    assert "--with takes names of wyoming" in capfd.readouterr().err
    assert cli.main(["install-service", "--user"]) == cli.USAGE
    assert "kwsd install-service --user" in capfd.readouterr().err
    monkeypatch.setenv("AS", "1000")
    assert cli.main(["uninstall-service"]) == cli.NO_PERMISSION
    assert f"sudo {sys.executable} -m kwsd uninstall-service" in capfd.readouterr().err
    assert not machine.exists()


def test_the_wheel_and_the_sdist_have_what_is_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = project["tool"]["hatch"]["build"]["targets"]
    carried = {**build["wheel"]["force-include"], **build["wheel"]["shared-data"]}
    assert carried["systemd"] == str(service.FOLDER.relative_to(ROOT))
    included = build["sdist"]["include"]
    for origin in carried:
        assert (ROOT / origin).exists()
        assert any(f"/{origin}".startswith(one) for one in included), origin
    text = (ROOT / "systemd" / "service.sh").read_text(encoding="utf-8")
    linked = text.partition('SHARED="')[2].partition('"')[0].split()
    assert sorted(f"share/{path}" for path in linked) == sorted(
        build["wheel"]["shared-data"].values()
    )
    people = [project["project"][key] for key in ("authors", "maintainers")]
    assert people == [[{"name": "kwsd contributors"}]] * 2
