"""Batches on their way to the device: put together by workers on the host; degraded and turned into features where the training runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Prepared = TypeVar("Prepared")


class Raw(Protocol):
    def to(self, device: torch.device) -> Any: ...


Unprepared = TypeVar("Unprepared", bound=Raw)


class _OnHost(IterableDataset[Any]):
    """Batches that their worker has prepared."""

    def __init__(self, batches: IterableDataset[Any], prepare: Callable[[Any], Any]) -> None:
        self.batches, self.prepare = batches, prepare

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        return map(self.prepare, iter(self.batches))


def load(batches: IterableDataset[Unprepared], prepare: Callable[[Unprepared], Prepared], device: torch.device) -> Iterator[Prepared]:
    """Endless prepared batches. Without a GPU one worker prepares them too; else as many workers as there are cores put them together, and
    they are prepared on the device."""
    if device.type == "cpu":
        yield from DataLoader(_OnHost(batches, prepare), batch_size=None, num_workers=1, prefetch_factor=4)
        return
    workers = max((os.cpu_count() or 2) - 1, 1)
    for raw in DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=4, pin_memory=True):
        yield prepare(raw.to(device))


def worker_seed(seed: int) -> int:
    """`seed`, another one in each worker."""
    worker = get_worker_info()
    return seed + 1_000_003 * worker.id if worker else seed
