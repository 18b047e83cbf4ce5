"""Targets of teachers: projected, kept in one byte per number, resumed and read; and their
settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import training_data

from kwsd.config import ConfigError
from kwsd.model.bundle import Bundle
from kwsd.training import features, settings
from kwsd.training.data.corpora import Corpora
from kwsd.training.data.targets import SCALE, Targets, TeacherError, codes_that_occur
from kwsd.training.models.checkpoint import save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.pretrained import NO_GROUPS
from kwsd.training.models.teachers import SpeechEmbedding
from kwsd.training.stages import cache
from kwsd.training.stages.basis import Basis, cluster_layers, per_chunk
from kwsd.training.stages.cache import TeacherSettings


class Ramp:
    """A teacher whose two layers are the time, with noise, at 50 Hz; `asked` counts its calls."""

    name = "ramp"
    rate_hz = 50.0
    dim = 6
    layers = (1, 2)
    asked = 0

    def frames(self, samples: np.ndarray) -> np.ndarray:
        Ramp.asked += 1
        time = np.arange(len(samples) // 320)[:, None] / 50
        noise = np.random.default_rng(len(samples)).normal(0, 0.1, (2, len(time), 6))
        return (np.stack([time * np.ones(6), -time * np.ones(6)]) + noise).astype(np.float32)

    def pooled(self, samples: np.ndarray) -> np.ndarray:
        return self.frames(samples).mean(axis=1)

    def codes(self, samples: np.ndarray) -> np.ndarray:
        return np.arange(len(samples) // 320)

    def code_groups(self) -> np.ndarray:
        return NO_GROUPS


@pytest.fixture
def corpora(tmp_path: Path) -> Corpora:
    lengths = [int(n) for n in np.random.default_rng(0).integers(3000, 40000, 30)]
    return training_data(
        tmp_path,
        ((np.zeros(n, np.int16), "gsc", f"speaker{i % 9}", "word") for i, n in enumerate(lengths)),
    ).corpora()


def test_frames_are_averaged_over_chunks() -> None:
    frames = np.arange(10, dtype=np.float32)[None, :, None]
    assert per_chunk(frames, 50.0, 2)[0, :, 0].tolist() == [
        1.5,
        5.5,
    ]  # four frames of 20 ms a chunk
    assert per_chunk(frames, 12.5, 3)[0, :, 0].tolist() == [0.0, 1.0, 2.0]
    assert per_chunk(frames, 50.0, 3)[0, 2, 0] == pytest.approx((8 + 9 + 9 + 9) / 4)


def test_the_basis_holds_what_varies() -> None:
    rng = np.random.default_rng(1)
    directions = np.linalg.qr(rng.normal(size=(8, 2)))[0]
    chunks = (5 + rng.normal(0, 1, (1, 4000, 2)) * (3.0, 1.0) @ directions.T).astype(np.float32)
    basis = Basis.fit(chunks, 2)
    projected = basis.project(chunks)[0]
    assert np.abs(projected.mean(axis=0)).max() < 1e-3
    assert projected.var() == pytest.approx(1.0, rel=0.01)
    assert abs(np.corrcoef(projected.T)[0, 1]) < 1e-3
    assert projected.var(axis=0)[0] > 2 * projected.var(axis=0)[1]


def test_similar_layers_are_joined() -> None:
    rng = np.random.default_rng(2)
    low, high = rng.normal(size=(2, 500, 6))
    layers = np.stack(
        [low, low + 0.1 * rng.normal(size=(500, 6)), low + 0.5 * high, high + 0.1 * low, 2 * high]
    ).astype(np.float32)
    assert cluster_layers(layers, 2).tolist() == [0, 0, 0, 1, 1]
    assert cluster_layers(layers, 5).tolist() == [0, 1, 2, 3, 4]
    basis = Basis.fit(layers, 6, clusters=2)
    assert basis.axes.shape == (6, 6)
    joined = layers[3:].mean(axis=0)
    want = (joined - joined.mean(axis=0)) / joined.std(axis=0) @ basis.axes
    assert np.abs(basis.project(layers)[1] - want).max() < 1e-4


def test_a_wild_coordinate_does_not_decide_the_directions() -> None:
    rng = np.random.default_rng(5)
    wild = rng.normal(0, 1, (1, 2000, 6)).astype(np.float32)
    wild[..., 1] = wild[..., 0] + 0.1 * wild[..., 1]  # two coordinates that go together
    wild[..., 4] *= 300
    basis = Basis.fit(wild, 1)
    assert np.abs(basis.axes[:2, 0]).min() > 5 * np.abs(basis.axes[2:, 0]).max()


def test_a_mixture_of_projected_layers_is_the_projection_of_the_mixture() -> None:
    rng = np.random.default_rng(6)
    layers = rng.normal(0, 1, (3, 400, 5)).astype(np.float32)
    basis = Basis.fit(layers, 5)
    share = np.array([0.2, 0.5, 0.3])
    mixed = np.einsum("l,lcd->cd", share, (layers - basis.mean[:, None]) * basis.scale[:, None])
    want = mixed @ basis.axes
    got = np.einsum("l,lcd->cd", share, basis.project(layers))
    assert np.abs(got - want).max() < 1e-4


def test_only_the_codes_of_a_quantizer_that_occur_are_kept() -> None:
    groups = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
    codes = np.array([-1, 1 + 4 * 2, 3, 1 + 4 * 2])  # entries (1, 2), (3, 0)
    numbered, vectors = codes_that_occur(codes, groups)
    assert numbered.tolist() == [-1, 1, 0, 1]
    assert vectors.tolist() == [[*groups[0, 3], *groups[1, 0]], [*groups[0, 1], *groups[1, 2]]]


def test_targets_are_written_resumed_and_read(
    corpora: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "teacher_of", lambda *_: Ramp())
    monkeypatch.setattr(cache, "PART_UTTERANCES", 5)
    asked = TeacherSettings("transformer", "nowhere", layers=[1, 2], dims=3, codes=7, codes_layer=2)
    folder = tmp_path / "targets"
    with pytest.raises(TeacherError, match="run `kwsd train cache` first"):
        Targets(folder)
    cache.cache(corpora, "ramp", asked, folder)
    clips = [c for c in corpora.utterances if not c.development]
    before = Ramp.asked
    cache.cache(corpora, "ramp", asked, folder)
    assert Ramp.asked == before
    (folder / "part-recorded-0002.npz").unlink()
    cache.cache(corpora, "ramp", asked, folder)
    assert Ramp.asked == before + 5
    targets = Targets(folder)
    assert (targets.utterances, targets.layers, targets.dims, targets.codebook.shape) == (
        len(clips),
        2,
        3,
        (7, 3),
    )
    basis = Basis.load(folder / "basis.npz")
    for clip in clips:
        assert clip in targets
        frames, codes = targets.of(clip)
        chunks = clip.samples // 1280
        samples = corpora.read(clip)[: chunks * 1280]
        want = basis.project(per_chunk(Ramp().frames(samples), 50.0, chunks))
        assert frames.shape == (2, chunks, 3)
        assert np.abs(frames - np.clip(want, -127 / SCALE, 127 / SCALE)).max() <= 0.5 / SCALE + 1e-5
        nearest = ((want[1][:, None] - basis.codebook) ** 2).sum(-1).argmin(1)
        assert np.array_equal(codes, nearest)
    assert not any(c in targets for c in corpora.utterances if c.development)
    cache.cache(
        corpora,
        "ramp",
        TeacherSettings("transformer", "nowhere", layers=[1, 2], dims=3),
        tmp_path / "own",
    )
    codes = Targets(tmp_path / "own").of(clips[0])[1]
    assert (
        codes.tolist() == (4 * np.arange(len(codes)) + 2).tolist()
    )  # the teacher's own code in the middle of each chunk


def test_the_speech_embedding_is_cached(
    corpora: Corpora, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)
    teacher = SpeechEmbedding(_network=Encoder().eval())
    monkeypatch.setattr(cache, "teacher_of", lambda *_: teacher)
    cache.cache(
        corpora, "embedding", TeacherSettings("speech_embedding", dims=96), tmp_path / "targets"
    )
    basis = Basis.load(tmp_path / "targets" / "basis.npz")
    clip = next(c for c in corpora.utterances if not c.development and c.samples > 12800)
    want = basis.project(teacher.frames(corpora.read(clip))[:, : clip.samples // 1280])
    assert (
        np.abs(
            Targets(tmp_path / "targets").of(clip)[0] - np.clip(want, -127 / SCALE, 127 / SCALE)
        ).max()
        <= 0.5 / SCALE + 1e-4
    )


def test_an_encoder_of_a_checkpoint_teaches_too(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(features, "front_end", lambda: bundle.front_end)
    encoder = Encoder(normed=True).eval()
    x = np.random.default_rng(0).normal(0, 3000, 16000).astype(np.float32)
    save(tmp_path / "finetuned.pt", encoder=encoder)
    asked = TeacherSettings("encoder", str(tmp_path / "finetuned.pt"), dims=96)
    teacher = cache.teacher_of("robust", asked)
    assert teacher.name == "robust"
    assert np.array_equal(teacher.frames(x), SpeechEmbedding(_network=encoder.folded()).frames(x))
    with pytest.raises(TeacherError, match=r"robust.where: an encoder needs its checkpoint"):
        cache.teacher_of("robust", TeacherSettings("encoder"))
    (tmp_path / "other.pt").write_bytes(b"not one")
    for wrong in ("none.pt", "other.pt"):
        with pytest.raises(TeacherError, match=rf"{wrong}: no checkpoint of `kwsd train finetune`"):
            cache.teacher_of("robust", TeacherSettings("encoder", str(tmp_path / wrong))).frames(x)


def test_voices_are_pooled_over_a_speakers_clips(
    corpora: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "teacher_of", lambda *_: Ramp())
    cache.cache(corpora, "voice", TeacherSettings("voice", max_s=2.0), tmp_path / "v")
    with np.load(tmp_path / "v" / "voices.npz") as saved:
        assert saved["people"].tolist() == list(
            dict.fromkeys(f"gsc/{c.speaker}" for c in corpora.utterances if not c.development)
        )
        assert saved["vectors"].shape == (len(saved["people"]), 6)


def test_settings_are_typed_and_can_be_changed() -> None:
    kind = dict[str, TeacherSettings]
    shipped = settings.read(
        "cache",
        kind,
        ["whisper.where=/models/whisper", "whisper.layers=[1, 6]", "whisper.codes_layer=6"],
    )
    assert shipped["whisper"].where == "/models/whisper"
    assert shipped["whisper"].layers == [1, 6]
    assert shipped["voice"].kind == "voice"
    with pytest.raises(TeacherError, match=r"whisper.where: a transformer needs the folder"):
        cache.teacher_of("whisper", settings.read("cache", kind)["whisper"])
    for change, message in (
        ("whisper.layer=[1]", "unknown key 'whisper.layer'"),
        ("whisper.layers=[a]", r"whisper.layers\[0\]: 'a' is not a whole number"),
        ("hubert.where=x", "has no 'hubert'|has no hubert"),
        ("whisper", "write KEY.KEY=VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings.read("cache", kind, ["whisper.where=x", change])
    with pytest.raises(ConfigError, match="whisper: clusters: 4 cannot be made"):
        settings.read("cache", kind, ["whisper.where=x", "whisper.clusters=4"])
    with pytest.raises(ConfigError, match="whisper: codes_layer: 3 is not among"):
        settings.read("cache", kind, ["whisper.where=x", "whisper.codes_layer=3"])
