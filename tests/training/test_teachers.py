"""Teachers on tiny random checkpoints that the test writes, and the losses against sums by hand in
float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import say

from kwsd.training import losses
from kwsd.training.data.targets import TeacherError
from kwsd.training.data.teacher_scenes import span_mask
from kwsd.training.models.checkpoint import save
from kwsd.training.models.encoder import Encoder
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.teachers import Codebook, Transformer, k_means

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def checkpoint(family: str, folder: Path) -> Any:
    """A tiny random model of the family, written to `folder`; the model."""
    torch.manual_seed(3)
    model: Any
    match family:
        case "hubert":
            model = transformers.HubertModel(transformers.HubertConfig(**SIZES))
        case "wavlm":
            model = transformers.WavLMModel(transformers.WavLMConfig(**SIZES))
        case "wav2vec2":
            config = transformers.Wav2Vec2Config(
                **SIZES, codevector_dim=12, proj_codevector_dim=12, num_codevectors_per_group=5
            )
            model = transformers.Wav2Vec2ForPreTraining(config)
        case "whisper":
            model = transformers.WhisperModel(
                transformers.WhisperConfig(
                    vocab_size=100,
                    num_mel_bins=80,
                    d_model=16,
                    encoder_layers=3,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                    decoder_start_token_id=1,
                )
            )
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return say("good evening").astype(np.float32)[:16160]


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm", "whisper"])
def test_every_family_loads_and_gives_its_layers(
    family: str, tmp_path: Path, speech: np.ndarray
) -> None:
    model = checkpoint(family, tmp_path)
    teacher = Transformer(tmp_path, (0, 2, 3))
    frames = teacher.frames(speech)
    assert teacher.rate_hz == 50
    assert frames.shape == (3, 50, 16)
    assert np.isfinite(frames).all()
    assert np.allclose(teacher.pooled(speech), frames.mean(axis=1))
    with torch.inference_mode():
        if family == "whisper":
            extractor: Any = transformers.WhisperFeatureExtractor(feature_size=80)
            mel = extractor(speech / 32768, sampling_rate=16000, return_tensors="pt")[
                "input_features"
            ]
            want = model.encoder(mel).last_hidden_state
            padded = Transformer(tmp_path, (3,), window_s=30)
            assert np.abs(padded.frames(speech)[0] - want[0, :50].numpy()).max() < 1e-4
            assert (
                np.abs(frames[2] - want[0, :50].numpy()).mean() < want.abs().mean().item()
            )  # near, and not equal
        else:
            x = torch.from_numpy(
                (speech - speech.mean()) / np.sqrt(speech.var() + 1e-7 * 32768**2)
            )[None]
            base = model.wav2vec2 if family == "wav2vec2" else model
            want = base(x, output_hidden_states=True).hidden_states
            assert np.abs(frames[1] - want[2][0].numpy()).max() < 1e-3
    book = k_means(frames[1], 4, layer=2)
    taught = Transformer(tmp_path, (0,), codebook=book)
    assert np.array_equal(taught.codes(speech), book.nearest(frames[1]))
    if family == "wav2vec2":
        codes = teacher.codes(speech)
        assert codes.shape == (50,)
        assert codes.min() >= 0
        assert codes.max() < 25
        with torch.inference_mode():
            features = base.feature_projection(base.feature_extractor(x).transpose(1, 2))[1]
            vectors, _ = model.quantizer(features)
            entries = model.quantizer.codevectors.view(2, 5, 6)
        wanted = torch.cat([entries[0, codes % 5], entries[1, codes // 5]], dim=-1)
        assert torch.allclose(vectors[0], wanted, atol=1e-5)
    else:
        with pytest.raises(TeacherError, match="has no quantizer of its own"):
            teacher.codes(speech)
    with pytest.raises(TeacherError, match="has layers 0 to 3"):
        Transformer(tmp_path, (4,))


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no such folder; name one with a model"):
        Transformer(tmp_path / "nothing", (1,))
    transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
    ).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="is a bert; teachers are"):
        Transformer(tmp_path, (1,))
    for text in ("store\tstart", ""):
        (tmp_path / "notes.pt").write_text(text)
        with pytest.raises(TeacherError, match=r"notes\.pt: no checkpoint of a transformer"):
            Transformer(tmp_path / "notes.pt", (1,))
    save(tmp_path / "another.pt", encoder=Encoder())
    with pytest.raises(TeacherError, match=r"another\.pt: no checkpoint of a transformer"):
        Transformer(tmp_path / "another.pt", (1,))


def test_a_transformer_that_was_tuned_is_a_teacher(tmp_path: Path, speech: np.ndarray) -> None:
    checkpoint("whisper", tmp_path / "whisper")
    network = load_pretrained(tmp_path / "whisper").network
    before = Transformer(tmp_path / "whisper", (1, 3)).frames(speech)
    with torch.no_grad():
        network.get_parameter("blocks.1.up.bias").add_(1.0)
    save(tmp_path / "tuned.pt", encoder=network)
    after = Transformer(tmp_path / "tuned.pt", (1, 3)).frames(speech)
    assert after.shape == before.shape
    assert np.array_equal(after[0], before[0]), "beneath what was tuned"
    assert not np.allclose(after[1], before[1])


def test_k_means_finds_the_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    frames = (np.repeat(clusters, 50, axis=0) + rng.normal(0, 0.3, (150, 2))).astype(np.float32)
    book = k_means(frames, 3, layer=0)
    assert np.allclose(sorted(map(tuple, book.vectors.round(0))), sorted(map(tuple, clusters)))
    assert len(np.unique(book.nearest(frames).reshape(3, 50), axis=1)) == 3
    assert (book.nearest(frames).reshape(3, 50) == book.nearest(clusters)[:, None]).all()
    assert Codebook(clusters, 0).nearest(np.array([[9.0, 1.0]])).tolist() == [1]
    with pytest.raises(TeacherError, match="2 frames cannot be divided"):
        k_means(frames[:2], 3, layer=0)


def test_l1_and_cosine_by_hand() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    # Frame 1: |0| + |2| over 2 = 1, cosine 1/sqrt 5; frame 2: 2 over 2 = 1, cosine 1.
    each = [
        1 - math.log(1 / (1 + math.exp(-1 / math.sqrt(5)))),
        1 - math.log(1 / (1 + math.exp(-1))),
    ]
    assert losses.l1_cosine(student, teacher).item() == pytest.approx(sum(each) / 2, rel=1e-6)
    assert losses.l1_cosine(student, teacher, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(
        each[1], rel=1e-6
    )


@pytest.mark.parametrize("centered", [False, True])
def test_dual_view_against_loops(centered: bool) -> None:
    rng = np.random.default_rng(1)
    h = rng.normal(1, 1, (5, 3))
    o = rng.normal(-1, 2, (5, 3))
    alpha = 0.1
    beta = 0.3

    def by_loops(x: np.ndarray, y: np.ndarray, off: float) -> float:
        total = 0.0
        for i in range(x.shape[1]):
            for j in range(y.shape[1]):
                c = sum(x[b, i] * y[b, j] for b in range(len(x))) / (
                    np.linalg.norm(x[:, i]) * np.linalg.norm(y[:, j])
                )
                total += (c - 1) ** 2 if i == j else off * c**2
        return total

    a, b = (h - h.mean(0), o - o.mean(0)) if centered else (h, o)
    student = torch.from_numpy(h).requires_grad_()
    found = losses.dual_view(student, torch.from_numpy(o), alpha, beta, centered=centered)
    assert found.feature.item() == pytest.approx(by_loops(a, b, alpha), rel=1e-4)
    assert found.batch.item() == pytest.approx(by_loops(a.T, b.T, beta), rel=1e-4)
    assert found.loss.item() == pytest.approx(2.0, rel=1e-4)
    # Its gradient is that of the raw losses, each over its own value.
    found.loss.backward()  # type: ignore[no-untyped-call]
    again = torch.from_numpy(h).requires_grad_()
    raw = losses.dual_view(again, torch.from_numpy(o), alpha, beta, centered=centered)
    total = raw.feature / raw.feature.item() + raw.batch / raw.batch.item()
    total.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert again.grad is not None
    assert torch.allclose(student.grad, again.grad, rtol=1e-4, atol=1e-7)


def test_a_perfect_student_has_no_dual_view_left() -> None:
    o = torch.linalg.qr(
        torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ).Q
    found = losses.dual_view(o.clone(), o, centered=False)
    assert found.feature.item() == pytest.approx(0, abs=1e-9)
    assert found.batch.item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="must be of one shape"):
        losses.dual_view(o[:, :4], o)


def test_codebook_contrast_by_hand() -> None:
    book = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    predicted = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    cosines = np.array([[1, 0, -1], [1 / math.sqrt(2), 1 / math.sqrt(2), -1 / math.sqrt(2)]]) / 0.5
    want = np.mean(
        [
            -np.log(np.exp(cosines[0, 0]) / np.exp(cosines[0]).sum()),
            -np.log(np.exp(cosines[1, 1]) / np.exp(cosines[1]).sum()),
        ]
    )
    codes = torch.tensor([0, 1])
    assert losses.codebook_contrast(
        predicted, codes, book, temperature=0.5
    ).item() == pytest.approx(want, rel=1e-5)
    torch.manual_seed(0)
    pairs = {
        -np.log(np.exp(cosines[0, 0]) / (np.exp(cosines[0, 0]) + np.exp(cosines[0, n])))
        for n in (1, 2)
    }
    drawn = losses.codebook_contrast(
        predicted[:1], codes[:1], book, temperature=0.5, negatives=1
    ).item()
    assert min(abs(drawn - one) for one in pairs) < 1e-5


def test_masks_cover_their_share_in_spans() -> None:
    mask = span_mask(200, 100, 0.3, 5, torch.Generator().manual_seed(0))
    assert 0.22 < mask.float().mean() < 0.3  # spans overlap, so that a little less is covered
    runs = "".join(map(str, mask[0].int().tolist())).split("0")
    assert min((len(run) for run in runs[:-1] if run), default=5) >= 5
