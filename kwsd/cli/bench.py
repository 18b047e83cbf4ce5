"""`kwsd bench cost | accuracy | words | soak`: measure, print Markdown, write JSON and Markdown."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kwsd import extras
from kwsd.bench.engines import ENGINES, installed
from kwsd.cli.output import UNAVAILABLE, check_writable, fail

if TYPE_CHECKING:
    from kwsd.bench.accuracy import AccuracyReport
    from kwsd.bench.cost import CostReport
    from kwsd.bench.soak import SoakReport
    from kwsd.bench.words import WordsReport

    Report = CostReport | AccuracyReport | WordsReport | SoakReport

HELP = "measure what kwsd costs and how accurate it is, beside its peers, on the same audio"
PEERS = (
    f"The peers: {extras.command('bench')}; for Resemblyzer also: pip install torch librosa && "
    "pip install --no-deps Resemblyzer"
)
COST = """\
CPU, memory, start-up and latency of every engine that is installed, in an idle room, in a day with
a quarter of speech, and in continuous speech."""
ACCURACY = """\
Misses against false accepts of every word and engine, and speaker verification, on labeled
recordings.

Two layouts are read as they are published:

- Speech Commands: DIR/WORD/SPEAKER_nohash_N.wav, DIR/_background_noise_/*.wav; where there is a
  testing_list.txt, only the recordings that it names.
- Picovoice/wake-word-benchmark: DIR/audio/WORD/N.flac. The speakers are not named.

Any other folder of folders is read like the first: the folder's name is the word, what precedes
_nohash_ the speaker. Folders of audio without labels (LibriSpeech, a recording of the room) are
negatives: --negatives DIR."""
WORDS = """\
The accuracy of words that are added from a few takes, on a folder of recordings, one folder per
word.

For every word, number of shots and seed, takes of as many different speakers make the word, as
`kwsd word add` does. It is tried on the recordings of the speakers that are left, and on all
recordings of the other words. Hits are those over the score that 1 % of the others reach; 0 shots
are synthetic voices alone. The errors at the word's own threshold are reported as well."""
SOAK = """\
Hours of audio through the daemon, faster than real time: does anything grow?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks and their options to the parser of the verb."""
    parser.epilog = PEERS
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    def add(name: str, help: str, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = benchmarks.add_parser(
            name,
            help=help,
            description=text,
            epilog=PEERS if name in ("cost", "accuracy") else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
        sub.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE")
        return sub

    _add_cost(add("cost", "CPU, memory, start-up and latency", COST))
    help = "misses against false accepts of every word, and speaker verification"
    _add_accuracy(add("accuracy", help, ACCURACY))
    _add_words(add("words", "the accuracy of words that are added from a few takes", WORDS))
    _add_soak(add("soak", "hours of audio through the daemon: does anything grow?", SOAK))


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark that was asked for; return the exit status.

    Raises AudioFileError for recordings that cannot be used, RuntimeError for an engine that fails.
    """
    engines: list[str] = getattr(arguments, "engines", None) or installed()
    missing = [name for name in engines if name not in installed()]
    wants_plots = getattr(arguments, "plots", None) is not None
    if wants_plots and importlib.util.find_spec("matplotlib") is None:
        missing.append("matplotlib")
    if missing:
        text = f"not installed: {', '.join(missing)}; {extras.command('bench')}"
        return fail(UNAVAILABLE, text)
    for path in (arguments.json, arguments.markdown):
        if path:
            check_writable(path)
    found, text = _measure(arguments, engines)
    if arguments.json:
        body = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        arguments.json.write_text(body, encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if wants_plots:
        from kwsd.bench import plots

        plots.draw_accuracy(cast("AccuracyReport", found), arguments.plots)
    return 0


def _measure(arguments: argparse.Namespace, engines: list[str]) -> tuple[Report, str]:
    """Return the report of the benchmark, and its Markdown."""
    from kwsd.bench import accuracy, cost, report, soak, words
    from kwsd.bench.circumstances import circumstances

    match arguments.benchmark:
        case "cost":
            costs = cost.cost(arguments.seconds, arguments.repeats, arguments.wakes, engines)
            costs["circumstances"] = circumstances()
            return costs, report.cost_markdown(costs)
        case "accuracy":
            figures = accuracy.accuracy(
                arguments.folder,
                engines,
                arguments.negatives,
                arguments.noise,
                arguments.snr,
                arguments.words,
            )
            figures["circumstances"] = circumstances()
            return figures, report.accuracy_markdown(figures)
        case "words":
            added = words.words(
                arguments.folder,
                arguments.shots,
                arguments.seeds,
                arguments.words,
                arguments.most,
                together=arguments.together,
                negatives=arguments.negatives,
            )
            added["circumstances"] = circumstances()
            return added, report.words_markdown(added)
        case _:
            soaked = soak.soak(arguments.hours)
            soaked["circumstances"] = circumstances()
            return soaked, report.soak_markdown(soaked)


def _add_cost(parser: argparse.ArgumentParser) -> None:
    _add_engines(parser)
    parser.add_argument(
        "--seconds", type=float, default=600, metavar="S", help="audio per scene (default 600)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="runs per engine and scene, in turn; the median counts (default 3)",
    )
    parser.add_argument(
        "--wakes",
        type=int,
        default=60,
        metavar="N",
        help="wakes whose latency is measured, in real time (default 60)",
    )


def _add_accuracy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="labeled recordings")
    _add_engines(parser)
    _add_negatives(parser, "recordings in which none of the words is said")
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="noise to mix in (default: the layout's own, where it has some)",
    )
    parser.add_argument(
        "--snr",
        type=float,
        default=10.0,
        metavar="DB",
        help="signal-to-noise ratio of the noisy recordings (default 10)",
    )
    parser.add_argument("--words", type=_names, metavar="A,B", help="only these words")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="draw misses.svg and det.svg into DIR"
    )


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="labeled recordings, one folder per word"
    )
    parser.add_argument(
        "--shots",
        type=_numbers,
        default=[3, 5, 10],
        metavar="N,N",
        help="takes that a word is made of (default 3,5,10)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="draws of takes, for each word and number of shots (default 3)",
    )
    parser.add_argument(
        "--words",
        type=_names,
        metavar="A,B",
        help="add only these; they are tried against the others all the same",
    )
    parser.add_argument(
        "--most",
        type=int,
        default=200,
        metavar="N",
        help="recordings of each word that are used (default 200)",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="also add all of them to one device, and say which of them wakes",
    )
    _add_negatives(
        parser,
        "recordings of other speech, in which false accepts are counted; a word that NAME.txt "
        "beside NAME.flac contains is not tried there",
    )


def _add_negatives(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--negatives", type=Path, nargs="+", default=[], metavar="DIR", help=help)


def _add_soak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hours", type=float, default=6, metavar="H", help="hours of audio (default 6)"
    )


def _add_engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engines",
        type=_engines,
        metavar="A,B",
        help=f"only these of {', '.join(ENGINES)} (default: those that are installed)",
    )


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        text = f"{text!r} is not a list of numbers; for instance 3,5,10"
        raise argparse.ArgumentTypeError(text) from None


def _engines(text: str) -> list[str]:
    for name in text.split(","):
        if name not in ENGINES:
            known = ", ".join(ENGINES)
            raise argparse.ArgumentTypeError(f"there is no engine {name!r}; there are {known}")
    return text.split(",")
