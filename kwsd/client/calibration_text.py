"""Calibrations as text for a person; no more than the listening supports."""

from __future__ import annotations

from kwsd.client.calibrate import Result
from kwsd.learn.thresholds import SpeakerChoice
from kwsd.protocol.data import CalibratedSpeakers


def describe(result: Result, wanted: str) -> list[str]:
    """Return what was found for a word, for a person; no more than the listening supports."""
    choice = result.choice
    low, high = choice.bounds
    lines = [f"{result.word}: threshold {result.present:.3f} → {choice.threshold:.3f}"]
    heard = f"  heard for {hours(choice.hours)}: {choice.seen} false wake(s) at the new threshold"
    lines.append(f"{heard}, {result.before.seen} at the present one")
    bounds = f"between {per(low)} and {per(high)}" if choice.seen else f"under {per(high)}"
    tail = f"; the tail of its scores predicts {per(choice.tail)}" if choice.tail else ""
    lines.append(f"  so the rate lies {bounds} (95 %){tail}")
    if choice.hours < choice.hours_needed and high > choice.rate:
        needed = hours(choice.hours_needed)
        lines.append(f"  to show {wanted} at 95 %, listen for {needed} without a false wake")
    before = result.before.missed
    after = result.after.missed
    if before and after:
        changes = [f"{100 * b:.1f} → {100 * a:.1f} %" for b, a in zip(before, after, strict=True)]
        lines.append(f"  missed: {changes[0]}, {changes[1]} in noise")
    if choice.capped:
        text = "hardly anything would reach a threshold for that rate; this is the highest of use"
        lines.append(f"  warning: {text}")
    if after and after[0] > max(0.5, before[0] if before else 0.0):
        fix = "allow more false wakes (--rate), or make the word better with more takes"
        lines.append(f"  warning: it would miss most; {fix}")
    if result.assumed_right:
        text = f"{result.assumed_right} wake(s) without a label count as right"
        lines.append(f"  {text}; label clips, or use --nobody-spoke")
    if result.origin == "configured":
        text = "the configuration sets this word's threshold, and it stays so"
        fix = f"remove words.{result.word}.threshold from it"
        lines.append(f"  warning: {text}; {fix}")
    return lines


def table(result: Result) -> list[str]:
    """Return the trade-off as text: a row a threshold, false wakes per hour, misses."""
    columns = f"{'threshold':>9}  {'false wakes':>11}  {'an hour (95 %)':>16}"
    lines = [f"  {columns}  {'missed':>7}  {'in noise':>8}"]
    for row in result.outcomes:
        missed = [f"{100 * share:.1f} %" for share in row.missed] if row.missed else ["?", "?"]
        mark = ""
        if row.threshold == result.choice.threshold:
            mark = " ← new"
        elif row.threshold == result.present:
            mark = " ← now"
        bar = "█" * round(24 * row.missed[1]) if row.missed else ""
        bounds = f"{row.bounds[0]:7.3g}–{row.bounds[1]:<8.3g}"
        rates = f"{row.threshold:9.3f}  {row.seen:11d}  {bounds}"
        lines.append(f"  {rates}  {missed[0]:>7}  {missed[1]:>8}  {bar}{mark}")
    return lines


def describe_speakers(choice: SpeakerChoice, in_force: CalibratedSpeakers) -> list[str]:
    """Return what was found for speakers, for a person."""
    low, high = choice.bounds
    share = f"{100 * choice.false_accept_rate:g} % of {choice.strangers} scores of strangers"
    bounds = f"{100 * low:.0f} to {100 * high:.0f} %, 95 %"
    lines = [
        f"speakers: threshold {in_force.threshold:.3f} → {choice.threshold:.3f}",
        f"  {share} against {choice.people} voiceprint(s) reach it",
        f"  {choice.missed} of {choice.takes} enrolled takes would not be verified ({bounds})",
    ]
    if in_force.origin == "configured":
        text = "the configuration sets speaker.threshold, and it stays so; remove it there"
        lines.append(f"  warning: {text}")
    return lines


def hours(value: float) -> str:
    """Return a length of time, given in hours, in the unit that reads best."""
    if value < 0.05:
        return f"{3600 * value:.0f} s"
    if value < 1.5:
        return f"{60 * value:.0f} min"
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.0f} days"


def per(rate: float) -> str:
    """Return a rate, given per hour, in the unit that reads best."""
    for unit, length_h in (("an hour", 1.0), ("a day", 24.0), ("a week", 168.0)):
        count = rate * length_h
        if count >= 0.5:
            return f"{count:.{0 if count >= 10 else 1}f} {unit}"
    return f"{rate * 8766:.2g} a year"
