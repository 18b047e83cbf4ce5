"""A stream of somebody's audio: any format, in the sender's own time."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from conftest import PHRASE, RATE, ROOT, hiss, say
from hypothesis import given, settings
from hypothesis import strategies as st

from kwsd.audio.high_pass import HighPass
from kwsd.bridges.wyoming import hearing as module
from kwsd.bridges.wyoming import served
from kwsd.bridges.wyoming.frames import AudioFormat
from kwsd.bridges.wyoming.hearing import Heard, Hearing
from kwsd.bridges.wyoming.served import LINKS, SOURCES
from kwsd.bridges.wyoming.words import MAX_SETUPS, Words
from kwsd.config import Config, ConfigError, SpeakerConfig, WordConfig
from kwsd.detect.detector import Detector
from kwsd.detect.setup import resolve
from kwsd.model import bundle as bundles
from kwsd.model.bundle import Bundle
from kwsd.model.runtime import Runtime
from kwsd.state.words import AddedWord

PLAIN = AudioFormat(16000, 2, 1)


@pytest.fixture(scope="module")
def words(bundle: Bundle) -> Words:
    return Words(Config(), bundle)


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    return np.concatenate([hiss(1.0), say("computer"), hiss(1.5), say("alexa"), hiss(1.0)])


def heard(
    hearing: Hearing, data: bytes, format: AudioFormat, size: int, start_ms: float | None = None
) -> list[Heard]:
    """Return what is heard of bytes that come `size` samples at a time, timestamps with them."""
    step = size * format.frame_bytes
    found: list[Heard] = []
    for n, at in enumerate(range(0, len(data), step)):
        time_ms = None if start_ms is None else start_ms + 1000 * n * size / format.rate
        for piece in hearing.add(data[at : at + step], format, time_ms):
            found += hearing.hear(piece)
        found += all_due(hearing)
    for piece in hearing.rest(last=True):
        found += hearing.hear(piece)
    return found


def all_due(hearing: Hearing, *, voices: bool = False) -> list[Heard]:
    """Return what is heard of all that is due."""
    found: list[Heard] = []
    while piece := hearing.due():
        found += hearing.hear(piece, voices=voices)
    return found


def as_format(samples: np.ndarray, format: AudioFormat) -> bytes:
    """Return int16 samples at 16 kHz in another format."""
    import soxr

    x = samples.astype(np.float64) / 32768
    if format.rate != RATE:
        x = soxr.resample(x, RATE, format.rate)
    x = np.repeat(x[:, None], format.channels, axis=1).reshape(-1)
    whole = np.clip(np.round(x * 2**31), -(2**31), 2**31 - 1).astype("<i4")
    return whole.view(np.uint8).reshape(-1, 4)[:, 4 - format.width :].tobytes()


@pytest.mark.parametrize(
    "format",
    [
        PLAIN,
        AudioFormat(48000, 4, 2),
        AudioFormat(44100, 3, 1),
        AudioFormat(22050, 2, 6),
        AudioFormat(16000, 1, 1),
        AudioFormat(96000, 3, 2),
    ],
)
def test_any_format_gives_the_same_wakes(
    bundle: Bundle, runtime: Runtime, words: Words, spoken: np.ndarray, format: AudioFormat
) -> None:
    loud = (spoken.astype(np.int32) * 4).clip(-32768, 32767).astype(np.int16)
    hearing = Hearing(bundle, runtime, words.setup(None))
    found = heard(hearing, as_format(loud, format), format, format.rate // 25, 0.0)
    assert [one.wake.word for one in found] == ["computer", "alexa"]
    for one in found:
        assert abs(one.timestamp - one.wake.end / 16) <= 2


def test_it_hears_what_the_daemon_would(
    bundle: Bundle, runtime: Runtime, words: Words, spoken: np.ndarray
) -> None:
    setup = words.setup(None)
    assert setup is not None
    expected = Detector(bundle, setup, runtime).feed(HighPass().step(spoken)).wakes
    data = spoken.astype("<i2").tobytes()
    for size in (160, 1024, len(spoken)):
        found = heard(Hearing(bundle, runtime, setup), data, PLAIN, size)
        assert [one.wake for one in found] == [e for e in expected if e in [f.wake for f in found]]
        assert len(found) == 2


def test_a_word_at_the_very_end_is_heard(bundle: Bundle, runtime: Runtime, words: Words) -> None:
    word = np.concatenate([hiss(1.0), say("computer")])
    data = word[: np.flatnonzero(np.abs(word) > 300)[-1]].astype("<i2").tobytes()
    assert len(heard(Hearing(bundle, runtime, words.setup(None)), data, PLAIN, 1024)) == 1


def test_time_is_the_senders_also_over_a_gap(
    bundle: Bundle, runtime: Runtime, words: Words, spoken: np.ndarray
) -> None:
    data = spoken.astype("<i2").tobytes()
    hearing = Hearing(bundle, runtime, words.setup(None), start_ms=70_000)
    (first, _) = heard(hearing, data, PLAIN, 1024)
    assert first.timestamp == round(70_000 + first.wake.end / 16)
    hearing = Hearing(bundle, runtime, words.setup(None), start_ms=5)
    (again, later) = heard(hearing, data, PLAIN, 1024, start_ms=1e9)
    assert again.timestamp == round(1e9 + again.wake.end / 16)
    assert later.timestamp > again.timestamp


def test_the_marks_of_a_stream_of_days_are_bounded(bundle: Bundle, runtime: Runtime) -> None:
    hearing = Hearing(bundle, runtime, None)
    for n in range(3000):
        hearing.add(bytes(320), PLAIN, 10.0 * n)
        while piece := hearing.due():
            assert hearing.hear(piece) == []
    assert len(hearing._marks) == module.MAX_MARKS
    assert len(hearing._pending) < 4 * 2560


def test_the_format_may_change_within_a_stream(
    bundle: Bundle, runtime: Runtime, words: Words
) -> None:
    hearing = Hearing(bundle, runtime, words.setup(None))
    found: list[Heard] = []
    for text, format in (("computer", AudioFormat(48000, 2, 2)), ("alexa", PLAIN)):
        part = np.concatenate([hiss(1.0), say(text), hiss(0.8)])
        for piece in hearing.add(as_format(part, format), format):
            found += hearing.hear(piece)
        found += all_due(hearing)
    assert [one.wake.word for one in found] == ["computer", "alexa"]


def test_half_a_sample_is_refused(bundle: Bundle, runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="7 bytes are not whole samples of 2 bytes"):
        Hearing(bundle, runtime, None).add(bytes(7), PLAIN)


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1000, 8000, 16000, 768_000]),
            st.sampled_from([1, 2, 3, 4]),
            st.sampled_from([1, 2, 64]),
            st.integers(0, 5000),
        ),
        max_size=6,
    )
)
def test_every_byte_is_heard_once(
    bundle: Bundle, runtime: Runtime, chunks: list[tuple[int, int, int, int]]
) -> None:
    hearing = Hearing(bundle, runtime, None)
    sent = 0
    got = 0
    for rate, width, channels, frames in chunks:
        format = AudioFormat(rate, width, channels)  # type: ignore[arg-type] # one of them
        data = bytes(frames * width * channels)
        sent += len(data)
        pieces = hearing.add(data, format)
        while piece := hearing.due():
            pieces.append(piece)
        got += sum(len(piece.data) for piece in pieces)
    got += sum(len(piece.data) for piece in hearing.rest(last=True))
    assert got == sent


def test_voices_are_given_only_where_somebody_asks(
    bundle: Bundle, runtime: Runtime, words: Words, spoken: np.ndarray
) -> None:
    for voices in (False, True):
        hearing = Hearing(bundle, runtime, words.setup(["computer"]))
        hearing.add(spoken.astype("<i2").tobytes(), PLAIN)
        (one,) = all_due(hearing, voices=voices)
        assert (one.voice is not None) == voices


def test_words_that_come_are_heard_in_a_stream_that_goes_on(
    bundle: Bundle, runtime: Runtime, banana: AddedWord
) -> None:
    words = Words(Config(), bundle)
    assert words.unknown([PHRASE, "Computer"]) == [PHRASE]
    assert words.setup([PHRASE]) is None
    hearing = Hearing(bundle, runtime, words.setup([PHRASE]))
    part = np.concatenate([hiss(1.0), say(PHRASE), hiss(1.0)]).astype("<i2").tobytes()
    assert heard(hearing, part, PLAIN, 1024) == []
    before = words.generation
    words.add({banana.name: banana})
    assert words.generation == before + 1
    words.add({banana.name: banana})
    assert words.generation == before + 1, "nothing has changed"
    hearing.configure(words.setup([PHRASE]))
    (one,) = heard(hearing, part, PLAIN, 1024)
    assert one.wake.word == banana.name
    described = {word.name: word for word in words.described()}
    assert described[banana.name].phrase == PHRASE
    assert described[banana.name].source == "added on this machine, from 6 takes"
    assert described[banana.name].languages == (), "nobody has said"
    spanish = msgspec.structs.replace(banana.made, language="es")
    assert served.added(banana.name, banana.id, spanish).languages == ("es",)
    words.add({})
    assert words.setup([PHRASE]) is None


def test_a_word_has_the_threshold_of_the_configuration(
    bundle: Bundle, banana: AddedWord, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        words={
            "computer": WordConfig(threshold=0.9, enabled=False),
            "Hey_Banana": WordConfig(threshold=0.8),
        },
        speaker=SpeakerConfig(require="enrolled"),
    )
    words = Words(config, bundle)
    words.add({banana.name: banana})
    setup = words.setup(None)
    assert setup is not None
    assert list(setup.words) == [*bundle.words, banana.name]
    assert (setup.words["computer"].threshold, setup.words["alexa"].origin) == (0.9, "model")
    assert setup.words[banana.name].threshold == 0.8
    assert setup.speakers.require == "anyone", "the daemon says who it was"
    assert words.setup(["COMPUTER", "nonsense", "computer"]) == words.setup(["computer"])
    with pytest.raises(ConfigError, match=r"above 0\.01"):
        Words(Config(words={"computer": WordConfig(threshold=0.005)}), bundles.load())
    # A daemon's word that the configuration does not fit keeps the service going.
    words = Words(Config(words={banana.name: WordConfig(threshold="strict")}), bundle)
    plain = AddedWord(**{**vars(banana), "operating_points": ()})
    words.add({plain.name: plain})
    assert words.setup(None) is not None
    assert "'strict' was not measured" in caplog.text


def test_every_word_names_the_sources_of_the_model_card() -> None:
    card = (ROOT / "models" / "README.md").read_text()
    licenses = card.split("## Sources and licenses")[1]
    assert SOURCES.keys() == bundles.load().words.keys()
    for sources in SOURCES.values():
        for source in sources:
            assert f"| {source}" in licenses
            assert LINKS[source].startswith("https://github.com/")


def test_a_word_of_another_bundle_has_nobody_elses_source(bundle: Bundle) -> None:
    from dataclasses import replace

    other = replace(bundle, words={"hey_you": bundle.words["alexa"]})
    # Only what is said of it; its models are those of the other words.
    (word,) = _Named(other).described()
    assert (word.source, word.link, word.languages) == ("whoever made the model bundle", "", ())
    assert word.phrase == "hey you"


class _Named(Words):
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._added = {}


def test_strangers_choices_are_not_kept_for_ever(bundle: Bundle) -> None:
    words = Words(Config(), bundle)
    for k in range(1, 2 ** len(bundle.words)):
        words.setup([name for n, name in enumerate(bundle.words) if k >> n & 1][::-1])
    assert len(words._setups) <= MAX_SETUPS
    assert words.setup(["alexa", "computer"]) is words.setup(["computer", "alexa"])


def test_all_of_a_resolved_setup_is_shared(bundle: Bundle, words: Words) -> None:
    assert words.setup(None) is words.setup(list(bundle.words))
    one = words.setup(["alexa"])
    assert one is not None
    assert one == resolve(Config(words={"alexa": WordConfig()}, added_words=False), bundle)


def test_a_word_that_let_nobody_in_is_not_deaf_after_it(
    bundle: Bundle, runtime: Runtime, words: Words
) -> None:
    said = np.concatenate([hiss(1.0), say("computer"), hiss(0.3), say("computer"), hiss(1.0)])
    data = said.astype("<i2").tobytes()
    for forgives, times in ((False, 1), (True, 2)):
        hearing = Hearing(bundle, runtime, words.setup(None))
        hearing.forgive("computer")  # before anything was heard
        hearing.add(data, PLAIN)
        found = 0
        while piece := hearing.due():
            for one in hearing.hear(piece):
                found += 1
                if forgives:
                    hearing.forgive(one.wake.word)
        assert found == times
