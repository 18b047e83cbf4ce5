"""`python -m kwsd.cli.reference` writes the completions and the manual page of a checkout."""

from __future__ import annotations

import tomllib
from pathlib import Path

from kwsd.cli.reference import bash, fish, manual, zsh
from kwsd.cli.reference.tree import tree

CHECKOUT = Path(__file__).parents[3]


def files(checkout: Path = CHECKOUT) -> dict[str, str]:
    """Return the content of each file, by its path in the checkout."""
    root = tree()
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "completions/kwsd.bash": bash.completion(root),
        "completions/kwsd.zsh": zsh.completion(root),
        "completions/kwsd.fish": fish.completion(root),
        "docs/kwsd.1": manual.page(root, project["authors"][0]["name"]),
    }


def main() -> None:
    """Write them."""
    for name, text in files().items():
        path = CHECKOUT / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
