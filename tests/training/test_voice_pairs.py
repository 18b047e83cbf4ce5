"""Voices by a network of the checker's own: who is told apart shares a microphone, and silence says
nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from kwsd.config import ConfigError
from kwsd.training.data.windows import WINDOW_SAMPLES
from kwsd.training.models.checker import VoiceHead
from kwsd.training.models.transformer import Transformer
from kwsd.training.models.voice_network import FRAMES, VoiceNetwork, mel_filters, repeated
from kwsd.training.stages.checker.kept import Kept, is_kept, keep
from kwsd.training.stages.checker.voices import VoicePairs, VoicesSettings, VoiceWindows

SETTINGS = VoicesSettings(steps=2, share=0.5, weight=0.3, windows=120, pairs=8, groups=2)


@pytest.fixture
def windows() -> VoiceWindows:
    """Twelve people at five microphones, each frame the number of its window."""
    rng = np.random.default_rng(0)
    numbers = np.arange(120, dtype=np.float16)
    length = rng.integers(40, 90, 120)
    person, device = np.arange(120) % 12, rng.integers(-1, 5, 120)
    held = np.broadcast_to(numbers[:, None, None], (120, 99, 4))
    said = rng.normal(size=(120, 6)).astype(np.float16)
    return VoiceWindows(Kept([held], {}, {}), length, person, device, person < 3, said)


def test_rivals_share_a_microphone_and_a_pair_does_not(windows: VoiceWindows) -> None:
    for batch in itertools.islice(VoicePairs(windows, SETTINGS, 1), 20):
        first, second = batch.bels[:, 0, 0].long().chunk(2)
        people = windows.person[first]
        assert len(set(people.tolist())) == len(people) > 2
        assert (windows.person[second] == people).all()
        assert (first != second).all()
        places = windows.device[first]
        assert 1 <= len(set(places.tolist())) <= 2
        assert -1 not in places
        apart = (windows.device[second] != places) | (windows.device[second] < 0)
        assert apart.all()
        assert batch.sounds.shape == batch.bels.shape[:2]
        assert (
            batch.sounds.sum(1) <= torch.from_numpy(windows.length)[torch.cat([first, second])]
        ).all()
        assert batch.sounds[:, -30:].all()


def test_people_of_sentences_have_their_share(windows: VoiceWindows) -> None:
    """A quarter of the people, at five microphones; two of each are drawn at most."""
    shares = {}
    for share in (0.0, 0.1, 0.9):
        pairs = VoicePairs(windows, msgspec.structs.replace(SETTINGS, sentences=share), 1)
        drawn = [pairs._firsts(np.random.default_rng(n)) for n in range(200)]
        shares[share] = windows.sentence[np.concatenate(drawn)].mean()
    assert shares[0.0] == 0 < shares[0.1] < 0.2 < 0.4 < shares[0.9]
    alone = replace(windows, sentence=np.zeros(120, bool))
    assert len(VoicePairs(alone, SETTINGS, 1)._firsts(np.random.default_rng(1))) > 2


def test_nobody_with_two_windows_is_refused(windows: VoiceWindows) -> None:
    alone = replace(windows, person=np.arange(120))
    with pytest.raises(ValueError, match=r"raise windows, or heard\.shared, by --set"):
        VoicePairs(alone, SETTINGS, 1)


def test_a_window_is_pulled_to_what_the_teacher_says(windows: VoiceWindows) -> None:
    """Half to that of the window, half to that of all windows of the person, without what all
    people have in common."""
    targets = windows.targets(0.5)
    said = windows.teacher.astype(np.float64)
    common = sum(said) / len(said)
    units = [(v - common) / np.linalg.norm(v - common) for v in said]
    for n, person in enumerate(windows.person):
        total = sum(u for u, other in zip(units, windows.person, strict=True) if other == person)
        expected = units[n] / 2 + total / np.linalg.norm(total) / 2
        assert targets[n] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)
    assert windows.targets(1.0) == pytest.approx(np.array(units), abs=1e-3)
    batch = next(iter(VoicePairs(windows, SETTINGS, 1)))
    rows = batch.bels[:, 0, 0].long()
    assert batch.target.numpy() == pytest.approx(windows.targets(SETTINGS.own)[rows])


def test_silence_before_a_voice_is_not_listened_to() -> None:
    """The frames of padding are found in the mel bels, and change nothing but their neighbors."""
    torch.manual_seed(1)
    encoder = Transformer(32, 8, [[0, 1]], [8], True, mel={"bands": 80, "positions": 120}).eval()
    encoder.stem.filters = torch.rand(201, 80)
    speech = torch.randn(1, WINDOW_SAMPLES) * 1000
    half = WINDOW_SAMPLES // 2
    speech[:, :half] = 0
    given = encoder.inputs(speech)
    sounds = encoder.sounds(given)
    assert sounds is not None
    assert not sounds[0, : half // 320 - 2].any()
    assert sounds[0, half // 320 + 1 :].all()
    everywhere = encoder.sounds(encoder.inputs(torch.randn(1, WINDOW_SAMPLES) * 1000))
    assert everywhere is not None
    assert everywhere.all()
    head = VoiceHead(32, [1], width=8).eval()
    hidden = [torch.randn(1, sounds.shape[1], 32) for _ in range(2)]
    heard = head(hidden, sounds)
    hidden[1][0, : half // 320 - 8] += 5  # beyond the reach of the convolutions
    assert torch.allclose(head(hidden, sounds), heard, atol=1e-5)
    assert not torch.allclose(head(hidden), head([h.clone().zero_() for h in hidden]), atol=1e-3)


def test_windows_are_read_back(tmp_path: Path) -> None:
    made_by = {"encoder": "e", "layer": 1}
    for n, count in enumerate((50, 50, 20)):
        path = tmp_path / f"{n:03}.npz"
        assert not is_kept(path, made_by)
        keep(path, 50 * n + np.arange(count)[:, None], made_by, person=np.full(count, n))
        assert is_kept(path, made_by)
    kept = Kept.load(tmp_path, "voices")
    assert kept.rows(np.array([3, 117, 50])).ravel().tolist() == [3, 117, 50]
    assert kept.known["person"].tolist() == [0] * 50 + [1] * 50 + [2] * 20
    assert kept.made_by == made_by
    with pytest.raises(ConfigError, match=r"000\.npz was made otherwise \(layer\); remove "):
        is_kept(tmp_path / "000.npz", {**made_by, "layer": 2})
    with pytest.raises(FileNotFoundError, match="kwsd train voices"):
        Kept.load(tmp_path / "none", "voices")


def test_a_unit_that_was_silent_in_training_does_not_drown_the_others() -> None:
    torch.manual_seed(1)
    head = VoiceHead(32, [1], width=64).train()
    bias = head.enter[0].get_parameter("bias")
    with torch.no_grad():
        bias[0] = -50.0  # it is silent
        for _ in range(100):
            head([torch.randn(4, 30, 32)] * 2)
        head.eval()
        hidden = [torch.randn(4, 30, 32)] * 2
        before = head(hidden)
        bias[0] = 0.5
        likeness = (head(hidden) * before).sum(1)
    assert likeness.min() > 0.3


def test_a_network_of_voices_knows_no_level_and_no_silence_before() -> None:
    """Mel bels in torch are those of numpy, and twice as loud is the same voice."""
    torch.manual_seed(2)
    network = VoiceNetwork(width=16, dim=8).requires_grad_(False)
    network.lstm.get_parameter("weight_ih_l0").mul_(
        300
    )  # as one that is trained, for powers of a hundredth
    network.hear_by(mel_filters(80))
    x = np.zeros((1, WINDOW_SAMPLES), np.float32)
    x[:, WINDOW_SAMPLES // 2 :] = np.random.default_rng(1).normal(0, 0.05, WINDOW_SAMPLES // 2)
    bels = network.bels(torch.from_numpy(x))
    frames = np.lib.stride_tricks.sliding_window_view(x[0], 400)[::160]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2 @ mel_filters(80)
    assert bels[0].numpy() == pytest.approx(np.log10(power.clip(1e-10)), abs=1e-3)
    voice = network(bels)
    sounds = torch.arange(bels.shape[1])[None] * 160 + 400 > WINDOW_SAMPLES // 2
    assert torch.allclose(network(bels, sounds), voice, atol=1e-6)
    louder = network(network.bels(torch.from_numpy(2 * x)))
    assert torch.allclose(louder, voice, atol=1e-5)
    tilted = network(bels + torch.linspace(-2, 2, 80), sounds)
    assert not torch.allclose(tilted, voice, atol=1e-2)


def test_a_short_word_is_said_again_and_again() -> None:
    """From its first frame on, as Resemblyzer is asked about one; silence before it is not."""
    frames = torch.arange(2 * 200 * 3, dtype=torch.float32).reshape(2, 200, 3)
    sounds = torch.arange(200) >= torch.tensor([[130], [0]])
    heard = repeated(frames, sounds)
    for n, first in enumerate((130, 0)):
        word = frames[n, first:].numpy()
        assert (heard[n].numpy() == np.resize(word, (FRAMES, 3))).all()


def test_a_voice_lacks_what_is_common_to_all() -> None:
    torch.manual_seed(3)
    network = VoiceNetwork(width=256).requires_grad_(False)
    network.hear_by(mel_filters(80))
    bels = torch.rand(4, 200, 80) * 4 - 5
    common = np.full(256, 0.03, np.float32)
    whole = network(bels)
    network.begin_as(SimpleNamespace(lstm=network.lstm, linear=network.out), common)
    less = whole.numpy() - common
    less /= np.linalg.norm(less, axis=1, keepdims=True)
    assert network(bels).numpy() == pytest.approx(less, abs=1e-5)


def test_bands_are_merged_to_those_that_resemblyzer_has() -> None:
    network = VoiceNetwork()
    network.hear_by(mel_filters(80))
    merged = mel_filters(80) @ network.merge.weight.detach().numpy().T
    wanted = mel_filters(40)
    assert np.linalg.norm(merged - wanted) < 0.07 * np.linalg.norm(wanted)
    flat = mel_filters(80) @ network.loudness.numpy()
    assert flat[2:180] == pytest.approx(np.ones(178), abs=0.2)
