"""Files from outside are read within bounds: kinds of files, sizes, archives, JSON."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from msgspec import Struct

from kwsd.bounded import file, json, npz
from kwsd.bounded.file import Damaged, FileError
from kwsd.bounded.npz import Numbers, Text
from kwsd.config import ConfigError
from kwsd.model.bundle import BundleError
from kwsd.state.store import StateError

KINDS: npz.Kinds = {"a": Numbers("<f4", (10, 4)), "t": Text(8)}


def archive(**arrays: np.ndarray | np.float32 | str) -> bytes:
    """Return an archive as numpy writes it."""
    buffer = io.BytesIO()
    np.savez(buffer, **{"a": np.zeros((2, 4), np.float32), "t": "x", **arrays})  # type: ignore[arg-type]
    return buffer.getvalue()


def test_there_is_one_error_underneath() -> None:
    from kwsd.audio.files import AudioFileError

    kinds = (StateError, BundleError, ConfigError, AudioFileError)
    assert all(issubclass(kind, FileError) for kind in kinds)


def test_a_message_is_one_line_of_a_bounded_length() -> None:
    text = str(FileError("a\nb\0c\ud800d\x1b[31m" + "x" * 10_000 + "the end"))
    assert text.startswith("a b\\x00c\\ud800d\\x1b[31mxxx")
    assert text.endswith("the end")
    assert len(text) < 1100
    assert text.isprintable()


def test_only_regular_files_are_opened_and_nothing_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "sound").write_bytes(b"x")
    (tmp_path / "link").symlink_to("sound")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, what in (
            ("pipe", "a pipe"),
            ("folder", "a folder"),
            ("zero", "a device"),
            ("socket", "a socket"),
        ):
            with pytest.raises(Damaged, match=f"it is {what}, not a file"):
                file.read(tmp_path / name, 10)
    with pytest.raises(OSError, match="symbolic links"):
        file.read(tmp_path / "loop", 10)
    with pytest.raises(FileNotFoundError):
        file.read(tmp_path / "nothing", 10)
    assert file.read(tmp_path / "link", 10) == b"x"
    for name in ("link", "loop", "zero"):
        with pytest.raises(Damaged, match="it is a symbolic link, not a file"):
            file.read(tmp_path / name, 10, links=False)


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert file.read(path, 10) == b"x" * 10
    with pytest.raises(Damaged, match="it has 10 bytes; at most 9 are read"):
        file.read(path, 9)
    os.truncate(path, 10**12)
    with pytest.raises(Damaged, match="it has 1000000000000 bytes; at most 9 are read"):
        file.read(path, 9)
    with pytest.raises(Damaged, match="it has more than 9 bytes"):
        file.read(Path("/proc/self/status"), 9)  # claims to be empty


def test_an_archive_gives_what_is_declared() -> None:
    found = npz.decode(archive(a=np.ones((3, 4), np.float32), t="héllo", more=np.zeros(9)), KINDS)
    assert set(found) == {"a", "t"}
    assert (found["a"] == 1).all()
    assert found["a"].shape == (3, 4)
    assert found["t"] == "héllo"
    assert npz.shape(io.BytesIO(archive()), "a", Numbers("<f4", (10, 4))) == (2, 4)
    texts = npz.decode(archive(t=np.array(["a", "bcd"])), {"t": Text(8, (5,))})
    assert texts["t"] == ["a", "bcd"]
    columns = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(2, 4))
    assert (npz.decode(archive(a=columns), KINDS)["a"] == columns).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no archive of arrays, or was cut off"),
        (archive()[:-1], "no archive of arrays, or was cut off"),
        (archive(a=np.zeros((2, 4))), "'a' is of the type <f8, not <f4"),
        (archive(a=np.array([[None]])), r"'a' is of the type \|O, not <f4"),
        (
            archive(a=np.zeros((11, 4), np.float32)),
            r"'a' has the shape \(11, 4\); at most \(10, 4\)",
        ),
        (archive(a=np.zeros(4, np.float32)), r"'a' has the shape \(4,\); at most"),
        (archive(a=np.full((1, 4), np.nan, np.float32)), "'a' holds what is not a number"),
        (archive(a=np.full((1, 4), np.inf, np.float32)), "'a' holds what is not a number"),
        (archive(t="x" * 9), "'t' is <U9, not text of at most 8 characters"),
        (archive(t=np.float32(1)), "'t' is <f4, not text"),
        (archive(**{f"x{n}": "" for n in range(40)}), "claims more than 32 members"),
    ],
)
def test_anything_else_in_an_archive_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        npz.decode(data, KINDS)


def test_a_missing_array_is_named() -> None:
    with pytest.raises(Damaged, match="it holds no b, c"):
        npz.decode(archive(), {**KINDS, "b": Text(1), "c": Text(1)})


def test_what_an_archive_claims_is_bounded_before_it_is_unpacked() -> None:
    with pytest.raises(Damaged, match="its arrays claim more than 100 bytes"):
        npz.decode(archive(), KINDS, 100)


class _Part(Struct):
    x: float = 0.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"x": NaN}', "malformed"),
        (b'{"x": 1e999}', "out of range"),
        (b'{"x": "nan"}', "Expected `float`"),
        (b'{"y": ' + b"[" * 100_000, "nests too deep"),
        (b'{"y": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nests too deep"),
        (b"\xff", "malformed"),
    ],
)
def test_json_is_of_its_type_finite_and_not_too_deep(data: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        json.decode(data, _Part)
    assert json.decode(b'{"x": 1.5, "y": []}', _Part).x == 1.5
