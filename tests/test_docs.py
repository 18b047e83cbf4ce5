"""The documents: links that lead somewhere, examples that work, a README that stays short."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import msgspec
import pytest

from kwsd import config_file
from kwsd.cli import checks
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


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/guide/events.md", "docs/guide/mirror.md", "docs/guide/robot.md"],
)
def test_python_examples_compile(name: str) -> None:
    found = blocks(name, "python")
    assert found
    for body in found:
        if "async" in body:
            body = "async def example():\n" + textwrap.indent(body, "    ")
        compile(body, name, "exec")


def test_configuration_examples_are_valid() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs/guide").glob("*.md")):
        name = str(path.relative_to(ROOT))
        for body in blocks(name, "yaml"):
            if not body.startswith(("automation:", "scrape_configs:")):  # of other programs
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


def remedies_of_doctor() -> dict[str, list[list[str]]]:
    """Return what `kwsd doctor` may find wrong, by the name of the check: of each finding the
    remedies that are written in the code."""
    tree = ast.parse(Path(checks.__file__).read_text(encoding="utf-8"))
    found: dict[str, list[list[str]]] = {}
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        assigned = [
            (node.lineno, node.targets[0].id, node.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        ]
        calls = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding"
        ]
        after = 0
        for call in sorted(calls, key=lambda call: call.lineno):
            check, ok, _, *fix = call.args
            if ast.unparse(ok) == "True":
                continue
            texts = list(map(written, fix))
            for line, name, value in assigned:
                if name == ast.unparse(fix[0]) and after < line < call.lineno:
                    texts.append(written(value))
                if name == ast.unparse(check):
                    check = value
            found.setdefault(written(check), []).append([text for text in texts if text])
            after = call.lineno
    return found


def written(value: ast.expr) -> str:
    """Return the longest text in an expression, up to a remark in it."""
    texts = [
        str(getattr(checks, node.id, "")) if isinstance(node, ast.Name) else str(node.value)
        for node in ast.walk(value)
        if isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and node.value)
    ]
    return max(texts, key=len, default="").split("   ")[0].strip(": ")


def test_the_troubleshooting_page_has_an_entry_for_each_finding_of_doctor() -> None:
    text = (ROOT / "docs/guide/troubleshooting.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    entries = {
        title: " ".join(body.split()) for title, body in sections if not title.startswith("It ")
    }
    found = remedies_of_doctor()
    assert sum(map(len, found.values())) > 25
    assert {check: len(remedies) for check, remedies in found.items()} == {
        check: body.count("- **") for check, body in entries.items()
    }
    for check, remedies in found.items():
        for remedy in (one for each in remedies for one in each):
            assert " ".join(remedy.split()) in entries[check]
