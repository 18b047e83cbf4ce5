"""Training code against worked numbers, and the exported graphs against torch."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kwsd.audio.speech_span import speech_span
from kwsd.audio.synthesis import espeak, espeak_variants
from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.runtime import SpeakerEncoder, Student
from kwsd.training import pipeline as stages
from kwsd.training import settings
from kwsd.training.data import augment
from kwsd.training.data.augment import Rooms, change_speed, change_tempo, gain_to, level_dbfs
from kwsd.training.data.corpora import Clip, Corpora, Take, write_store
from kwsd.training.data.scenes import Scenes
from kwsd.training.data.transcripts import Spoken
from kwsd.training.models import backend as backends
from kwsd.training.models.backend import Backend
from kwsd.training.models.network import Encoder, SpeakerHeads, WakeHead
from kwsd.training.stages import align, evaluate, export, negatives, synthesize
from kwsd.training.stages.finetune import wake_loss
from kwsd.training.stages.speaker import MarginSoftmax, voice_front_end


@pytest.fixture(scope="module")
def networks() -> tuple[Encoder, WakeHead, export.Speaker]:
    torch.manual_seed(1)
    parts = Encoder(), WakeHead(), export.Speaker(SpeakerHeads(2, fine=64))
    for part in parts:
        for module in part.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        part.eval().requires_grad_(False)
    return parts


def test_the_exported_graphs_equal_torch(networks: tuple[Encoder, WakeHead, export.Speaker], bundle: bundles.Bundle, tmp_path: Path) -> None:
    encoder, wake, speaker = networks
    export.export(encoder, wake, bundle.front_end, tmp_path)
    export.put_speaker(tmp_path, speaker, voice_front_end())
    exported = bundles.load(tmp_path)
    student, head = Student(exported), SpeakerEncoder(exported)
    samples = 1000 * np.random.default_rng(1).standard_normal(240 + 40 * 1280).astype(np.float32)
    bands = head.fine(samples)
    assert np.array_equal(bands.reshape(-1, 64), voice_front_end()(samples))
    mel = torch.randn(1, 8 * 40, 32)
    embedding, tap, _ = encoder(mel, encoder.zero_state())
    logits, timing, _ = wake(embedding, wake.zero_state())
    state, parts, at = student.zero_state(), [], 0
    for chunks in (1, 2, 7, 1, 20, 9):
        frames, state = student.step(mel[0, 8 * at : 8 * (at + chunks)].numpy(), state)
        parts.append(frames)
        at += chunks
    for got, want in (("logits", logits), ("timing", timing), ("embedding", embedding), ("tap", tap)):
        joined = np.concatenate([getattr(p, got) for p in parts]).reshape(want[0].shape)
        assert np.abs(joined - want[0].numpy()).max() < 1e-4, got
    whole = head(np.concatenate([p.tap for p in parts]), np.concatenate([p.embedding for p in parts]), bands)
    assert np.abs(whole - speaker(tap, embedding, torch.from_numpy(bands).view(1, -1, 64))[0].numpy()).max() < 1e-5
    assert exported.encoder_id != bundle.encoder_id
    backend = Backend(2 * 192, 64)
    backend.axes.data.normal_()
    export.put_speaker(tmp_path, export.Speaker(speaker.head, backend), voice_front_end())
    finished = bundles.load(tmp_path)
    assert finished.encoder_id != exported.encoder_id
    voice = SpeakerEncoder(finished)(np.concatenate([p.tap for p in parts]), np.concatenate([p.embedding for p in parts]), bands)
    assert voice.shape == (64,)
    assert np.abs(voice - backend(speaker(tap, embedding, torch.from_numpy(bands).view(1, -1, 64)))[0].numpy()).max() < 1e-5
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["macs_per_second"] == pytest.approx(72.4e6, rel=0.01)
    export.put_speaker(tmp_path, speaker, voice_front_end())
    assert bundles.load(tmp_path).encoder_id == exported.encoder_id  # the same head again is the same encoder
    with pytest.raises(ConfigError, match="take 0 finer bands instead of 64"):
        export.put_speaker(tmp_path, export.Speaker(SpeakerHeads()), voice_front_end())


def test_in_8_bit_online_still_equals_offline(networks: tuple[Encoder, WakeHead, export.Speaker], bundle: bundles.Bundle, tmp_path: Path) -> None:
    encoder, wake, speaker = networks
    rng = np.random.default_rng(4)
    mels = [rng.uniform(0, 10, (8 * 30, 32)).astype(np.float32) for _ in range(6)]
    for folder, calibration in (("float", []), ("int8", mels[:5])):
        export.export(encoder, wake, bundle.front_end, tmp_path / folder, calibration)
        export.put_speaker(tmp_path / folder, speaker, voice_front_end())
    float32, int8 = (Student(bundles.load(tmp_path / folder)) for folder in ("float", "int8"))
    assert (tmp_path / "int8" / "student.onnx").stat().st_size < 0.7 * (tmp_path / "float" / "student.onnx").stat().st_size
    whole, _ = int8.step(mels[5], int8.zero_state())
    state, parts, at = int8.zero_state(), [], 0
    for chunks in (1, 2, 7, 1, 19):
        frames, state = int8.step(mels[5][8 * at : 8 * (at + chunks)], state)
        parts.append(frames)
        at += chunks
    for name in ("logits", "timing", "embedding", "tap"):
        assert np.abs(np.concatenate([getattr(p, name) for p in parts]) - getattr(whole, name)).max() < 1e-4, name
    exact, _ = float32.step(mels[5], float32.zero_state())
    for name in ("embedding", "tap"):
        a, b = getattr(exact, name), getattr(whole, name)
        assert np.mean((a - b) ** 2) < 0.1 * np.var(a), name
    assert bundles.load(tmp_path / "float").encoder_id != bundles.load(tmp_path / "int8").encoder_id


def test_the_receptive_field_is_what_the_bundle_says(networks: tuple[Encoder, WakeHead, export.Speaker]) -> None:
    encoder, wake, _ = networks
    mel = torch.randn(1, 8 * 60, 32)
    changed = mel.clone()
    changed[:, : 8 * 30] += 1.0

    def logits(x: torch.Tensor) -> torch.Tensor:
        return wake(encoder(x, encoder.zero_state())[0], wake.zero_state())[0]

    depends = (logits(mel) - logits(changed)).abs().amax(dim=(0, 2)) > 1e-6
    # chunk 29 is the last that was changed; the last output that sees it is that of chunk 29 + receptive - 1
    assert int(depends.nonzero().max()) == 29 + export.receptive_chunks() - 1
    assert not depends[29 + export.receptive_chunks() :].any()


@torch.inference_mode()
@pytest.mark.parametrize(("width", "separable", "normed"), [(1.0, False, False), (0.5, False, False), (1.0, True, False), (1.0, False, True)])
def test_what_a_fresh_student_hears_reaches_its_last_layer(width: float, separable: bool, normed: bool) -> None:
    torch.manual_seed(4)
    encoder = Encoder(width, separable, normed)
    embedding, tap, _ = encoder(6 + 2.4 * torch.randn(8, 200, 32), encoder.zero_state(8))  # as speech is
    assert 0.1 < float(tap[:, 48:].std(dim=(0, 1)).mean()) < 10
    assert 0.1 < float(embedding[:, 12:].std(dim=(0, 1)).mean()) < 10  # of torch's own beginning a ten-millionth is left


@pytest.mark.parametrize("separable", [False, True])
def test_a_normed_student_folds_into_a_plain_one(separable: bool) -> None:
    torch.manual_seed(5)
    normed, mel = Encoder(0.5, separable, normed=True), 6 + 2.4 * torch.randn(4, 96, 32)
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
        for want, got in zip(normed(mel, normed.zero_state(4))[:2], plain(mel, plain.zero_state(4))[:2], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert plain.folded() is plain


def test_wake_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0], [5.0], [1.0], [-1.0], [0.0], [3.0]]])
    labels = torch.tensor([[[1], [1], [0], [0], [0], [-1]]])
    # best of the firing frames: 5; elsewhere 1, 0, -1 and, for want of a fourth, -30; the ignored 3 counts nowhere
    want = math.log1p(math.exp(-5)) + 0.25 * sum(math.log1p(math.exp(v)) for v in (1.0, 0.0, -1.0, -30.0))
    assert wake_loss(logits, labels).item() == pytest.approx(want, rel=1e-5)
    nothing = wake_loss(logits, torch.zeros_like(labels))
    assert nothing.item() == pytest.approx(0.25 * sum(math.log1p(math.exp(v)) for v in (5.0, 3.0, 2.0, 1.0)), rel=1e-5)


def test_margin_softmax_by_hand() -> None:
    loss = MarginSoftmax(2, 2, scale=4.0)
    loss.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    angle = math.radians(30)
    embedding = torch.tensor([[math.cos(angle), math.sin(angle)]])
    own, other = 4 * math.cos(angle + 0.25), 4 * math.cos(math.radians(60))
    want = -own + math.log(math.exp(own) + math.exp(other))
    assert loss(embedding, torch.tensor([0]), 0.25).item() == pytest.approx(want, rel=1e-5)
    flipped = loss(-embedding, torch.tensor([0]), 0.8)  # past pi the line goes on
    assert flipped.item() > loss(-embedding, torch.tensor([0]), 0.5).item()


def test_the_backend_finds_what_tells_people_apart() -> None:
    """People differ along two of six directions, takes of one person mostly along others."""
    rng = np.random.default_rng(3)
    own = rng.normal(0, 1, (400, 6)) * [2.0, 1.0, 0.01, 0.01, 0.01, 0.01] + 5
    spread = np.array([0.5, 0.5, 3.0, 1.0, 1.0, 1.0])
    people = np.repeat(np.arange(400), 6)
    voices = own[people] + rng.normal(0, 1, (2400, 6)) * spread
    fitted = backends.fit(voices, people, kept=2, shrinkage=0.0)
    axes = fitted.axes.numpy()
    assert np.abs(fitted.centre.numpy() - 5).max() < 0.3
    # whitened, the first direction is that of the greatest ratio of variances, 16, the second 4; their weights are sqrt(16 / 17), sqrt(4 / 5)
    want = np.zeros((6, 2))
    want[0, 0], want[1, 1] = np.sqrt(16 / 17) / 0.5, np.sqrt(4 / 5) / 0.5
    assert np.abs(np.abs(axes) - want).max() < 0.12
    out = fitted(torch.from_numpy(voices[:6].astype(np.float32)))
    assert torch.allclose(out.norm(dim=1), torch.ones(6), atol=1e-5)
    shrunk = backends.fit(voices, people, kept=9, shrinkage=1.0)
    assert shrunk.shape == {"dim": 6, "kept": 6}
    with pytest.raises(ValueError, match="nobody has two takes"):
        backends.fit(voices[::6], people[::6])


def test_trials_over_people() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(8)
    people = [c + 0.05 * rng.normal(size=(8, 8)) for c in centres]
    people = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in people]
    result, same, different = evaluate.trials(people)
    assert (result.one, result.five, result.people) == (0.0, 0.0, 8)
    assert same.min() > different.max()


def test_levels_speed_and_mixing() -> None:
    tone = (10000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    assert level_dbfs(gain_to(tone, -26)) == pytest.approx(-26, abs=0.01)
    assert level_dbfs(tone[:300]) == -100
    half = np.concatenate([tone, np.zeros(16000, np.float32)])
    assert level_dbfs(half) == pytest.approx(20 * np.log10(10000 / 32768 / np.sqrt(2)), abs=0.01)  # pauses count for nothing
    assert len(change_speed(tone, 1.25)) == pytest.approx(12800, abs=1)
    assert np.argmax(np.abs(np.fft.rfft(change_speed(tone, 0.8)[:16000]))) == pytest.approx(352, abs=1)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 16000)).astype(np.float32))
    speech = torch.from_numpy(np.stack([tone, 0.1 * tone]))
    added = augment.mix(speech, noise, torch.tensor([10.0, 25.0])) - speech
    snr = augment.levels_dbfs(speech) - 10 * torch.log10(added.square().mean(1) / 32768**2)
    assert snr.tolist() == pytest.approx([10, 25], abs=0.1)


def test_a_change_of_tempo_keeps_the_pitch() -> None:
    rng = np.random.default_rng(0)
    tone = (10000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    for factor in (0.8, 1.25):
        told = change_tempo(tone, factor)
        assert len(told) == int(16000 / factor)
        steady = told[800:-800]
        assert np.argmax(np.abs(np.fft.rfft(steady * np.hanning(len(steady)), 16000))) == pytest.approx(440, abs=1)
        assert steady.std() == pytest.approx(tone.std(), rel=0.01)
    beeps = rng.normal(0, 3000, 32000).astype(np.float32) * (np.arange(32000) % 8000 < 1000)  # one every half a second
    slower = change_tempo(beeps, 0.8)
    there = (np.arange(len(slower)) + 300) % 10000 < 1850
    assert np.square(slower[there]).sum() > 0.99 * np.square(slower).sum() > 0
    assert change_tempo(beeps, 1.0)[400:-400] == pytest.approx(beeps[400:-400], abs=0.01)


def test_rooms_and_microphones_against_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rirs = (rng.normal(size=(6, 2000)) * np.exp(-np.arange(2000) / 200)).astype(np.float16)
    rirs[:, 300] = 8
    np.savez(tmp_path / "rirs.npz", rirs=rirs)
    rooms = Rooms(tmp_path / "rirs.npz")
    assert len(rooms) == 4
    x = rng.normal(0, 500, (3, 5000)).astype(np.float32)
    wet = augment.reverberate(torch.from_numpy(x), rooms.responses[[2, 0, 1]]).numpy()
    for row, response in ((0, 2), (1, 0)):
        want = np.convolve(x[row].astype(np.float64), rooms.responses[response].double().numpy())[:5000]
        want *= np.sqrt(np.mean(x[row] ** 2) / np.mean(want**2))
        assert np.abs(wet[row] - want).max() < 0.1
    click = np.zeros((1, 5000), np.float32)
    click[0, 1000] = 1000
    assert abs(int(augment.reverberate(torch.from_numpy(click), rooms.responses[:1]).abs().argmax()) - 1000) <= 8  # the direct sound stays in place
    tones = np.stack([np.sin(2 * np.pi * hz * np.arange(16000) / 16000) for hz in (100, 1000, 6000)]).astype(np.float32)
    low, high, tilt = (torch.full((3,), v) for v in (100.0, 6000.0, 6.0))
    limited = augment.band_limit(torch.from_numpy(tones), low, high, tilt).square().mean(1).sqrt().numpy() * np.sqrt(2)
    want = [10 ** (6 * np.log2(max(hz, 125) / 1000) / 3 / 20) / np.sqrt(1 + (100 / hz) ** 4) / np.sqrt(1 + (hz / 6000) ** 8) for hz in (100, 1000, 6000)]
    assert limited == pytest.approx(want, rel=1e-3)


def test_a_batch_is_degraded_as_its_takes_are(tmp_path: Path) -> None:
    """Each row by itself or all at once; what is not asked for does not happen."""
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "rirs.npz", rirs=(rng.normal(size=(10, 1500)) * np.exp(-np.arange(1500) / 100)).astype(np.float16))
    rooms, x = Rooms(tmp_path / "rirs.npz"), torch.from_numpy(rng.normal(0, 3000, (4, 8000)).astype(np.float32))
    none = torch.zeros(8000)
    noise = torch.from_numpy(rng.normal(0, 1, 8000).astype(np.float32))
    how = [
        augment.Degradation(torch.tensor(room), hiss, torch.tensor(snr), torch.tensor(microphone), torch.tensor(gain))
        for room, hiss, snr, microphone, gain in (
            (-1, none, 0.0, (0.0, 0.0, 0.0), 0.0), (3, noise, 5.0, (200.0, 4000.0, 3.0), -6.0),
            (-1, noise, 20.0, (0.0, 0.0, 0.0), 30.0), (0, none, 0.0, (50.0, 8000.0, 0.0), 0.0),
        )
    ]  # fmt: skip
    together = augment.degrade(x, augment.stack(how), rooms)
    for row, one in enumerate(how):
        assert (together[row] - augment.degrade(x[row : row + 1], augment.stack([one]), rooms)[0]).abs().max() <= 1  # of rounding
    assert torch.equal(together[0], x[0].round())
    assert together[2].abs().max() == 32768
    assert torch.equal(together, together.round())


def test_masks_lie_within_and_hold_the_least_value() -> None:
    rng, mel = np.random.default_rng(0), torch.rand(400, 32) + 1
    mel[7, 3] = 0.25
    masks = augment.draw_masks(400, 32, rng)
    assert len([m for m in masks if m[0] == 0]) == 4
    assert all(0 <= begin < end <= (400, 32)[axis] and end - begin <= (10, 5)[axis] for axis, begin, end in masks)
    augment.mask(mel, masks)
    _, begin, end = masks[-1]
    assert (mel[begin:end] == 0.25).all()
    assert (mel == 0.25).float().mean() < 0.5


def test_speech_is_found_amid_silence() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 5, 32000).astype(np.float32)
    x[8000:16000] += rng.normal(0, 2000, 8000).astype(np.float32)
    start, end = speech_span(x)
    assert abs(start - 8000) <= 400
    assert abs(end - 16000) <= 400


def test_a_pause_parts_a_phrase_where_it_is_quietest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2000, 16000).astype(np.float32)
    x[7600:8000] *= 0.01
    parted = augment.pause_within(x, 2000, 14000, 3200)
    assert len(parted) == 19200
    cut = int(np.flatnonzero(parted == 0)[0])
    assert 7600 < cut < 8000
    assert not parted[cut : cut + 3200].any()
    assert (parted[: cut - 80] == x[: cut - 80]).all()
    assert (parted[cut + 3280 :] == x[cut + 80 :]).all()
    assert augment.pause_within(x, 2000, 2500, 3200) is x


def test_a_wake_word_in_noise_lies_where_whisper_heard_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three takes the first is noise all along, the second stands out, and the third stands out where Whisper hears it, too."""
    rng = np.random.default_rng(0)
    takes = [rng.normal(0, 1000, 40000), rng.normal(0, 3, 40000), rng.normal(0, 3, 40000)]
    takes[1][16000:27200] += rng.normal(0, 1000, 11200)
    takes[2][:23000] += rng.normal(0, 1000, 23000)
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "audio.npy", np.concatenate(takes).astype(np.int16))
    rows = [f"{n * 40000}\t40000\tpico\tc\talexa" for n in range(3)]
    (folder / "manifest.tsv").write_text("\n".join(["start\tsamples\tcorpus\tspeaker\tlabel", *rows]) + "\n")
    ends = iter((1.31, 1.25))

    class Whisper:
        def __init__(self, *_: object, **__: object) -> None: ...

        def transcribe(self, *_: object, **__: object) -> tuple[list[SimpleNamespace], None]:
            return [SimpleNamespace(words=[SimpleNamespace(word=" Alexa.", start=0.0, end=next(ends), probability=0.5)])], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    out = tmp_path / "aligned.tsv"
    align.align([folder], out, align.Settings())
    assert next(ends, None) is None
    assert out.read_text().splitlines()[1:] == [f"store\t{24000 - 19200}\t19200\tpico\tc\talexa"]
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    scenes = Scenes(Corpora(folder), tmp_path / "rirs.npz", seed=3, spoken=Spoken(out))
    take = scenes.words[0][False][0]
    scenes.words = [{False: [take], True: []}] * 6
    lengths = [end - start for _ in range(8) for word, start, end in scenes.draw(128000, word_share=1.0).words if word in (0, 1, 2, 4)]
    assert min(lengths) >= 19200 / 1.22 / 1.18 - 2
    assert max(lengths) <= 19200 / 0.87 / 0.85 + 2


def test_the_split_keeps_speakers_apart_and_labels_follow_the_words(tmp_path: Path) -> None:
    clips = [Clip("store", n * 100, 100, "pico", f"s{n % 20}", "computer") for n in range(200)]
    for speaker in {c.speaker for c in clips}:
        assert len({c.development for c in clips if c.speaker == speaker}) == 1
    assert 0 < sum(c.development for c in clips) < len(clips) / 2
    folder = tmp_path / "store"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "audio.npy", rng.normal(0, 1000, 16000 * 40).astype(np.int16))
    rows = ["start\tsamples\tcorpus\tspeaker\tlabel"]
    words = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
    rows += [f"{n * 16000}\t16000\tpico\ta{n % 7}\t{words[n % 6]}" for n in range(30)]
    rows += [f"{n * 16000}\t16000\tgsc\tb{n}\tgo" for n in range(30, 40)]
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    scenes = Scenes(Corpora(folder), tmp_path / "rirs.npz", seed=3)
    scenes.words = [{False: scenes.words[w][False] or scenes.words[1][False] or [c for c in scenes.corpora.clips if c.word >= 0], True: []} for w in range(6)]
    scene = scenes.draw(64000, word_share=0.8)
    heard = scenes.hear(scene.clean[None], [scene.degradation])[0]
    assert scene.clean.shape == heard.shape == (64000,)
    assert 0 < np.abs(heard).max() <= 32768
    labels = scenes.labels([(1, 16000, 32000)], 50)
    ends = 1280 * (np.arange(50) + 1)
    assert set(np.flatnonzero(labels[:, 1] == 1)) == set(np.flatnonzero((ends >= 32000) & (ends < 32000 + 5 * 1280)))
    assert (labels[:, 0] == 0).all()


def test_every_stages_settings_are_read_and_changed_by_name() -> None:
    heads = settings.read("heads", stages.Heads, ["wake.steps=7", "speaker.rate=2e-4", "speaker.crop_chunks=[5, 9]"])
    assert (heads.wake.steps, heads.speaker.rate, heads.speaker.crop_chunks, heads.speaker.speeds) == (7, 2e-4, [5, 9], [1.0, 0.89, 1.12])
    assert settings.read("synthesize", synthesize.Settings, ["kokoro_voices=0"]) == synthesize.Settings(1, 0)
    assert settings.read("align", align.Settings, ["whisper=/models/whisper"]).whisper == "/models/whisper"
    with pytest.raises(ConfigError, match=r"wake\.stps"):
        settings.read("heads", stages.Heads, ["wake.stps=7"])


def test_there_are_many_rough_voices() -> None:
    assert len(espeak_variants()) > 50


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A store of twenty sentences of three seconds and twenty single words, all of them noise."""
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "audio.npy", np.random.default_rng(0).normal(0, 1000, 16000 * 80).astype(np.int16))
    rows = ["start\tsamples\tcorpus\tspeaker\tlabel"]
    rows += [f"{n * 48000}\t48000\tlibri\ta{n}\t" for n in range(20)]
    rows += [f"{16000 * (60 + n)}\t16000\tgsc\tb{n}\tgo" for n in range(20)]
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_words_of_joined_sentences_find_their_clips(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of 3 s with gaps of 0.5 s: what is said at 4.0 s of the joined audio lies half a second into the second."""
    heard: list[float] = []

    class Whisper:
        def __init__(self, name: str, **_: object) -> None:
            assert name == "tiny"

        def transcribe(self, audio: np.ndarray, **_: object) -> tuple[list[SimpleNamespace], None]:
            heard.append(len(audio) / 16000)
            said = [(" Hello,", 4.0, 4.4, 0.9), (" maybe", 4.5, 4.9, 0.3), (" across", 6.2, 7.0, 0.9), (" it", 7.2, 7.5, 0.9)]
            words = [SimpleNamespace(word=w, start=a, end=b, probability=p) for w, a, b, p in said]
            return [SimpleNamespace(words=words)], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    out = tmp_path / "aligned.tsv"
    align.align([sentences], out, align.Settings("tiny"))
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert rows[0] == align.FIELDS
    assert rows[1] == ["store", str(48000 + 8000), "6400", "libri", "a1", "hello"]
    assert {row[5] for row in rows[1:]} == {"hello"}  # unsure, across two sentences, too short
    assert len(heard) == len(rows) - 1 == 3
    assert all(seconds <= align.WINDOW_S for seconds in heard)
    out.write_text("\n".join(out.read_text().splitlines()[:3]) + "\n")
    align.align([sentences], out, align.Settings("tiny"))  # goes on behind the last word
    assert len(heard) == 4
    assert len(out.read_text().splitlines()) == len(rows)


def test_the_bank_names_what_is_said_in_it(sentences: Path, tmp_path: Path, bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    (tmp_path / "aligned.tsv").write_text("\t".join(align.FIELDS) + "\n" + "".join(f"store\t{n * 48000 + 100}\t4000\tlibri\ta{n}\tapple\n" for n in range(20)))
    monkeypatch.setattr(negatives, "SECONDS", {"libri": 20, "gsc": 10})
    negatives.gather(Corpora(sentences), Spoken(tmp_path / "aligned.tsv"), tmp_path / "rirs.npz", bundle, tmp_path / "bank.npz")
    with np.load(tmp_path / "bank.npz") as bank:
        assert bank["high"].dtype == np.int8
        assert bank["high"].shape[1:] == bank["scale"].shape == (96,)
        assert bank["texts"].tolist() == ["apple", "apple", "go"]
        assert len(bank["starts"]) == 3
        assert 20 / 0.08 < len(bank["high"]) < 40 / 0.08
        assert np.abs(bank["high"]).max() == 127


def test_a_bundle_is_evaluated_by_what_it_hears_and_tells_apart(tmp_path: Path) -> None:
    """A small development split in clear voices: the words are heard, all of them, and the people, who say one thing each, told apart."""

    def of_the_split(corpus: str, count: int) -> list[str]:
        return [name for n in range(200) if Clip("s", 0, 1, corpus, name := f"{corpus}{n}", "").development][:count]

    takes = [Take(espeak(text, f"en-us+{voice}"), "pico", who, word)
             for who, voice in zip(of_the_split("pico", 3), ("m3", "f2", "m7"), strict=True) for word, text in synthesize.SPOKEN.items()]  # fmt: skip
    takes += [Take(espeak(text, "en-us+f4"), "synthetic", of_the_split("synthetic", 1)[0], word) for word, text in synthesize.SPOKEN.items()]
    for who, voice in zip(of_the_split("gsc", 3), ("m1", "f3", "croak"), strict=True):
        takes += [Take(espeak("nine of them", f"en+{voice}", 150 + 5 * n), "gsc", who, "nine") for n in range(7)]
    rng = np.random.default_rng(0)
    takes.append(Take(rng.normal(0, 300, 160000).astype(np.int16), "noise_fan", of_the_split("noise_fan", 1)[0], ""))
    write_store(tmp_path / "work" / "recorded", takes)
    np.savez(tmp_path / "rirs.npz", rirs=np.eye(10, 2000, dtype=np.float16))
    shutil.copytree(bundles.load().path, tmp_path / "models")
    arguments = ["evaluate", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--models", str(tmp_path / "models"), "--write"]
    assert stages.main(arguments) == 0
    report = json.loads((tmp_path / "work" / "evaluation.json").read_text())
    spoken = sum(len(t.samples) + 2400 for t in takes if t.corpus == "gsc") / 57.6e6
    assert report["sources"] == pytest.approx({"gsc clean": spoken, "gsc 10 dB": spoken, "noise": 160000 / 57.6e6}, abs=0.001)
    assert list(report["words"]) == list(synthesize.SPOKEN)
    assert all(body["clips"] == 3 for body in report["words"].values())
    assert report["sweep"]["clean"] <= report["sweep"]["10 dB"] + 0.1 <= 0.5
    assert report["synthetic_sweep"]["clean"] <= 0.5
    assert report["speakers_gsc"]["people"] == 3
    assert report["speakers_gsc"]["eer_five"] < 0.2
    written = bundles.load(tmp_path / "models").words
    for word, body in report["words"].items():
        assert written[word].threshold == pytest.approx(body["points"][1]["threshold"], abs=0.001)
