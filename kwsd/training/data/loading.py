"""Batches on their way to the device: workers on the host assemble them; they are degraded and
turned into features where the training runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Prepared = TypeVar("Prepared")


class Movable(Protocol):
    """A batch that can be moved to a device."""

    def to(self, device: torch.device) -> Any:
        """Return the batch on `device`."""
        ...


Unprepared = TypeVar("Unprepared", bound=Movable)


class _PreparedOnHost(IterableDataset[Any]):
    """Batches that their worker prepares."""

    def __init__(self, batches: IterableDataset[Any], prepare: Callable[[Any], Any]) -> None:
        self.batches = batches
        self.prepare = prepare

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        return map(self.prepare, iter(self.batches))


def load(
    batches: IterableDataset[Unprepared],
    prepare: Callable[[Unprepared], Prepared],
    device: torch.device,
) -> Iterator[Prepared]:
    """Yield prepared batches for ever.

    Without a GPU, one worker also prepares them. With one, a worker per core assembles batches,
    which are then prepared on the device."""
    if device.type == "cpu":
        on_host = _PreparedOnHost(batches, prepare)
        yield from DataLoader(on_host, batch_size=None, num_workers=1, prefetch_factor=4)
        return
    workers = max((os.cpu_count() or 2) - 1, 1)
    loader = DataLoader(
        batches, batch_size=None, num_workers=workers, prefetch_factor=4, pin_memory=True
    )
    for raw in loader:
        yield prepare(raw.to(device))


def worker_seed(seed: int) -> int:
    """Return `seed`, changed in each worker so that no two draw alike."""
    worker = get_worker_info()
    return seed + 1_000_003 * worker.id if worker else seed
