"""Draws trade-offs: misses against false accepts per hour, and DET curves of verification.

They need matplotlib (the extra `bench` or `plots`), which is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwsd.bench.accuracy import AccuracyReport, WordStats
    from kwsd.bench.verification import TrialStats, VerificationStats
    from kwsd.client.calibrate import Result
    from kwsd.protocol.data import TradeOff

TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares at the ticks of a DET curve."""
NONE_PER_HOUR = 1e-3
"""Where a rate of zero is drawn on the logarithmic axis of a calibration."""


def draw_calibration(results: Sequence[Result], path: Path) -> None:
    """Draw misses against false accepts per hour of calibrated words, the latter with 95 % bounds.

    The file name's suffix decides the format. Raises ModuleNotFoundError without matplotlib,
    ValueError for an unknown format, or OSError.
    """
    pyplot = _pyplot()
    size = (7, 1 + 3.2 * len(results))
    figure, panels = pyplot.subplots(len(results), 1, figsize=size, squeeze=False)
    for axes, result in zip(panels[:, 0], results, strict=True):
        _draw_result(axes, result)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _draw_result(axes: Any, result: Result) -> None:
    hours = result.choice.hours

    def rate(outcome: TradeOff) -> float:
        return max(outcome.seen / hours, NONE_PER_HOUR)

    rows = [(row, row.missed) for row in result.outcomes if row.missed]
    for n, label in enumerate(("as recorded", "in noise at 10 dB")):
        missed = [100 * shares[n] for _, shares in rows]
        low = [max(row.bounds[0], NONE_PER_HOUR) for row, _ in rows]
        high = [row.bounds[1] for row, _ in rows]
        axes.fill_betweenx(missed, low, high, alpha=0.15, color=f"C{n}")
        axes.plot([rate(row) for row, _ in rows], missed, "o-", color=f"C{n}", label=label)
    for row, mark, name in ((result.before, "s", "now"), (result.after, "*", "new")):
        if row.missed:
            label = f"{name}: threshold {row.threshold:.2f}"
            share = 100 * row.missed[0]
            axes.plot(rate(row), share, mark, color="black", ms=9, label=label)
    wanted = max(result.choice.rate, NONE_PER_HOUR)
    axes.axvline(wanted, color="grey", ls=":", label="wanted")
    axes.set(
        xscale="log",
        title=f"{result.word}, {hours:.1f} h heard",
        xlabel="false wakes per hour (0.001: none), 95 % bounds",
        ylabel="missed, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def draw_accuracy(report: AccuracyReport, folder: Path) -> list[Path]:
    """Draw `misses.svg` and, where speakers were verified, `det.svg` into `folder`.

    Return their paths. The same figures give the same bytes. Raises ModuleNotFoundError without
    matplotlib, or OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if report["words"]:
        written.append(folder / "misses.svg")
        _draw_misses(report["words"], written[-1])
    if report["verification"]:
        written.append(folder / "det.svg")
        _draw_det(report["verification"], written[-1])
    return written


def _draw_misses(words: Sequence[WordStats], path: Path) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 5))
    for one in words:
        rates = [max(rate, 0.01) for rate, _ in one["curve"]]
        misses = [100 * miss for _, miss in one["curve"]]
        axes.step(rates, misses, where="post", label=f"{one['engine']}: {one['word']}")
    axes.set(
        xscale="log",
        xlim=(0.01, 10),
        ylim=(0, 50),
        xlabel="false accepts per hour (0.01: none)",
        ylabel="missed, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _draw_det(encoders: Sequence[VerificationStats], path: Path) -> None:
    pyplot = _pyplot()
    probit = NormalDist().inv_cdf
    figure, axes = pyplot.subplots(figsize=(5, 5))

    def draw(trials: TrialStats, label: str) -> None:
        curve = [(a, r) for a, r in trials["curve"] if 0 < a < 1 and 0 < r < 1]
        axes.plot([probit(a) for a, _ in curve], [probit(r) for _, r in curve], label=label)

    for one in encoders:
        draw(one["one"], f"{one['engine']}, one vs. one")
        draw(one["five"], f"{one['engine']}, five vs. one")
    limits = (probit(0.001), probit(0.5))
    axes.set(xlabel="false accepts, %", ylabel="false rejects, %", xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([probit(tick) for tick in TICKS], [f"{100 * tick:g}" for tick in TICKS])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _pyplot() -> Any:
    """Return matplotlib's pyplot, which draws to files, the same figures as the same SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kwsd"
    from matplotlib import pyplot

    return pyplot
