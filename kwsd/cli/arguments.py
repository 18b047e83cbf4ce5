"""What can be asked of `kwsd`: the parser. No verb is loaded for it."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from kwsd.version import __version__

USAGE = 64
"""Exit code of sysexits.h for arguments that cannot be understood."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"kwsd: {message}\n")


def _words(text: str) -> list[str]:
    """Names of words, with commas between them; a space in one is as good as an underscore."""
    return [word.strip().replace(" ", "_") for word in text.split(",") if word.strip()]


def duration(text: str) -> float:
    """`90s`, `45m`, `8h`, `2d` as seconds."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([smhd])\s*", text)
    with contextlib.suppress(ValueError):
        if found and (seconds := float(found.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found.group(2)]) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no length of time: 90s, 45m, 8h, 2d")


def _shared_options(parser: argparse.ArgumentParser, *groups: str) -> None:
    """The options that many verbs have, each spelled one way."""
    if "config" in groups:
        parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: the user's, then /etc/kwsd/kwsd.yaml)")
    if "words" in groups:
        parser.add_argument("--words", type=_words, metavar="A,B", help="listen for these words instead of the configured ones")
    if "socket" in groups:
        parser.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's socket")
    if "json" in groups:
        parser.add_argument("--json", action="store_true", help="JSON instead of text for people")


def build() -> argparse.ArgumentParser:
    """The parser; `.name` of what it gives is the verb."""
    parser = Parser(prog="kwsd", description="Listens for wake words, knows who spoke, tells programs over a Unix socket.")
    parser.add_argument("--version", action="version", version=f"kwsd {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    verbs = parser.add_subparsers(dest="name", required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, help: str, *groups: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        _shared_options(sub, *groups)
        return sub

    run = verb("run", "the daemon", "config", "words", "socket", "json")
    run.add_argument(
        "--source",
        default="mic",
        metavar="SOURCE",
        help="mic (default), a recording, - for raw PCM on standard input, or auto: mic, else the bundled recording",
    )
    run.add_argument("--rate", type=int, default=16000, help="sample rate of raw PCM (default 16000)")
    run.add_argument("--channels", type=int, default=1, help="channels of raw PCM (default 1)")
    run.add_argument("--realtime", action="store_true", help="go through a recording no faster than it was spoken")
    run.add_argument("--wait-for-client", action="store_true", help="begin to listen once somebody has subscribed")
    run.add_argument("--print", action="store_true", help="print the events as well")
    run.add_argument("--state", metavar="DIR", help="folder of the voiceprints")

    enroll = verb("enroll", "register a speaker", "socket", "config")
    enroll.add_argument("speaker", metavar="NAME")
    enroll.add_argument("--wav", nargs="+", type=Path, metavar="FILE", help="from recordings of the speaker instead of the microphone")
    enroll.add_argument("--word", help="the wake word to say (default: the first one that is listened for)")
    enroll.add_argument("--state", metavar="DIR", help="with --wav: write the voiceprint there, without a daemon")

    speakers = verb("speakers", "who is enrolled; delete one", "socket", "json")
    speakers.add_argument("--delete", metavar="NAME", help="forget this speaker")

    _add_word_verbs(verb("word", "wake words of your own"))

    _add_calibrate_options(verb("calibrate", "set thresholds for this room and its people", "config", "socket", "json", "words"))
    _add_clips_verbs(verb("clips", "recordings of wakes and near misses"))

    events = verb("events", "subscribe to the daemon and print what it says", "socket", "json", "words")
    events.add_argument("--types", type=lambda s: s.split(","), metavar="A,B", help="only these: wake, rejected, microphone")
    events.add_argument("--count", type=int, metavar="N", help="exit after N events")

    verb("status", "how the daemon is doing", "socket", "json")
    verb("reload", "let the daemon read its configuration and voiceprints anew", "socket")

    detect = verb("detect", "the detector over recordings, a JSON line an event", "config", "words")
    detect.add_argument("files", nargs="+", type=Path, metavar="FILE")
    detect.add_argument("--trace", type=Path, metavar="OUT.npz", help="also write every chunk's scores")
    detect.add_argument("--state", metavar="DIR", help="folder of the voiceprints")

    embed = verb("embed", "speaker embeddings of recordings", "config")
    embed.add_argument("files", nargs="+", type=Path, metavar="FILE")
    embed.add_argument("--out", type=Path, required=True, metavar="OUT.npz")

    verb("devices", "the input devices", "json")
    verb("doctor", "what is wrong with this machine, and the command that mends it", "config", "socket", "json")
    show = verb("config", "show the effective configuration", "config")
    show.add_argument("action", choices=["show"])
    bench = verb("bench", "what kwsd costs and how well it hears, beside its peers; `kwsd bench cost --help` says more")
    bench.add_argument("rest", nargs=argparse.REMAINDER, metavar="cost|accuracy|words|soak …")
    train = verb("train", "make the models (needs the extra [train]); `kwsd train unpack --help` says more")
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="STAGE …")
    return parser


def _actions(parser: argparse.ArgumentParser, state: str) -> tuple[argparse.ArgumentParser, Any]:
    """What all actions of a verb on the state directory share, and where to add them; `state` says what --state does."""
    common = Parser(add_help=False)
    _shared_options(common, "config", "socket", "json")
    common.add_argument("--state", metavar="DIR", help=state)
    return common, parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)


def _add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    heard = parser.add_mutually_exclusive_group(required=True)
    heard.add_argument(
        "--listen", type=duration, metavar="TIME", help="listen to the room for so long (45m, 8h), while nobody says the words; ^C ends it early"
    )
    heard.add_argument("--wav", type=Path, nargs="+", metavar="FILE", help="recordings of the room, in which nobody says the words")
    heard.add_argument(
        "--log", type=duration, nargs="?", const=0.0, metavar="TIME", help="what the daemon has logged, all or of the last TIME; labelled clips count"
    )
    heard.add_argument("--speakers", action="store_true", help="the threshold for enrolled speakers, from their takes and strangers' voices")
    heard.add_argument("--undo", action="store_true", help="go back to what was before the last calibration")
    parser.add_argument(
        "--rate", default="1/day", metavar="N/PERIOD", help="false wakes that are allowed, of each word: 1/week, 2/day, 0.5/hour (default 1/day)"
    )
    parser.add_argument("--far", type=float, default=0.01, metavar="SHARE", help="with --speakers: strangers that may be taken for somebody (default 0.01)")
    parser.add_argument("--nobody-spoke", action="store_true", help="with --log: nobody said the words, so that every wake was false")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the trade-off as a picture, .png or .svg (needs the extra [plots])")
    parser.add_argument("--state", metavar="DIR", help="keep it in this folder; then no daemon is needed")
    parser.add_argument("--yes", action="store_true", help="keep it without asking")


def _add_clips_verbs(parser: argparse.ArgumentParser) -> None:
    common, actions = _actions(parser, "clips of this folder; then no daemon is needed")
    actions.add_parser("list", parents=[common], help="the clips that are kept, the oldest first")
    play = actions.add_parser("play", parents=[common], help="play a clip")
    play.add_argument("id", metavar="ID")
    play.add_argument("--out", type=Path, metavar="FILE.wav", help="write it to a file instead")
    label = actions.add_parser("label", parents=[common], help="say whether a clip was the word")
    label.add_argument("label", choices=["right", "wrong", "none"])
    label.add_argument("ids", nargs="+", metavar="ID")
    clear = actions.add_parser("clear", parents=[common], help="delete clips, all where none is named")
    clear.add_argument("ids", nargs="*", metavar="ID")


def _add_word_verbs(parser: argparse.ArgumentParser) -> None:
    common, actions = _actions(parser, "keep words in this folder; then no daemon is needed")
    add = actions.add_parser("add", parents=[common], help="make a word of recordings of it; three suffice, ten are better")
    add.add_argument("word")
    origin = add.add_mutually_exclusive_group(required=True)
    origin.add_argument("--wav", type=Path, nargs="+", default=[], metavar="FILE", help="recordings, each of the word alone")
    origin.add_argument("--record", type=int, metavar="N", help="ask for N takes, through the daemon's microphone")
    origin.add_argument("--text-only", action="store_true", help="no recordings: let espeak-ng say it; far worse, and it says how much")
    add.add_argument("--room", action="store_true", help="hold what the daemon has just heard (lookback_s) against it: the word is not in it")
    add.add_argument("--synthesis", action=argparse.BooleanOptionalAction, default=False, help="with recordings: add synthetic voices to them (was worse)")
    improve = actions.add_parser("improve", parents=[common], help="make a word anew with what its labelled clips teach")
    improve.add_argument("word")
    for sub in (add, improve):
        sub.add_argument("--yes", action="store_true", help="keep it without asking")
    actions.add_parser("list", parents=[common], help="the words that were added")
    for action, help in (("remove", "forget a word"), ("export", "write a word to a file"), ("test", "try a word on recordings")):
        sub = actions.add_parser(action, parents=[common], help=help)
        sub.add_argument("word")
        if action == "export":
            sub.add_argument("file", type=Path)
        if action == "test":
            sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    actions.add_parser("import", parents=[common], help="add a word from a file that was exported").add_argument("file", type=Path)
