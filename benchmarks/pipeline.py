"""This file is about how many pictures a second a loading process makes out of JPEGs, beside the usual pipelines."""

from __future__ import annotations

import importlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import io as torchvision_io

from benchmarks.photos import load_photos
from benchmarks.pipeline_rivals import OpenCvFloats, TorchvisionPil, TorchvisionTensors
from benchmarks.table import Goal, Settings, Table, Times, interleaved
from ssdnorm.data import EncodedImage, EvalTransform, TrainTransform
from ssdnorm.data.transforms import FILL_RGB

SIZE = 300
_GOAL = 8.0  # times torchvision's pipeline
_TORCHVISION = ("torchvision v1 (PIL)", "torchvision v2 (tv_tensors)")
_OURS = "ssdnorm, training"


def measure(settings: Settings) -> Table:
    """JPEG bytes of 500 × 375 photos → 300 × 300 training pictures with boxes, on one thread."""
    photos, what = load_photos(settings.images, 8 if settings.quick else 40)
    repeats = 2 if settings.quick else 9
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision.io's
        pipelines = interleaved(_over_photos(_pipelines(photos), len(photos)), repeats=repeats, clock=time.process_time)
        decoders = interleaved(_over_photos(_decoders(photos), len(photos)), repeats=repeats, clock=time.process_time)
    rows = [_row(name, pipelines, len(photos), against=_OURS) for name in pipelines.seconds]
    rows += [_row(name, decoders, len(photos), against="decode alone: OpenCV") for name in decoders.seconds]
    size = sum(map(len, photos)) / len(photos) / 1000
    return Table(
        name="pipeline",
        about=f"From the bytes of a JPEG to a {SIZE} × {SIZE} training picture with five boxes, images a second of one "
        f"process: {what}, 500 × 375 pixels, {size:.0f} kB on average; all pipelines run in every round; processor "
        f"time. The factor is the speed of '{_OURS}' (of OpenCV, for the decoders) over that of the row. All end in "
        "uint8 but the OpenCV pipeline, which computes in floats and subtracts the mean.",
        rows=rows,
        goals=[Goal(f"training pictures, over {name}", _GOAL, pipelines.ratio(name, _OURS)) for name in _TORCHVISION],
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


def _pipelines(photos: Sequence[bytes]) -> dict[str, Callable[[int], Any]]:
    """What each pipeline makes of photo i; new random numbers in every call."""
    boxes, labels = draw_boxes(len(photos)), np.arange(1, 6)
    rng = np.random.default_rng(0)
    train, evaluate = TrainTransform(SIZE, channel_swap=True), EvalTransform(SIZE)
    rivals = (TorchvisionPil, TorchvisionTensors, OpenCvFloats)
    pil, tensors, floats = (rival(SIZE, FILL_RGB) for rival in rivals)
    return {
        _TORCHVISION[0]: lambda i: pil(photos[i], boxes[i], labels),
        _TORCHVISION[1]: lambda i: tensors(photos[i], boxes[i], labels),
        "OpenCV in floats (amdegroot's)": lambda i: floats(photos[i], boxes[i], labels),
        _OURS: lambda i: train(EncodedImage(photos[i], "photo"), boxes[i], labels, rng=rng),
        "ssdnorm, evaluation": lambda i: evaluate(EncodedImage(photos[i], "photo"), boxes[i], labels),
    }


def _decoders(photos: Sequence[bytes]) -> dict[str, Callable[[int], Any]]:
    tensors = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in photos]
    decoders: dict[str, Callable[[int], Any]] = {
        "decode alone: OpenCV": lambda i: EncodedImage(photos[i], "photo").decode(),
        "decode alone: PIL": lambda i: np.asarray(Image.open(io.BytesIO(photos[i])).convert("RGB")),
    }
    if hasattr(torchvision_io, "decode_jpeg"):  # deprecated since 0.29
        rgb = torchvision_io.ImageReadMode.RGB
        decoders["decode alone: torchvision.io"] = lambda i: torchvision_io.decode_jpeg(tensors[i], rgb)
    if importlib.util.find_spec("simplejpeg"):
        simplejpeg = importlib.import_module("simplejpeg")
        decoders["decode alone: simplejpeg"] = lambda i: simplejpeg.decode_jpeg(photos[i])
    return decoders


def draw_boxes(number: int) -> np.ndarray:
    """Five boxes an image ``(number, 5, 4)`` float32 xyxy in pixels, 30 to 140 wide."""
    rng = np.random.default_rng(0)
    corners = rng.random((number, 5, 2)) * [350, 250]
    return np.concatenate([corners, corners + 30 + rng.random((number, 5, 2)) * [110, 90]], axis=2).astype(np.float32)


def _over_photos(calls: Mapping[str, Callable[[int], Any]], number: int) -> dict[str, Callable[[], Any]]:
    def all_of(call: Callable[[int], Any]) -> Callable[[], None]:
        def run() -> None:
            for i in range(number):
                call(i)

        return run

    return {name: all_of(call) for name, call in calls.items()}


def _row(name: str, times: Times, number: int, *, against: str) -> dict[str, Any]:
    ms = times.ms(name) / number
    return {"pipeline": name, "images_per_second": 1e3 / ms, "ms_per_image": ms, "factor": times.ratio(name, against)}
