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
from typing import TYPE_CHECKING, Any

from kwsd import config
from kwsd.cli.arguments import USAGE, build
from kwsd.cli.output import Bar, Terminal, clip_sentence, print_event
from kwsd.client.client import Connection, connect
from kwsd.config import Config, ConfigError, Word
from kwsd.protocol.errors import RequestError

if TYPE_CHECKING:
    from kwsd.model.bundle import Bundle
    from kwsd.protocol.messages import Ask

DATA, NO_INPUT, UNAVAILABLE, CANNOT_CREATE, NO_PERMISSION, CONFIGURATION = 65, 66, 69, 73, 77, 78
REQUEST_CODES = {"permission_denied": NO_PERMISSION, "not_saved": CANNOT_CREATE, "bad_config": CONFIGURATION} | dict.fromkeys(
    ("bad_word", "unknown_word", "no_speaker", "no_clip", "bad_calibration", "in_use"), DATA
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status."""
    # The matrices here are small: numpy's threads would only wait for each other. It reads this when it is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = build().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.INFO, format=_log_format(), stream=sys.stderr)
    try:
        return int(VERBS[arguments.name](arguments) or 0)
    except ConfigError as error:
        return _fail(CONFIGURATION, error)
    except RequestError as error:
        return _fail(REQUEST_CODES.get(error.code, UNAVAILABLE), error)
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

    from kwsd.cli import demo
    from kwsd.server import daemon

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
    from kwsd.client import enroll as guide

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


def _keeping(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Ask, Bundle, Config]:
    """Who answers about what is kept: the daemon, or the folder of --state; with the models and the configuration."""
    from kwsd.model import bundle
    from kwsd.server.state_handlers import Keeping

    settings = _loaded(arguments)
    models = bundle.load(Path(settings.models) if settings.models else None)
    if arguments.state:
        return Keeping(settings.state_directory(), models, lambda: settings), models, settings
    return stack.enter_context(_daemon(arguments)), models, settings


def _word(arguments: argparse.Namespace) -> int:
    from kwsd.client import words as wording
    from kwsd.state.words import to_bytes

    with contextlib.ExitStack() as stack:
        ask, models, _ = _keeping(arguments, stack)
        match arguments.action:
            case "add":
                return _add_word(arguments, ask, models)
            case "improve":
                return _improve_word(arguments, ask, models)
            case "list":
                words, unusable = wording.listed(ask)
                if arguments.json:
                    print(json.dumps({"words": words, "unusable": unusable}, ensure_ascii=False))
                for one in [] if arguments.json else words:
                    print(f"{one['name']}: threshold {one['threshold']:.2f}, made of {one['made'].get('takes', '?')} takes of {one['length_s']:.1f} s")
                for why in [] if arguments.json else unusable:
                    print(f"cannot be used: {why}", file=sys.stderr)
            case "remove":
                name = ask.request("words.delete", name=arguments.word)["deleted"]
                print(f"{name} is removed.")
            case "export":
                arguments.file.write_bytes(to_bytes(wording.get(ask, models, arguments.word)))
            case "import":
                print(f"{wording.import_file(ask, models, arguments.file)} is added.")
            case "test":
                for path, score, woke in wording.test(ask, models, arguments.word, arguments.files):
                    told = {"file": str(path), "score": score, "wakes": woke}
                    print(json.dumps(told) if arguments.json else f"{path}: {score:.2f}{', wakes' if woke else ''}")
    return 0


def _add_word(arguments: argparse.Namespace, ask: Ask, models: Bundle) -> int:
    from kwsd.client import words as wording
    from kwsd.learn.few_shot import WordTrainer

    daemon = ask if isinstance(ask, Connection) else None
    if daemon is None and (arguments.record or arguments.room):
        return _fail(USAGE, "--record and --room need the daemon, which listens to the microphone; with --state, use --wav")
    trainer, text = WordTrainer(models), arguments.word.replace("_", " ")
    room = wording.look_back(daemon) if daemon and arguments.room else None

    def hear() -> wording.Heard:
        if arguments.text_only:
            return trainer.spoken(text), []
        if daemon and arguments.record:
            takes, refused = wording.of_microphone(trainer, daemon, arguments.word, arguments.record, Terminal())
        else:
            takes, refused = wording.of_recordings(trainer, arguments.wav)
        return [*takes, *(trainer.spoken(text) if arguments.synthesis else [])], refused

    origin: wording.Origin = "text" if arguments.text_only else "recordings"
    kept = wording.add(ask, trainer, arguments.word, hear, origin, _say, lambda: _agreed(arguments.yes), room)
    print(f"{arguments.word} is {'added' if kept else 'not added'}.")
    return 0


def _improve_word(arguments: argparse.Namespace, ask: Ask, models: Bundle) -> int:
    from dataclasses import asdict

    from kwsd.client import words as wording
    from kwsd.learn.few_shot import WordTrainer

    word, result = wording.improve(ask, WordTrainer(models), arguments.word, _say)
    if arguments.json:
        print(json.dumps({"word": word.name, **asdict(result)}))
    for line in [] if arguments.json else wording.describe_improvement(result):
        _say(line)
    kept = _agreed(arguments.yes)
    if kept:
        wording.put(ask, word)
    if not arguments.json:
        print(f"{word.name} is {'improved' if kept else 'as it was'}.")
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    import time
    from dataclasses import asdict

    from kwsd.client import calibrate as calibrating

    rate = calibrating.rate(arguments.rate)
    only, arguments.words = arguments.words, None  # what is listened for is the daemon's to say
    with contextlib.ExitStack() as stack:
        ask, models, settings = _keeping(arguments, stack)
        if arguments.undo:
            ask.request("calibration.undo")
            print("The last calibration is undone.")
            return 0
        if arguments.speakers:
            choice, present, origin = calibrating.speakers(ask, arguments.far)
            results, told = [], calibrating.describe_speakers(choice, present, origin)
            report: Any = {"speakers": {**asdict(choice), "present": present}}
        else:
            choice, told = None, []
            if arguments.wav:
                bar = Bar(arguments.wav)
                evidence = calibrating.of_recordings(ask, models, settings, arguments.wav, bar.step)
                bar.close()
            elif arguments.log is not None:
                since = time.time() - arguments.log if arguments.log else 0.0
                evidence = calibrating.of_log(ask, since, nobody_spoke=arguments.nobody_spoke)
            elif isinstance(ask, Connection):
                _say(f"Listening for {calibrating.hours(arguments.listen / 3600)}: nobody should say the words now. ^C ends it early.")
                evidence = calibrating.of_listening(ask, arguments.listen, Terminal().waiting)
            else:
                return _fail(USAGE, "--listen needs the daemon, which listens to the microphone; with --state, use --wav or --log")
            results = calibrating.calibrate(ask, models, evidence, rate, only)
            for result in results:
                told += [*calibrating.describe(result, arguments.rate), *calibrating.table(result)]
            report = {"words": [asdict(result) for result in results]}
        if arguments.json:
            print(json.dumps(report))
        for line in [] if arguments.json else told:
            print(line)
        if arguments.plot and results:
            _plot(results, arguments.plot)
        kept = _agreed(arguments.yes)
        if kept:
            calibrating.keep(ask, results, choice)
        if not arguments.json:
            print("In force now; `kwsd calibrate --undo` goes back." if kept else "Nothing is changed.")
    return 0


def _plot(results: Sequence[Any], path: Path) -> None:
    from kwsd.bench.plots import draw_calibration

    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {path}: the picture must be called .png or .svg")
    try:
        draw_calibration(results, path)
    except ModuleNotFoundError as error:
        raise OSError(f"--plot needs {error.name}: pip install 'kwsd[plots]'") from error


def _clips(arguments: argparse.Namespace) -> int:
    import base64

    with contextlib.ExitStack() as stack:
        ask, _, _ = _keeping(arguments, stack)
        match arguments.action:
            case "list":
                body = ask.request("clips")
                if arguments.json:
                    print(json.dumps({"clips": body["clips"], "enabled": body["enabled"]}, ensure_ascii=False))
                for one in [] if arguments.json else body["clips"]:
                    print(clip_sentence(one))
                if not body["clips"] and not arguments.json:
                    print("no clips" if body["enabled"] else "no clips, and none will be kept: `clips: on` in the configuration keeps them")
            case "play":
                import numpy as np

                from kwsd.audio.playback import play
                from kwsd.state.clips import wav_bytes

                samples = np.frombuffer(base64.b64decode(ask.request("clips.get", name=arguments.id)["pcm"]), "<i2").astype(np.int16)
                if arguments.out:
                    arguments.out.write_bytes(wav_bytes(samples))
                else:
                    play(samples)
            case "label":
                label = {} if arguments.label == "none" else {"label": arguments.label}
                print(f"{ask.request('clips.label', names=arguments.ids, **label)['labelled']} clip(s) labelled {arguments.label}")
            case "clear":
                named = {"names": arguments.ids} if arguments.ids else {}
                print(f"{ask.request('clips.clear', **named)['deleted']} clip(s) deleted")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _agreed(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nobody is there to say whether it is good enough; --yes says so")
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
    from kwsd.detect.offline import Recordings
    from kwsd.model import bundle
    from kwsd.server.state_handlers import Keeping

    settings = _loaded(arguments)
    models = bundle.load(Path(settings.models) if settings.models else None)
    return Recordings(settings, models, *Keeping(settings.state_directory(), models, lambda: settings).household()), settings


def _detect(arguments: argparse.Namespace) -> int:
    from kwsd.audio.files import AudioFileError
    from kwsd.detect.offline import TraceFile

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
    from kwsd.cli.doctor import examine

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
    from kwsd.cli import bench as suite

    return suite.main(arguments.rest)


def _train(arguments: argparse.Namespace) -> int:
    try:
        from kwsd.training import pipeline as stages
    except ModuleNotFoundError as error:
        return _fail(UNAVAILABLE, f"training needs {error.name}; install the extra: pip install 'kwsd[train]'")
    return stages.main(arguments.rest)


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": _run, "enroll": _enroll, "speakers": _speakers, "word": _word, "calibrate": _calibrate, "clips": _clips, "events": _events, "status": _status,
    "reload": _reload, "detect": _detect, "embed": _embed, "devices": _devices, "doctor": _doctor, "config": _config, "bench": _bench, "train": _train,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
