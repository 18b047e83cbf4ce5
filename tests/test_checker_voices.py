"""Voices that a checker hears too: joined to those of the speaker head, and compared by the parts
that both sides have."""

from __future__ import annotations

import json
from dataclasses import replace as with_
from pathlib import Path

import checkers
import numpy as np
import pytest
import soundfile
from checkers import SAMPLES, VOICES, WORDS
from conftest import RATE, Start, hiss, say
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_cli import own_folders, run

from kwsd.client import enroll
from kwsd.config import Config, SpeakerConfig, VadConfig
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.offline import Recordings
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.detect.speaker_id import SpeakerScorer, best_match, read_cohort
from kwsd.events import Wake
from kwsd.learn.enrollment import Enrollment
from kwsd.learn.thresholds import speaker_trials
from kwsd.metrics import as_norm, joined
from kwsd.model import bundle as bundles
from kwsd.model.bundle import MANIFEST, Bundle, BundleError
from kwsd.model.runtime import CheckerGraph, Runtime
from kwsd.protocol.commands import GetCalibration, Reload, SpeakersTrials, Status
from kwsd.protocol.data import SpeakerThreshold
from kwsd.state.calibration import Calibration
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint, VoiceprintError, VoiceprintStore

__all__ = ["own_folders"]  # a fixture that every test here uses
HEAD = 64
UNGATED = Config(vad=VadConfig(enabled=False))
SAID = ("good evening to all of you", "it is raining again today", "thank you very much indeed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose checkers know voices."""
    return checkers.write(tmp_path_factory.mktemp("models"), "small", "large", voices=True)


@pytest.fixture(scope="module")
def checked(models: Path) -> Bundle:
    return bundles.load(models)


@pytest.fixture(scope="module")
def sessions(checked: Bundle) -> Runtime:
    return Runtime(checked)


@pytest.fixture(scope="module")
def graph(checked: Bundle, sessions: Runtime) -> CheckerGraph:
    found = sessions.checker(checked.checkers["small"])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def ann(checked: Bundle, sessions: Runtime, graph: CheckerGraph) -> Voiceprint:
    """A voiceprint with both parts."""
    enrollment = Enrollment("ann", Embedder(checked, sessions, graph))
    for text in SAID:
        enrollment.add(say(text))
    return enrollment.finish()[0]


def setup(bundle: Bundle, *people: Voiceprint, config: Config | None = None) -> DetectorSetup:
    """Return the setup with these people enrolled."""
    library = Library(voiceprints={one.name: one for one in people})
    return resolve(config or UNGATED, bundle, library)


def head_only(voiceprint: Voiceprint) -> Voiceprint:
    """Return a voiceprint as it was made without a checker."""
    return with_(voiceprint, name="bob", checker_takes=None, checker_id="")


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_the_cosine_of_joined_vectors_is_the_weighted_mean(weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 2, 7)))
    one, two = joined(a, b, weight)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    expected = (1 - weight) * (a[0] @ a[1]) + weight * (b[0] @ b[1])
    assert one @ two == pytest.approx(expected, abs=1e-5)


def test_an_embedding_joins_both_parts(
    bundle: Bundle, checked: Bundle, sessions: Runtime, graph: CheckerGraph
) -> None:
    speech = say("good evening to all of you, it is raining again today")
    alone = Embedder(bundle).embed([speech])
    assert (graph.voice_dim, graph.word_dim) == (WORDS, checkers.WORD_DIM)
    both = Embedder(checked, sessions, graph)
    whole = both.embed([speech])
    assert alone is not None
    assert whole is not None
    assert both.dim == len(whole) == HEAD + WORDS
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-4)
    assert whole[:HEAD] * np.sqrt(2) == pytest.approx(alone, abs=1e-4)
    pieces = both.embed(np.array_split(speech, 37))
    assert pieces is not None
    assert pieces == pytest.approx(whole, abs=1e-3)
    assert both.embed([np.zeros(RATE, np.int16)]) is None


def test_a_short_recording_is_one_window_after_silence(
    checked: Bundle, sessions: Runtime, graph: CheckerGraph
) -> None:
    spoken = hiss(0.8, 2000)[:12800]  # ten whole chunks, all of them voiced
    voice = Embedder(checked, sessions, graph).voice([spoken])
    assert voice is not None
    assert voice.checker == pytest.approx(graph.voice(spoken), abs=1e-4)
    silenced = np.pad(spoken, (SAMPLES - len(spoken), 0)).astype(np.float32)
    assert voice.checker == pytest.approx(graph.voice(silenced), abs=1e-4)


def test_a_long_recording_is_the_mean_of_its_windows(
    checked: Bundle, sessions: Runtime, graph: CheckerGraph
) -> None:
    spoken = hiss(8.0, 2000)[: 60 * 1280]
    voice = Embedder(checked, sessions, graph).voice([spoken])
    assert voice is not None
    windows = [spoken[at : at + 25 * 1280] for at in (0, 25 * 1280, 50 * 1280)]
    total = sum(len(window) * graph.voice(window) for window in windows)
    assert voice.checker == pytest.approx(total / np.linalg.norm(total), abs=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_a_voice_in_a_stream_is_that_of_its_span_alone(
    checked: Bundle, sessions: Runtime, graph: CheckerGraph, scene: np.ndarray, gated: bool
) -> None:
    config = replace(UNGATED, vad=VadConfig(enabled=gated))
    detector = Detector(checked, setup(checked, config=config), sessions)
    wakes = detector.feed(scene[: 5 * RATE]).wakes
    end = 60 * 1280
    begin = end - 12 * 1280
    found = detector.embedding(begin, end)
    assert found is not None
    assert len(found) == HEAD + WORDS
    span = scene[begin:end]
    assert found[HEAD:] * np.sqrt(2) == pytest.approx(graph.voice(span), abs=1e-3)
    off = Detector(checked, setup(checked, config=replace(config, checker="off")), sessions)
    off.feed(scene[: 5 * RATE])
    head = off.embedding(begin, end)
    assert head is not None
    assert found[:HEAD] * np.sqrt(2) == pytest.approx(head, abs=1e-3)
    assert all(wake.speaker is None for wake in wakes)


def test_a_voiceprint_keeps_both_parts_apart(
    tmp_path: Path, ann: Voiceprint, checked: Bundle, graph: CheckerGraph
) -> None:
    store = VoiceprintStore(tmp_path, checked.encoder_id, checked.voice_dim)
    store.save(ann)
    loaded = store.load("ann")
    assert loaded.checker_takes is not None
    assert loaded.takes.shape == (3, HEAD)
    assert loaded.checker_takes.shape == (3, WORDS)
    assert np.array_equal(loaded.takes, ann.takes)
    assert loaded.checker_id == checked.checkers["small"].voice_id
    store.save(head_only(ann))
    assert store.load("bob").checker_takes is None
    assert b"checker" not in store.path("bob").read_bytes()


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        (np.eye(2, WORDS, dtype=np.float32), "a checker heard 2 of its 3 takes"),
        (2 * np.eye(3, WORDS, dtype=np.float32), "its takes are not of unit length"),
    ],
)
def test_a_damaged_part_is_named(
    tmp_path: Path, ann: Voiceprint, takes: np.ndarray, message: str
) -> None:
    store = VoiceprintStore(tmp_path, ann.encoder_id)
    store.path("ann").write_bytes(store.to_bytes(with_(ann, checker_takes=takes)))
    with pytest.raises(VoiceprintError, match=message):
        store.load("ann")


def test_voices_are_compared_by_the_parts_that_both_have(
    bundle: Bundle, checked: Bundle, ann: Voiceprint, sessions: Runtime, graph: CheckerGraph
) -> None:
    embedder = Embedder(checked, sessions, graph)
    tried = embedder.embed([say("good morning everybody", "en-gb+m3")])
    head = Embedder(bundle).embed([say("good morning everybody", "en-gb+m3")])
    assert tried is not None
    assert head is not None
    today = SpeakerScorer(bundle)(head[None], ann.mean[None])[0, 0]
    speakers = setup(checked, ann, head_only(ann)).speakers
    assert speakers.scorer is not None
    assert [one.takes.shape[1] for one in speakers.voiceprints.values()] == [HEAD + WORDS, HEAD]
    match = best_match(tried, speakers.voiceprints, 0.5, speakers.scorer)
    scores = {one.name: one.score for one in (match.nearest, match.runner_up) if one}
    assert scores["bob"] == pytest.approx(today, abs=1e-3)
    assert abs(scores["ann"] - scores["bob"]) > 2e-3
    # With another checker, or none, the head's part is what both have.
    for size in ("large", "off"):
        config = replace(UNGATED, checker=size)
        others = setup(checked, ann, config=config).speakers
        assert others.scorer is not None
        assert others.model == ""
        again = best_match(tried, others.voiceprints, 0.5, others.scorer)
        assert again.score == pytest.approx(today, abs=1e-3)


def test_joined_scores_are_those_of_their_own_cohort(checked: Bundle, ann: Voiceprint) -> None:
    joins = checked.checkers["small"]
    assert joins.voices is not None
    person = ann.joined(joins.voice_id, 0.5)
    strangers = read_cohort(checked, "strangers", joins.voices.cohort)
    cohort = read_cohort(checked, "cohort", joins.voices.cohort)
    logits = VOICES["slope"] * as_norm(strangers, person.mean[None], cohort) + VOICES["offset"]
    expected = 1 / (1 + np.exp(-logits))
    found = SpeakerScorer(checked, joins)(strangers, person.mean[None])
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_long_take_has_to_resemble_more(checked: Bundle, ann: Voiceprint) -> None:
    """What a score gains by length alone, in the joined space alone, is taken from its logit."""
    joins = checked.checkers["small"]
    assert joins.voices is not None
    known = replace(joins.voices.calibration, length=1.5, nearest=100)
    longer = with_(joins, voices=with_(joins.voices, calibration=known))
    scorer = SpeakerScorer(checked, longer)
    person = ann.joined(joins.voice_id, 0.5)
    strangers = read_cohort(checked, "strangers", joins.voices.cohort)
    cohort = read_cohort(checked, "cohort", joins.voices.cohort)

    def logits(speech_s: float) -> np.ndarray:
        scores = scorer.of(speech_s)(strangers, person.mean[None])
        return np.asarray(np.log(scores / (1 - scores)))

    normalized = as_norm(strangers, person.mean[None], cohort, 100)
    near = np.abs(normalized[:, 0]) < 5  # a score of 1 - 1e-9 is not told from 1
    assert near.any()
    strangers, normalized = strangers[near], normalized[near]
    word = known.slope * normalized + known.offset
    assert logits(0.6) == pytest.approx(word, abs=1e-3)
    assert logits(1.2) == pytest.approx(word - known.slope * 1.5 * np.log(2), abs=1e-3)
    match = best_match(strangers[0], {"ann": person}, 0.5, scorer.of(1.2))
    assert match.score == pytest.approx(1 / (1 + np.exp(-logits(1.2)[0, 0])), abs=1e-4)


def test_the_threshold_is_that_of_what_is_compared(
    bundle: Bundle, checked: Bundle, ann: Voiceprint
) -> None:
    head = bundle.speaker_threshold
    assert setup(bundle, head_only(ann)).speakers.threshold == head
    assert setup(checked).speakers.threshold == VOICES["threshold"]
    assert setup(checked, ann).speakers.threshold == VOICES["threshold"]
    assert setup(checked, head_only(ann)).speakers.threshold == head
    both = setup(checked, ann, head_only(ann)).speakers
    assert both.threshold == max(head, VOICES["threshold"])
    assert both.model == checked.checkers["small"].voice_id


def test_a_calibrated_threshold_belongs_to_what_gave_the_scores(
    checked: Bundle, ann: Voiceprint
) -> None:
    id = checked.checkers["small"].voice_id
    for model in ("", id):
        calibration = Calibration(checked.encoder_id, {}, SpeakerThreshold(0.33, 0.01, 1, model))
        for person in (ann, head_only(ann)):
            library = Library(voiceprints={person.name: person}, calibration=calibration)
            found = resolve(UNGATED, checked, library)
            fits = (model == id) is (person is ann)
            assert (found.speakers.origin == "calibrated") is fits
            warned = ["run `kwsd calibrate --speakers` again" in one for one in found.warnings]
            assert warned == ([] if fits else [True])
            own = replace(UNGATED, speaker=SpeakerConfig(threshold=0.4))
            assert resolve(own, checked, library).warnings == []


def test_trials_of_people_with_and_without_the_part(checked: Bundle, ann: Voiceprint) -> None:
    speakers = setup(checked, ann, head_only(ann)).speakers
    joins = checked.checkers["small"].voices
    assert joins is not None
    assert speakers.scorer is not None
    strangers = read_cohort(checked, "strangers", joins.cohort)
    target, impostor = speaker_trials(speakers.voiceprints, strangers, speakers.scorer)
    assert len(target) == 6
    assert len(impostor) == 2 * (len(strangers) + 3)
    assert np.isfinite(impostor).all()


def test_voices_without_a_cohort_are_compared_by_the_head(
    tmp_path: Path, bundle: Bundle, scene: np.ndarray
) -> None:
    plain = bundles.load(checkers.write(tmp_path, "small"))
    sessions = Runtime(plain)
    embedder = Recordings(plain, setup(plain), runtime=sessions).embedder()
    enrollment = Enrollment("ann", embedder)
    for text in SAID:
        enrollment.add(say(text))
    person, _ = enrollment.finish()
    assert person.checker_takes is not None, "it is there as soon as there is a cohort"
    found = setup(plain, person).speakers
    assert (found.threshold, found.model) == (bundle.speaker_threshold, "")
    low = {"computer": replace(UNGATED.words["computer"], threshold=0.011)}
    config = replace(UNGATED, words=low)
    detector = Detector(plain, setup(plain, person, config=config), sessions)
    wakes = [one for one in detector.feed(scene).wakes if isinstance(one, Wake)]
    assert wakes
    assert all(wake.speaker is not None for wake in wakes)


def test_a_manifest_that_promises_voices_it_has_not(tmp_path: Path) -> None:
    folder = checkers.write(tmp_path, "small", voices=True)
    data = json.loads((folder / MANIFEST).read_text())
    entry = data["checkers"]["small"]
    speaker = entry.pop("speaker")
    checkers.save(folder, data)
    with pytest.raises(BundleError, match="has one of cohort and speaker without the other"):
        bundles.load(folder)
    entry |= {"speaker": speaker, "cohort": "nobody.npz"}
    checkers.save(folder, data)
    with pytest.raises(BundleError, match=r"names nobody.npz, which `files` does not"):
        bundles.load(folder)
    entry["cohort"] = "cohort_small.npz"
    (folder / "checker.onnx").write_bytes(checkers.graph(outputs=("logits",)))
    checkers.save(folder, data)
    bundle = bundles.load(folder)
    with pytest.raises(BundleError, match=r"gives no voice, and manifest.json has a cohort"):
        Runtime(bundle).checker(bundle.checkers["small"])


def test_enrolled_in_a_daemon_and_without_one(
    capsys: pytest.CaptureFixture[str],
    start: Start,
    tmp_path: Path,
    models: Path,
    checked: Bundle,
    endless: Path,
) -> None:
    takes = [tmp_path / f"{n}.wav" for n in range(3)]
    for take, text in zip(takes, SAID, strict=True):
        soundfile.write(take, say(text), RATE)
    config = tmp_path / "c.yaml"
    config.write_text(f"models: {models}\n")
    source = ["--source", str(endless), "--realtime"]
    daemon = start("--config", str(config), *source)
    joins = checked.checkers["small"]
    store = VoiceprintStore(daemon.state, checked.encoder_id, checked.voice_dim)
    with daemon.connect() as client:
        run(capsys, "enroll", "ann", "--socket", daemon.socket, "--wav", *takes)
        first = store.load("ann")
        assert first.checker_id == joins.voice_id
        assert client.request(GetCalibration()).speaker.model == joins.voice_id
        assert len(client.request(SpeakersTrials()).target) == 3
        run(capsys, "calibrate", "--speakers", "--yes", "--socket", daemon.socket)
        found = client.request(GetCalibration()).speaker
        assert (found.origin, found.model) == ("calibrated", joins.voice_id)
        config.write_text(f"models: {models}\nchecker: off\n")
        client.request(Reload())
        (warning,) = client.request(Status()).warnings
        assert warning.startswith("speaker.threshold: the calibrated one was found for voices")
        run(capsys, "enroll", "bob", "--socket", daemon.socket, "--wav", *takes)
        assert store.load("bob").checker_takes is None
        assert store.load("bob").takes == pytest.approx(first.takes, abs=1e-3)
    config.write_text(f"models: {models}\nstate: {daemon.state}\n")
    loaded = enroll.without_daemon(
        Config(models=str(models), state=str(daemon.state)), "eve", takes, lambda _: True
    )
    assert loaded.takes == 3
    assert loaded.known_as == ["ann", "bob"]
    eve = store.load("eve")
    assert eve.checker_takes is not None
    assert eve.checker_takes == pytest.approx(first.checker_takes, abs=1e-3)
    out = tmp_path / "v.npz"
    assert run(capsys, "embed", "--config", config, "--out", out, *takes)[0] == 0
    with np.load(out) as kept:
        assert kept["embeddings"].shape == (3, HEAD + WORDS)
        assert np.linalg.norm(kept["embeddings"], axis=1) == pytest.approx(1, abs=1e-4)


def test_a_network_of_voices_is_joined_to_the_checkers_own(checked: Bundle, tmp_path: Path) -> None:
    """It runs for voices alone, and decides what identifies them, but nothing about words."""
    with_network = bundles.load(checkers.write(tmp_path, "small", voices=True, network=True))
    model, plain = with_network.checkers["small"], checked.checkers["small"]
    graph, before = Runtime(with_network).checker(model), Runtime(checked).checker(plain)
    assert graph is not None
    assert before is not None
    span = hiss(0.8, 2000)
    assert "_network" not in vars(graph), "it is not loaded yet"
    voice = graph.voice(span)
    assert voice[:WORDS] == pytest.approx(np.sqrt(0.75) * before.voice(span), abs=1e-5)
    assert np.linalg.norm(voice[WORDS:]) == pytest.approx(0.5, abs=1e-5)
    assert (graph.voice_dim, before.voice_dim) == (2 * WORDS, WORDS)
    assert model.voice_id != plain.voice_id
    assert model.words == plain.words
    data = json.loads((tmp_path / MANIFEST).read_text())
    data["checkers"]["small"]["voices"]["share"] = 0.3
    checkers.save(tmp_path, data)
    assert bundles.load(tmp_path).checkers["small"].voice_id != model.voice_id


def test_a_network_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkers.write(tmp_path, "small", network=True)
    path = tmp_path / "voices_small.onnx"
    data = json.loads((tmp_path / MANIFEST).read_text())

    def opened() -> None:
        checkers.save(tmp_path, data)
        bundle = bundles.load(tmp_path)
        Runtime(bundle).checker(bundle.checkers["small"], voices=True)

    fits = path.read_bytes()
    for outputs, input, text in (
        (("logits",), "mel", "voices_small.onnx: takes mel, gives logits; it should .* give voice"),
        (("voice",), "waveform", "voices_small.onnx: takes waveform, .* should take mel"),
    ):
        path.write_bytes(checkers.graph(input, outputs=outputs))
        with pytest.raises(BundleError, match=text):
            opened()
    path.write_bytes(fits)
    opened()
    (tmp_path / "checker.onnx").write_bytes(checkers.graph(outputs=("logits",)))
    with pytest.raises(BundleError, match=r"gives no voice, beside which voices_small\.onnx would"):
        opened()
    data["checkers"]["small"]["voices"]["file"] = "nobody.onnx"
    with pytest.raises(BundleError, match=r"names nobody\.onnx, which `files` does not"):
        opened()
