"""Text that is read by voices: in which language, by which voices, and what none can read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import PHRASE

from kwsd.audio import synthesis
from kwsd.audio.synthesis import (
    ACCENTS,
    Spoken,
    UnreadableText,
    check_readable,
    espeak_takes,
    language_of,
    voices_of,
)
from kwsd.cli import main as cli
from kwsd.client import words
from kwsd.learn.few_shot import WordTrainer


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (PHRASE, "en"),
        ("schöner tag 7", "en"),
        ("привет", "ru"),
        ("नमस्ते", "hi"),
        ("hello नमस्ते", "hi"),
        ("안녕하세요", "ko"),
        ("コンピューター", "ja"),
        ("สวัสดี", "th"),
        ("வணக்கம்", "ta"),
        ("مرحبا", "ar"),
        ("γεια σου", "el"),
    ],
)
def test_the_script_says_the_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_chinese_is_read_as_mandarin_by_a_voice_that_can() -> None:
    assert language_of("你好").startswith("cmn")


@pytest.mark.parametrize(
    ("text", "language", "fix"),
    [
        ("привет", "de", "`--language ru` can"),
        ("สวัสดี", "en", "`--language th` can"),
        ("good สวัสดี", "en", "can read 'สวัสดี'"),
        ("起動", "ja", "`--language cmn"),
        ("コンピューター起動", None, "write it as it is said"),
        ("hello", "ja", "write it as it is said"),
        ("ᓄᓇᕗᑦ", None, "write it as it is said, or record it"),
        ("...", "en", "write it as it is said"),
    ],
)
def test_what_no_voice_reads_is_refused(text: str, language: str | None, fix: str) -> None:
    with pytest.raises(UnreadableText, match=rf"no voice of the language .*{re.escape(fix)}"):
        check_readable(text, language) if language else language_of(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [("hallo welt", "de"), ("computer", "ru"), ("нас двое", "uk"), ("नमस्ते", "en"), ("olá", "pt")],
)
def test_what_a_voice_reads_is_not(text: str, language: str) -> None:
    check_readable(text, language)


def test_a_language_has_its_accents_and_an_unknown_one_is_named() -> None:
    assert voices_of("en") == ACCENTS
    assert voices_of("pt-br") == ("pt-br",)
    assert {"es", "es-419"} <= set(voices_of("es"))
    for wrong in ("zz", "de+f3", "--help", ""):
        with pytest.raises(UnreadableText, match="no voice of the language"):
            voices_of(wrong)
    with pytest.raises(UnreadableText, match="did you mean pt-br"):
        voices_of("pt-bx")
    takes = espeak_takes("hola", 3, language="es")
    assert len(takes) == 3
    assert all(take.voice.startswith("es") and len(take.samples) > 3000 for take in takes)


def test_why_a_voice_was_dropped_is_said(
    trainer: WordTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = synthesis.espeak("привет мир", "ru")

    def two(text: str, count: int, language: str) -> list[Spoken]:
        assert (text, language) == ("привет мир", "ru")
        return [Spoken("ru+whisper", good // 4000), Spoken("ru+f2", good)]

    monkeypatch.setattr(words, "spoken", two)
    takes = words.from_text(trainer, "привет_мир")
    assert len(takes.usable) == 1
    assert takes.language == "ru"
    assert takes.recordings[0].info.origin == "the voice ru+f2"
    (why,) = takes.refused
    assert why.startswith("the voice ru+whisper: the take is silent")
    assert takes.warnings == ["its script is read as 'ru'; `--language` names another"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add = ["word", "add", "привет", "--state", str(tmp_path / "s"), "--yes"]
    assert cli.main([*add, "--text-only", "--language", "de"]) == cli.DATA
    assert "`--language ru` can, or record it" in capsys.readouterr().err
    assert cli.main([*add, "--wav", "x.wav", "--language", "de"]) == cli.USAGE
    assert "--language is for synthetic voices" in capsys.readouterr().err
