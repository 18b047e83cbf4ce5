"""Added words that learn from the labeled clips of their wakes and near misses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from kwsd.audio import pcm
from kwsd.client.alike import kept_rate
from kwsd.client.takes import Recording
from kwsd.client.words import Takes, get, listed
from kwsd.learn.few_shot import WordTrainer, stored_clips, stored_takes
from kwsd.learn.takes import TakeRejected
from kwsd.learn.word_takes import WordTake, WrongClip
from kwsd.names import look_up
from kwsd.protocol import commands
from kwsd.protocol.messages import Requester
from kwsd.state.words import MAX_STORED, AddedWord, WordError, check_word_name

KEEP_CLIPS = "`clips: on` keeps them, `kwsd clips label right|wrong ID…` labels them"


@dataclass(frozen=True)
class Improvement:
    """A word before and after it has learned from its clips.

    The figures after are cross-validated: no clip scores a word that has learned from it.
    """

    right: int
    wrong: int
    missed: tuple[int, int]
    """Clips of the word that are missed, before and after."""
    woken: tuple[int, int]
    """Clips that are not the word and wake it, before and after."""
    takes_missed: tuple[int, int]
    takes: int
    false_accepts_per_hour: float
    """Expected per hour of continuous speech, before and after: the thresholds keep it."""


@dataclass(frozen=True)
class LabeledClips:
    """The labeled clips that a word has not learned from."""

    ids: list[str]
    right: list[tuple[float, WordTake]]
    """Clips of the word, with the highest score they had."""
    wrong: list[WrongClip]
    """Clips that are not the word."""
    recordings: list[Recording]
    """The clips of the word as takes that can be kept."""


def improve(
    requester: Requester, trainer: WordTrainer, name: str, show: Callable[[str], None]
) -> tuple[AddedWord, Improvement]:
    """Return the word `name` made again with its labeled clips, not yet kept.

    Raises WordError or RequestError.
    """
    name = check_word_name(name)
    if bundled := look_up(name, trainer.bundle.words):
        fix = "labeled clips set its threshold: `kwsd calibrate --log`"
        text = f"{bundled!r} comes with kwsd and cannot be made again on the device"
        raise WordError(f"{text}; {fix}")
    old = get(requester, trainer.bundle, name).heard_with(trainer.word_id)
    name = old.name
    clips = labeled_clips(requester, trainer, name, old.made.clips, show)
    if not clips.ids:
        text = f"{name!r} has no labeled clips that it has not learned from"
        raise WordError(f"{text}; {KEEP_CLIPS}")
    takes = stored_takes(old)
    hardest = sorted(clips.right, key=lambda scored: scored[0])
    taught = [take for _, take in hardest[: max(MAX_STORED - len(takes), MAX_STORED // 4)]]
    part = f" (it learns from the {len(taught)} hardest)" if len(taught) < len(hardest) else ""
    show(f"{name}: {len(hardest)} clips of it{part}, and {len(clips.wrong)} of something else")
    in_force = requester.request(commands.GetCalibration()).words.get(name)
    present = in_force.threshold if in_force else old.threshold
    rate = kept_rate(trainer, old, present)
    wrong = [*stored_clips(old), *clips.wrong]
    names = [one.name for one in listed(requester).words if one.name != name]
    others = [get(requester, trainer.bundle, other) for other in names]
    word, quality = trainer.make(name, [*takes, *taught], others, wrong=wrong, rate=rate)
    made = word.heard_with(trainer.word_id)
    of_takes, of_taught = np.split(made.scores[:, 0], [len(made.scores) - len(taught)])
    new_wrong = quality.woken[len(quality.woken) - len(clips.wrong) :]
    improvement = Improvement(
        right=len(taught),
        wrong=len(clips.wrong),
        missed=(
            sum(_score(trainer, old, take) < present for take in taught),
            int((of_taught < made.threshold).sum()),
        ),
        woken=(
            sum(trainer.score(old, *clip) >= present for clip in clips.wrong),
            sum(new_wrong),
        ),
        takes_missed=(
            int((old.scores[:, 0] < present).sum()),
            int((of_takes < made.threshold).sum()),
        ),
        takes=len(of_takes),
        false_accepts_per_hour=rate,
    )
    origin = msgspec.structs.replace(
        old.made,
        time=word.made.time,
        takes=old.made.takes or len(takes),
        clips=sorted({*old.made.clips, *clips.ids}),
    )
    return replace(word, made=origin), improvement


def _score(trainer: WordTrainer, word: AddedWord, take: WordTake) -> float:
    """Return the score of a take as it is."""
    vectors = None if take.vectors is None else take.vectors[0]
    return trainer.score(word, take.frames[0], vectors)


def from_clips(
    requester: Requester, trainer: WordTrainer, name: str, show: Callable[[str], None]
) -> Takes:
    """Return the labeled clips of the word `name` as takes, and as clips that are not the word.

    Raises WordError where none is labeled right, or RequestError.
    """
    name = check_word_name(name)
    clips = labeled_clips(requester, trainer, name, (), show)
    if not clips.right:
        raise WordError(f"{name!r} has no clips that are labeled right; {KEEP_CLIPS}")
    usable = [take for _, take in clips.right]
    ids = sorted(clips.ids)
    return Takes(usable, wrong=clips.wrong, clips=ids, recordings=clips.recordings)


def labeled_clips(
    requester: Requester,
    trainer: WordTrainer,
    name: str,
    known: Collection[str],
    show: Callable[[str], None],
) -> LabeledClips:
    """Return the labeled clips of the word `name` that are not `known`."""
    found = LabeledClips([], [], [], [])
    for info in requester.request(commands.Clips()).clips:
        if look_up(info.word, [name]) is None or not info.label or info.id in known:
            continue
        samples = pcm.from_bytes(requester.request(commands.ClipsGet(clip=info.id)).pcm)
        if not 0 < info.end <= len(samples):
            show(f"left out: the clip {info.id} ends before its word does")
            continue
        if info.label == "right":
            try:
                take = trainer.encoder.clip_take(samples, info.start, info.end)
            except TakeRejected as error:
                show(f"left out: the clip {info.id}: {error}")
                continue
            peak = info.score if info.peak is None else info.peak
            found.right.append((peak, take))
            found.recordings.append(Recording.of_clip(samples, take, info.id, info.start, info.end))
        else:
            found.wrong.append(trainer.encoder.wrong_clip(samples, info.end))
        found.ids.append(info.id)
    return found


def describe(result: Improvement) -> list[str]:
    """Return what a word has learned from its clips, for a person."""

    def change(counts: tuple[int, int], of: int) -> str:
        return f"{counts[0]} → {counts[1]} of {of}"

    clips = change(result.missed, result.right)
    takes = change(result.takes_missed, result.takes)
    rate = f"{result.false_accepts_per_hour:.2g} false wakes an hour of continuous speech"
    return [
        f"  missed of its clips: {clips}; of its takes: {takes}",
        f"  woken by clips of something else: {change(result.woken, result.wrong)}",
        f"  at about {rate}, before and after",
        "  (each clip and take judged by a detector that was made without it)",
    ]
