"""This file is about how many images a second a GPU trains on: torchvision's SSD300 and ours."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ssdnorm.bench.gpu_limits import GFLOP_AN_IMAGE, limit, seconds_a_call
from ssdnorm.bench.made_up_outputs import draw_targets
from ssdnorm.bench.photos import VOC_SIZE, load_photos
from ssdnorm.bench.table import Goal, Table
from ssdnorm.bench.torchvision_ssd import torchvision_detector
from ssdnorm.bench.training_step import Step, draw_images, our_step, torchvision_step
from ssdnorm.data import EncodedImage, TrainTransform
from ssdnorm.data.batches import make_train_loader
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.models.ssd import ssd300_vgg16

NUM_CLASSES = 21
OURS = "ours, bf16 compiled"
_GOAL_BATCH = 64


@dataclass(frozen=True)
class Plan:
    """Sizes of a GPU's measurements.

    Args:
        device: where they run.
        batch_sizes: images a step; goals are read at 64, or at the largest if that is not among them.
        steps: that count.
        width: factor on the channels of our network.
        workers: loading processes.
        images: folder of JPEGs; None draws photos.
        photos: how many of them.
        compiled: whether to measure compiled networks too.
        matrix: rows of the matrices whose product is a limit.
    """

    device: torch.device
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    steps: int = 20
    width: float = 1.0
    workers: int = 16
    images: Path | None = None
    photos: int = 256
    compiled: bool = True
    matrix: int = 8192

    @property
    def goal_batch(self) -> int:
        """The batch size at which goals are read."""
        return _GOAL_BATCH if _GOAL_BATCH in self.batch_sizes else max(self.batch_sizes)


def candidates(plan: Plan) -> dict[str, Callable[[], Step]]:
    """What makes a training step, by name."""

    def theirs(autocast: torch.dtype | None) -> Step:
        return torchvision_step(torchvision_detector(NUM_CLASSES).to(plan.device), autocast=autocast)

    def ours(compiled: bool) -> Step:
        model = ssd300_vgg16(NUM_CLASSES, dropout=0, width=plan.width).to(plan.device)
        return our_step(model, autocast=torch.bfloat16, compiled=compiled)

    found: dict[str, Callable[[], Step]] = {
        "torchvision, fp32": partial(theirs, None),
        "torchvision, bf16 autocast": partial(theirs, torch.bfloat16),
        "ours, bf16": partial(ours, False),
    }
    if plan.compiled:
        found[OURS] = partial(ours, True)
    return found


def measure_steps(plan: Plan, limits: Table) -> Table:
    """Steps on drawn batches that are on the device already."""
    table = Table(
        "gpu_training",
        "Training steps on one drawn batch on the device: SSD300-VGG16, 21 classes, SGD. torchvision's with its own "
        f"transform and loss. *Of conv* is the share of the measured bf16 convolution rate, at {GFLOP_AN_IMAGE} GFLOP "
        "an image forward and three times that for a step.",
    )
    rate = 1e3 * limit(limits, "bf16 convolution 3 × 3")
    for name, make in candidates(plan).items():
        for size in plan.batch_sizes:
            row: dict[str, Any] = {"candidate": name, "batch": size}
            try:
                row |= _measure_step(make, size, plan, rate)
            except RuntimeError as error:  # out of memory, most of all: the other sizes are still worth having
                row["failed"] = str(error).splitlines()[0][:120]
            table.rows.append(row)
    ours = max(_images_a_second(table, name, plan.goal_batch) for name in ("ours, bf16", OURS))
    theirs = _images_a_second(table, "torchvision, bf16 autocast", plan.goal_batch)
    at = f"at batch {plan.goal_batch}"
    table.goals += [
        Goal(f"training {at}", 1400, ours, unit="images/s"),
        Goal(f"training {at}, over torchvision with autocast", 3.0, ours / theirs if theirs else None),
        Goal(f"training {at}, of the convolution rate", 0.45, 3 * GFLOP_AN_IMAGE * ours / rate, unit=""),
    ]
    return table


def measure_real_batches(plan: Plan, steps: Table) -> Table:
    """Steps on batches that loading processes make out of JPEGs meanwhile."""
    photos, what = load_photos(plan.images, plan.photos)
    size = plan.goal_batch
    loader = make_train_loader(
        _Photos(photos),
        TrainTransform(300, channel_swap=True),
        batch_size=size,
        num_batches=3 * plan.steps + 10,
        seed=0,
        num_workers=plan.workers,
    )
    batches = iter(loader)
    alone = seconds_a_call(lambda: next(batches), torch.device("cpu"), calls=plan.steps)
    step = list(candidates(plan).values())[-1]()

    def train() -> Tensor:
        batch = next(batches).to(plan.device, non_blocking=True)
        return step(batch.images, batch.boxes, batch.labels)

    together = seconds_a_call(train, plan.device, calls=plan.steps)
    drawn = max(_images_a_second(steps, name, size) for name in ("ours, bf16", OURS))
    table = Table(
        "gpu_real_batches",
        f"{what}, 500 × 375 pixels, decoded, augmented and resized by {plan.workers} loading processes while the "
        f"device trains, batch {size}, bf16.",
        [
            {"measured": "loading alone", "images_a_second": size / alone},
            {"measured": "training on them", "images_a_second": size / together},
            {"measured": "training on a drawn batch", "images_a_second": drawn},
        ],
    )
    share = size / together / drawn if drawn else None
    table.goals.append(Goal("training on real batches, of drawn ones", 0.9, share, unit=""))
    return table


def measure_kernels(plan: Plan) -> Table:
    """Kernels and waits of one step, as the profiler and CUDA's warnings tell them."""
    table = Table(
        "gpu_kernels", "Kernels that one training step launches, and how often the host waits for the device."
    )
    for name, make in candidates(plan).items():
        for size in sorted({min(plan.batch_sizes), plan.goal_batch}):
            step = partial(make(), *_batch(size, plan))
            for _ in range(3):
                step()
            kernels, waits = count_on_device(step, plan.device)
            table.rows.append({"candidate": name, "batch": size, "kernels": kernels, "waits": waits})
            del step
            _forget(plan.device)
    return table


def count_on_device(call: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """Kernels and waits of a call; both are 0 without CUDA."""
    if device.type != "cuda":
        call()
        return 0, 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchronizing" in str(warning.message) for warning in caught)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device), waits


def _measure_step(make: Callable[[], Step], size: int, plan: Plan, rate: float) -> dict[str, Any]:
    cuda = plan.device.type == "cuda"
    _forget(plan.device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(plan.device)
    step = partial(make(), *_batch(size, plan))
    seconds = seconds_a_call(step, plan.device, calls=plan.steps)
    images = size / seconds
    return {
        "images_a_second": images,
        "ms_a_step": 1e3 * seconds,
        "of_conv": 3 * GFLOP_AN_IMAGE * images / rate,
        "peak_gb": torch.cuda.max_memory_allocated(plan.device) / 1e9 if cuda else "",
    }


def _images_a_second(table: Table, name: str, size: int) -> float:
    rows = [row for row in table.rows if (row.get("candidate"), row.get("batch")) == (name, size)]
    return float(rows[0].get("images_a_second", 0.0)) if rows else 0.0


def _batch(size: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    images, (boxes, labels) = draw_images(size), draw_targets(size, NUM_CLASSES)
    return images.to(plan.device), boxes.to(plan.device), labels.to(plan.device)


def _forget(device: torch.device) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _Photos(DetectionDataset):
    """JPEGs in memory, each with five boxes."""

    def __init__(self, photos: list[bytes]) -> None:
        self.photos = photos
        corner = np.random.default_rng(0).uniform((0, 0), (300, 200), (5, 2))
        self.boxes = np.concatenate((corner, corner + 120), axis=1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.photos)

    def open_image(self, index: int) -> EncodedImage:
        return EncodedImage(self.photos[index], self.image_name(index))

    def image_name(self, index: int) -> str:
        return f"photo {index}"

    def image_size(self, index: int) -> tuple[int, int]:
        return VOC_SIZE

    def training_boxes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.boxes, np.arange(1, 6)
