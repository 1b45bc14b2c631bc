"""Keep the decoded images of a small data set in memory, once for all loading processes."""

from __future__ import annotations

import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import EncodedImage, size_of
from ssdnorm.resize import ImageSize, height_and_width

logger = logging.getLogger("ssdnorm.data")

_MIB = 2**20
_SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it; containers often give it 64 MiB


class CachedImage(EncodedImage):
    """An image whose pixels are in memory; its file is read again only to decode it at another size.

    Args:
        pixels: ``(⌈H / reduction⌉, ⌈W / reduction⌉, 3)`` uint8, never handed out itself.
        size: H and W.
        reduction: at which the pixels were decoded.
        reductions: as the file's, so that batches are the same.
        name: the file.
    """

    size: tuple[int, int]

    def __init__(
        self, pixels: np.ndarray, size: tuple[int, int], reduction: int, reductions: tuple[int, ...], name: str
    ) -> None:
        self._pixels, self._reduction = pixels, reduction
        self.size, self.reductions, self.name = size, reductions, name

    def decode(self, reduction: int = 1) -> np.ndarray:
        """A copy of the pixels, or the file decoded at another size."""
        return self._pixels.copy() if reduction == self._reduction else EncodedImage.read(self.name).decode(reduction)


class CachedDataset(DetectionDataset):
    """A data set whose images are decoded once, at the start, into one array that all loading processes share.

    Batches are the same in every bit as without. Worth its memory for small sets that are seen often: what it saves is
    the decoding, about half of an augmented picture's time.

    A JPEG is held as small as ``TrainTransform`` decodes it for the whole picture: a window on a part of it that needs
    finer pixels reads the file, as without the cache.

    Args:
        dataset: any; ``subset`` may come before or after.
        image_size: of the network's input, pixels: a side, or (height, width); None holds every picture in full.
        budget_mib: the most that the pixels may take, in MiB (2²⁰ bytes); each process of a multi-GPU training on a
            machine holds an array of its own, its workers share it.
        where: the key that asks for it, for messages.

    Raises:
        ValueError: if the images do not fit the budget or the machine's shared memory, or one cannot be decoded.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        budget_mib: int,
        image_size: ImageSize | None = None,
        where: str = "budget_mib",
    ) -> None:
        super().__init__(dataset.ground_truth, dataset.paths, train_on_difficult=dataset.train_on_difficult)
        self.problems, self.summary = dataset.problems, dataset.summary
        self._source = dataset
        sizes = dataset.ground_truth.sizes
        annotated = -(-sizes // _reductions(sizes, image_size)[:, None])
        _check_budget(int(annotated.prod(axis=1).sum()) * 3, len(dataset), budget_mib, where)  # before any file is read
        start = time.perf_counter()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            heads = np.array(list(threads.map(self._head, range(len(dataset)))), np.int64)
            self._sizes, self._most_reduced = heads[:, :2], heads[:, 2]
            self._reduced_by = np.minimum(_reductions(self._sizes, image_size), np.maximum(self._most_reduced, 1))
            self._held = -(-self._sizes // self._reduced_by[:, None])
            self._starts = np.concatenate([[0], np.cumsum(self._held.prod(axis=1) * 3)])
            needed = int(self._starts[-1])
            _check_budget(needed, len(dataset), budget_mib, where)
            self._pixels = torch.empty(needed, dtype=torch.uint8).share_memory_()
            list(threads.map(self._fill, range(len(dataset))))
        self._places = {dataset.image_id(place): place for place in range(len(dataset))}
        seconds = time.perf_counter() - start
        logger.info("%s: %d images decoded, %.0f MiB, in %.1f s", where, len(dataset), needed / _MIB, seconds)

    def open_image(self, index: int) -> EncodedImage | np.ndarray:
        """The image from memory; a copy of the pixels where the data set draws them."""
        place = self._places[self.image_id(index)]
        most_reduced = int(self._most_reduced[place])
        if not most_reduced:
            return self._pixels_of(place).copy()
        reductions = tuple(factor for factor in (1, 2, 4, 8) if factor <= most_reduced)
        size = int(self._sizes[place, 0]), int(self._sizes[place, 1])
        path = self._source.image_path(place)
        return CachedImage(self._pixels_of(place), size, int(self._reduced_by[place]), reductions, path)

    def _head(self, place: int) -> tuple[int, int, int]:
        """Height, width and the largest reduction of an image; 0 for one that is drawn."""
        image = self._source.open_image(place)
        return *size_of(image), max(image.reductions) if isinstance(image, EncodedImage) else 0

    def _fill(self, place: int) -> None:
        image = self._source.open_image(place)
        pixels = image.decode(int(self._reduced_by[place])) if isinstance(image, EncodedImage) else image
        self._pixels_of(place)[:] = pixels

    def _pixels_of(self, place: int) -> np.ndarray:
        height, width = self._held[place]
        pixels: np.ndarray = self._pixels.numpy()[self._starts[place] : self._starts[place + 1]]
        return pixels.reshape(height, width, 3)


def _reductions(sizes: np.ndarray, image_size: ImageSize | None) -> np.ndarray:
    """The factor by which a JPEG of each size ``(N, 2)`` is decoded smaller for a whole picture, ``(N,)``."""
    if image_size is None:
        return np.ones(len(sizes), np.int64)
    fine = (sizes / height_and_width(image_size)).min(axis=1) / 2
    return np.select([fine >= factor for factor in (8, 4, 2)], (8, 4, 2), default=1)


def _check_budget(needed: int, num_images: int, budget_mib: int, where: str) -> None:
    need = f"{num_images} images take {-(-needed // _MIB)} MiB decoded"
    if needed > budget_mib * _MIB:
        raise ValueError(
            f"{where}: {need}; got a budget of {budget_mib} MiB. Raise it, or leave the images on disk (null)"
        )
    if _SHARED_MEMORY.is_dir() and needed > (free := shutil.disk_usage(_SHARED_MEMORY).free):
        raise ValueError(
            f"{where}: {need}; {_SHARED_MEMORY}, where processes share memory, has {free // _MIB} MiB free. Give the "
            "machine or container more shared memory, or leave the images on disk (null)"
        )
