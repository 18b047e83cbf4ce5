"""The training loop: what it writes, and how it resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kwsd.training import figures
from kwsd.training.loop import Devices, Group, Loop, LoopSettings
from kwsd.training.settings import Settings
from kwsd.training.stages import wake


class Nothing(Settings, frozen=True):
    """No settings."""


def loop(out: Path) -> Loop:
    torch.manual_seed(0)
    line = nn.Linear(1, 1)
    settings = LoopSettings(7, ramp=0.5, weight_decay=0.0, log_every=2, checkpoint_every=3)
    groups = [Group(line.parameters(), 0.1)]
    return Loop(out, {"line": line}, groups, settings, Devices(torch.device("cpu")), run=Nothing())


def test_figures_are_written_once_over_an_interruption(tmp_path: Path) -> None:
    out = tmp_path / "run.pt"

    def steps(broken_at: int) -> None:
        run = loop(out)

        def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
            if n == broken_at:
                raise KeyboardInterrupt
            loss = run.parts["line"](torch.ones(1, 1)).square().sum()
            found = {"step": torch.tensor(float(n))}
            if n >= 4:  # a figure of the later steps alone
                found["late"] = torch.tensor(10.0)
            yield loss, found

        run.run(step)

    with pytest.raises(KeyboardInterrupt):
        steps(broken_at=5)  # step 3 is in the checkpoint, 4 is logged
    rows = figures.read(tmp_path / "run.csv")
    assert [(row["step"], row["value"]) for row in rows] == [("2", "0.5"), ("4", "2.5")]
    steps(broken_at=-1)
    rows = figures.read(tmp_path / "run.csv")
    found = [(row["step"], row["figure"], float(row["value"])) for row in rows]
    assert found == [
        ("2", "step", 0.5),
        ("4", "step", 3.0),  # of the step that was repeated
        ("6", "step", 4.5),
        ("6", "late", 10.0),
    ]


def test_a_run_ends_where_validation_says_and_keeps_the_best(tmp_path: Path) -> None:
    """Whether it was interrupted or not."""
    losses = {3: 0.5, 6: 0.2, 9: 0.4, 12: 0.3, 15: 0.1}
    kept = {}
    for name, interrupted in (("whole", False), ("resumed", True)):
        out = tmp_path / f"{name}.pt"

        def run(broken_at: int, out: Path = out) -> list[int]:
            torch.manual_seed(0)
            line = nn.Linear(1, 1)
            settings = LoopSettings(30, ramp=0.5, weight_decay=0.0, checkpoint_every=3, patience=2)
            groups = [Group(line.parameters(), 0.1)]
            here = Devices(torch.device("cpu"))
            made = Loop(out, {"line": line}, groups, settings, here, run=Nothing())
            done: list[int] = []

            def step(n: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
                if n == broken_at:
                    raise KeyboardInterrupt
                done.append(n)
                yield line(torch.ones(1, 1)).square().sum(), {}

            made.run(step, lambda: losses[done[-1] + 1])
            return done

        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                run(broken_at=8)
            assert run(broken_at=-1) == [6, 7, 8, 9, 10, 11], "it ends at 12: two were no better"
        else:
            assert run(broken_at=-1)[-1] == 11
        assert run(broken_at=-1) == [], "it has ended"
        saved = torch.load(out, weights_only=True)
        assert saved["best"]["step"] == 6
        kept[name] = saved["line"]["weight"].item()
    assert kept["whole"] == kept["resumed"]
    rows = figures.read(tmp_path / "resumed.csv")
    assert [float(row["value"]) for row in rows if row["figure"] == "validation"] == [
        0.5,
        0.2,
        0.4,
        0.3,
    ]


def test_the_head_is_averaged_over_a_share_of_its_steps() -> None:
    """After that share of the steps, the weights of the start count for 1 / e."""
    for steps in (1000, 12000):
        settings = wake.WakeSettings(steps=steps, averaged=0.05)
        assert wake._decay(settings) ** (0.05 * steps) == pytest.approx(0.3679, abs=0.01)
    assert 0 <= wake._decay(wake.WakeSettings(steps=4)) < 1
