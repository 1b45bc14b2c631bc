"""Time training on batches that loading processes make from JPEGs meanwhile, beside a synthetic batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.photos import load_photos, write_photo_dataset
from benchmarks.synthetic_outputs import synthetic_images, synthetic_targets
from benchmarks.table import Table
from benchmarks.timing import Call, Settings, seconds_per_call
from benchmarks.training_step import GOAL_BATCH, NUM_CLASSES, Case, candidates
from ssdnorm.data import CocoDataset, TrainTransform
from ssdnorm.data.batches import make_train_loader

_PREFETCH = 4  # batches of each loading process, as in training
_WARM_UP = 3


def measure(settings: Settings, *, case: Case | None = None, num_photos: int = 256, num_batches: int = 100) -> Table:
    """Images per second of our fastest step from files, and their share of those from a batch on the device.

    Args:
        case: network and batch size; ``steps`` are those on the synthetic batch.
        num_photos: different JPEGs.
        num_batches: from files that count.
    """
    case = case or Case(GOAL_BATCH, steps=50)
    photos, what = load_photos(settings.images, num_photos)
    name, make = list(candidates(settings, case).items())[-1]
    queue = max(1, settings.workers) * _PREFETCH
    with TemporaryDirectory() as folder:
        loader = make_train_loader(
            CocoDataset(*write_photo_dataset(Path(folder), photos)),
            TrainTransform(300, channel_swap=True),
            batch_size=case.batch,
            num_batches=2 * (queue + _WARM_UP + num_batches),
            seed=0,
            num_workers=settings.workers,
            prefetch_factor=_PREFETCH,
        )
        batches = iter(loader)

        def rate_from_files(call: Call) -> float:
            for _ in range(queue):  # otherwise most of what counts would be ready before the clock starts
                next(batches)
            return case.batch / seconds_per_call(call, settings, calls=num_batches, warm_up=_WARM_UP)

        def train() -> Any:
            batch = next(batches)
            return step(batch.images, batch.boxes, batch.labels)()

        loading = rate_from_files(partial(next, batches))
        step = make()
        on_device = step(synthetic_images(case.batch), *synthetic_targets(case.batch, NUM_CLASSES))
        synthetic = case.batch / seconds_per_call(on_device, settings, calls=case.steps)
        real = rate_from_files(train)
    return Table(
        "loader",
        f"{what}, 500 × 375 pixels, decoded, augmented and resized by {settings.workers} loading processes while the "
        f"device trains at batch {case.batch}; batches that were loaded before the clock starts do not count.",
        [
            {"work": "loading alone", "images_per_second": loading},
            {"work": f"{name}, synthetic batch", "images_per_second": synthetic},
            {"work": f"{name}, from JPEGs", "images_per_second": real},
        ],
        {"loader.share": real / synthetic} if settings.on_gpu else {},
    )
