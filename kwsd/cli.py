"""The verbs. No logic: each reads its arguments, calls what does the work, and prints.

Exit codes are those of sysexits.h: 64 usage, 65 bad data, 66 no input, 69 unavailable, 73 cannot create, 77 no permission,
78 configuration. Imports of what is heavy stand in the verbs, so that `kwsd events` does not load a model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kwsd import __version__, config
from kwsd.config import Config, ConfigError, Word
from kwsd.service.client import Connection, DaemonError, connect
from kwsd.terminal import Bar, Terminal, print_event

USAGE, DATA, NO_INPUT, UNAVAILABLE, CANNOT_CREATE, NO_PERMISSION, CONFIGURATION = 64, 65, 66, 69, 73, 77, 78

DAEMON_CODES = {"permission_denied": NO_PERMISSION, "not_saved": CANNOT_CREATE, "bad_config": CONFIGURATION, "bad_word": DATA}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status."""
    # The matrices here are small: numpy's threads would only wait for each other. It reads this when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.INFO, format=_log_format(), stream=sys.stderr)
    try:
        return int(arguments.verb(arguments) or 0)
    except ConfigError as error:
        return _fail(CONFIGURATION, error)
    except DaemonError as error:
        return _fail(DAEMON_CODES.get(error.code, UNAVAILABLE), error)
    except BrokenPipeError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - whoever read us has gone; nothing may be flushed to it at exit
        return 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        from kwsd.audio.files import AudioFileError

        return _fail(NO_INPUT if isinstance(error, AudioFileError | FileNotFoundError) else DATA if isinstance(error, ValueError) else UNAVAILABLE, error)


def _log_format() -> str:
    under_systemd = "JOURNAL_STREAM" in os.environ
    return "%(name)s: %(message)s" if under_systemd else "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _fail(code: int, error: object) -> int:
    print(f"kwsd: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"kwsd: {message}\n")


def _words(text: str) -> list[str]:
    """Names of words, with commas between them; a space in one is as good as an underscore."""
    return [word.strip().replace(" ", "_") for word in text.split(",") if word.strip()]


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kwsd", description="Listens for wake words, knows who spoke, tells programs over a Unix socket.")
    parser.add_argument("--version", action="version", version=f"kwsd {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    verbs = parser.add_subparsers(dest="name", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, does: Callable[[argparse.Namespace], int | None], help: str, *groups: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(verb=does)
        _shared_options(sub, *groups)
        return sub

    run = verb("run", _run, "the daemon", "config", "words", "socket", "json")
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

    enroll = verb("enroll", _enroll, "register a speaker", "socket", "config")
    enroll.add_argument("speaker", metavar="NAME")
    enroll.add_argument("--wav", nargs="+", type=Path, metavar="FILE", help="from recordings of the speaker instead of the microphone")
    enroll.add_argument("--word", help="the wake word to say (default: the first one that is listened for)")
    enroll.add_argument("--state", metavar="DIR", help="with --wav: write the voiceprint there, without a daemon")

    speakers = verb("speakers", _speakers, "who is enrolled; delete one", "socket", "json")
    speakers.add_argument("--delete", metavar="NAME", help="forget this speaker")

    _add_word_verbs(verb("word", _word, "wake words of your own"))

    events = verb("events", _events, "subscribe to the daemon and print what it says", "socket", "json", "words")
    events.add_argument("--types", type=lambda s: s.split(","), metavar="A,B", help="only these: wake, rejected, microphone")
    events.add_argument("--count", type=int, metavar="N", help="exit after N events")

    verb("status", _status, "how the daemon is doing", "socket", "json")
    verb("reload", _reload, "let the daemon read its configuration and voiceprints anew", "socket")

    detect = verb("detect", _detect, "the detector over recordings, a JSON line an event", "config", "words")
    detect.add_argument("files", nargs="+", type=Path, metavar="FILE")
    detect.add_argument("--trace", type=Path, metavar="OUT.npz", help="also write every chunk's scores")
    detect.add_argument("--state", metavar="DIR", help="folder of the voiceprints")

    embed = verb("embed", _embed, "speaker embeddings of recordings", "config")
    embed.add_argument("files", nargs="+", type=Path, metavar="FILE")
    embed.add_argument("--out", type=Path, required=True, metavar="OUT.npz")

    verb("devices", _devices, "the input devices", "json")
    verb("doctor", _doctor, "what is wrong with this machine, and the command that mends it", "config", "socket", "json")
    show = verb("config", _config, "show the effective configuration", "config")
    show.add_argument("action", choices=["show"])
    bench = verb("bench", _bench, "what kwsd costs and how well it hears, beside its peers; `kwsd bench cost --help` says more")
    bench.add_argument("rest", nargs=argparse.REMAINDER, metavar="cost|accuracy|words|soak …")
    train = verb("train", _train, "make the models (needs the extra [train]); `kwsd train unpack --help` says more")
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="STAGE …")
    return parser


def _add_word_verbs(parser: argparse.ArgumentParser) -> None:
    common = _Parser(add_help=False)
    _shared_options(common, "config", "socket", "json")
    common.add_argument("--state", metavar="DIR", help="keep words in this folder; then no daemon is needed")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_Parser)
    add = actions.add_parser("add", parents=[common], help="make a word of recordings of it; three suffice, ten are better")
    add.add_argument("word")
    origin = add.add_mutually_exclusive_group(required=True)
    origin.add_argument("--wav", type=Path, nargs="+", default=[], metavar="FILE", help="recordings, each of the word alone")
    origin.add_argument("--record", type=int, metavar="N", help="ask for N takes, through the daemon's microphone")
    origin.add_argument("--text-only", action="store_true", help="no recordings: let espeak-ng say it; far worse, and it says how much")
    add.add_argument("--yes", action="store_true", help="keep it without asking")
    actions.add_parser("list", parents=[common], help="the words that were added")
    for action, help in (("remove", "forget a word"), ("export", "write a word to a file"), ("test", "try a word on recordings")):
        sub = actions.add_parser(action, parents=[common], help=help)
        sub.add_argument("word")
        if action == "export":
            sub.add_argument("file", type=Path)
        if action == "test":
            sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    actions.add_parser("import", parents=[common], help="add a word from a file that was exported").add_argument("file", type=Path)


def _overrides(arguments: argparse.Namespace) -> Callable[[Config], Config]:
    """What the command line changes in a configuration."""

    def change(base: Config) -> Config:
        if getattr(arguments, "words", None):
            base = replace(base, words={w: base.words.get(w, Word()) for w in arguments.words}, added_words=False)
        if getattr(arguments, "state", None):
            base = replace(base, state=arguments.state)
        if getattr(arguments, "socket", None):
            base = replace(base, socket=replace(base.socket, path=str(arguments.socket)))
        return base

    return change


def _daemon(arguments: argparse.Namespace) -> Connection:
    """A connection to the socket that was named, else to the configured one, else to the usual one."""
    path = arguments.socket
    if path is None and "KWSD_SOCKET" not in os.environ:
        with contextlib.suppress(ConfigError):  # a broken configuration is the daemon's to complain about
            named = config.load(getattr(arguments, "config", None)).socket.path
            path = Path(named) if named else None
    return connect(path)


def _loaded(arguments: argparse.Namespace) -> Config:
    return _overrides(arguments)(config.load(arguments.config))


def _run(arguments: argparse.Namespace) -> int:
    import asyncio

    from kwsd.service import daemon, demo

    source, shows = arguments.source, arguments.print
    if source == "auto":
        source, shows = demo.source(), True
        if source != "mic":
            print(f"There is no microphone on this machine: listening to the bundled recording {source} instead, through the same path.", flush=True)
    change = _overrides(arguments)
    asked = daemon.Run(
        config=change(config.load(arguments.config)), config_path=arguments.config, source=source, realtime=arguments.realtime,
        wait_for_client=arguments.wait_for_client, rate=arguments.rate, channels=arguments.channels, overrides=change,
        on_event=(lambda event: print_event(event.to_dict(), arguments.json)) if shows else None,
    )  # fmt: skip
    return asyncio.run(daemon.run(asked))


def _enroll(arguments: argparse.Namespace) -> int:
    from kwsd.service import guide

    if arguments.state:
        if not arguments.wav:
            return _fail(USAGE, "--state needs --wav: only the daemon listens to the microphone")
        takes, refused = guide.without_daemon(_loaded(arguments), arguments.speaker, arguments.wav)
    else:
        with _daemon(arguments) as daemon:
            if arguments.wav:
                takes, refused = guide.from_recordings(daemon, arguments.speaker, arguments.wav)
            else:
                takes, refused = guide.guide(daemon, arguments.speaker, arguments.word, Terminal()), []
    for why in refused:
        print(f"left out: {why}", file=sys.stderr)
    print(f"{arguments.speaker} is enrolled, from {takes} takes.")
    return 0


def _speakers(arguments: argparse.Namespace) -> None:
    with _daemon(arguments) as daemon:
        if arguments.delete:
            daemon.request("speakers.delete", name=arguments.delete)
        body = daemon.request("speakers")
    if arguments.json:
        print(json.dumps({"speakers": body["speakers"], "unusable": body["unusable"]}, ensure_ascii=False))
        return
    for one in body["speakers"]:
        print(f"{one['name']}: {one['takes']} takes")
    if not body["speakers"]:
        print("nobody is enrolled; `kwsd enroll NAME` does it")
    for why in body["unusable"]:
        print(f"cannot be used: {why}", file=sys.stderr)


def _word(arguments: argparse.Namespace) -> int:
    import functools

    from kwsd.detect.fewshot import WordTrainer
    from kwsd.detect.words import WordStore, to_bytes
    from kwsd.model import bundle
    from kwsd.service import wording

    settings = _loaded(arguments)
    models = bundle.load(Path(settings.models) if settings.models else None)
    with contextlib.ExitStack() as stack:
        keeper: wording.Keeper = (
            wording.Folder(WordStore(settings.state_directory(), models.encoder_id)) if arguments.state
            else wording.Daemon(stack.enter_context(_daemon(arguments)), models.encoder_id)
        )  # fmt: skip
        match arguments.action:
            case "add":
                if arguments.record and not isinstance(keeper, wording.Daemon):
                    return _fail(USAGE, "--record needs the daemon, which listens to the microphone; with --state, use --wav")
                trainer, hear = WordTrainer(models), None
                if arguments.wav:
                    hear = functools.partial(wording.of_recordings, trainer, arguments.wav)
                elif isinstance(keeper, wording.Daemon) and arguments.record:
                    hear = functools.partial(wording.of_microphone, trainer, keeper.connection, arguments.word, arguments.record, Terminal())
                kept = wording.add(keeper, trainer, arguments.word, hear, lambda text: print(text, file=sys.stderr), lambda: _agreed(arguments.yes))
                print(f"{arguments.word} is {'added' if kept else 'not added'}.")
            case "list":
                words, unusable = keeper.listed()
                if arguments.json:
                    print(json.dumps({"words": words, "unusable": unusable}, ensure_ascii=False))
                for one in [] if arguments.json else words:
                    print(f"{one['name']}: threshold {one['threshold']:.2f}, made of {one['made'].get('takes', '?')} takes of {one['length_s']:.1f} s")
                for why in [] if arguments.json else unusable:
                    print(f"cannot be used: {why}", file=sys.stderr)
            case "remove":
                keeper.delete(arguments.word)
                print(f"{arguments.word} is removed.")
            case "export":
                arguments.file.write_bytes(to_bytes(keeper.get(arguments.word)))
            case "import":
                print(f"{wording.import_file(keeper, models, arguments.file)} is added.")
            case "test":
                for path, score, woke in wording.test(keeper.get(arguments.word), models, arguments.files):
                    told = {"file": str(path), "score": score, "wakes": woke}
                    print(json.dumps(told) if arguments.json else f"{path}: {score:.2f}{', wakes' if woke else ''}")
    return 0


def _agreed(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nobody is there to say whether the word is good enough; --yes says so")
    return input("Keep it? [Y/n] ").strip().lower() in ("", "y", "yes")


def _events(arguments: argparse.Namespace) -> None:
    with _daemon(arguments) as daemon:
        for n, body in enumerate(daemon.events(arguments.types, arguments.words), 1):
            print_event(body, arguments.json)
            if n == arguments.count:
                return


def _status(arguments: argparse.Namespace) -> None:
    with _daemon(arguments) as daemon:
        body = daemon.request("status")
    body = {k: v for k, v in body.items() if k not in ("type", "id", "ok")}
    if arguments.json:
        print(json.dumps(body, ensure_ascii=False))
        return
    words = ", ".join(f"{w} (threshold {v['threshold']:.2f})" for w, v in body["words"].items())
    print(f"up for {body['uptime_s']:.0f} s, microphone {body['microphone']['state']}: {body['microphone']['name']}")
    print(f"listens for {words}")
    print(f"knows {', '.join(body['speakers']) or 'nobody'}; {body['clients']} client(s)")
    if body["real_time_factor"] is not None:
        print(f"{body['real_time_factor']:.4f} CPU seconds per second of audio; the encoder was awake for {100 * body['encoded_share']:.0f} % of it")


def _reload(arguments: argparse.Namespace) -> None:
    with _daemon(arguments) as daemon:
        daemon.request("reload")


def _recordings(arguments: argparse.Namespace) -> tuple[Any, Config]:
    from kwsd.detect.detector import check_words
    from kwsd.detect.recordings import Recordings
    from kwsd.detect.voiceprints import VoiceprintStore
    from kwsd.detect.words import WordStore
    from kwsd.model import bundle

    settings = _loaded(arguments)
    models = bundle.load(Path(settings.models) if settings.models else None)
    words, unusable = WordStore(settings.state_directory(), models.encoder_id).load_all()
    for why in unusable:
        print(f"left out: {why}", file=sys.stderr)
    check_words(settings, models, words)
    voiceprints, _ = VoiceprintStore(settings.state_directory(), models.encoder_id).load_all()
    return Recordings(settings, models, voiceprints, words), settings


def _detect(arguments: argparse.Namespace) -> int:
    from kwsd.audio.files import AudioFileError
    from kwsd.detect.recordings import TraceFile

    recordings, settings = _recordings(arguments)
    trace, bar, status = TraceFile(settings.words), Bar(arguments.files), 0
    for path in arguments.files:
        try:
            for wake in recordings.detect(path, trace.begin(path) if arguments.trace else None, bar.step):
                print(json.dumps({"file": str(path), **wake.to_dict()}, ensure_ascii=False), flush=True)
        except AudioFileError as error:
            status = _fail(NO_INPUT, error)
    bar.close()
    if arguments.trace:
        trace.save(arguments.trace)
    return status


def _embed(arguments: argparse.Namespace) -> int:
    import numpy as np

    from kwsd.audio.files import AudioFileError

    recordings, _ = _recordings(arguments)
    bar, status, embeddings, files = Bar(arguments.files), 0, [], []
    for path in arguments.files:
        try:
            embedding = recordings.embed(path, bar.step)
        except AudioFileError as error:
            status = _fail(NO_INPUT, error)
            continue
        if embedding is None:
            status = _fail(DATA, f"{path}: holds no voice")
            continue
        embeddings.append(embedding)
        files.append(str(path))
    bar.close()
    if not embeddings:
        return status
    with arguments.out.open("wb") as out:
        np.savez(out, embeddings=np.stack(embeddings), files=np.array(files, np.str_))
    return status


def _devices(arguments: argparse.Namespace) -> int:
    from kwsd.audio.capture import devices

    listed = devices()
    if arguments.json:
        print(json.dumps(listed, ensure_ascii=False))
    for one in [] if arguments.json else listed:
        print(f"{one['index']:3d}{'*' if one['default'] else ' '} {one['name']}: {one['channels']} channel(s), {one['rate']} Hz")
    if not listed:
        return _fail(UNAVAILABLE, "there is no input device; `kwsd doctor` says more")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from kwsd.service.doctor import examine

    findings = list(examine(arguments.config, arguments.socket))
    for one in findings:
        if arguments.json:
            print(json.dumps(one.__dict__, ensure_ascii=False))
        else:
            print(f"{'ok  ' if one.ok else 'BAD '} {one.check}: {one.detail}" + (f"\n     mend: {one.mend}" if one.mend else ""))
    return 0 if all(one.ok for one in findings) else UNAVAILABLE


def _config(arguments: argparse.Namespace) -> None:
    print(config.dump(config.load(arguments.config)), end="")


def _bench(arguments: argparse.Namespace) -> int:
    from kwsd.bench import suite

    return suite.main(arguments.rest)


def _train(arguments: argparse.Namespace) -> int:
    try:
        from kwsd.training import stages
    except ModuleNotFoundError as error:
        return _fail(UNAVAILABLE, f"training needs {error.name}; install the extra: pip install 'kwsd[train]'")
    return stages.main(arguments.rest)


if __name__ == "__main__":
    sys.exit(main())
