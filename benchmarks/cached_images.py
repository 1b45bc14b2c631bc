"""This file is about what decoded images in memory save: training samples a second, with and without."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.photos import VOC_SIZE, load_photos
from benchmarks.pipeline import SIZE, draw_boxes, one_thread
from benchmarks.table import Settings, Table, interleaved
from ssdnorm.data import CachedDataset, EvalTransform, Samples, TrainTransform
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import check_image_file
from ssdnorm.tables import GroundTruth, PackedStrings, xyxy_to_xywh

_BUDGET_MIB = 2048
_DRAWN_SIZE = (480, 640)


def measure(settings: Settings) -> Table:
    """Samples of photos at their own size: from files, and from a ``CachedDataset``, in turns."""
    number = 8 if settings.quick else 100
    with TemporaryDirectory() as folder:
        if settings.images is None:
            photos, what = load_photos(None, number, size=_DRAWN_SIZE)
            paths = [Path(folder) / f"{i}.jpg" for i in range(len(photos))]
            for path, photo in zip(paths, photos, strict=True):
                path.write_bytes(photo)
        else:
            paths = sorted(path for path in settings.images.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
            paths, what = paths[:number], f"{len(paths[:number])} photos of {settings.images.name}"
        files = dataset_of(paths)
        start = time.perf_counter()
        cached = CachedDataset(files, budget_mib=_BUDGET_MIB)
        filling = time.perf_counter() - start
        calls: dict[str, Callable[[], Any]] = {}
        for purpose, transform in (("training", TrainTransform(SIZE)), ("evaluation", EvalTransform(SIZE))):
            for place, dataset in (("files", files), ("memory", cached)):
                calls[f"{purpose}, from {place}"] = _all_samples(Samples(dataset, transform, seed=0))
        with one_thread():
            times = interleaved(calls, repeats=2 if settings.quick else 7, clock=time.process_time)
    rows = [
        {
            "samples": name,
            "images_per_second": 1e3 * len(paths) / times.ms(name),
            "over_files": times.ratio(f"{name.split(',')[0]}, from files", name),
        }
        for name in calls
    ]
    sizes = files.ground_truth.sizes.mean(axis=0)
    return Table(
        name="cached_images",
        about=f"Samples a second of one process, {what}, {sizes[1]:.0f} × {sizes[0]:.0f} pixels on average, from files "
        f"(in the system's cache) and from decoded pixels in memory ({filling:.1f} s to fill); the same to the bit.",
        rows=rows,
    )


def dataset_of(paths: list[Path]) -> DetectionDataset:
    """A data set of image files with five boxes each."""
    number, rows = len(paths), 5 * len(paths)
    sizes = np.array([check_image_file(path)[0] for path in paths], np.int64)
    scale = np.tile(sizes[:, ::-1] / VOC_SIZE[::-1], 2)[:, None]
    boxes = (draw_boxes(number) * scale).reshape(-1, 4)
    truth = GroundTruth(
        image_ids=np.arange(1, number + 1),
        sizes=sizes,
        names=PackedStrings([path.name for path in paths]),
        category_ids=np.array([1]),
        class_names=("object",),
        starts=np.arange(number + 1) * 5,
        ids=np.arange(1, rows + 1),
        boxes=xyxy_to_xywh(boxes),
        labels=np.ones(rows, np.int64),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iscrowd=np.zeros(rows, bool),
        difficult=np.zeros(rows, bool),
    )
    return DetectionDataset(truth, PackedStrings([str(path) for path in paths]))


def _all_samples(samples: Samples) -> Callable[[], None]:
    """Go through all samples; the same pictures in every call."""

    def run() -> None:
        for i in range(len(samples)):
            sample = samples[(0, i)]
            assert sample.image.dtype == torch.uint8

    return run
