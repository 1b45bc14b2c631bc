"""This file is about how many images a second a GPU trains on: torchvision's SSD300 and ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_goals import GOAL_BATCH, gpu_goal
from benchmarks.gpu_limits import GFLOP_AN_IMAGE, limit
from benchmarks.gpu_turns import failure_in, forget, measure_in_turns, seconds_a_call
from benchmarks.made_up_outputs import draw_targets
from benchmarks.photos import VOC_SIZE, load_photos
from benchmarks.table import Table
from benchmarks.torchvision_ssd import torchvision_detector
from benchmarks.training_step import Step, draw_images, our_step, torchvision_step
from ssdnorm.data import EncodedImage, TrainTransform
from ssdnorm.data.batches import make_train_loader
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.models.ssd import ssd300_vgg16

NUM_CLASSES = 21
OURS = ("ours, bf16", "ours, bf16 compiled")
PEER = "torchvision, bf16 autocast"
_PREFETCH = 4  # batches of each loading process, as in training
_WARM_UP = 3


@dataclass(frozen=True)
class Plan:
    """Sizes of a GPU's measurements.

    Args:
        device: where they run.
        batch_sizes: images a step.
        goal_batch: the one of them at which goals are read.
        steps: of a candidate in one round.
        rounds: in which the candidates take turns.
        loaded: batches of JPEGs that count.
        width: factor on the channels of our network.
        workers: loading processes.
        images: folder of JPEGs; None draws photos.
        photos: how many of them.
        compiled: whether to measure compiled networks too.
        matrix: rows of the matrices whose product is a limit.
    """

    device: torch.device
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    goal_batch: int = GOAL_BATCH
    steps: int = 10
    rounds: int = 5
    loaded: int = 100
    width: float = 1.0
    workers: int = 16
    images: Path | None = None
    photos: int = 256
    compiled: bool = True
    matrix: int = 8192


def candidates(plan: Plan) -> dict[str, Callable[[], Step]]:
    """What makes a training step, by name."""

    def theirs(autocast: torch.dtype | None) -> Step:
        return torchvision_step(torchvision_detector(NUM_CLASSES).to(plan.device), autocast=autocast)

    def ours(compiled: bool) -> Step:
        model = ssd300_vgg16(NUM_CLASSES, dropout=0, width=plan.width).to(plan.device)
        return our_step(model, autocast=torch.bfloat16, compiled=compiled)

    found: dict[str, Callable[[], Step]] = {
        "torchvision, fp32": partial(theirs, None),
        PEER: partial(theirs, torch.bfloat16),
        OURS[0]: partial(ours, False),
    }
    if plan.compiled:
        found[OURS[1]] = partial(ours, True)
    return found


def measure_steps(plan: Plan, limits: Table) -> Table:
    """Steps on drawn batches that are on the device already."""
    table = Table(
        "gpu_training",
        "Training steps on one drawn batch on the device: SSD300-VGG16, 21 classes, SGD. torchvision's with its own "
        f"transform and loss. Medians of {plan.rounds} rounds of {plan.steps} steps each, the candidates in turns. "
        f"*Times faster* is over {PEER}. *Of conv* is the share of the measured bf16 convolution rate, at "
        f"{GFLOP_AN_IMAGE} GFLOP an image forward and three times that for a step. Peak memory of each alone.",
    )
    rate = 1e3 * limit(limits, "bf16 convolution 3 × 3")
    for size in plan.batch_sizes:
        makes = {name: partial(_on_drawn, make, size) for name, make in candidates(plan).items()}
        rows = measure_in_turns(makes, plan.device, calls=plan.steps, rounds=plan.rounds, peer=PEER)
        for name, row in rows.items():
            if "ms" in row:
                row["images_a_second"] = 1e3 * size / row["ms"]
                row["of_conv"] = 3 * GFLOP_AN_IMAGE * row["images_a_second"] / rate
            table.rows.append({"candidate": name, "batch": size, **row})
    best = max(_ours(table, plan.goal_batch, "images_a_second"), key=lambda row: row["images_a_second"], default={})
    for goal, column in (("rate", "images_a_second"), ("over_torchvision", "times_faster"), ("of_conv", "of_conv")):
        table.goals.append(gpu_goal(goal, best.get(column)))
    return table


def measure_real_batches(plan: Plan) -> Table:
    """Steps on batches that loading processes make out of JPEGs meanwhile, beside steps on a drawn batch."""
    photos, what = load_photos(plan.images, plan.photos)
    table = Table(
        "gpu_real_batches",
        f"{what}, 500 × 375 pixels, decoded, augmented and resized by {plan.workers} loading processes while the "
        f"device trains. Each candidate first empties the queue of batches that were loaded before, then {plan.loaded} "
        "batches count.",
    )
    for size in sorted({min(plan.batch_sizes), plan.goal_batch, max(plan.batch_sizes)}):
        table.rows += _measure_loading(size, photos, plan)
    best = max(_ours(table, plan.goal_batch, "of_drawn"), key=lambda row: row["drawn_images_a_second"], default={})
    table.goals.append(gpu_goal("real_batches", best.get("of_drawn")))
    return table


def _measure_loading(size: int, photos: list[bytes], plan: Plan) -> list[dict[str, Any]]:
    """Loading alone, then every candidate on its drawn batch, which compiles it, and on loaded ones."""
    found = candidates(plan)
    in_flight = max(1, plan.workers) * _PREFETCH
    loader = make_train_loader(
        _Photos(photos),
        TrainTransform(300, channel_swap=True),
        batch_size=size,
        num_batches=(1 + len(found)) * (in_flight + _WARM_UP + plan.loaded),
        seed=0,
        num_workers=plan.workers,
        prefetch_factor=_PREFETCH,
    )
    batches = iter(loader)

    def images_a_second(call: Callable[[], Any]) -> float:
        for _ in range(in_flight):  # else most of what counts would lie ready before the clock starts
            next(batches)
        return size / seconds_a_call(call, plan.device, calls=plan.loaded, warm_up=_WARM_UP)

    def train(prepare: Step) -> Tensor:
        batch = next(batches)
        return prepare(batch.images, batch.boxes, batch.labels)()

    rows: list[dict[str, Any]] = [
        {"candidate": "loading alone", "batch": size, "real_images_a_second": images_a_second(lambda: next(batches))}
    ]
    for name, make in found.items():
        rows.append({"candidate": name, "batch": size})
        forget(plan.device)
        with failure_in(rows[-1:]):
            prepare = make()
            seconds = seconds_a_call(prepare(*_batch(size)), plan.device, calls=plan.steps * plan.rounds)
            real = images_a_second(partial(train, prepare))
            rows[-1] |= {
                "real_images_a_second": real,
                "drawn_images_a_second": size / seconds,
                "of_drawn": real * seconds / size,
            }
    return rows


def measure_kernels(plan: Plan) -> Table:
    """Kernels and waits of one step, as the profiler and CUDA's warnings tell them."""
    table = Table(
        "gpu_kernels", "Kernels that one training step launches, and how often the host waits for the device."
    )
    for name, make in candidates(plan).items():
        for size in sorted({min(plan.batch_sizes), plan.goal_batch}):
            table.rows.append({"candidate": name, "batch": size})
            with failure_in(table.rows[-1:]):
                step = _on_drawn(make, size)
                for _ in range(_WARM_UP):
                    step()
                table.rows[-1] |= count_on_device(step, plan.device)
            forget(plan.device)
    return table


def count_on_device(call: Callable[[], Any], device: torch.device) -> dict[str, int]:
    """Launches and waits of a call; nothing without CUDA."""
    if device.type != "cuda":
        return {}
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
    return {"launches": num_launches(profiler.events()), "waits": waits}


def num_launches(events: Iterable[Any]) -> int:
    """Kernels among a profiler's events: what ran on the device, no copies, and no ranges that code gave a name."""
    on_device = (event for event in events if event.device_type == torch.autograd.DeviceType.CUDA)
    return sum(not (event.is_user_annotation or event.name.startswith(("Memcpy", "Memset"))) for event in on_device)


def _ours(table: Table, size: int, column: str) -> list[dict[str, Any]]:
    """Our rows at a batch size that have a number in the column."""
    return [row for row in table.rows if row["candidate"] in OURS and row["batch"] == size and column in row]


def _on_drawn(make: Callable[[], Step], size: int) -> Callable[[], Tensor]:
    return make()(*_batch(size))


def _batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw_images(size), *draw_targets(size, NUM_CLASSES)


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
