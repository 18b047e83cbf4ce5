"""What the verbs of bridges share: a library that is missing, options over the configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from kwsd.bridge_config import WyomingConfig
from kwsd.cli import main as cli
from kwsd.cli.bridge import configured, missing_library, socket_of
from kwsd.config import Config, ConfigError, SocketConfig

KEYS = ("uri", "allow", "max_clients")


def options(config: Path, **given: object) -> argparse.Namespace:
    """Return the options of `kwsd wyoming`."""
    return argparse.Namespace(config=config, **{**dict.fromkeys(KEYS), "socket": None, **given})


def test_a_library_that_is_missing_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert missing_library("numpy") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cli.main(["wyoming"]) == cli.UNAVAILABLE
    err = capsys.readouterr().err
    assert "library wyoming is not installed: sudo ./dev install --with wyoming" in err


def test_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kwsd.yaml"
    file.write_text("wyoming: {max_clients: 5, allow: [10.0.0.1]}\n")
    assert configured(options(file), "wyoming", KEYS).wyoming == WyomingConfig(
        max_clients=5, allow=["10.0.0.1"]
    )
    given = options(file, uri="tcp://[::]:1", max_clients=7)
    found = configured(given, "wyoming", KEYS).wyoming
    assert (found.address(), found.max_clients, found.allow) == (("::", 1), 7, ["10.0.0.1"])
    for odd, why in (
        ({"allow": ["nowhere"]}, "wyoming: allow: 'nowhere' is no address"),
        (
            {"max_clients": 5000},
            r"wyoming\.max_clients: 5000 is not a whole number between 1 and 1",
        ),
    ):
        with pytest.raises(ConfigError, match=f"^command line: {why}"):
            configured(options(file, **odd), "wyoming", KEYS)


def test_the_socket_is_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KWSD_SOCKET", raising=False)
    config = Config(socket=SocketConfig(path="/run/a.sock"))
    assert socket_of(options(tmp_path), config) == Path("/run/a.sock")
    assert socket_of(options(tmp_path, socket=Path("b")), config) == Path("b")
    assert socket_of(options(tmp_path), Config()) is None
    monkeypatch.setenv("KWSD_SOCKET", "/run/c.sock")
    assert socket_of(options(tmp_path), config) is None, "the client reads the variable"


@pytest.mark.parametrize(
    ("allow", "host", "admitted"),
    [
        (None, "192.168.1.7", True),
        (None, "127.0.0.1", True),
        (None, "::1", True),
        (None, "fe80::1%eth0", True),
        (None, "::ffff:10.1.2.3", True),
        (None, "8.8.8.8", False),
        (None, "2001:4860:4860::8888", False),
        (None, "::ffff:8.8.8.8", False),
        (["8.8.0.0/16"], "8.8.8.8", True),
        (["8.8.0.0/16"], "::ffff:8.8.8.8", True),
        (["8.8.0.0/16"], "127.0.0.1", False),
        ([], "127.0.0.1", False),
    ],
)
def test_who_may_connect(allow: list[str] | None, host: str, admitted: bool) -> None:
    assert WyomingConfig(allow=allow).admits(host) is admitted
