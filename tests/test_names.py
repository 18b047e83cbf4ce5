"""Names in any script: one name is one name however it is typed, and never a strange file."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwsd.client.words import free_name
from kwsd.config import Config, ConfigError, SpeakerConfig, WordConfig
from kwsd.config_file import parse
from kwsd.detect.setup import resolve
from kwsd.model.bundle import Bundle
from kwsd.names import folded, identifier, is_allowed, look_up, word_name
from kwsd.protocol import commands
from kwsd.protocol.errors import RequestError
from kwsd.server.state_handlers import StateHandlers
from kwsd.state.library import Library
from kwsd.state.voiceprints import Voiceprint, VoiceprintError, VoiceprintStore
from kwsd.state.words import AddedWord, WordError, WordStore, check_word_name, to_bytes

SCRIPTS = (
    "नमस्ते",
    "สวัสดี",
    "தமிழ்",
    "مُحَمَّد",
    "jalapeño",
    "अनिता",
    "你好小爱",
    "オーケー",
    "Tiếng Việt",
    "می‌خواهم",
)
"""Hindi, Thai, Tamil, vocalized Arabic, Spanish, Hindi, Chinese, Japanese, Vietnamese, Persian."""
FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def voiceprint(name: str, created: float = 1.0) -> Voiceprint:
    """Return a voiceprint of three takes."""
    return Voiceprint(name, "e", np.eye(3, 64, dtype=np.float32), created)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_name_in_any_script_is_found_again_in_any_normal_form(
    tmp_path: Path, deaf_banana: AddedWord, bundle: Bundle, name: str
) -> None:
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    store.save(replace(deaf_banana, name=check_word_name(unicodedata.normalize("NFD", name))))
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{6}\.word", file.name)
    stored = unicodedata.normalize("NFC", name).replace(" ", "_")
    assert list(store.load_all()[0]) == store.names() == [stored]
    for form in FORMS:
        typed = check_word_name(unicodedata.normalize(form, name))
        assert store.load(typed).name == stored
    with pytest.raises(WordError, match="exists already"):
        free_name(store.names(), bundle, unicodedata.normalize("NFD", name))
    store.delete(check_word_name(name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_people_have_such_names_too(tmp_path: Path, name: str) -> None:
    store = VoiceprintStore(tmp_path, "e")
    store.save(voiceprint(unicodedata.normalize("NFC", name)))
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{6}\.voiceprint", file.name)
    for form in FORMS:
        typed = unicodedata.normalize(form, name)
        assert store.load(typed).name == unicodedata.normalize("NFC", name)
    store.delete(unicodedata.normalize("NFD", name))
    assert store.names() == []


def test_an_identifier_is_a_slug_and_six_digits_of_the_normal_form() -> None:
    assert identifier("hey_banana") == "hey_banana-9f80e5"
    assert identifier("jalape\u00f1o") == identifier("jalapen\u0303o") == "jalapeno-41137d"
    assert identifier("Ann") != identifier("ann")
    assert identifier("अनिता") == "name-b892a1"
    assert identifier("../x\0y").startswith("x_y-")


@given(st.text(max_size=80))
def test_any_name_that_is_allowed_makes_a_plain_identifier(text: str) -> None:
    name = word_name(text)
    if is_allowed(name):
        assert re.fullmatch(r"[a-z0-9_]{1,40}-[0-9a-f]{6}", identifier(name))
        for form in ("NFC", "NFD"):
            assert folded(unicodedata.normalize(form, name)) == folded(name)
        assert look_up(unicodedata.normalize("NFD", name), [name]) == name


@pytest.mark.parametrize(
    "name",
    [
        "\u0301a",  # a mark first
        "comp\u200cuter",  # a joiner that no spelling has
        "computer\u200d",
        "computer\ufe0f",  # a variation selector
        "com\u034fputer",  # a joiner of graphemes
        "computer\U000e0100",
        "comp\u202euter",  # a mark of direction
        "\u115f",  # a letter that nobody sees
        "a\u20dd",  # an enclosing mark
        "🙂",
        "a\ud800",
        "a\x1b[2J",
    ],
)
def test_names_that_look_like_others_or_like_none_are_refused(name: str) -> None:
    with pytest.raises(WordError, match="cannot be a word's name: up to 63 letters with their"):
        check_word_name(name)


def test_case_does_not_count(tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord) -> None:
    for typed in ("Computer", "COMPUTER"):
        with pytest.raises(WordError, match="'computer' comes with kwsd"):
            free_name([], bundle, typed)
    with pytest.raises(WordError, match="'Straße' exists already"):
        free_name(["Straße"], bundle, "STRASSE")
    handlers = StateHandlers(tmp_path, bundle, Config)
    named = to_bytes(replace(deaf_banana, name="Computer"))
    with pytest.raises(RequestError, match="'computer' comes with kwsd"):
        handlers.request(commands.WordsPut(file=named))
    handlers.request(commands.WordsPut(file=to_bytes(deaf_banana)))
    again = handlers.request(
        commands.WordsPut(file=to_bytes(replace(deaf_banana, name="Hey_Banana")))
    )
    assert again.replaces
    assert [word.name for word in handlers.request(commands.Words()).words] == ["Hey_Banana"]
    assert handlers.request(commands.WordsGet(name="hey banana")).name == "Hey_Banana"
    assert handlers.request(commands.WordsDelete(name="HEY BANANA")).deleted == "Hey_Banana"
    handlers.voiceprints.save(voiceprint("Ann"))
    assert handlers.request(commands.SpeakersDelete(name="ann")).deleted == "Ann"
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_may_spell_a_name_otherwise(
    bundle: Bundle, deaf_banana: AddedWord
) -> None:
    config = parse("words: {Computer: {threshold: 0.7}, HEY BANANA: }")
    library = Library(
        words={"hey_banana": deaf_banana}, voiceprints={"Anit\u00e1": voiceprint("Anit\u00e1")}
    )
    required = Config(words=config.words, speaker=SpeakerConfig(require=["anita\u0301", "bob"]))
    setup = resolve(required, bundle, library)
    assert list(setup.words) == ["computer", "hey_banana"]
    assert setup.words["computer"].threshold == 0.7
    assert setup.speakers.require == ["Anit\u00e1", "bob"]
    with pytest.raises(ConfigError, match="'COMPUTER' appears twice, as 'computer'"):
        parse("words: {computer: , COMPUTER: }")


def test_files_of_0_1_0_keep_their_names_until_they_are_written_again(
    tmp_path: Path, bundle: Bundle, deaf_banana: AddedWord
) -> None:
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    (tmp_path / "hey_banana.word").write_bytes(to_bytes(deaf_banana))
    (tmp_path / "a copy.word").write_bytes(to_bytes(deaf_banana))
    assert store.path("Hey_Banana") == tmp_path / "hey_banana.word"
    assert store.names() == ["a copy", "hey_banana"]
    assert store.load("a copy").name == "a copy"
    store.save(deaf_banana)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a copy.word",
        "hey_banana-9f80e5.word",
    ]
    people = VoiceprintStore(tmp_path, "e")
    for name in ("ann", "Ann"):  # two people, for 0.1.0
        (tmp_path / f"{name}.voiceprint").write_bytes(people.to_bytes(voiceprint(name)))
    assert list(people.load_all()[0]) == ["Ann", "ann"]
    people.save(voiceprint("ann", 2.0))
    assert {n: v.created for n, v in people.load_all()[0].items()} == {"Ann": 1.0, "ann": 2.0}


def test_a_file_has_the_name_that_it_holds_only_where_it_is_called_so(
    tmp_path: Path, deaf_banana: AddedWord
) -> None:
    store = WordStore(tmp_path, deaf_banana.encoder_id)
    (tmp_path / f"{identifier('other')}.word").write_bytes(to_bytes(deaf_banana))
    assert store.names() == [identifier("other")]
    people = VoiceprintStore(tmp_path, "e")
    people.save(voiceprint("अनिता"))
    file = people.path("अनिता")
    file.write_bytes(file.read_bytes()[:-200])
    good, (bad,) = people.load_all()
    assert good == {}
    assert (bad.thing, "run `kwsd enroll NAME` again" in str(bad)) == (file.stem, True)
    with pytest.raises(VoiceprintError, match="run `kwsd enroll अनिता` again"):
        people.load("अनिता")
    people.delete("अनिता")  # also what is damaged
    assert not file.exists()


def test_a_word_whose_file_is_damaged_is_known_by_its_name(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / f"{identifier('தமிழ்')}.word").write_bytes(b"x")
    library, _ = Library.load(tmp_path, bundle.encoder_id)
    config = Config(words={"தமிழ்": WordConfig()})
    assert dict(resolve(config, bundle, library).words) == {}
    with pytest.raises(ConfigError, match=r"'தமிழ்' cannot be used: .*damaged"):
        resolve(config, bundle, library, required=["தமிழ்"])
