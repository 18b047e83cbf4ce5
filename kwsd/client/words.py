"""Words that users add, seen from the client: made here, kept by whoever answers: the daemon, or a state directory."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kwsd.audio.files import AudioFileError, read_all
from kwsd.client.client import Connection
from kwsd.client.enroll import RETRIES, Voice
from kwsd.config import SAMPLE_RATE, Config, Word
from kwsd.detect.detector import Trace
from kwsd.detect.offline import Recordings
from kwsd.learn.few_shot import Quality, WordTake, WordTrainer
from kwsd.learn.takes import TakeRejected, level_dbfs
from kwsd.model.bundle import Bundle
from kwsd.protocol.errors import DaemonError
from kwsd.protocol.messages import Ask
from kwsd.state.words import MOST_KEPT, UserWord, WordError, check_name, from_bytes, to_bytes
from kwsd.version import __version__


def listed(ask: Ask) -> tuple[list[dict[str, Any]], list[str]]:
    """What is known of each added word, and why others cannot be used."""
    body = ask.request("words")
    return body["words"], body["unusable"]


def get(ask: Ask, bundle: Bundle, name: str) -> UserWord:
    """Raises RequestError or WordError."""
    body = ask.request("words.get", name=check_name(name))
    return from_bytes(base64.b64decode(body["file"]), bundle.encoder_id, name)


def put(ask: Ask, word: UserWord) -> None:
    """Raises RequestError."""
    ask.request("words.put", file=base64.b64encode(to_bytes(word)).decode())


TEXT_ONLY = ("made of synthetic voices alone. On the development split such words caught 63 % (71 % with the neural voices of kwsd[voices]) "
             "where words of three recordings caught 90 % (at 1 % false accepts): record it three times, and it will be far better")  # fmt: skip


Origin = Literal["recordings", "text"]
Heard = tuple[list[WordTake], list[str]]
"""Takes that can be used, and why others cannot."""


def of_recordings(trainer: WordTrainer, paths: Sequence[Path]) -> Heard:
    """The takes in recordings."""
    takes, refused = list[WordTake](), []
    for path in paths:
        try:
            takes.append(trainer.take(read_all(path)))
        except AudioFileError as error:
            refused.append(str(error))
        except TakeRejected as error:
            refused.append(f"{path}: {error}")
    return takes, refused


def of_microphone(trainer: WordTrainer, daemon: Connection, name: str, count: int, voice: Voice) -> Heard:
    """`count` takes from the daemon's microphone, guided. Raises DaemonError."""
    takes, rejected = list[WordTake](), 0
    while len(takes) < count:
        voice.ask(f"say “{name.replace('_', ' ')}”", len(takes) + 1, count)
        try:
            pcm = daemon.request("take", timeout_s=20, on_level=voice.level)["pcm"]
            samples = np.frombuffer(base64.b64decode(pcm), "<i2")
            takes.append(trainer.take(samples))
            voice.accepted(level_dbfs(samples), takes[-1].length_s)
        except (DaemonError, TakeRejected) as error:
            rejected += 1
            if rejected > RETRIES or (isinstance(error, DaemonError) and error.code != "no_speech"):
                raise
            voice.rejected(str(error))
    return takes, []


def free_name(kept: Sequence[str], bundle: Bundle, name: str) -> str:
    """`name` as a word is called, if none of those `kept` is called so. Raises WordError."""
    name = check_name(name)
    if name in bundle.words:
        raise WordError(f"{name!r} comes with kwsd: put it under `words` in the configuration, or call yours something else")
    if name in kept:
        raise WordError(f"{name!r} is there already; `kwsd word remove {name}` makes room for another")
    return name


def add(
    ask: Ask,
    trainer: WordTrainer,
    name: str,
    hear: Callable[[], Heard],
    of: Origin,
    tell: Callable[[str], None],
    keep: Callable[[], bool],
    room: np.ndarray | None = None,
) -> bool:
    """Make a word of what `hear()` gives, `tell` how good it is, and keep it if `keep()` says so; whether it was kept.

    `room`: int16 `[sample]` of the room, without the word. Raises WordError: there is such a word already, or too few takes can be used;
    SynthesisError: its text cannot be spoken; RequestError."""
    kept = [one["name"] for one in listed(ask)[0]]
    name = free_name(kept, trainer.bundle, name)
    takes, refused = hear()
    others = [get(ask, trainer.bundle, other) for other in kept]
    for why in refused:
        tell(f"left out: {why}")
    if len(takes) > MOST_KEPT:
        tell(f"of {len(takes)} takes the last {MOST_KEPT} are used")
    word, quality = trainer.make(name, takes, others, room=trainer.frames(room) if room is not None else None)
    word = replace(word, made={**word.made, "of": of, "kwsd": __version__})
    tell(describe(name, quality))
    for warning in [*([TEXT_ONLY] if of == "text" else []), *quality.warnings]:
        tell(f"warning: {warning}")
    if not keep():
        return False
    put(ask, word)
    return True


def look_back(daemon: Connection) -> np.ndarray:
    """What the daemon has heard of late, int16 `[sample]`: `lookback_s` of it. Raises DaemonError."""
    span = daemon.request("status")["look_back"]
    step, end = 15 * SAMPLE_RATE, span["end"]
    begin = min(span["start"] + SAMPLE_RATE // 2, end)  # the oldest falls out meanwhile
    parts = [daemon.request("audio", start=at, end=min(at + step, end))["pcm"] for at in range(begin, end, step)]
    return np.frombuffer(b"".join(map(base64.b64decode, parts)), "<i2").astype(np.int16)


@dataclass(frozen=True)
class Improvement:
    """A word before and after its clips have been learnt from. None of the figures of `after` was got from a clip that taught it."""

    right: int
    wrong: int
    missed: tuple[int, int]
    """Clips of the word that are missed, before and after."""
    woken: tuple[int, int]
    """Clips that are not the word, and wake it, before and after."""
    takes_missed: tuple[int, int]
    takes: int
    false_accepts_per_hour: float
    """Of ceaseless speech, to expect before and after: the thresholds are such that it stays."""


def improve(ask: Ask, trainer: WordTrainer, name: str, tell: Callable[[str], None]) -> tuple[UserWord, Improvement]:
    """The word `name` made anew with its labelled clips, not yet kept. Raises WordError, RequestError."""
    name = check_name(name)
    if name in trainer.bundle.words:
        raise WordError(f"{name!r} comes with kwsd and cannot be made anew on the device; labelled clips set its threshold: `kwsd calibrate --log`")
    old = get(ask, trainer.bundle, name)
    used = set(old.made.get("clips", ()))
    right: list[tuple[float, WordTake]] = []
    wrong: list[np.ndarray] = []
    learnt = []
    for one in ask.request("clips")["clips"]:
        if one["word"] != name or not one["label"] or one["id"] in used:
            continue
        body = ask.request("clips.get", name=one["id"])
        samples = np.frombuffer(base64.b64decode(body["pcm"]), "<i2").astype(np.int16)
        learnt.append(one["id"])
        if one["label"] == "right":
            right.append((one["score"], trainer.clip_take(samples, one["start"], one["end"])))
        else:
            wrong.append(trainer.wrong_clip(samples, one["end"]))
    if not learnt:
        raise WordError(f"{name!r} has no labelled clips that it has not learnt from; `clips: on` keeps them, `kwsd clips label right|wrong ID…` labels them")
    takes = [WordTake(frames, old.length_s, {}) for frames in old.takes.astype(np.float32)]
    right.sort(key=lambda scored: scored[0])
    said = [take for _, take in right[: max(MOST_KEPT - len(takes), MOST_KEPT // 4)]]  # those that it found hardest teach most
    of_them = f" (the {len(said)} hardest are learnt)" if len(said) < len(right) else ""
    tell(f"{name}: {len(right)} clips of it{of_them}, and {len(wrong)} of something else")
    present = ask.request("calibration")["words"].get(name, {}).get("threshold", old.threshold)
    rate = min(max(trainer.rate(old, present), 0.01), 20.0)
    word, after = trainer.make(name, [*takes, *said], wrong=[*old.wrong.astype(np.float32), *wrong], rate=rate)
    of_takes, of_said = np.split(word.scores[:, 0], [len(word.scores) - len(said)])
    result = Improvement(
        right=len(said), wrong=len(wrong), takes=len(of_takes), false_accepts_per_hour=rate,
        missed=(sum(trainer.score(old, take.frames[0]) < present for take in said), int((of_said < word.threshold).sum())),
        woken=(sum(trainer.score(old, frames) >= present for frames in wrong), sum(after.woken[len(after.woken) - len(wrong) :])),
        takes_missed=(int((old.scores[:, 0] < present).sum()), int((of_takes < word.threshold).sum())),
    )  # fmt: skip
    made = {**old.made, **word.made, "takes": old.made.get("takes", len(takes)), "clips": sorted(used | set(learnt))}
    return replace(word, made=made), result


def describe(name: str, quality: Quality) -> str:
    """How good a word is, for a person."""
    return (f"{name}: {quality.takes} takes of {quality.length_s:.1f} s. Left out one after the other, {quality.missed} of them would be missed, "
            f"{quality.missed_in_noise} in noise at 10 dB; about {quality.false_accepts_per_hour:g} false wakes an hour of ceaseless speech "
            f"(continued from {quality.bank_hours:.1f} h of it)")  # fmt: skip


def describe_improvement(result: Improvement) -> list[str]:
    """What its clips have taught a word, for a person."""

    def pair(what: tuple[int, int], of: int) -> str:
        return f"{what[0]} → {what[1]} of {of}"

    return [f"  missed of its clips: {pair(result.missed, result.right)}; of its takes: {pair(result.takes_missed, result.takes)}",
            f"  woken by clips of something else: {pair(result.woken, result.wrong)}",
            f"  at about {result.false_accepts_per_hour:.2g} false wakes an hour of ceaseless speech, before and after",
            "  (each clip and take judged by a detector that was made without it)"]  # fmt: skip


def import_file(ask: Ask, bundle: Bundle, path: Path) -> str:
    """Keep the word in the file `path`; its name. Raises WordError, RequestError or OSError."""
    word = from_bytes(path.read_bytes(), bundle.encoder_id, str(path))
    free_name([one["name"] for one in listed(ask)[0]], bundle, word.name)
    put(ask, word)
    return word.name


def test(ask: Ask, bundle: Bundle, name: str, paths: Sequence[Path]) -> list[tuple[Path, float, bool]]:
    """The highest score of the word `name` in each recording, and whether it wakes. Raises AudioFileError, WordError, RequestError."""
    word = get(ask, bundle, name)
    threshold = ask.request("calibration")["words"].get(word.name, {}).get("threshold", word.threshold)
    config = Config(words={word.name: Word(threshold=threshold)}, added_words=False)
    recordings, results = Recordings(config, bundle, words={word.name: word}), []
    for path in paths:
        tops = [0.0]

        def note(trace: Trace, tops: list[float] = tops) -> None:
            tops.append(float(trace.scores.max(initial=0.0)))

        woke = [wake for wake in recordings.detect(path, note) if wake.reason is None]
        results.append((path, max(tops), bool(woke)))
    return results
