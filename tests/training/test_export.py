"""The exported graphs against torch: online equals offline, in float and in 8 bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.runtime import SpeakerEncoder, StreamingEncoder
from kwsd.ort import onnxruntime
from kwsd.training.features import receptive_chunks, voice_front_end
from kwsd.training.models.backend import Backend
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.heads import SpeakerHeads, WakeHead
from kwsd.training.settings.catalog import default_words
from kwsd.training.stages import export, quantize


@pytest.fixture(scope="module")
def networks() -> tuple[Encoder, WakeHead, export.SpeakerModel]:
    torch.manual_seed(1)
    parts = Encoder(), WakeHead(6), export.SpeakerModel(SpeakerHeads(2, fine=64))
    for part in parts:
        for module in part.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        part.eval().requires_grad_(False)
    return parts


def test_the_exported_graphs_equal_torch(
    networks: tuple[Encoder, WakeHead, export.SpeakerModel], bundle: bundles.Bundle, tmp_path: Path
) -> None:
    encoder, wake, speaker = networks
    export.export_encoder(encoder, wake, bundle.front_end, default_words(), tmp_path)
    export.export_speaker(speaker, tmp_path)
    exported = bundles.load(tmp_path)
    student = StreamingEncoder(exported)
    head = SpeakerEncoder(exported)
    samples = 1000 * np.random.default_rng(1).standard_normal(240 + 40 * 1280).astype(np.float32)
    bands = head.fine(samples)
    assert np.array_equal(bands.reshape(-1, 64), voice_front_end()(samples))
    mel = torch.randn(1, 8 * 40, 32)
    embedding, intermediate, _ = encoder(mel, encoder.zero_state())
    logits, timing, _ = wake(embedding, wake.zero_state())
    state = student.zero_state()
    parts = []
    at = 0
    for chunks in (1, 2, 7, 1, 20, 9):
        frames, state = student.step(mel[0, 8 * at : 8 * (at + chunks)].numpy(), state)
        parts.append(frames)
        at += chunks
    for got, want in (
        ("logits", logits),
        ("timing", timing),
        ("embedding", embedding),
        ("intermediate", intermediate),
    ):
        joined = np.concatenate([getattr(p, got) for p in parts]).reshape(want[0].shape)
        assert np.abs(joined - want[0].numpy()).max() < 1e-4, got
    whole = head(
        np.concatenate([p.intermediate for p in parts]),
        np.concatenate([p.embedding for p in parts]),
        bands,
    )
    assert (
        np.abs(
            whole
            - speaker(intermediate, embedding, torch.from_numpy(bands).view(1, -1, 64))[0].numpy()
        ).max()
        < 1e-5
    )
    assert exported.encoder_id != bundle.encoder_id
    backend = Backend(2 * 192, 64)
    backend.axes.data.normal_()
    export.export_speaker(export.SpeakerModel(speaker.head, backend), tmp_path)
    finished = bundles.load(tmp_path)
    assert finished.encoder_id != exported.encoder_id
    voice = SpeakerEncoder(finished)(
        np.concatenate([p.intermediate for p in parts]),
        np.concatenate([p.embedding for p in parts]),
        bands,
    )
    assert voice.shape == (64,)
    assert (
        np.abs(
            voice
            - backend(speaker(intermediate, embedding, torch.from_numpy(bands).view(1, -1, 64)))[
                0
            ].numpy()
        ).max()
        < 1e-5
    )
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))[
        "macs_per_second"
    ] == pytest.approx(72.4e6, rel=0.01)
    export.export_speaker(speaker, tmp_path)
    assert (
        bundles.load(tmp_path).encoder_id == exported.encoder_id
    )  # the same head again is the same encoder
    with pytest.raises(ConfigError, match="take 0 fine bands instead of 64"):
        export.export_speaker(export.SpeakerModel(SpeakerHeads()), tmp_path)


def test_in_8_bit_online_still_equals_offline(
    networks: tuple[Encoder, WakeHead, export.SpeakerModel], bundle: bundles.Bundle, tmp_path: Path
) -> None:
    encoder, wake, speaker = networks
    rng = np.random.default_rng(4)
    mels = [rng.uniform(0, 10, (8 * 30, 32)).astype(np.float32) for _ in range(6)]
    for folder, calibration in (("float", []), ("int8", mels[:5])):
        export.export_encoder(
            encoder, wake, bundle.front_end, default_words(), tmp_path / folder, calibration
        )
        export.export_speaker(speaker, tmp_path / folder)
    float32, int8 = (
        StreamingEncoder(bundles.load(tmp_path / folder)) for folder in ("float", "int8")
    )
    assert (tmp_path / "int8" / "student.onnx").stat().st_size < 0.7 * (
        tmp_path / "float" / "student.onnx"
    ).stat().st_size
    whole, _ = int8.step(mels[5], int8.zero_state())
    state = int8.zero_state()
    parts = []
    at = 0
    for chunks in (1, 2, 7, 1, 19):
        frames, state = int8.step(mels[5][8 * at : 8 * (at + chunks)], state)
        parts.append(frames)
        at += chunks
    for name in ("logits", "timing", "embedding", "intermediate"):
        assert (
            np.abs(np.concatenate([getattr(p, name) for p in parts]) - getattr(whole, name)).max()
            < 1e-4
        ), name
    exact, _ = float32.step(mels[5], float32.zero_state())
    for name in ("embedding", "intermediate"):
        a = getattr(exact, name)
        b = getattr(whole, name)
        assert np.mean((a - b) ** 2) < 0.1 * np.var(a), name
    assert bundles.load(tmp_path / "float").encoder_id != bundles.load(tmp_path / "int8").encoder_id


def test_sums_in_8_bit_saturate_nowhere() -> None:
    # Where there is no VNNI, two products of uint8 and int8 are added in 16 bits.
    signed = 0
    graphs = sorted(bundles.default_path().glob("*.onnx"))
    assert len(graphs) == 4
    for path in graphs:
        for weight in onnx.load(str(path)).graph.initializer:
            if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) > 1:
                signed += 1
                largest = np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max()
                assert 2 * 255 * largest < 1 << 15, (path.name, weight.name)
    assert signed > 20


def test_unsigned_weights_are_the_same_weights(
    networks: tuple[Encoder, WakeHead, export.SpeakerModel], bundle: bundles.Bundle, tmp_path: Path
) -> None:
    encoder, wake, _ = networks
    mel = np.random.default_rng(4).uniform(0, 10, (8 * 30, 32)).astype(np.float32)
    export.export_encoder(encoder, wake, bundle.front_end, default_words(), tmp_path, [mel])
    path = str(tmp_path / "student.onnx")
    options = onnxruntime.SessionOptions()
    # Its products are then those of floats, and nothing is added in 16 bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = onnxruntime.InferenceSession(path, options)
    fast = onnxruntime.InferenceSession(path)
    feed = quantize._feed(onnx.load(path), mel)
    (want,), (got,) = (session.run(["embedding"], feed) for session in (exact, fast))
    assert np.abs(got - want).mean() < 0.02 * want.std()


def test_the_receptive_field_is_what_the_bundle_says(
    networks: tuple[Encoder, WakeHead, export.SpeakerModel],
) -> None:
    encoder, wake, _ = networks
    mel = torch.randn(1, 8 * 60, 32)
    changed = mel.clone()
    changed[:, : 8 * 30] += 1.0

    def logits(x: torch.Tensor) -> torch.Tensor:
        return wake(encoder(x, encoder.zero_state())[0], wake.zero_state())[0]

    depends = (logits(mel) - logits(changed)).abs().amax(dim=(0, 2)) > 1e-6
    # Chunk 29 is the last that was changed; the last output that sees it is that of chunk
    # 29 + receptive - 1.
    assert int(depends.nonzero().max()) == 29 + receptive_chunks() - 1
    assert not depends[29 + receptive_chunks() :].any()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("width", "separable", "normed"),
    [(1.0, False, False), (0.5, False, False), (1.0, True, False), (1.0, False, True)],
)
def test_the_input_of_a_fresh_student_reaches_its_last_layer(
    width: float, separable: bool, normed: bool
) -> None:
    torch.manual_seed(4)
    encoder = Encoder(width, separable, normed)
    embedding, intermediate, _ = encoder(
        6 + 2.4 * torch.randn(8, 200, 32), encoder.zero_state(8)
    )  # as speech is
    assert 0.1 < float(intermediate[:, 48:].std(dim=(0, 1)).mean()) < 10
    assert (
        0.1 < float(embedding[:, 12:].std(dim=(0, 1)).mean()) < 10
    )  # of torch's own beginning a ten-millionth is left


@pytest.mark.parametrize("separable", [False, True])
def test_a_normed_student_folds_into_a_plain_one(separable: bool) -> None:
    torch.manual_seed(5)
    normed = Encoder(0.5, separable, normed=True)
    mel = 6 + 2.4 * torch.randn(4, 96, 32)
    for norm in normed.norms:
        assert isinstance(norm, torch.nn.BatchNorm2d)
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
    for _ in range(20):  # what it has seen is what it is folded by
        normed(mel, normed.zero_state(4))
    plain = normed.eval().folded()
    assert plain.shape == {"width": 0.5, "separable": separable, "normed": False}
    assert not any("norms" in name for name in plain.state_dict())
    with torch.inference_mode():
        for want, got in zip(
            normed(mel, normed.zero_state(4))[:2], plain(mel, plain.zero_state(4))[:2], strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert plain.folded() is plain
