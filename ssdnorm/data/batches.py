"""Choose which images come in which batch, and collate samples into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import size_of
from ssdnorm.data.loader import TIMEOUT_SECONDS, BatchLoader, Collate, Unloaded, lacks_shared_memory, use_one_thread
from ssdnorm.messages import one_line
from ssdnorm.structures import Batch

Key = tuple[int, int]  # epoch, index

_ORDER, _AUGMENTATION = 0, 1  # keep the random numbers of order and augmentation apart


@dataclass(frozen=True)
class Sample:
    """One image as the network takes it.

    Shape:
        image ``(3, height, width)`` uint8; boxes ``(G, 4)`` float32 xyxy in [0, 1]; labels ``(G,)`` int64;
        size: height and width of the original in pixels; index: its place in the data set.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]
    index: int


@dataclass(eq=False)
class Samples(Dataset[Sample | Unloaded]):
    """A data set seen through a transform, by (epoch, index).

    The augmentation of a sample depends on (seed, epoch, index) alone: not on workers, batch size, rank or resume.

    Args:
        dataset: where images and boxes come from.
        transform: ``TrainTransform``, ``EvalTransform`` or anything with their call.
        seed: of the augmentation.
    """

    dataset: DetectionDataset
    transform: Callable[..., Any]
    _: KW_ONLY
    seed: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | Unloaded:
        """The sample; in a worker, what is wrong with it instead of an error, whose message would be its traceback."""
        epoch, index = key
        rng = _rng(self.seed, _AUGMENTATION, epoch, index)
        try:
            source = self.dataset.open_image(index)
            image, boxes, labels = self.transform(source, *self.dataset.training_boxes(index), rng=rng)
            return Sample(image, boxes, labels, size_of(source), index)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            reason, path = one_line(error), self.dataset.image_path(index)
            return Unloaded(reason if path in reason else f"{path}: {reason}")


@dataclass(eq=False)
class TrainBatchSampler(Sampler[list[Key]]):
    """An endless stream of shuffled epochs, cut into full batches.

    Position p of the stream is image ``permutation(seed, p // N)[p % N]`` of epoch ``p // N``; every image comes once
    an epoch, and a batch may span two. Batch s of all ranks together is positions ``s · B · world_size`` and following;
    each rank takes its B of them. Nothing is remembered between batches, so a stream that starts at batch s is the
    very stream of an uninterrupted run.

    Args:
        num_images: N.
        batch_size: B, images of one rank in one batch.
        num_batches: where the stream ends, counted from batch 0. ``len`` counts from batch 0 too, also
            where the stream starts later: so a progress bar of a resumed run shows the whole run.
        seed: of the order.
        start_batch: the first batch to yield: the number of batches already trained on.
        rank, world_size: which of how many processes.
    """

    num_images: int
    batch_size: int
    num_batches: int
    _: KW_ONLY
    seed: int
    start_batch: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        _check_shares(self.num_images, self.batch_size, self.rank, self.world_size)
        if not 0 <= self.start_batch <= self.num_batches:
            raise ValueError(f"start_batch: expected 0 to num_batches ({self.num_batches}); got {self.start_batch}")

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, np.empty(0, np.int64)
        for batch in range(self.start_batch, self.num_batches):
            first = (batch * self.world_size + self.rank) * self.batch_size
            keys = []
            for position in range(first, first + self.batch_size):
                if position // self.num_images != epoch:
                    epoch = position // self.num_images
                    order = _rng(self.seed, _ORDER, epoch).permutation(self.num_images)
                keys.append((epoch, int(order[position % self.num_images])))
            yield keys


class EvalBatchSampler(Sampler[list[Key]]):
    """Every image once over all ranks, in order; the last batch may be short.

    Rank r has the images r, r + world_size, …, so no rank has more than one image more than another.

    Args:
        num_images: N.
        batch_size: images of one rank in one batch.
        rank, world_size: which of how many processes.
    """

    def __init__(self, num_images: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        _check_shares(num_images, batch_size, rank, world_size)
        self.indices = range(rank, num_images, world_size)
        self.batch_size = batch_size
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start : start + self.batch_size]]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as a batch; ground truth padded with zero boxes of label 0 to the longest, G may be 0.

    The images are channels last in memory, as they were decoded.
    """
    counts = [len(sample.labels) for sample in samples]
    boxes = torch.zeros(len(samples), max(counts), 4)
    labels = torch.zeros(len(samples), max(counts), dtype=torch.int64)
    for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
    return Batch(
        images=torch.stack([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2),
        boxes=boxes,
        labels=labels,
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
    )


def make_train_loader(
    dataset: DetectionDataset,
    transform: Callable[..., Any],
    *,
    batch_size: int,
    num_batches: int,
    seed: int,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 4,
) -> DataLoader[Batch]:
    """Batches to train on: ``Samples`` in the order of ``TrainBatchSampler``.

    Args:
        batch_size: images of one rank in one batch.
        num_workers: processes that load; 0 loads in this one.
        prefetch_factor: batches that each worker keeps ready.
    """
    sampler = TrainBatchSampler(
        len(dataset), batch_size, num_batches, seed=seed, start_batch=start_batch, rank=rank, world_size=world_size
    )
    return _make_loader(Samples(dataset, transform, seed=seed), sampler, num_workers, prefetch_factor)


def make_eval_loader(
    dataset: DetectionDataset,
    transform: Callable[..., Any],
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 4,
) -> DataLoader[Batch]:
    """Batches to evaluate on: every image once, in order. Arguments as in ``make_train_loader``."""
    sampler = EvalBatchSampler(len(dataset), batch_size, rank=rank, world_size=world_size)
    return _make_loader(Samples(dataset, transform, seed=0), sampler, num_workers, prefetch_factor)


def _make_loader(
    samples: Samples,
    sampler: TrainBatchSampler | EvalBatchSampler,
    num_workers: int,
    prefetch_factor: int,
) -> DataLoader[Batch]:
    if num_workers < 0:
        raise ValueError(f"num_workers: expected 0 or more; got {num_workers}")
    # of the images that are loaded ahead; as much again for evaluation, twice over since other runs may be beside
    batch_bytes = 3 * math.prod(getattr(samples.transform, "size", (0,))) * sampler.batch_size
    through_pipes = lacks_shared_memory(4 * sampler.world_size * num_workers * prefetch_factor * batch_bytes >> 20)
    return BatchLoader(
        samples,  # type: ignore[arg-type]  # batches come out of collate, not of the data set
        batch_sampler=sampler,
        collate_fn=Collate(collate, through_pipes),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=not through_pipes and torch.cuda.is_available(),
        timeout=TIMEOUT_SECONDS if num_workers else 0,
        worker_init_fn=use_one_thread,
        generator=torch.Generator(),  # leaves the global generator, that dropout draws from, alone
    )


def _rng(seed: int, purpose: int, *place: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, purpose, *place]))


def _check_shares(num_images: int, batch_size: int, rank: int, world_size: int) -> None:
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more; got {value}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to world_size − 1 ({world_size - 1}); got {rank}")
