"""One transformer for teachers, thin students and the exported checker."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import checkers
import numpy as np
import pytest
import torch
import transformers
from conftest import hiss, say
from test_teachers import SIZES, checkpoint

from kwsd.ort import onnxruntime
from kwsd.training.data.targets import TeacherError
from kwsd.training.data.windows import WINDOW_SAMPLES, at_peak
from kwsd.training.models.checker import STEP_FRAMES, Checker, CheckerHead, VoiceHead
from kwsd.training.models.pretrained import load_pretrained
from kwsd.training.models.thinning import _Fit, likeness, thin
from kwsd.training.models.transformer import Block, GatedPositions, Transformer
from kwsd.training.stages.checker.export import front_end, write_graph

FAMILIES = ["hubert", "wav2vec2", "wavlm", "whisper"]


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    """Four windows of speech, int16 scale."""
    texts = ("good evening to you", "it is raining today", "turn on the light", "what time is it")
    rows = [np.concatenate([say(text), hiss(3.0)])[:WINDOW_SAMPLES] for text in texts]
    return at_peak(torch.from_numpy(np.stack(rows).astype(np.float32)))


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm"])
def test_a_waveform_model_gives_what_transformers_gives(
    family: str,
    stable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    windows: torch.Tensor,
) -> None:
    monkeypatch.setitem(SIZES, "do_stable_layer_norm", stable)
    monkeypatch.setitem(SIZES, "feat_extract_norm", "layer" if stable else "group")
    model = checkpoint(family, tmp_path)
    base = model.wav2vec2 if family == "wav2vec2" else model
    network, found, quantizer = load_pretrained(tmp_path)
    assert (found, quantizer is not None) == (family, family == "wav2vec2")
    inputs = network.inputs(windows)
    with torch.inference_mode():
        layers = network(inputs)
        want = base(inputs, output_hidden_states=True)
    for own, other in zip(layers[:-1], want.hidden_states, strict=False):
        assert torch.allclose(own, other, atol=1e-5)
    assert torch.allclose(layers[-1], want.last_hidden_state, atol=1e-5)


def test_whisper_gives_what_transformers_gives(tmp_path: Path) -> None:
    model = checkpoint("whisper", tmp_path)
    network = load_pretrained(tmp_path).network
    samples = np.resize(say("good evening"), 480_000).astype(np.float32)
    extractor: Any = transformers.WhisperFeatureExtractor(feature_size=80)
    mel = extractor(samples / 32768, sampling_rate=16000, return_tensors="pt")["input_features"]
    inputs = network.inputs(torch.from_numpy(samples)[None], centered=True)
    with torch.inference_mode():
        layers = network(inputs)
        want = model.encoder(mel, output_hidden_states=True).hidden_states
    assert all(
        torch.allclose(own, other, atol=2e-4) for own, other in zip(layers, want, strict=True)
    )


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no such folder; name one with a model"):
        load_pretrained(tmp_path / "nothing")
    config = transformers.HubertConfig(**SIZES, conv_pos_batch_norm=True)
    transformers.HubertModel(config).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="batch normalization is not supported"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_thin_with_everything_kept_is_the_whole(
    family: str, tmp_path: Path, windows: torch.Tensor
) -> None:
    checkpoint(family, tmp_path)
    network = load_pretrained(tmp_path).network
    inputs = network.inputs(windows)
    with torch.inference_mode():
        same = thin(network, inputs, heads=2, hidden=32)
        whole, thinned = network(inputs), same(inputs)
    assert likeness(whole[-1], thinned[-1]) > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_thin_blocks_are_fitted_to_the_whole(
    family: str, tmp_path: Path, windows: torch.Tensor
) -> None:
    """Closer to it than the same heads and units with the weights that they had."""
    checkpoint(family, tmp_path)
    network = load_pretrained(tmp_path).network
    inputs = network.inputs(windows)
    with torch.inference_mode():
        small = thin(network, inputs, heads=1, hidden=8)
        as_they_were = copy.deepcopy(small)
        pairs = zip(_blocks(as_they_were), _blocks(network), strict=True)
        for n, (own, block) in enumerate(pairs):
            columns = torch.arange(8) + 8 * small.shape["heads"][n][0]
            own.attention.out.weight.copy_(block.attention.out.weight[:, columns])
            own.attention.out.bias.copy_(block.attention.out.bias)
        target = network(inputs)[-1]
        fitted = likeness(small(inputs)[-1], target)
        assert fitted > likeness(as_they_were(inputs)[-1], target)
    assert [len(kept) for kept in small.shape["heads"]] == [1, 1, 1]
    assert small.parameters_used(100) < network.parameters_used(100)
    with pytest.raises(ValueError, match="thinner than asked"):
        thin(network, inputs, heads=3, hidden=8)


def _blocks(network: Transformer) -> list[Block]:
    return cast("list[Block]", list(network.blocks))


def test_elimination_by_hand() -> None:
    """Of four inputs two carry the target: they are left, and refitted."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 400, 4, generator=generator)
    y = torch.stack([2 * x[..., 1] - x[..., 3], x[..., 3]], dim=-1) + 5
    fit = _Fit(x, y)
    assert fit.eliminate(2).tolist() == [1, 3]
    weight, bias = fit.solve(torch.tensor([1, 3]))
    assert torch.allclose(weight, torch.tensor([[2.0, -1.0], [0.0, 1.0]]), atol=1e-3)
    assert torch.allclose(bias, torch.tensor([5.0, 5.0]), atol=1e-3)
    assert fit.error(torch.tensor([1, 3])) < fit.error(torch.tensor([0, 1]))


def test_positions_by_hand() -> None:
    """The bias of one pair of frames, in a loop in float64, for a head that was kept."""
    torch.manual_seed(1)
    positions = GatedPositions([1], head_dim=3, buckets=8, max_distance=16)
    x = torch.randn(1, 5, 6)
    got = positions(x)[0, 0]
    gate = positions.gate
    for i in range(5):
        own = x[0, i, 3:].double()
        scores = gate.weight.double() @ own + gate.bias.double()
        first, second = scores[:4].sum().sigmoid(), scores[4:].sum().sigmoid()
        strength = first * (second * positions.scale.double().item() - 1) + 2
        for j in range(5):
            far = abs(i - j)
            # Four buckets a direction, two of them exact, two over powers up to 16.
            bucket = far if far < 2 else min(2 + int(np.log(far / 2) / np.log(16 / 2) * 2), 3)
            bucket += 4 * (j > i)
            want = strength * positions.table.weight[bucket, 0].double()
            assert got[i, j].item() == pytest.approx(want.item(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_checker_hears_what_the_network_hears(
    family: str, tmp_path: Path, windows: torch.Tensor
) -> None:
    checkpoint(family, tmp_path)
    network = load_pretrained(tmp_path).network
    inputs = network.inputs(windows)
    frames = network.stem(inputs).shape[1]
    assert frames == 100
    checker = Checker(
        network,
        CheckerHead(6, network.dim, [1, 3], frames // STEP_FRAMES),
        VoiceHead(network.dim, [0, 1]),
    ).eval()
    given = checker.encoder.given(windows)
    with torch.inference_mode():
        want = checker(given)
        hidden = network(inputs)
        assert torch.allclose(want[0], checker.words(hidden), atol=1e-5)
    assert torch.allclose(want[1].norm(dim=1), torch.ones(4), atol=1e-5)
    feed = given.numpy()
    if front := front_end(network):
        feed = front(windows.numpy())
        assert np.abs(feed - inputs.numpy()).max() < 1e-3
    for quantized, close in ((False, 1e-4), (True, 0.1)):
        path = tmp_path / "checker.onnx"
        write_graph(checker, path, quantized=quantized)
        session = onnxruntime.InferenceSession(path)
        got = checkers.run(session, feed, "logits", "voice")
        for own, other in zip(got, want, strict=True):
            assert np.abs(own - other.numpy()).max() < close
