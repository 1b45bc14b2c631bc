"""Time JPEG bytes to training tensors beside torchvision's pipelines: one loading process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.photos import load_photos, synthetic_boxes
from benchmarks.pipeline_peers import TorchvisionPil, TorchvisionTensors
from benchmarks.table import Table
from benchmarks.timing import Settings, interleaved
from ssdnorm.data import EncodedImage, EvalTransform, TrainTransform
from ssdnorm.data.transforms import FILL_RGB

SIZE = 300
_V1, _V2, _OURS = "torchvision v1 (PIL)", "torchvision v2 (tv_tensors)", "ssdnorm, training"


def measure(settings: Settings) -> Table:
    """Photos of 500 × 375 pixels to 300 × 300 training images with boxes, on one thread of the host."""
    photos, what = load_photos(settings.images, 8 if settings.quick else 40)
    calls = {name: partial(_over_photos, call, len(photos)) for name, call in _pipelines(photos).items()}
    with one_thread():
        times = interleaved(calls, rounds=2 if settings.quick else 9, clock=time.process_time)
    rates = {name: 1e3 * len(photos) / times.ms(name) for name in calls}
    size = sum(map(len, photos)) / len(photos) / 1000
    return Table(
        "pipeline",
        f"From the bytes of a JPEG to a {SIZE} × {SIZE} training image with five boxes, images per second of one "
        f"process: {what}, 500 × 375 pixels, {size:.0f} kB on average; processor time.",
        [
            {"pipeline": name, "images_per_second": rate, "speedup_of_ours": times.ratio(name, _OURS)}
            for name, rate in rates.items()
        ],
        {"pipeline.v1": times.ratio(_V1, _OURS), "pipeline.v2": times.ratio(_V2, _OURS)},
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch and OpenCV on one thread, as in a loading process."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _pipelines(photos: list[bytes]) -> dict[str, Callable[[int], Any]]:
    """What each pipeline makes of photo i; new random numbers in every call."""
    boxes, labels = synthetic_boxes(len(photos)), np.arange(1, 6)
    rng = np.random.default_rng(0)
    train, evaluate = TrainTransform(SIZE, channel_swap=True), EvalTransform(SIZE)
    pil, tensors = TorchvisionPil(SIZE, FILL_RGB), TorchvisionTensors(SIZE, FILL_RGB)
    return {
        _V1: lambda i: pil(photos[i], boxes[i], labels),
        _V2: lambda i: tensors(photos[i], boxes[i], labels),
        _OURS: lambda i: train(EncodedImage(photos[i], "photo"), boxes[i], labels, rng=rng),
        "ssdnorm, evaluation": lambda i: evaluate(EncodedImage(photos[i], "photo"), boxes[i], labels),
        "decoding alone (OpenCV)": lambda i: EncodedImage(photos[i], "photo").decode(),
    }


def _over_photos(call: Callable[[int], Any], number: int) -> None:
    for i in range(number):
        call(i)
