"""The configuration: what is right is read; what is wrong is named with its line and key."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect as types

from kwsd import bridge_config, config, config_file
from kwsd.config import Config, ConfigError, VadConfig, WordConfig

THRESHOLD = "a number above 0 and at most 1, 'balanced', 'lenient', 'strict' or null"
TOP_KEYS = ", ".join(Config.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color: red", f"line 1: unknown key 'color'; expected one of {TOP_KEYS}"),
        (
            "wrods: {computer: }",
            f"line 1: unknown key 'wrods'; expected one of {TOP_KEYS}; did you mean 'words'?",
        ),
        (
            "words:\n  computer:\n    treshold: 0.5",
            "line 3: unknown key 'words.computer.treshold'; "
            "expected one of threshold, refractory_s, enabled; did you mean 'threshold'?",
        ),
        (
            "words:\n  computer:\n    threshold: 1.5",
            f"line 3: words.computer.threshold: 1.5 is not {THRESHOLD}",
        ),
        (
            "words:\n  computer:\n    threshold: high",
            f"line 3: words.computer.threshold: 'high' is not {THRESHOLD}",
        ),
        (
            "words: {}",
            "line 1: words: {} is not a mapping of names with at least one entry",
        ),
        (
            "words: [computer]",
            "line 1: words: ['computer'] is not a mapping of names with at least one entry",
        ),
        ("words:\n  a:\n  a:", "line 3: words: 'a' appears twice"),
        ("vad:\n  mode: 4", "line 2: vad.mode: 4 is not 0, 1, 2 or 3"),
        ("vad: 3", "line 1: vad: 3 is not on, off or a mapping of keys to values"),
        (
            "microphone:\n  channel: left",
            "line 2: microphone.channel: 'left' is not a whole number of at least 0 or 'mix'",
        ),
        (
            "microphone:\n  channel: -1",
            "line 2: microphone.channel: -1 is not a whole number of at least 0 or 'mix'",
        ),
        (
            "speaker:\n  require: []",
            "line 2: speaker.require: [] is not a list of at least 1: text",
        ),
        (
            "speaker:\n  require: everyone",
            "line 2: speaker.require: 'everyone' is not 'anyone', 'enrolled' or a list",
        ),
        ("near_miss: true", "line 1: near_miss: True is not a number above 0 and at most 1"),
        ("lookback_s: .nan", "line 1: lookback_s: nan is not a number between 4 and 300"),
        ("lookback_s: .inf", "line 1: lookback_s: inf is not a number between 4 and 300"),
        ("- a", "line 1: the file is not a mapping of keys to values"),
        ("? [a]\n: 1", "line 1: a key must be text"),
        ("? \n: 1", "line 1: unknown key ''; expected one of"),
        ("vad: maybe", "line 1: vad: 'maybe' is not on, off or a mapping of keys to values"),
        ("clips: maybe", "line 1: clips: 'maybe' is not on, off or a mapping of keys to values"),
        ("words:\n  ? {a: 1}\n  : 1", "line 2: words: a key must be text"),
        ("words:\n  <<: {a: }", "line 2: words: a key must be text, and '<<' merges mappings"),
        ("words: !!set {a, b}", "line 1: words: the tag 'tag:yaml.org,2002:set' means nothing"),
        ("vad: !!python/name:os.system", "line 1: vad: the tag 'tag:yaml.org,2002:python/name:os"),
        ("vad:\n  mode: !x 1", "line 2: vad.mode: the tag '!x' means nothing here"),
        ("lookback_s: !!int x", "line 1: lookback_s: 'x' is not a whole number that can be read"),
        ("lookback_s: !!float ''", "line 1: lookback_s: '' is not a number that can be read"),
        ("vad: !!bool maybe", "line 1: vad: 'maybe' is not true or false that can be read"),
        (f"lookback_s: {'9' * 5000}", "line 1: lookback_s: '9999"),
        ("a: 1\nlookback_s: 0xfffffffffffffffffffffffffffffff", "line 1: unknown key 'a'"),
        ("models: !!binary aGk=", "line 1: models: the tag 'tag:yaml.org,2002:binary' means"),
        ('vad: on\nmodels: "a\\0b"', "line 2: models: 'a\\x00b' holds characters that cannot be"),
        ('models: "\\ud800"', "line 1: models: '\\ud800' holds characters that cannot be printed"),
        ("a:\n  b: &x\n    c: *x", "line 2: holds itself"),
        ("vad: on\n\x00", "line 2: not YAML: special characters are not allowed (0)"),
        ("a: {b: [" * 8, "line 1: a.b[0]: nests too deep: more than 20 levels"),
        (f"words: [{'1,' * 30_000}]", "line 1: words[19997]: the file has more than 10000 values"),
    ],
)
def test_errors_name_file_line_key_and_fix(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "kwsd.yaml")
    assert str(caught.value).startswith(f"kwsd.yaml, {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", ", line 1: holds itself or more than"),
        ("a: &a {b: *a}", ", line 1: holds itself or more than"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{new}: &{new} [{', '.join(9 * ['*' + old])}]\n"
                for old, new in pairwise("abcdefghijklmnop")
            ),
            ", line 5: holds itself or more than",
        ),
        ("[" * 3000 + "]" * 3000, ", line 1: [0][0][0]: nests too deep: more than 20 levels"),
    ],
)
def test_a_file_that_would_never_end_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "kwsd.yaml")
    assert str(caught.value).startswith(f"kwsd.yaml{message}")


def test_aliases_are_written_out() -> None:
    text = "words:\n  computer: &strict {threshold: strict}\n  banana: *strict\n"
    words = config_file.parse(text, "kwsd.yaml").words
    assert [word.threshold for word in words.values()] == ["strict", "strict"]


def test_a_file_that_is_not_yaml_is_named() -> None:
    with pytest.raises(ConfigError, match=r"kwsd.yaml, line 1: not YAML"):
        config_file.parse("a: [", "kwsd.yaml")


def test_defaults_and_what_is_given() -> None:
    assert config_file.parse("") == Config()
    assert list(Config().words) == ["computer"]
    full = config_file.parse(
        "words:\n  alexa:\n  jarvis: {threshold: 0.3}\nvad: off\n"
        "speaker: {require: [ann]}\nmicrophone: {channel: mix, device: 3}\n"
    )
    assert full.words == {"alexa": WordConfig(), "jarvis": WordConfig(threshold=0.3)}
    assert full.vad == VadConfig(enabled=False)
    assert (full.microphone.channel, full.microphone.device) == ("mix", 3)
    assert full.speaker.require == ["ann"]


def test_keys_are_text_as_it_is_written() -> None:
    assert list(config_file.parse("words: {no: , 1: , on: }").words) == ["no", "1", "on"]


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nope.yaml"):
        config_file.load(tmp_path / "nope.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b.yaml"):
        config_file.load(tmp_path / "b.yaml")


def test_where_things_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert Config().socket_path() == tmp_path / "run" / "kwsd.sock"
    assert Config().state_directory() == tmp_path / "state"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "kwsd").mkdir()
    (tmp_path / "kwsd" / "kwsd.yaml").write_text("near_miss: 0.9")
    assert config_file.load().near_miss == 0.9


def texts(kind: types.Type, path: str) -> Iterator[tuple[str, str]]:
    """Yield the key of each text in the configuration, and how a text is written there."""
    match kind:
        case types.StructType():
            for field in kind.fields:
                yield from texts(field.type, f"{path}.{field.name}" if path else field.name)
        case types.UnionType():
            for one in kind.types:
                yield from texts(one, path)
        case types.ListType(item_type=types.StrType()):
            yield path, "[{}]"
        case types.StrType():
            yield path, "{}"


def test_a_blank_text_is_refused_and_no_default() -> None:
    found = dict(texts(types.type_info(Config), ""))
    assert {"state", "models", "socket.path", "microphone.device", "speaker.require"} <= set(found)
    for path, form in found.items():
        for blank in ("''", "' '"):
            *sections, key = path.split(".")
            text = "".join(f"{section}:\n{'  ' * n}" for n, section in enumerate(sections, 1))
            with pytest.raises(ConfigError) as caught:
                config_file.parse(f"{text}{key}: {form.format(blank)}\n", "kwsd.yaml")
            where = f"kwsd.yaml, line {len(sections) + 1}: {path}"
            at = f"{where}[0]" if "[" in form else where
            assert str(caught.value).startswith(f"{at}: {blank} is blank; write "), path


def test_the_schema_has_every_key_and_refuses_others() -> None:
    schema = config_file.schema()
    definitions = schema["$defs"]
    sections = {
        name: kind
        for name, kind in {**vars(bridge_config), **vars(config)}.items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name in definitions
    }
    assert set(definitions) == set(sections)
    for name, kind in sections.items():
        assert set(definitions[name]["properties"]) == set(kind.__struct_fields__)
        assert definitions[name]["additionalProperties"] is False
    described = definitions["Config"]["properties"]["near_miss"]
    assert described["description"].startswith("A score that peaks above this share")
    assert {"type": "boolean"} in definitions["Config"]["properties"]["vad"]["anyOf"]
