"""`kwsd detect`: the detector over recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint
from kwsd.cli.output import (
    NO_INPUT,
    Bar,
    check_writable,
    fail,
    print_json,
    show,
    writing,
)
from kwsd.events import to_dict

HELP = "run the detector over recordings and print a JSON line per event"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd detect`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--trace", type=Path, metavar="OUT.npz", help="also write the scores of every chunk"
    )
    parser.add_argument("--json", action="store_true", help="no effect: the output is JSON anyway")
    options.add_details(parser)
    options.add_words(parser)
    options.add_config(parser)
    options.add_state(parser, "folder of voiceprints, added words and calibration")


def run(arguments: argparse.Namespace) -> int:
    """Print the events of each recording; one that cannot be read does not end the run."""
    from kwsd.audio.files import AudioFileError
    from kwsd.detect.offline import Recordings, TraceFile
    from kwsd.detect.setup import resolve

    if arguments.trace:
        check_writable(arguments.trace)
    endpoint = Endpoint(arguments)
    config = endpoint.config
    setup = resolve(config, endpoint.bundle, endpoint.state.library(), arguments.words or ())
    for warning in setup.warnings:
        show(f"warning: {warning}")
    recordings = Recordings(endpoint.bundle, setup, config.microphone.channel)
    trace = TraceFile(setup.words)
    status = 0
    with Bar(arguments.files) as bar:
        for path in arguments.files:
            trace.begin(path)
            try:
                for step in recordings.detect(path, bar.step):
                    if arguments.trace:
                        trace.add(step.trace)
                    for event in step.wakes:
                        body = to_dict(event, details=arguments.details)
                        print_json({"file": str(path), **body})
            except AudioFileError as error:
                status = fail(NO_INPUT, error)
    if arguments.trace:
        with writing(arguments.trace):
            trace.save(arguments.trace)
    return status
