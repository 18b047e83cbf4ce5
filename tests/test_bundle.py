"""A bundle that does not fit is refused by name, before anything of it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kwsd.model import bundle as bundles
from kwsd.model.bundle import BundleError
from kwsd.model.runtime import SpeakerEncoder, Student


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles.default_path(), tmp_path / "models"))


def rehash(folder: Path) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_shipped_bundle_is_sound() -> None:
    bundle = bundles.load()
    assert list(bundle.words) == ["alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass"]
    assert all(0 < w.threshold <= 1 and w.operating_points for w in bundle.words.values())
    assert json.loads((bundle.path / "manifest.json").read_text())["parameters"]["encoder"] <= 1_000_000
    student = Student(bundle)
    frames, state = student.step(np.zeros((16, 32), np.float32), student.zero_state())
    assert frames.logits.shape == (2, 6)
    assert [s.shape for s in state] == [s.shape for s in student.zero_state()]


def test_states_are_named_in_pairs() -> None:
    session = onnxruntime.InferenceSession(bundles.load().path / bundles.STUDENT)
    ins = {i.name.removeprefix("state_in."): i.shape for i in session.get_inputs() if i.name.startswith("state_in.")}
    outs = {o.name.removeprefix("state_out."): o.shape for o in session.get_outputs() if o.name.startswith("state_out.")}
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
    with pytest.raises(BundleError, match=r"speaker.onnx: .* truncated or another bundle's"):
        bundles.load(copy)


def test_foreign_format_kind_and_manifest(copy: Path) -> None:
    edit(copy, format=99)
    with pytest.raises(BundleError, match="bundle format 99, this kwsd reads 2"):
        bundles.load(copy)
    edit(copy, kind="something")
    with pytest.raises(BundleError, match="is no kwsd model bundle"):
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


def test_a_graph_that_is_no_model(copy: Path) -> None:
    (copy / "student.onnx").write_bytes(b"not a graph")
    rehash(copy)
    with pytest.raises(BundleError, match=r"student.onnx: onnxruntime .* cannot load it"):
        Student(bundles.load(copy))


def test_graphs_of_another_kind(copy: Path) -> None:
    shutil.copy(copy / "speaker.onnx", copy / "student.onnx")
    rehash(copy)
    with pytest.raises(BundleError, match="another kind of model"):
        Student(bundles.load(copy))
    shutil.copy(bundles.default_path() / "student.onnx", copy / "student.onnx")
    shutil.copy(copy / "student.onnx", copy / "speaker.onnx")
    rehash(copy)
    with pytest.raises(BundleError, match="another kind of model"):
        SpeakerEncoder(bundles.load(copy))


def test_shapes_that_do_not_fit_the_manifest(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["words"]["hal"] = manifest["words"]["alexa"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="gives 6 words; the manifest has 32 and 7"):
        Student(bundles.load(copy))
    shutil.copy(copy / "front_end.npz", copy / "voice_front_end.npz")
    rehash(copy)
    with pytest.raises(BundleError, match=r"speaker.onnx: takes 64 finer bands; voice_front_end.npz gives 32"):
        SpeakerEncoder(bundles.load(copy))
