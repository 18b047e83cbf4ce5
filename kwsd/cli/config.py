"""`kwsd config`: the effective configuration, and the JSON Schema of `kwsd.yaml`."""

from __future__ import annotations

import argparse
import json

from kwsd import config_file
from kwsd.cli import options
from kwsd.cli.output import print_json

HELP = "show the effective configuration, or the JSON Schema of kwsd.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd config`."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=["show", "schema"],
        help="show: the effective configuration, as YAML or with --json; "
        "schema: the JSON Schema, with which editors complete kwsd.yaml",
    )
    options.add_config(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration or the schema."""
    if arguments.action == "schema":
        print(json.dumps(config_file.schema(), indent=2, ensure_ascii=False))
        return 0
    config = config_file.load(arguments.config)
    if arguments.json:
        print_json(config)
    else:
        print(config_file.dump(config), end="")
    return 0
