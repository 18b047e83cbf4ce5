"""What a bridge asks the daemon for: detectors of added words, and whose voice it has heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PHRASE, Start, hiss, say

from kwsd.audio.high_pass import HighPass
from kwsd.config import Config, SocketConfig
from kwsd.detect.detector import Detector
from kwsd.detect.embedder import Embedder
from kwsd.detect.setup import DetectorSetup, resolve
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.protocol.commands import SpeakersIdentify, WordsDetector, WordsGet
from kwsd.protocol.errors import DaemonError, RequestError
from kwsd.server.handlers import Handlers
from kwsd.server.state_handlers import StateHandlers
from kwsd.server.unix_socket import Peer, warn_of_groups
from kwsd.server.voices import identify
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint
from kwsd.state.words import AddedWord, WordStore, from_bytes, to_bytes

ANN = "en-us"
BOB = "en-us+f3"


def voice_of(bundle: Bundle, runtime: Runtime, text: str, voice: str) -> np.ndarray:
    """Return the embedding of somebody who says something."""
    heard = np.concatenate([hiss(0.5), say(text, voice), hiss(0.5)])
    embedding = Embedder(bundle, runtime).embed([HighPass().step(heard)])
    assert embedding is not None
    return embedding


@pytest.fixture(scope="module")
def setup(bundle: Bundle, runtime: Runtime) -> DetectorSetup:
    """A setup in which ann is enrolled."""
    texts = ("computer", "computer, turn on the light", "the weather is nice today")
    takes = np.stack([voice_of(bundle, runtime, text, ANN) for text in texts])
    ann = Voiceprint("ann", bundle.encoder_id, takes, 0.0)
    return resolve(Config(), bundle, Library(voiceprints={"ann": ann}))


def asked(bundle: Bundle, voice: np.ndarray, **fields: object) -> SpeakersIdentify:
    """Return the question whose voice it is."""
    given = {"encoder_id": bundle.encoder_id, "embedding": voice.astype("<f4").tobytes(), **fields}
    return SpeakersIdentify(**given)  # type: ignore[arg-type]


def test_a_voice_that_was_heard_elsewhere_is_named_only_if_it_is_verified(
    bundle: Bundle, runtime: Runtime, setup: DetectorSetup
) -> None:
    ann, bob = (voice_of(bundle, runtime, "computer", who) for who in (ANN, BOB))
    assert identify(asked(bundle, ann), bundle, setup.speakers).name == "ann"
    assert identify(asked(bundle, bob), bundle, setup.speakers).name is None
    assert identify(asked(bundle, ann, band="telephone"), bundle, setup.speakers).name is None
    nobody = resolve(Config(), bundle).speakers
    assert identify(asked(bundle, ann), bundle, nobody).name is None


def test_a_detector_gives_the_voice_that_it_would_identify(
    bundle: Bundle, runtime: Runtime, setup: DetectorSetup
) -> None:
    heard = HighPass().step(np.concatenate([hiss(1.0), say("computer", ANN), hiss(1.0)]))
    here = Detector(bundle, setup, runtime)
    (wake,) = here.feed(heard).wakes
    assert wake.speaker is not None
    elsewhere = Detector(bundle, resolve(Config(), bundle), runtime)
    (same,) = elsewhere.feed(heard).wakes
    assert same.speaker is None
    voice = elsewhere.voice(same.start, same.end)
    assert voice is not None
    given = asked(bundle, voice.embedding, band=voice.band, speech_s=voice.speech_s)
    assert 0.3 < voice.speech_s < 1
    reply = identify(given, bundle, setup.speakers)
    assert reply.name == wake.speaker.name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"encoder_id": "another"}, "a voice of the encoder another, .*; restart both"),
        ({"embedding": b"\0" * 64 * 4}, "not of unit length"),
        ({"embedding": np.full(64, np.nan, "<f4").tobytes()}, "not of unit length"),
        ({"embedding": b"abc"}, "3 bytes are not 64 float32 numbers or more"),
        ({"embedding": np.eye(1, 63, dtype="<f4").tobytes()}, "252 bytes are not 64 float32"),
    ],
)
def test_a_voice_that_cannot_be_compared_is_refused(
    bundle: Bundle, setup: DetectorSetup, change: dict[str, object], why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        identify(asked(bundle, np.eye(1, 64)[0], **change), bundle, setup.speakers)


def test_what_detects_a_word_holds_nothing_of_its_takes(
    bundle: Bundle, runtime: Runtime, banana: AddedWord, tmp_path: Path
) -> None:
    WordStore(tmp_path, bundle.encoder_id).save(banana)
    handlers = StateHandlers(tmp_path, bundle, Config)
    whole = handlers.request(WordsGet(name=PHRASE)).file
    reply = handlers.request(WordsDetector(name=PHRASE))
    assert len(reply.file) < len(whole) / 10
    word = from_bytes(reply.file, bundle.encoder_id, "the reply", bundle.frame_dim)
    assert (word.id, word.threshold, len(word.takes)) == (banana.id, banana.threshold, 0)
    heard = HighPass().step(np.concatenate([hiss(1.0), say(PHRASE), hiss(1.0)]))
    wakes = []
    for one in (banana, word):
        setup = resolve(Config(), bundle, Library(words={one.name: one}))
        wakes.append(Detector(bundle, setup, runtime).feed(heard).wakes)
    assert wakes[0] == wakes[1] != ()
    with pytest.raises(RequestError, match="hey_pear"):
        handlers.request(WordsDetector(name="hey pear"))


def test_the_second_stage_goes_along(banana: AddedWord, bundle: Bundle) -> None:
    from kwsd.model.manifest import Fusion
    from kwsd.state.second_stage import SecondStage

    second = SecondStage(
        word_id="w",
        weights=np.ones(8, np.float32),
        bias=0.5,
        candidate=0.1,
        fusion=Fusion(1.0, 1.0, 0.0),
        threshold=0.6,
        operating_points=(),
        takes=np.ones((len(banana.takes), 2, 3, 8), np.int8),
        wrong=np.zeros((0, 1, 8), np.int8),
        scores=np.full((len(banana.takes), 2), 0.5, np.float32),
    )
    word = replace(banana, second=second)
    found = from_bytes(to_bytes(word.without_takes()), bundle.encoder_id, "it")
    assert found.second is not None
    assert found.id == word.id
    assert len(found.second.takes) == 0


def test_who_may_ask(
    bundle: Bundle,
    start: Start,
    endless: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon = start("--source", str(endless), "--realtime")
    with daemon.connect() as client:
        assert client.request(asked(bundle, np.eye(1, 64)[0])).name is None
        with pytest.raises(DaemonError, match="not of unit length"):
            client.request(asked(bundle, np.ones(64)))
    monkeypatch.setattr(Peer, "is_own", lambda _: False)
    session = SimpleNamespace(peer=Peer(0, 1, 0))
    question = asked(bundle, np.eye(1, 64)[0])

    def check(groups: SocketConfig) -> None:
        config = Config(socket=groups)
        handlers = SimpleNamespace(_parts=SimpleNamespace(config=lambda: config))
        check = Handlers._check_privilege
        check(handlers, session, "it", question.group_key)  # type: ignore[arg-type]

    with pytest.raises(RequestError, match=r"set socket\.identify_group"):
        check(SocketConfig())
    with pytest.raises(RequestError, match="members of the group no-such-group, but there is no"):
        check(SocketConfig(identify_group="no-such-group"))
    check(SocketConfig(identify_group="root"))
    check(SocketConfig(admin_group="root"))
    warn_of_groups(SocketConfig(identify_group="no-such-group"))
    assert "socket.identify_group: 'no-such-group'" in caplog.text
