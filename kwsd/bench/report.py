"""The reports of the benchmarks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from kwsd.bench.accuracy import AccuracyReport
from kwsd.bench.circumstances import Circumstances, sentence
from kwsd.bench.cost import CostReport, Run
from kwsd.bench.scenes import SCENES
from kwsd.bench.soak import SoakReport
from kwsd.bench.speaker_encoders import UTTERANCE_S
from kwsd.bench.words import TogetherRun, WordRun, WordsReport
from kwsd.metrics import poisson_interval

REFERENCE = "pymicro-wakeword"
"""The engine that the others are compared with, where it was measured; else the first one."""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [_row(header), "|" + "---|" * len(header), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _join(title: str, circumstances: Circumstances, parts: Sequence[str]) -> str:
    return "\n\n".join([title, sentence(circumstances), *parts]) + "\n"


def cost_markdown(report: CostReport) -> str:
    """Return the report of `kwsd bench cost` as Markdown."""
    parts = [_engines_table(report["engines"])]
    if "idle_in_real_time" in report:
        parts.append(
            "The scenes are fed as fast as they are taken. In an idle room that is fed in real "
            "time, where every block finds the caches cold, kwsd takes "
            f"{report['idle_in_real_time']:.5f} CPU s per audio s."
        )
    if "stages" in report:
        rows = [[name, f"{value:.2f}"] for name, value in report["stages"].items()]
        parts.append("### Stages of kwsd, the gate open, a chunk at a time")
        parts.append(table(["stage", "cost"], rows))
    if "voices" in report:
        rows = [
            [
                name,
                f"{one['ms_per_utterance']:.1f}",
                f"{one['startup_cpu_s']:.2f}",
                f"{one['peak_mib']:.0f}",
            ]
            for name, one in report["voices"].items()
        ]
        parts.append(f"### The embedding of a voice from a recording of {UTTERANCE_S} s")
        parts.append(table(["encoder", "CPU ms", "start-up CPU s", "peak MiB"], rows))
    if "latency" in report:
        figures = {name: f"{value:.0f}" for name, value in report["latency"].items()}
        parts.append("### From the end of the word to the subscriber")
        parts.append(table(list(figures), [list(figures.values())]))
    return _join("## Cost", report["circumstances"], parts)


def _engines_table(engines: Sequence[Run]) -> str:
    by_key = {(run["engine"], run["scene"]): run for run in engines}
    names = list(dict.fromkeys(run["engine"] for run in engines))
    reference = REFERENCE if REFERENCE in names else names[0]
    rows = []
    for name in names:
        runs = [by_key[name, scene] for scene in SCENES]
        cpu = [run["cpu_per_audio_s"] for run in runs]
        ratios = [
            run["cpu_per_audio_s"] / by_key[reference, run["scene"]]["cpu_per_audio_s"]
            for run in runs
        ]
        rows.append(
            [
                name,
                runs[0]["words"],
                *(f"{value:.5f}" for value in cpu),
                *(f"{ratio:.2f}" for ratio in ratios),
                f"{max(run['peak_mib'] for run in runs):.0f}",
                f"{runs[0]['startup_s']:.2f}",
                f"{runs[0]['startup_cpu_s']:.2f}",
            ]
        )
    header = [
        "engine",
        "words",
        *(f"{scene}: CPU s/audio s" for scene in SCENES),
        *(f"{scene} vs. {reference}" for scene in SCENES),
        "peak MiB",
        "start-up s",
        "start-up CPU s",
    ]
    return table(header, rows)


def soak_markdown(report: SoakReport) -> str:
    """Return the report of `kwsd bench soak` as Markdown."""
    growth = report["growth"]
    rows = [
        [
            f"{sample['audio_h']:.2f}",
            f"{sample['resident_mib']:.1f}",
            sample["descriptors"],
            sample["threads"],
            sample["events"],
        ]
        for sample in report["samples"]
    ]
    text = (
        f"{report['hours']:.1f} h of audio, {report['cpu_per_audio_s']:.5f} CPU s per audio s; "
        f"growth after the first tenth: {growth['resident_mib']:+.1f} MiB, "
        f"{growth['descriptors']:+d} descriptors, {growth['threads']:+d} threads."
    )
    header = ["audio h", "resident MiB", "descriptors", "threads", "wakes"]
    return _join("## Soak", report["circumstances"], [text, table(header, rows)])


def accuracy_markdown(report: AccuracyReport) -> str:
    """Return the report of `kwsd bench accuracy` as Markdown."""
    parts = [
        f"On {report['folder']}; intervals of 95 %: Poisson for false accepts, bootstrap over "
        "speakers for misses."
    ]
    if report["words"]:
        parts.append(_misses_table(report))
    if report["verification"]:
        rows = [
            [
                one["engine"],
                one["speakers"],
                one["takes"],
                f"{100 * one['one']['eer']:.1f}",
                f"{100 * one['five']['eer']:.1f}",
            ]
            for one in report["verification"]
        ]
        header = ["encoder", "speakers", "takes", "EER one vs. one %", "EER five vs. one %"]
        parts += ["### Verification", table(header, rows)]
    return _join("## Accuracy", report["circumstances"], parts)


def _misses_table(report: AccuracyReport) -> str:
    snr_db = report["snr_db"]
    rows = []
    for one in report["words"]:
        for point in one["points"]:
            low, high = point["rate_interval"]
            missed_low, missed_high = (100 * share for share in point["miss_interval"])
            row = [
                one["engine"],
                one["word"],
                f"{one['recordings']} ({one['speakers']})",
                f"{one['hours']:.1f}",
                point["rate"],
                f"{point['threshold']:.3f}",
                f"{point['false_accepts']} ({low:.2f}–{high:.2f}/h)",
                f"{100 * point['miss']:.1f} ({missed_low:.1f}–{missed_high:.1f})",
            ]
            if snr_db is not None:
                row.append(f"{100 * point['miss_noisy']:.1f}")
            rows.append(row)
    header = [
        "engine",
        "word",
        "recordings (speakers)",
        "negative h",
        "at most FA/h",
        "threshold",
        "false accepts",
        "missed %",
    ]
    if snr_db is not None:
        header.append(f"missed % at {snr_db:g} dB")
    return table(header, rows)


def words_markdown(report: WordsReport) -> str:
    """Return the report of `kwsd bench words` as Markdown."""
    runs = report["runs"]
    rows: list[list[str]] = []
    for word in dict.fromkeys(run["word"] for run in runs):
        of_word = [run for run in runs if run["word"] == word]
        rows.append([word, *_hits(of_word, report["shots"])])
    rows.append(["**mean**", *_hits(runs, report["shots"])])
    text = (
        f"On {report['folder']}, {report['recordings']} recordings, {report['seeds']} draws of "
        "takes of different speakers: hits in % at 1 % false accepts of the other words' "
        "recordings; in parentheses hits and false accepts in % at the word's own threshold."
    )
    header = ["word", *(f"{count} shots" for count in report["shots"])]
    parts = [text, table(header, rows), *_stages(runs, report["shots"])]
    parts += _negatives(runs, report["shots"])
    parts += _together(report.get("together", []), report["shots"])
    return _join("## Added words", report["circumstances"], parts)


def _stages(runs: Sequence[WordRun], shots: Sequence[int]) -> list[str]:
    """Return a table of what each stage does; nothing where no word has a second one."""
    rows = []
    for count in shots:
        same = [run for run in runs if run["shots"] == count and "candidates" in run]
        if same:
            shares = [
                sum(run["candidates"] for run in same),
                sum(run["decided"] for run in same),
                sum(run["others_checked"] for run in same),
            ]
            checks = sum(run["checks_per_hour"] for run in same) / len(same)
            cells = [f"{100 * share / len(same):.1f}" for share in shares]
            rows.append([str(count), *cells, f"{checks:.0f}"])
    header = ["shots", "candidates %", "of these hits %", "others checked %", "checks an hour"]
    return [table(header, rows)] if rows else []


def _negatives(runs: Sequence[WordRun], shots: Sequence[int]) -> list[str]:
    """Return a table of the false accepts in other speech; nothing where none was heard."""
    rows = []
    for count in shots:
        same = [run for run in runs if run["shots"] == count and "negatives_hours" in run]
        if same:
            hours = sum(run["negatives_hours"] for run in same)
            woken = sum(run["false_accepts"] for run in same)
            low, high = poisson_interval(woken, hours)
            promised = sum(run["promised_per_hour"] for run in same) / len(same)
            found = f"{woken / hours:.2f} ({low:.2f} to {high:.2f})"
            rows.append(
                [str(count), f"{hours / len(same):.2f}", str(woken), found, f"{promised:.2f}"]
            )
    if not rows:
        return []
    text = "False accepts of a word at its own threshold, in recordings that do not say it."
    header = ["shots", "hours", "woken, all runs", "an hour (95 % of counting)", "promised"]
    return [text, table(header, rows)]


def _together(runs: Sequence[TogetherRun], shots: Sequence[int]) -> list[str]:
    """Return a table of words on one device; nothing where they were added one at a time."""
    if not runs:
        return []
    rows = []
    for word in [*dict.fromkeys(run["word"] for run in runs), None]:
        cells = []
        for count in shots:
            same = [r for r in runs if r["shots"] == count and word in (r["word"], None)]
            shares = [sum(run["right"] for run in same), sum(run["wrong"] for run in same)]
            cells.append(" / ".join(f"{100 * share / len(same):.1f}" for share in shares))
        rows.append([word or "**mean**", *cells])
    text = (
        "All of them on one device: recordings in % that wake their own word, and another one, at "
        "the words' own thresholds."
    )
    header = ["word", *(f"{count} shots" for count in shots)]
    return [text, table(header, rows)]


def _hits(runs: Sequence[WordRun], shots: Sequence[int]) -> list[str]:
    """Return a cell for each number of shots: the means over the runs that have it."""
    cells = []
    for count in shots:
        same = [run for run in runs if run["shots"] == count]
        hits = 100 * sum(run["hits"] for run in same) / len(same)
        own = 100 * sum(run["hits_at_threshold"] for run in same) / len(same)
        others = 100 * sum(run["false_accepts_at_threshold"] for run in same) / len(same)
        cells.append(f"{hits:.1f} ({own:.1f} / {others:.2f})")
    return cells
