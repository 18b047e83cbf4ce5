"""The trade-offs as pictures: misses v false accepts an hour, and DET curves of verification. Needs matplotlib (`kwsd[bench]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwsd.client.calibrate import Result

TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def draw_calibration(results: Sequence[Result], path: Path) -> None:
    """Misses v false accepts an hour of calibrated words, the latter with their 95 % bounds; the picture is what `path` is called.

    Raises ModuleNotFoundError, OSError."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(results), 1, figsize=(7, 1 + 3.2 * len(results)), squeeze=False)
    for axes, one in zip(panels[:, 0], results, strict=True):
        rows = [row for row in one.rows if row.missed]
        for n, label in enumerate(("as recorded", "in noise at 10 dB")):
            missed = [100 * row.missed[n] for row in rows if row.missed]
            axes.fill_betweenx(missed, [max(r.bounds[0], 1e-3) for r in rows], [r.bounds[1] for r in rows], alpha=0.15, color=f"C{n}")
            axes.plot([max(r.seen / one.choice.hours, 1e-3) for r in rows], missed, "o-", color=f"C{n}", label=label)
        for row, mark, name in ((one.before, "s", "now"), (one.after, "*", "new")):
            if row.missed:
                axes.plot(
                    max(row.seen / one.choice.hours, 1e-3), 100 * row.missed[0], mark, color="black", ms=9, label=f"{name}: threshold {row.threshold:.2f}"
                )
        axes.axvline(max(one.choice.rate, 1e-3), color="grey", ls=":", label="wanted")
        axes.set(xscale="log", title=f"{one.word}, {one.choice.hours:.1f} h heard", xlabel="false wakes an hour (0.001: none), 95 % bounds", ylabel="missed, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `misses.svg` and, where there was something to verify, `det.svg` into `folder`; their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kwsd"  # with that and no date, the same figures are the same file
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if report["words"]:
        figure, axes = pyplot.subplots(figsize=(7, 5))
        for one in report["words"]:
            rates, misses = zip(*one["curve"], strict=True)
            axes.step([max(r, 0.01) for r in rates], [100 * m for m in misses], where="post", label=f"{one['engine']}: {one['word']}")
        axes.set(xscale="log", xlim=(0.01, 10), ylim=(0, 50), xlabel="false accepts an hour (0.01: none)", ylabel="missed, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        written.append(folder / "misses.svg")
        figure.savefig(written[-1], metadata={"Date": None})
        pyplot.close(figure)
    if report["verification"]:
        probit = NormalDist().inv_cdf
        figure, axes = pyplot.subplots(figsize=(5, 5))
        for one in report["verification"]:
            for kind in ("one", "five"):
                curve = [(a, r) for a, r in one[kind]["curve"] if 0 < a < 1 and 0 < r < 1]
                axes.plot([probit(a) for a, _ in curve], [probit(r) for _, r in curve], label=f"{one['engine']}, {kind} v one")
        axes.set(xlabel="false accepts, %", ylabel="false rejects, %", xlim=(probit(0.001), probit(0.5)), ylim=(probit(0.001), probit(0.5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([probit(t) for t in TICKS], [f"{100 * t:g}" for t in TICKS])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        written.append(folder / "det.svg")
        figure.savefig(written[-1], metadata={"Date": None})
        pyplot.close(figure)
    return written
