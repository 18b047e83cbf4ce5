"""Parts of the checker that ships, as modules that are trained further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import say

from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.training import settings
from kwsd.training.data.windows import WINDOW_SAMPLES, at_peak
from kwsd.training.models.checker import Checker, CheckerHead, VoiceHead
from kwsd.training.models.restored import restored, restored_voice, shipped_checker
from kwsd.training.models.transformer import MelStem, Transformer
from kwsd.training.models.voice_network import mel_filters
from kwsd.training.stages.checker.export import kept_voice, write_graph
from kwsd.training.stages.checker.settings import CheckerSettings

DIM = 512


@pytest.fixture(scope="module")
def whole() -> Transformer:
    """A transformer of the width of Whisper base, of one block."""
    mel = {"bands": 80, "positions": 100}
    whole = Transformer(DIM, 64, [list(range(8))], [2048], norm_first=True, mel=mel)
    assert isinstance(whole.stem, MelStem)
    whole.stem.filters.copy_(torch.from_numpy(mel_filters(80)))
    return whole


def test_the_head_of_voices_is_kept(bundle: Bundle, whole: Transformer, tmp_path: Path) -> None:
    """Beside an encoder whose first block is the same, and beside no other."""
    graph = shipped_checker(bundle.path, "voices")
    encoder = restored(graph, whole)
    fresh = VoiceHead(encoder.dim, [1])
    steps = encoder.frames(WINDOW_SAMPLES) // 4
    checker = Checker(encoder, CheckerHead(6, encoder.dim, [2], steps), fresh)
    with torch.no_grad():  # what comes after it was trained since
        encoder.get_parameter("blocks.1.up.bias").add_(1.0)
    checker.voice = kept_voice(bundle.path, checker)
    write_graph(checker.eval(), tmp_path / "checker.onnx")
    again = restored_voice(tmp_path / "checker.onnx", fresh).state_dict()
    for name, weight in checker.voice.state_dict().items():
        step = 2 * weight.abs().amax() / 127 if name == "out.1.weight" else 0.0
        assert (again[name] - weight).abs().amax() <= step, name

    samples = np.pad(say("computer").astype(np.float32), (WINDOW_SAMPLES, 0))[-WINDOW_SAMPLES:]
    whole_bundle = bundles.load(bundle.path)
    shipped = Runtime(whole_bundle).checker(whole_bundle.checkers["small"])
    assert shipped is not None
    at_level = at_peak(torch.from_numpy(samples)[None])
    given = checker.encoder.given(at_level)
    with torch.no_grad():
        vector = checker.voice(encoder.of_given(given), encoder.sounds(given))[0].numpy()
    first = shipped.voice(samples)[: len(vector)]
    assert vector @ first / np.linalg.norm(first) > 0.97  # the device computes in 8 bit

    with torch.no_grad():
        encoder.get_parameter("blocks.0.up.bias")[0] += 1e-3
    with pytest.raises(ConfigError, match=r"distill\.frozen_blocks=1, tune\.frozen_blocks=1"):
        kept_voice(bundle.path, checker)


def test_a_head_of_several_layers_is_not_in_a_graph(bundle: Bundle, whole: Transformer) -> None:
    graph = shipped_checker(bundle.path, "voices")
    with pytest.raises(ConfigError, match=r"one layer.*tune\.voice"):
        restored_voice(graph, VoiceHead(DIM, [0, 1]))


def test_a_bundle_without_a_checker_has_nothing_to_keep(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not bundle.checkers
    monkeypatch.setattr(bundles, "load", {bundle.path: bundle}.__getitem__)
    with pytest.raises(ConfigError, match=r"export\.voices=kept: .* no checker"):
        shipped_checker(bundle.path, "export.voices=kept")
    chosen = settings.read("checker", CheckerSettings, ["export.voices=kept"])
    assert chosen.export.voices == "kept"
