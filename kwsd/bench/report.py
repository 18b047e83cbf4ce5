"""What every result carries (machine, versions, commit), and results as Markdown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kwsd.bench.scenes import SCENES
from kwsd.bench.voices import UTTERANCE_S
from kwsd.version import __version__

PACKAGES = ("numpy", "onnxruntime", "webrtcvad-wheels", "pymicro-wakeword", "pyopen-wakeword", "pocketsphinx", "Resemblyzer")


def circumstances() -> dict[str, Any]:
    """Machine, versions and commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"date": time.strftime("%Y-%m-%d"), "cpu": _cpu(), "cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release(),
            "python": platform.python_version(), "kwsd": __version__, "commit": _commit(), "versions": versions}  # fmt: skip


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # an installed kwsd lies in no checkout; its version stands for it
    return commit.stdout.strip()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def heading(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    return (f"{found['date']}, kwsd {found['kwsd']} ({found['commit'] or 'no checkout'}), {found['cpu']}, {found['cores']} cores, "
            f"{found['machine']}, Linux {found['kernel']}, Python {found['python']}; {versions}")  # fmt: skip


def cost_markdown(report: dict[str, Any]) -> str:
    engines = report["engines"]
    by_key = {(r["engine"], r["scene"]): r for r in engines}
    names = list(dict.fromkeys(r["engine"] for r in engines))
    reference = "pymicro-wakeword" if "pymicro-wakeword" in names else names[0]
    rows = []
    for name in names:
        of = [by_key[name, scene] for scene in SCENES]
        rows.append([name, of[0]["words"], *(f"{r['cpu_per_audio_s']:.5f}" for r in of),
                     *(f"{r['cpu_per_audio_s'] / by_key[reference, r['scene']]['cpu_per_audio_s']:.2f}" for r in of),
                     f"{max(r['peak_mib'] for r in of):.0f}", f"{of[0]['startup_s']:.2f}", f"{of[0]['startup_cpu_s']:.2f}"])  # fmt: skip
    header = ["engine", "words", *(f"{s}: CPU s/audio s" for s in SCENES), *(f"{s} v {reference}" for s in SCENES), "peak MiB", "start-up s", "start-up CPU s"]
    parts = ["## Cost", heading(report["circumstances"]), table(header, rows)]
    if "idle_in_real_time" in report:
        parts.append(f"The scenes are fed as fast as they are taken. Fed in real time, where every block finds the caches cold, kwsd's idle room "
                     f"takes {report['idle_in_real_time']:.5f} CPU s per audio s.")  # fmt: skip
    if "stages" in report:
        parts += ["### Stages of kwsd, the gate open, a chunk at a time", table(["stage", "cost"], [[k, f"{v:.2f}"] for k, v in report["stages"].items()])]
    if "voices" in report:
        rows = [[name, f"{v['ms_per_utterance']:.1f}", f"{v['startup_cpu_s']:.2f}", f"{v['peak_mib']:.0f}"] for name, v in report["voices"].items()]
        parts += [f"### A recording of {UTTERANCE_S} s to a voice's embedding", table(["encoder", "CPU ms", "start-up CPU s", "peak MiB"], rows)]
    if "latency" in report:
        figures = {k: f"{v:.0f}" for k, v in report["latency"].items()}
        parts += ["### From the end of the word to the subscriber", table(list(figures), [list(figures.values())])]
    return "\n\n".join(parts) + "\n"


def soak_markdown(report: dict[str, Any]) -> str:
    growth = report["growth"]
    rows = [[f"{s['audio_h']:.2f}", f"{s['resident_mib']:.1f}", s["descriptors"], s["threads"], s["events"]] for s in report["samples"]]
    return "\n\n".join([
        "## Soak", heading(report["circumstances"]),
        f"{report['hours']:.1f} h of audio, {report['cpu_per_audio_s']:.5f} CPU s per audio s; growth after the first tenth: "
        f"{growth['resident_mib']:+.1f} MiB, {growth['descriptors']:+d} descriptors, {growth['threads']:+d} threads.",
        table(["audio h", "resident MiB", "descriptors", "threads", "wakes"], rows),
    ]) + "\n"  # fmt: skip


def accuracy_markdown(report: dict[str, Any]) -> str:
    parts = [
        "## Accuracy",
        heading(report["circumstances"]),
        f"On {report['folder']}; intervals of 95 %: Poisson for false accepts, bootstrap over speakers for misses.",
    ]
    noisy = report["snr_db"] is not None
    rows = []
    for one in report["words"]:
        for point in one["points"]:
            low, high = point["rate_interval"]
            missed_low, missed_high = point["miss_interval"]
            rows.append([one["engine"], one["word"], f"{one['recordings']} ({one['speakers']})", f"{one['hours']:.1f}", point["rate"],
                         f"{point['threshold']:.3f}", f"{point['false_accepts']} ({low:.2f}–{high:.2f}/h)",
                         f"{100 * point['miss']:.1f} ({100 * missed_low:.1f}–{100 * missed_high:.1f})",
                         *([f"{100 * point['miss_noisy']:.1f}"] if noisy else [])])  # fmt: skip
    header = ["engine", "word", "recordings (speakers)", "negative h", "at most FA/h", "threshold", "false accepts", "missed %",
              *([f"missed % at {report['snr_db']:g} dB"] if noisy else [])]  # fmt: skip
    if rows:
        parts.append(table(header, rows))
    if report["verification"]:
        voices = [[v["engine"], v["speakers"], v["takes"], f"{100 * v['one']['eer']:.1f}", f"{100 * v['five']['eer']:.1f}"] for v in report["verification"]]
        parts += ["### Verification", table(["encoder", "speakers", "takes", "EER one v one %", "EER five v one %"], voices)]
    return "\n\n".join(parts) + "\n"


def words_markdown(report: dict[str, Any]) -> str:
    runs = report["runs"]
    rows = []
    for word in [*dict.fromkeys(r["word"] for r in runs), None]:
        row: list[object] = [word or "**mean**"]
        for count in report["shots"]:
            same = [r for r in runs if r["shots"] == count and word in (None, r["word"])]
            hits, own, others = (100 * sum(r[k] for r in same) / len(same) for k in ("hits", "hits_at_threshold", "false_accepts_at_threshold"))
            row.append(f"{hits:.1f} ({own:.1f} / {others:.2f})")
        rows.append(row)
    header = ["word", *(f"{count} shots" for count in report["shots"])]
    return "\n\n".join([
        "## Added words", heading(report["circumstances"]),
        f"On {report['folder']}, {report['recordings']} recordings, {report['seeds']} draws of takes of different speakers: hits in % at 1 % false accepts of "
        "the other words' recordings; in brackets hits and false accepts in % at the word's own threshold.",
        table(header, rows),
    ]) + "\n"  # fmt: skip
