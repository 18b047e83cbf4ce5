"""`kwsd bench cost | accuracy | words | soak`: run, log what is going on, print Markdown, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kwsd.bench import accuracy, corpus, cost, plots, report, soak, words
from kwsd.bench.peers import ENGINES, installed


def main(argv: Sequence[str]) -> int:
    """Run one benchmark; the exit status."""
    parser = argparse.ArgumentParser(
        prog="kwsd bench", description="What kwsd costs and how well it hears, beside its peers, on the same audio.",
        epilog="The peers: pip install 'kwsd[bench]'; for Resemblyzer also: pip install torch librosa && pip install --no-deps Resemblyzer",
    )  # fmt: skip
    kinds = parser.add_subparsers(dest="kind", required=True)

    def kind(name: str, help: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=help.splitlines()[0], description=help, formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
        sub.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
        return sub

    costs = kind("cost", "CPU, memory, start-up and latency, in an idle room, a day with a quarter of speech, and continuous speech")
    costs.add_argument("--seconds", type=float, default=600, help="audio a scene (default 600)")
    costs.add_argument("--repeats", type=int, default=3, help="runs an engine and scene, in turn; the median counts (default 3)")
    costs.add_argument("--wakes", type=int, default=60, help="wakes whose latency is measured, in real time (default 60)")
    soaks = kind("soak", "hours of audio through the daemon, faster than real time: does anything grow?")
    soaks.add_argument("--hours", type=float, default=6, help="hours of audio (default 6)")
    accuracies = kind("accuracy", corpus.__doc__ or "")
    accuracies.add_argument("folder", type=Path, help="labelled recordings")
    accuracies.add_argument("--negatives", type=Path, nargs="+", default=[], metavar="DIR", help="recordings in which none of the words is said")
    accuracies.add_argument("--noise", type=Path, metavar="DIR", help="noise to mix in (default: the layout's own, where it has some)")
    accuracies.add_argument("--snr", type=float, default=10.0, metavar="DB", help="signal-to-noise ratio of the noisy takes (default 10)")
    accuracies.add_argument("--words", type=lambda s: s.split(","), metavar="A,B", help="only these words")
    accuracies.add_argument("--plots", type=Path, metavar="DIR", help="draw misses.svg and det.svg there")
    few = kind("words", words.__doc__ or "")
    few.add_argument("folder", type=Path, help="labelled recordings, a folder a word")
    few.add_argument(
        "--shots", type=lambda s: [int(n) for n in s.split(",")], default=[3, 5, 10], metavar="N,N", help="takes a word is made of (default 3,5,10)"
    )
    few.add_argument("--seeds", type=int, default=3, help="draws of takes, each word and number of shots (default 3)")
    few.add_argument("--words", type=lambda s: s.split(","), metavar="A,B", help="add only these; the others are tried against all the same")
    few.add_argument("--most", type=int, default=200, help="recordings used of each word (default 200)")
    for sub in (costs, accuracies):
        sub.add_argument("--engines", type=lambda s: s.split(","), metavar="A,B", help=f"only these; there are {', '.join(ENGINES)}")
    asked = parser.parse_args(argv)

    engines = getattr(asked, "engines", None) or installed()
    for name in engines:
        if name not in ENGINES:
            parser.error(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
        if name not in installed():
            parser.error(f"{name} is not installed: pip install 'kwsd[bench]'")
    if asked.kind == "cost":
        found, text = cost.cost(asked.seconds, asked.repeats, asked.wakes, engines), report.cost_markdown
    elif asked.kind == "accuracy":
        found = accuracy.accuracy(asked.folder, engines, asked.negatives, asked.noise, asked.snr, asked.words)
        text = report.accuracy_markdown
    elif asked.kind == "words":
        found, text = words.words(asked.folder, asked.shots, asked.seeds, asked.words, asked.most), report.words_markdown
    else:
        found, text = soak.soak(asked.hours), report.soak_markdown
    found["circumstances"] = report.circumstances()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if asked.markdown:
        asked.markdown.write_text(text(found), encoding="utf-8")
    if getattr(asked, "plots", None):
        plots.draw(found, asked.plots)
    sys.stdout.write(text(found))
    return 0
