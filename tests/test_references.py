"""Several references of a speaker, and enrollment from clips."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, Start, hiss, say
from test_clips import clip
from test_enrollment import flite
from test_voiceprints import voiceprint

from kwsd.cli import main as cli
from kwsd.cli.output import event_sentence
from kwsd.client import enroll
from kwsd.config import ClipsConfig
from kwsd.detect.speaker_id import best_match
from kwsd.events import SpeakerMatch, Wake
from kwsd.learn.thresholds import speaker_trials
from kwsd.metrics import cosine
from kwsd.protocol.commands import EnrollBegin, EnrollCommit, EnrollNext
from kwsd.protocol.data import Clip
from kwsd.protocol.errors import DaemonError
from kwsd.state.clips import ClipError, ClipStore
from kwsd.state.voiceprints import MAX_REFERENCES, Voiceprint, VoiceprintError, VoiceprintStore


def part(reference: str, seed: int, checker_id: str = "") -> Voiceprint:
    """Return a reference of ann; a checker of this id has heard it too."""
    one = replace(voiceprint("ann", seed), reference=reference, created=float(seed))
    if checker_id:
        one = replace(one, checker_takes=voiceprint(seed=100 + seed).takes, checker_id=checker_id)
    return one


def same(one: Voiceprint, other: Voiceprint) -> bool:
    """Return whether two references are one."""
    checked = [None if x.checker_takes is None else x.checker_takes.tolist() for x in (one, other)]
    about = [(x.name, x.reference, x.created, x.checker_id) for x in (one, other)]
    equal = np.array_equal(one.takes, other.takes)
    return equal and about[0] == about[1] and checked[0] == checked[1]


@pytest.fixture
def store(tmp_path: Path) -> VoiceprintStore:
    return VoiceprintStore(tmp_path, "e1")


def test_references_are_kept_side_by_side(store: VoiceprintStore) -> None:
    assert store.replaced("ann", "") == (False, [])
    near, far, headset = part("", 1), part("far", 2, "c"), part("headset", 3)
    for one in (near, far, headset):
        store.add(one)
    assert store.replaced("Ann", "FAR") == (True, ["", "far", "headset"])
    assert store.replaced("ann", "desk") == (False, ["", "far", "headset"])
    loaded = store.load("ann")
    assert all(map(same, loaded.references, (near, far, headset)))
    better = part("Far", 4, "d")
    store.add(better)
    references = store.load("ann").references
    assert all(map(same, references, (near, headset, better)))
    assert len(list(store.folder.iterdir())) == 1
    left = store.load("ann").without_reference("far")
    assert left is not None
    assert [one.reference for one in left.references] == ["", "headset"]
    with pytest.raises(VoiceprintError, match=r"no reference 'desk'; there is one without a lab.*"):
        left.without_reference("desk")
    assert near.without_reference("") is None


def test_what_an_earlier_checker_gave_is_not_mixed_with_anothers(store: VoiceprintStore) -> None:
    for one in (part("near", 1, "c"), part("far", 2, "d"), part("headset", 3)):
        store.add(one)
    found = {one.reference: one.checker_id for one in store.load("ann").references}
    assert found == {"near": "", "far": "d", "headset": ""}
    joined = store.load("ann").joined("d", 0.5)
    assert [one.is_joined for one in joined.references] == [False, True, False]
    assert [one.takes.shape[1] for one in joined.references] == [192, 384, 192]


def test_references_have_a_bound(store: VoiceprintStore) -> None:
    for n in range(MAX_REFERENCES):
        store.add(part(f"r{n}", n))
    with pytest.raises(VoiceprintError, match="--delete ann --reference NAME` deletes one"):
        store.load("ann").with_reference(part("one more", 9))
    store.add(part("r3", 9))
    assert len(store.load("ann").references) == MAX_REFERENCES


@pytest.mark.parametrize(
    "change",
    [
        {"reference_takes": np.array([3, 4])},
        {"reference_takes": np.array([6, 0])},
        {"reference_takes": np.array([1 << 40, -((1 << 40) - 6)])},
        {"reference_checked": np.array([1, 2])},
        {"reference_checked": np.array([3, 0])},
        {"references": np.array(["a", "A"])},
        {"references": np.array(["a", "../b"])},
        {"references": np.array(["a"])},
        {"reference_created": np.array([1.0, -1.0])},
    ],
)
def test_references_that_do_not_fit_are_damaged(
    store: VoiceprintStore, change: dict[str, np.ndarray]
) -> None:
    store.add(part("near", 1))
    store.add(part("far", 2))
    path = store.path("ann")
    with np.load(path) as file:
        arrays = {**file, **change}
    np.savez(path.with_suffix(".npz"), **arrays)
    path.with_suffix(".npz").rename(path)
    with pytest.raises(VoiceprintError, match=r"damaged \(.*run `kwsd enroll ann` again"):
        store.load("ann")


def test_the_reference_that_resembles_a_voice_most_counts() -> None:
    near, far = part("", 1), part("far", 2)
    ann = near.with_reference(far)
    people = {"ann": ann, "bob": voiceprint("bob", 3)}
    match = best_match(far.mean, people, 0.9, cosine)
    assert (match.name, match.score) == ("ann", 1.0)
    assert match.runner_up is not None
    assert match.margin == pytest.approx(1.0 - match.runner_up.score, abs=1e-4)
    assert match.without_details().margin is None
    assert best_match(far.mean, {"ann": ann}, 0.9, cosine).margin is None
    target, impostor = speaker_trials(people, voiceprint(seed=5).takes, cosine)
    assert len(target) == 9
    assert len(impostor) == 2 * 3 + 3 + 6
    rest = [far.takes[1] + far.takes[2], near.takes.sum(axis=0)]
    expected = max(far.takes[0] @ one / np.linalg.norm(one) for one in rest)
    assert target[3] == pytest.approx(expected, abs=1e-5)


def test_a_sentence_has_the_margin_where_details_are_asked_for() -> None:
    match = best_match(part("", 1).mean, {"ann": part("", 1), "b": voiceprint("b")}, 0.9, cosine)
    event = Wake(word="computer", score=0.9, threshold=0.5, start=0, end=9, speaker=match)
    assert ", margin " in event_sentence(event, details=True)
    assert "margin" not in event_sentence(event)


def kept_clip(store: ClipStore, n: int, said: np.ndarray) -> str:
    """Keep a clip of a word, with somebody else's words before it; return its id."""
    before = say("so what", "en-us+m3")
    samples = np.concatenate([before, hiss(0.5), said, hiss(0.5)])
    start = len(before) + RATE // 2
    odd = {"start": start, "end": start + len(said), "scores": []}
    kept = clip(time.time() - n)
    fields = {**{f: getattr(kept, f) for f in Clip.__struct_fields__}, **odd}
    return store.add(Clip(**fields), samples).id


@pytest.fixture
def clips(tmp_path: Path) -> tuple[ClipStore, list[str]]:
    """Five clips of one voice, of which three are labeled right, and one of another voice."""
    store = ClipStore(tmp_path / "state", lambda: ClipsConfig(enabled=True))
    said = ("hello computer", "good evening alexa", "view glass on the wall", "dear smart mirror")
    ids = [kept_clip(store, n, flite(text, "awb")) for n, text in enumerate(said)]
    ids.append(kept_clip(store, 5, flite(said[0], "slt")))
    store.label([*ids[:3], ids[4]], "right")
    return store, ids


def test_enrolled_from_clips(
    tmp_path: Path, clips: tuple[ClipStore, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, ids = clips
    config = tmp_path / "kwsd.yaml"
    config.write_text("checker: off\n")
    at = ["--state", str(store.folder.parent), "--config", str(config)]
    assert cli.main(["enroll", "ann", "--from-clips", *at]) == 0
    printed = capsys.readouterr()
    assert printed.out == "ann is enrolled, from 3 takes.\n"
    assert f"the clip {ids[4]}: {enroll.SOMEBODY_ELSE}" in printed.err
    again = ["enroll", "Ann", "--from-clips", *ids[:2]]
    assert cli.main([*again, *at]) == cli.DATA
    assert "`--reference LABEL` keeps another one beside it" in capsys.readouterr().err
    assert cli.main([*again, "--reference", "far", *at, "--json"]) == 0
    enrolled = json.loads(capsys.readouterr().out)
    assert (enrolled["takes"], enrolled["unlike"], enrolled["reference"]) == (2, False, "far")
    assert cli.main([*again, "--reference", "Far", *at]) == cli.DATA
    assert "has a reference 'Far' already" in capsys.readouterr().err
    assert cli.main([*again, *at]) == cli.DATA
    assert "(far would stay)" in capsys.readouterr().err
    assert cli.main(["speakers", *at]) == 0
    assert capsys.readouterr().out == "ann: 3 takes, 2 takes (far)\n"
    assert cli.main(["enroll", "bob", "--from-clips", "nope", ids[0], *at]) == cli.DATA
    assert "there is no clip 'nope'" in capsys.readouterr().err
    assert cli.main(["speakers", "--delete", "ann", "--reference", "", *at]) == 0
    assert capsys.readouterr().out == "ann: 2 takes (far)\n"
    assert cli.main(["speakers", "--delete", "ann", "--reference", "far", *at]) == 0
    assert capsys.readouterr().out.startswith("nobody is enrolled")
    assert cli.main(["speakers", "--reference", "far", *at]) == cli.USAGE


def test_whose_clips_they_are() -> None:
    ann = SpeakerMatch("ann", 0.99, 0.9, verified=True)
    clips = [clip(1.0), clip(2.0), clip(3.0), clip(4.0)]
    marks = [("right", None), ("right", ann), ("wrong", ann), (None, ann)]
    listed = [
        Clip(**{**{f: getattr(c, f) for f in Clip.__struct_fields__}, "id": str(n), "label": label,
                "speaker": who})
        for n, (c, (label, who)) in enumerate(zip(clips, marks, strict=True))
    ]  # fmt: skip
    assert enroll.clips_of("ANN", listed, []) == ["0", "1"]
    assert enroll.clips_of("bob", listed, []) == ["0"]
    assert enroll.clips_of("bob", listed, ["7"]) == ["7"]
    with pytest.raises(ClipError, match=r"no clips are labeled right, of which 'bob' could be"):
        enroll.clips_of("bob", listed[1:], [])


def test_the_daemon_keeps_references_and_reads_clips(
    start: Start, tmp_path: Path, endless: Path, clips: tuple[ClipStore, list[str]]
) -> None:
    _, ids = clips
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        given = enroll.clips_of("ann", [], ids[:3])
        done = enroll.from_given(client, "ann", given, lambda _: False)
        assert (done.takes, done.refused, done.unlike) == (3, [], False)
        wav = tmp_path / "other.wav"
        takes = []
        for n, text in enumerate(("seven of them went down to the river", "it is raining today")):
            takes.append(wav.with_name(f"{n}.wav"))
            soundfile.write(takes[-1], flite(text, "slt"), RATE)
        done = enroll.from_given(client, "ann", takes, lambda _: False, reference="desk")
        assert (done.takes, done.unlike) == (2, True), "it is somebody else"
        begun = client.request(EnrollBegin(name="ann", reference="desk"))
        assert (begun.replaces, begun.references) == (True, ["", "desk"])
        with pytest.raises(DaemonError, match=r"there is no clip '../x'"):
            client.request(EnrollNext(clip="../x"))
        with pytest.raises(DaemonError, match="at least 2 are needed"):
            client.request(EnrollCommit())
        kept = enroll.from_given(client, "ann", given, lambda names: names != ["", "desk"])
        assert not kept.kept
        with pytest.raises(DaemonError, match=r"cannot be a reference's name"):
            client.request(EnrollBegin(name="ann", reference="../x"))
