"""`kwsd calibrate`: thresholds for this room and its people."""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kwsd import extras
from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint, open_endpoint
from kwsd.cli.output import (
    CANNOT_CREATE,
    USAGE,
    Bar,
    Terminal,
    check_answerable,
    check_writable,
    confirmed,
    fail,
    print_json,
    show,
)
from kwsd.protocol.commands import CalibrationUndo
from kwsd.protocol.errors import DaemonError

if TYPE_CHECKING:
    from kwsd.client.calibrate import EvidenceByWord, Result
    from kwsd.learn.thresholds import SpeakerChoice

HELP = "set thresholds for this room and its people"


@dataclass(frozen=True)
class _Proposal:
    """New thresholds that are not in force yet."""

    results: Sequence[Result]
    speaker: SpeakerChoice | None
    report: dict[str, object]
    """What `--json` prints."""
    lines: list[str]
    """What a person reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd calibrate`."""
    _add_evidence(parser)
    parser.add_argument(
        "--rate",
        default="1/day",
        metavar="N/PERIOD",
        help="false wakes allowed for each word: 1/week, 2/day, 0.5/hour (default 1/day)",
    )
    parser.add_argument(
        "--far",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="with --speakers: share of strangers that may pass (default 0.01)",
    )
    parser.add_argument(
        "--nobody-spoke",
        action="store_true",
        help="with --log: nobody said the words, so that every wake was false",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the trade-off, as .png or .svg (needs the extra [plots])",
    )
    options.add_words(parser, "calibrate only these words")
    options.add_yes(parser)
    options.add_endpoint(parser, stores=True)


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    evidence = parser.add_mutually_exclusive_group(required=True)
    evidence.add_argument(
        "--listen",
        type=options.duration,
        metavar="TIME",
        help="listen to the room for so long (45m, 8h), while nobody says the words; "
        "^C ends it early",
    )
    evidence.add_argument(
        "--wav",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="recordings of the room, in which nobody says the words",
    )
    evidence.add_argument(
        "--log",
        type=options.duration,
        nargs="?",
        const=0.0,
        metavar="TIME",
        help="what the daemon has logged, all or of the last TIME; labeled clips count",
    )
    evidence.add_argument(
        "--speakers",
        action="store_true",
        help="the threshold for enrolled speakers, from their takes and strangers' voices",
    )
    evidence.add_argument(
        "--undo", action="store_true", help="go back to the thresholds before the last calibration"
    )


def run(arguments: argparse.Namespace) -> int:
    """Find thresholds, show what they would do, and put them in force once confirmed."""
    from kwsd.client import calibrate
    from kwsd.client.enroll import check_rights

    rate = calibrate.parse_rate(arguments.rate)
    if arguments.listen is not None and arguments.state:
        text = "--listen needs the daemon, which listens to the microphone"
        return fail(USAGE, f"{text}; with --state, use --wav or --log")
    if arguments.plot and (arguments.speakers or arguments.undo):
        return fail(USAGE, "--plot draws the trade-off of words; leave it out here")
    if arguments.plot:
        _check_plot(arguments.plot)
    # Which words are active is up to the daemon; --words only chooses among them.
    only = arguments.words
    arguments.words = None
    undrawn = None
    with open_endpoint(arguments) as endpoint:
        if endpoint.client:
            check_rights(endpoint.client, "calibrating")
        if arguments.undo:
            return _undo(arguments, endpoint)
        if arguments.speakers:
            found = _speakers(arguments, endpoint)
        else:
            calibrate.check_words(endpoint.requester, only)
            check_answerable(yes=arguments.yes)
            if arguments.listen is not None:
                calibrate.check_listening(endpoint.requester)
            found = _words(arguments, endpoint, rate, only)
        if arguments.json:
            print_json(found.report)
        for line in [] if arguments.json else found.lines:
            print(line)
        if arguments.plot and found.results:
            undrawn = _draw(found.results, arguments.plot)
        kept = confirmed(yes=arguments.yes)
        if kept:
            calibrate.keep(endpoint.requester, found.results, found.speaker)
    if not arguments.json:
        undo = "In force now; `kwsd calibrate --undo` goes back."
        print(undo if kept else "Nothing has changed.")
    return fail(CANNOT_CREATE, undrawn) if undrawn else 0


def _draw(results: Sequence[Result], path: Path) -> str | None:
    """Draw the picture, or return why it could not be drawn: hours of listening outlast it."""
    from kwsd.bench.plots import draw_calibration

    try:
        draw_calibration(results, path)
    except Exception as error:  # whatever matplotlib or the disk may raise
        return f"--plot {path}: the picture could not be drawn ({error})"
    return None


def _undo(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    before = endpoint.requester.request(CalibrationUndo())
    if arguments.json:
        print_json(before)
    else:
        print("The last calibration is undone.")
    return 0


def _speakers(arguments: argparse.Namespace, endpoint: Endpoint) -> _Proposal:
    from kwsd.client import calibrate, calibration_text

    choice, in_force = calibrate.speakers(endpoint.requester, arguments.far)
    report: dict[str, object] = {**asdict(choice), "present": in_force.threshold}
    lines = calibration_text.describe_speakers(choice, in_force)
    return _Proposal([], choice, {"speakers": report}, lines)


def _words(
    arguments: argparse.Namespace, endpoint: Endpoint, rate: float, only: Sequence[str] | None
) -> _Proposal:
    from kwsd.client import calibrate, calibration_text

    evidence = _evidence(arguments, endpoint)
    results = calibrate.calibrate(endpoint.requester, endpoint.bundle, evidence, rate, only)
    lines = []
    for result in results:
        lines += calibration_text.describe(result, arguments.rate)
        lines += calibration_text.table(result)
    report: dict[str, object] = {"words": [asdict(result) for result in results]}
    return _Proposal(results, None, report, lines)


def _evidence(arguments: argparse.Namespace, endpoint: Endpoint) -> EvidenceByWord:
    from kwsd.client import calibrate, calibration_text

    requester = endpoint.requester
    if arguments.wav:
        with Bar(arguments.wav) as bar:
            return calibrate.from_recordings(
                requester, endpoint.bundle, endpoint.config, arguments.wav, bar.step
            )
    if arguments.log is not None:
        since = time.time() - arguments.log if arguments.log else 0.0
        return calibrate.from_log(requester, since, nobody_spoke=arguments.nobody_spoke)
    length = calibration_text.hours(arguments.listen / 3600)
    show(f"Listening for {length}: nobody should say the words now. ^C ends it early.")
    began = time.monotonic()
    try:
        return calibrate.from_listening(requester, arguments.listen, Terminal().waiting)
    except DaemonError as error:
        minutes = math.ceil((time.monotonic() - began) / 60)
        again = f"`kwsd calibrate --log {minutes}m --nobody-spoke` takes what it has logged"
        raise DaemonError(error.code, f"{error}; once it runs again, {again}") from error


def _check_plot(path: Path) -> None:
    """Raise ValueError or OSError where no picture can be drawn, before the hours of listening."""
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {path}: the picture's name must end in .png or .svg")
    check_writable(path)
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        text = f"--plot needs matplotlib ({error}): {extras.command('plots')}"
        raise OSError(text) from error
