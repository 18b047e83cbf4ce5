"""`kwsd embed`: speaker embeddings of recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

from kwsd.cli import options
from kwsd.cli.endpoint import Endpoint
from kwsd.cli.output import (
    DATA,
    NO_INPUT,
    Bar,
    check_writable,
    fail,
    print_json,
    writing,
)

HELP = "compute speaker embeddings of recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd embed`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT.npz",
        help="write `embeddings`, a row per file, and `files` there",
    )
    options.add_config(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the embeddings of the recordings that contain a voice."""
    import numpy as np

    from kwsd.audio.files import AudioFileError
    from kwsd.detect.offline import Recordings
    from kwsd.detect.setup import resolve

    check_writable(arguments.out)
    endpoint = Endpoint(arguments)
    setup = resolve(endpoint.config, endpoint.bundle, endpoint.state.library())
    recordings = Recordings(endpoint.bundle, setup, endpoint.config.microphone.channel)
    status = 0
    embeddings = []
    files = []
    left_out = []
    with Bar(arguments.files) as bar:
        for path in arguments.files:
            embedding = None
            try:
                embedding = recordings.embed(path, bar.step)
                if embedding is None:
                    status = fail(DATA, f"{path}: contains no voice")
            except AudioFileError as error:
                status = fail(NO_INPUT, error)
            if embedding is None:
                left_out.append(str(path))
            else:
                embeddings.append(embedding)
                files.append(str(path))
    if embeddings:
        with writing(arguments.out), arguments.out.open("wb") as out:
            np.savez(out, embeddings=np.stack(embeddings), files=np.array(files, np.str_))
    if arguments.json:
        written = arguments.out if embeddings else None
        dim = len(embeddings[0]) if embeddings else None
        print_json({"out": written, "dim": dim, "files": files, "left_out": left_out})
    return status
