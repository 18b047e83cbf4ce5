"""`speaker.require` that shuts out people whom it is meant to let in is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from conftest import RATE, Start, say
from test_cli import own_folders, run

from kwsd.protocol.commands import Reload, Status

__all__ = ["own_folders"]  # a fixture that every test here uses


def test_whom_the_configuration_shuts_out_is_reported_everywhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: Start, endless: Path, scene_wav: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("speaker: {require: enrolled}\n")
    state = tmp_path / "state"
    where = ["--config", config, "--socket", tmp_path / "k.sock"]

    def examined() -> list[str]:
        _, out, _ = run(capsys, "doctor", *where, "--json")
        findings = [json.loads(line) for line in out.splitlines()]
        return [f["detail"] for f in findings if f["check"] == "speakers" and not f["ok"]]

    nobody = "and none is enrolled: every wake will be rejected; run `kwsd enroll NAME`"
    config.write_text(f"state: {state}\nspeaker: {{require: enrolled}}\n")
    (detail,) = examined()  # no daemon runs yet
    assert nobody in detail
    assert nobody in run(capsys, "detect", "--config", config, scene_wav)[2]
    daemon = start("--config", str(config), "--source", str(endless), "--realtime")
    with daemon.connect() as client:
        assert nobody in client.request(Status()).warnings[0]
        (detail,) = examined()
        assert nobody in detail
        assert nobody in run(capsys, "status", "--socket", daemon.socket)[1]
        assert daemon.log.read_text().count(nobody) == 1
        config.write_text(f"state: {state}\nspeaker: {{require: [bob]}}\n")
        client.request(Reload())
        assert daemon.log.read_text().count(nobody) == 2
        takes = [tmp_path / f"{n}.wav" for n in range(3)]
        for take, text in zip(takes, ("computer", "the weather today", "the light"), strict=True):
            soundfile.write(take, say(text), RATE)
        run(capsys, "enroll", "ann", "--socket", daemon.socket, "--wav", *takes)
        (warning,) = client.request(Status()).warnings
        assert (
            "names 'bob', who is not enrolled (enrolled: ann): every wake will be rejected"
            in warning
        )
        assert warning in daemon.log.read_text()
        config.write_text(f"state: {state}\nspeaker: {{require: [ann]}}\n")
        client.request(Reload())
        assert client.request(Status()).warnings == []
        assert examined() == []
        assert daemon.log.read_text().count("speaker.require") == 3
