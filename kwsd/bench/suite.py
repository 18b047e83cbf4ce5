"""`kwsd bench cost | accuracy | soak`: run, log what is going on, print Markdown, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kwsd.bench import cost, report, soak
from kwsd.bench.engines import ENGINES, installed


def main(argv: Sequence[str]) -> int:
    """Run one benchmark; the exit status."""
    parser = argparse.ArgumentParser(prog="kwsd bench", description="What kwsd costs and how well it hears, beside its peers, on the same audio.")
    kinds = parser.add_subparsers(dest="kind", required=True)

    def kind(name: str, help: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=help, description=help)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
        sub.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
        return sub

    costs = kind("cost", "CPU, memory, start-up and latency, in an idle room, a day with a quarter of speech, and continuous speech")
    costs.add_argument("--seconds", type=float, default=600, help="audio a scene (default 600)")
    costs.add_argument("--repeats", type=int, default=3, help="runs an engine and scene, in turn; the median counts (default 3)")
    costs.add_argument("--wakes", type=int, default=60, help="wakes whose latency is measured, in real time (default 60)")
    costs.add_argument("--engines", type=lambda s: s.split(","), metavar="A,B", help=f"only these; there are {', '.join(ENGINES)}")
    soaks = kind("soak", "hours of audio through the daemon, faster than real time: does anything grow?")
    soaks.add_argument("--hours", type=float, default=6, help="hours of audio (default 6)")
    asked = parser.parse_args(argv)

    if asked.kind == "cost":
        missing = [e for e in asked.engines or () if e not in installed()]
        if missing:
            known = f"is not installed: pip install 'kwsd[bench]', or {missing[0]}" if missing[0] in ENGINES else f"is unknown; there are {', '.join(ENGINES)}"
            parser.error(f"{missing[0]} {known}")
        found = cost.cost(asked.seconds, asked.repeats, asked.wakes, asked.engines)
        text = report.cost_markdown
    else:
        found, text = soak.soak(asked.hours), report.soak_markdown
    found["circumstances"] = report.circumstances()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if asked.markdown:
        asked.markdown.write_text(text(found), encoding="utf-8")
    sys.stdout.write(text(found))
    return 0
