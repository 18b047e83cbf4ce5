"""A bundle that does not fit is refused, by name, before anything in it is used."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kwsd.model import bundle as bundles
from kwsd.model.bundle import BundleError
from kwsd.model.runtime import SpeakerEncoder, StreamingEncoder
from kwsd.ort import onnxruntime


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles.default_path(), tmp_path / "models"))


def rehash(folder: Path) -> None:
    """Write the hashes of the files as they are now into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder: Path, **changes: object) -> None:
    """Change the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_shipped_bundle_is_sound() -> None:
    bundle = bundles.load()
    names = ["alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass"]
    assert list(bundle.words) == names
    assert all(0 < w.threshold <= 1 and w.operating_points for w in bundle.words.values())
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["parameters"]["encoder"] <= 1_000_000
    encoder = StreamingEncoder(bundle)
    frames, state = encoder.step(np.zeros((16, 32), np.float32), encoder.zero_state())
    assert frames.logits.shape == (2, 6)
    assert [s.shape for s in state] == [s.shape for s in encoder.zero_state()]


def shapes(nodes: list[onnxruntime.NodeArg], prefix: str) -> dict[str, list[int]]:
    """Return the shapes of the nodes with this prefix, by the rest of their names."""
    return {n.name.removeprefix(prefix): n.shape for n in nodes if n.name.startswith(prefix)}


def test_states_are_named_in_pairs() -> None:
    session = onnxruntime.InferenceSession(bundles.load().path / bundles.ENCODER)
    ins = shapes(session.get_inputs(), "state_in.")
    outs = shapes(session.get_outputs(), "state_out.")
    assert ins == outs
    assert len(ins) == 12


def test_missing(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle there"):
        bundles.load(tmp_path)
    (copy / "student.onnx").unlink()
    with pytest.raises(BundleError, match=r"student.onnx: cannot be read"):
        bundles.load(copy)


def test_truncated(copy: Path) -> None:
    data = (copy / "speaker.onnx").read_bytes()
    (copy / "speaker.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        BundleError, match=r"speaker.onnx: .* truncated or belongs to another bundle"
    ):
        bundles.load(copy)


def test_foreign_format_kind_and_manifest(copy: Path) -> None:
    edit(copy, format=99)
    with pytest.raises(BundleError, match="bundle format 99, this kwsd reads 2"):
        bundles.load(copy)
    edit(copy, kind="something")
    with pytest.raises(BundleError, match="is not the manifest of a kwsd model bundle"):
        bundles.load(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest.json: cannot be read"):
        bundles.load(copy)


def test_incomplete_manifest(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["words"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="incomplete or malformed"):
        bundles.load(copy)


def test_a_file_that_is_not_a_graph(copy: Path) -> None:
    (copy / "student.onnx").write_bytes(b"not a graph")
    rehash(copy)
    with pytest.raises(BundleError, match=r"student.onnx: onnxruntime .* cannot load it"):
        StreamingEncoder(bundles.load(copy))


def test_graphs_of_another_kind(copy: Path) -> None:
    shutil.copy(copy / "speaker.onnx", copy / "student.onnx")
    rehash(copy)
    with pytest.raises(BundleError, match="another kind of model"):
        StreamingEncoder(bundles.load(copy))
    shutil.copy(bundles.default_path() / "student.onnx", copy / "student.onnx")
    shutil.copy(copy / "student.onnx", copy / "speaker.onnx")
    rehash(copy)
    with pytest.raises(BundleError, match="another kind of model"):
        SpeakerEncoder(bundles.load(copy))


def test_shapes_that_do_not_fit_the_manifest(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["words"]["hal"] = manifest["words"]["alexa"]
    manifest["checkers"] = {}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="gives 6 words; the manifest has 32 and 7"):
        StreamingEncoder(bundles.load(copy))
    shutil.copy(copy / "front_end.npz", copy / "voice_front_end.npz")
    rehash(copy)
    message = r"speaker.onnx: takes 64 finer bands; voice_front_end.npz gives 32"
    with pytest.raises(BundleError, match=message):
        SpeakerEncoder(bundles.load(copy))
