"""Voiceprints are written whole or not at all, and refused by name where they do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kwsd.state.voiceprints import Voiceprint, VoiceprintError, VoiceprintStore, check_speaker_name


def voiceprint(name: str = "ann", seed: int = 0, encoder: str = "e1") -> Voiceprint:
    """Return a voiceprint of three random takes."""
    takes = np.random.default_rng(seed).normal(size=(3, 192)).astype(np.float32)
    return Voiceprint(name, encoder, takes / np.linalg.norm(takes, axis=1, keepdims=True), 12.5)


@pytest.fixture
def store(tmp_path: Path) -> VoiceprintStore:
    return VoiceprintStore(tmp_path / "state", "e1")


def test_round_trip_with_mode_and_no_leftovers(store: VoiceprintStore) -> None:
    store.save(voiceprint())
    loaded = store.load("ann")
    assert np.array_equal(loaded.takes, voiceprint().takes)
    assert (loaded.name, loaded.encoder_id, loaded.created) == ("ann", "e1", 12.5)
    assert np.linalg.norm(loaded.mean) == pytest.approx(1, abs=1e-5)
    assert store.path("ann").stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in store.folder.iterdir()] == ["ann-49915e.voiceprint"]


def test_names_that_cannot_be_file_names_are_refused() -> None:
    odd = ("", "a/b", "../x", ".hidden", "x\n", " x", "x ", "a" * 64, "..", "a..b", "x\0y")
    for name in odd:
        with pytest.raises(VoiceprintError, match="cannot be a speaker's name"):
            check_speaker_name(name)
    allowed = ["Ann", "Jürgen B.", "李", "o'neil-2"]
    assert [check_speaker_name(name) for name in allowed] == allowed


def test_a_voiceprint_of_another_encoder_is_refused(store: VoiceprintStore) -> None:
    store.save(voiceprint(encoder="e2"))
    message = "made by the encoder e2, this model is e1; run `kwsd enroll ann` again"
    with pytest.raises(VoiceprintError, match=message):
        store.load("ann")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04garbage", b"\x80\x04cos\nsystem\n", None])
def test_damage_is_named_and_the_others_still_load(
    store: VoiceprintStore, damage: bytes | None
) -> None:
    store.save(voiceprint("bob", 1))
    store.save(voiceprint())
    path = store.path("ann")
    path.write_bytes(damage if damage is not None else path.read_bytes()[:-200])
    good, bad = store.load_all()
    assert list(good) == ["bob"]
    assert len(bad) == 1
    assert str(path) in str(bad[0])
    assert "damaged" in str(bad[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_as_a_user(store: VoiceprintStore) -> None:
    store.save(voiceprint())
    store.path("ann").chmod(0)
    with pytest.raises(VoiceprintError, match="may not be read"):
        store.load("ann")


def test_unreadable(store: VoiceprintStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(voiceprint())

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kwsd.bounded.file.os.open", refuse)
    with pytest.raises(VoiceprintError, match=r"may not be read .*0600"):
        store.load("ann")


def test_a_full_disk_loses_nothing(store: VoiceprintStore) -> None:
    """The old voiceprint stays, and nothing else is left.

    The kernel refuses the bytes (RLIMIT_FSIZE), in a process of its own.
    """
    store.save(voiceprint())
    before = store.path("ann").read_bytes()
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_voiceprints import voiceprint
from kwsd.state.voiceprints import VoiceprintError, VoiceprintStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    VoiceprintStore(Path({str(store.folder)!r}), "e1").save(voiceprint(seed=9))
except VoiceprintError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "could not be saved" in done.stdout
    assert "nothing was changed" in done.stdout
    assert store.path("ann").read_bytes() == before
    assert [p.name for p in store.folder.iterdir()] == ["ann-49915e.voiceprint"]


def test_delete(store: VoiceprintStore) -> None:
    store.save(voiceprint())
    store.delete("ann")
    assert store.load_all() == ({}, [])
    with pytest.raises(VoiceprintError, match="no speaker is called 'ann'"):
        store.delete("ann")
