"""The documents: links that lead somewhere, examples that work, a README that stays short."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import msgspec
import pytest

from kwsd import config_file
from kwsd.config import Config

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str, language: str) -> list[str]:
    """Return the fenced blocks of a language in a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [body for kind, body in FENCE.findall(text) if kind == language]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path}: {target}"
        assert not anchor or anchor in anchors(file), f"{path}: {target}"


def test_nothing_advises_what_needs_a_package_index() -> None:
    kinds = {".md", ".py", ".sh", ".yaml", ".1", ".bash", ".zsh", ".fish"}
    places = [ROOT / name for name in ("kwsd", "docs", "models", "systemd", "completions")]
    files = [path for place in places for path in place.rglob("*") if path.suffix in kinds]
    files += [path for path in ROOT.glob("*") if path.is_file()]
    advice = re.compile(r"pip\d? install [^\n]*(?<![\w/.-])['\"]?kwsd\b(?!-)")
    assert advice.search("pip install 'kwsd[train]'")
    assert advice.search("pip install --force-reinstall kwsd")
    assert not advice.search("pip install ./kwsd-0.1.0-py3-none-any.whl")
    found = [path for path in files if advice.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_every_decision_has_a_status() -> None:
    for number, path in enumerate(sorted((ROOT / "docs" / "adr").glob("*.md")), 1):
        title, _, status, *_ = path.read_text(encoding="utf-8").splitlines()
        assert title.startswith(f"# {number}. ")
        assert re.match(r"Status: (accepted|superseded by \d+) · \d{4}-\d\d-\d\d", status), path


def test_no_file_of_the_code_is_longer_than_400_lines() -> None:
    files = list((ROOT / "kwsd").rglob("*.py"))
    assert len(files) > 100
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not [f"{path}: {lines}" for path, lines in lengths.items() if lines > 400]


def test_the_readme_is_short_and_has_both_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "    ./dev run" in lines
    assert "    ./dev test" in lines


@pytest.mark.parametrize("name", ["README.md", "docs/guide/events.md"])
def test_python_examples_compile(name: str) -> None:
    found = blocks(name, "python")
    assert found
    for body in found:
        if "async" in body:
            body = "async def example():\n" + textwrap.indent(body, "    ")
        compile(body, name, "exec")


def test_configuration_examples_are_valid() -> None:
    for name in ("README.md", "docs/guide/configure.md", "docs/guide/speakers.md"):
        for body in blocks(name, "yaml"):
            config_file.parse(body, name)


def test_the_configuration_page_shows_every_key_with_its_default() -> None:
    (body,) = blocks("docs/guide/configure.md", "yaml")
    shown = config_file.parse(body, "configure.md")
    assert msgspec.structs.replace(shown, words=Config().words) == Config()
    parts = (
        shown,
        shown.microphone,
        shown.vad,
        shown.speaker,
        shown.clips,
        shown.takes,
        shown.socket,
        shown.wyoming,
        shown.mqtt,
        shown.metrics,
        shown.web,
    )
    for part in parts:
        for field in msgspec.structs.fields(part):
            assert re.search(rf"^ *{field.name}:", body, re.MULTILINE), field.name
