"""What a person or a script sees: event sentences, guides, progress bars, JSON and errors.

Meters and bars appear on a terminal only; what is piped gets plain lines. Results go to standard
output, everything else to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kwsd.audio.format import SAMPLE_RATE, SILENCE_DBFS
from kwsd.events import Event, Lag, MicrophoneChange, Rejected, SpeakerMatch, to_dict
from kwsd.protocol.data import ClipInfo, PauseInfo, RateInfo

if TYPE_CHECKING:
    from kwsd.client.exchange import Gap

MANY_CHANNELS = 8
"""Of more, only those with sound are named."""
USAGE = 64
"""The arguments cannot be understood. This and the other exit codes are those of sysexits.h."""
DATA = 65
"""The data cannot be used."""
NO_INPUT = 66
"""A file is missing, or is no recording."""
UNAVAILABLE = 69
"""The daemon, a device or a package is not there."""
CANNOT_CREATE = 73
"""Something could not be stored."""
NO_PERMISSION = 77
CONFIGURATION = 78
"""The configuration is wrong."""
INTERRUPTED = 130
"""The shell's code for ^C."""


def fail(code: int, error: object) -> int:
    """Print an error and return its exit code."""
    print(f"kwsd: {error}", file=sys.stderr)
    return code


def show(text: str) -> None:
    """Print a line that is not a result."""
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    """Print structs, dataclasses or plain data as one line of JSON."""
    line = msgspec.json.encode(value, enc_hook=_plain)
    print(msgspec.json.format(line, indent=0).decode(), flush=True)


def _plain(value: Any) -> object:
    """Return a path as text, and a numpy scalar as a number."""
    return str(value) if isinstance(value, Path) else value.item()


def print_event(event: Event, *, as_json: bool, details: bool = False) -> None:
    """Print an event, as the protocol's JSON or as a sentence.

    With `details` it says whom an unverified voice resembles, where the event knows.
    """
    if as_json:
        print_json(to_dict(event, details=details))
    else:
        print(event_sentence(event, details=details), flush=True)


def print_gap(gap: Gap, *, as_json: bool) -> None:
    """Print that events were missed, as JSON of the type `gap` or as a sentence."""
    if as_json:
        print_json(gap)
        return
    after = f"after event {gap.last_seq}" if gap.last_seq else "before the first event"
    text = f"gap: the daemon was away for {gap.seconds:.1f} s, {after}; events may be missing"
    print(text, flush=True)


def event_sentence(event: Event, *, details: bool = False) -> str:
    """Return an event for people; see `print_event` for `details`."""
    if isinstance(event, MicrophoneChange):
        lost = f" ({event.samples_lost} samples lost)" if event.samples_lost else ""
        return f"microphone {event.state}: {event.detail}{lost}"
    if isinstance(event, Lag):
        return f"lag: {event.lag_s:.1f} s {'behind' if event.behind else 'now: caught up'}"
    by = ""
    if speaker := event.speaker:
        by = f" by {_who(speaker)} ({speaker.score:.2f})"
        by += _resembles(speaker) if details else ""
    kind = "wake"
    if isinstance(event, Rejected):
        kind = f"rejected ({event.reason.replace('_', ' ')})"
    word = event.word.replace("_", " ")
    score = f"score {event.score:.3f} of {event.threshold:.3f}"
    span = f"{event.start / SAMPLE_RATE:.2f}–{event.end / SAMPLE_RATE:.2f} s"
    late = ""
    if event.stale and event.latency_ms is not None:
        late = f", {event.latency_ms / 1000:.1f} s late"
    return f"{kind}: “{word}”{by}, {score}, {span}{late}"


def rate_sentence(rate: RateInfo) -> str:
    """Return how often a word wakes by mistake."""
    text = f"{rate.held:.2g} false wakes an hour of speech"
    if rate.low is not None and rate.high is not None:
        text += f" ({rate.low:.1g} to {rate.high:.1g})"
    asked = rate.asked
    if asked is not None and abs(rate.held - asked) > 0.05 * asked:
        text += f", asked for {asked:.2g}"
    return text


def pause_sentence(pauses: Sequence[PauseInfo]) -> str:
    """Return who has paused the microphone, and for how long, for people."""
    return " and ".join(f"by {one.holder} {_for(one.left_s)}" for one in pauses)


def _for(left_s: float | None) -> str:
    """Return how long a pause lasts."""
    if left_s is None:
        return "for as long as it is connected"
    units = (("d", 86400), ("h", 3600), ("min", 60))
    for unit, seconds in units:
        if left_s >= 2 * seconds:
            return f"for {left_s / seconds:.0f} {unit}"
    return f"for {left_s:.0f} s"


def channel_levels(levels_dbfs: Sequence[float]) -> str:
    """Return the level of each channel for people."""
    if len(levels_dbfs) == 1:
        return f"{levels_dbfs[0]:.0f} dBFS"
    levels = list(enumerate(levels_dbfs))
    if len(levels) > MANY_CHANNELS:  # a plug-in claims them; only a few exist
        levels = [(n, level) for n, level in levels if level > SILENCE_DBFS]
    return ", ".join(f"channel {n}: {level:.0f} dBFS" for n, level in levels) or "all are silent"


def _who(speaker: SpeakerMatch) -> str:
    return speaker.name or "a stranger"


def _resembles(speaker: SpeakerMatch) -> str:
    """Return the names that only details have."""
    near = f", nearest {speaker.nearest.name}" if speaker.nearest and not speaker.verified else ""
    then = speaker.runner_up
    by = "" if speaker.margin is None else f", margin {speaker.margin:.2f}"
    return f"{near}, then {then.name} ({then.score:.2f}{by})" if then else near


def clip_sentence(clip: ClipInfo) -> str:
    """Return a clip for people."""
    by = f" by {_who(clip.speaker)}" if clip.speaker else ""
    label = f", labeled {clip.label}" if clip.label else ""
    score = f"score {clip.score:.3f} of {clip.threshold:.3f}"
    if clip.peak is not None and clip.peak > clip.score:
        score += f", peak {clip.peak:.3f}"
    return f"{clip.id}: {clip.kind.replace('_', ' ')}, {score}{by}{label}"


def confirmed(*, yes: bool) -> bool:
    """Ask whether to keep what was found; `yes` answers for the person.

    Raises ValueError where nobody can answer.
    """
    check_answerable(yes=yes)
    return yes or _answer("Keep it? [Y/n]") in ("", "y", "yes")


def check_answerable(*, yes: bool) -> None:
    """Raise ValueError where `confirmed` will: before hours of work, not after them."""
    if not yes and not sys.stdin.isatty():
        raise ValueError("nobody is at the terminal to confirm; --yes keeps it without asking")


def confirmed_loss(what: str, *, yes: bool) -> bool:
    """Ask whether to go on though `what`, a sentence, cannot be undone; `yes` answers for them.

    Raises ValueError where nobody can answer.
    """
    if not yes and not sys.stdin.isatty():
        raise ValueError(f"{what}; --yes goes on without asking")
    return yes or _answer(f"{what}. Go on? [y/N]") in ("y", "yes")


def _answer(question: str) -> str:
    """Ask on standard error, so that standard output holds the result alone; ^D is a no."""
    print(question, end=" ", file=sys.stderr, flush=True)
    try:
        return input("").strip().lower()
    except EOFError:
        return "no"


class CannotCreate(OSError):
    """A file of results cannot be written; the message names it."""


def check_writable(path: Path) -> None:
    """Raise CannotCreate where a file cannot be written: before long work, not after it."""
    folder = path.parent
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = "permission denied"
    if why:
        raise CannotCreate(f"{path}: cannot be written ({why})")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise CannotCreate instead of the OSError of writing `path`."""
    try:
        yield
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be written ({error.strerror})") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file of results. Raises CannotCreate."""
    with writing(path):
        path.write_bytes(data)


class Terminal:
    """Guides a person through takes, on a terminal."""

    def __init__(self, *, as_json: bool = False) -> None:
        """With `as_json`, standard output is left to the JSON."""
        self._out = sys.stderr if as_json else sys.stdout

    def ask(self, text: str, take: int, takes: int) -> None:
        """Ask for a take; `text` says what to say."""
        self._print(f"[{take}/{takes}] Please {text}.")

    def level(self, dbfs: float) -> None:
        """Show the level of the microphone."""
        if self._out.isatty():
            bar = "█" * max(int((dbfs + 70) / 2), 0)
            self._print(f"\r  {bar:35.35s} {dbfs:4.0f} dBFS", end="")

    def accepted(self, speech_dbfs: float, speech_s: float) -> None:
        """Show that a take was accepted."""
        self._clear()
        self._print(f"  good: {speech_s:.1f} s of speech at {speech_dbfs:.0f} dBFS")

    def rejected(self, why: str) -> None:
        """Show why a take was not accepted."""
        self._clear()
        self._print(f"  not taken: {why}")

    def waiting(self, done_s: float, all_s: float) -> None:
        """Show how much of a wait is over."""
        if sys.stderr.isatty():
            minutes = f"{done_s / 60:.1f} of {all_s / 60:.1f} min"
            print(f"\r{_bar(done_s / all_s)} {minutes}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._out.isatty():
            self._print("\r" + " " * 50 + "\r", end="")

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out, flush=True)


class Bar:
    """A progress bar over recordings, on a terminal only. Use it as a context manager."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._shown = sys.stderr.isatty()
        self._done_s = 0.0
        self._total_s = _total_seconds(files) if self._shown else 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def step(self, seconds: float) -> None:
        """Show that so many seconds more are done."""
        self._done_s += seconds
        if self._total_s:
            share = min(self._done_s / self._total_s, 1.0)
            minutes = f"{self._done_s / 60:.1f} of {self._total_s / 60:.1f} min"
            text = f"\r{_bar(share)} {100 * share:3.0f} %  {minutes}"
            print(text, end="", file=sys.stderr, flush=True)


def _bar(share: float) -> str:
    return f"{'█' * int(40 * share):40s}"


def _total_seconds(files: Sequence[Path]) -> float:
    from kwsd.audio.files import AudioFileError, total_seconds

    total = 0.0
    for path in files:
        try:
            total += total_seconds(path)
        except AudioFileError:
            continue  # reported when its turn comes
    return total
