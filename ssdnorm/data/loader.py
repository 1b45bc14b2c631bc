"""Load batches in processes of their own: their errors in one line, little shared memory, and no endless waiting."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info

from ssdnorm.structures import Batch

log = logging.getLogger("ssdnorm.data")

TIMEOUT_SECONDS = 300  # without a batch
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Unloaded:
    """Why a sample cannot be loaded, in one line that begins with its file."""

    reason: str


class BatchLoader(DataLoader[Batch]):
    """A DataLoader with a :class:`Collate`, which raises a worker's errors as ``ValueError`` in one line."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(_received, super().__iter__())


@dataclass(frozen=True)
class Collate:
    """Samples → batch, which a worker hands over in shared memory or, where that is too small, through a pipe."""

    collate: Callable[[Sequence[Any]], Batch]
    through_pipes: bool

    def __call__(self, samples: Sequence[Any]) -> Any:
        if failed := [sample for sample in samples if isinstance(sample, Unloaded)]:
            return failed[0]
        batch = self.collate(samples)
        if not self.through_pipes or get_worker_info() is None:
            return batch
        # arrays are pickled, tensors are put into shared memory; images are channels last
        tensors = [batch.images.permute(0, 2, 3, 1), *(getattr(batch, field.name) for field in fields(batch)[1:])]
        return [tensor.numpy() for tensor in tensors]


def _received(item: Any) -> Batch:
    if isinstance(item, Unloaded):
        raise ValueError(item.reason)
    if isinstance(item, Batch):
        return item
    images, *others = (torch.from_numpy(array) for array in item)
    return Batch(images.permute(0, 3, 1, 2), *others)


@cache  # one line for a process
def lacks_shared_memory(needed_mib: int) -> bool:
    """Whether shared memory has less than this free; the batches of a worker that finds none would be lost."""
    if not needed_mib or not os.path.isdir(_SHARED_MEMORY):
        return False
    status = os.statvfs(_SHARED_MEMORY)
    free_mib = status.f_bavail * status.f_frsize >> 20
    if free_mib < needed_mib:
        log.warning(
            "loading: %s has %d MiB free and should have %d; batches go through pipes, which costs a little time",
            *(_SHARED_MEMORY, free_mib, needed_mib),
        )
    return free_mib < needed_mib


def use_one_thread(_worker: int) -> None:
    """Give a worker process one thread: thread pools that a fork left behind would hang or fight over the cores."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
