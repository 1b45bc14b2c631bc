"""Time `predict` on a folder of JPEGs beside a loop that takes one picture at a time."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes

from benchmarks.photos import load_photos, write_photo_dataset
from benchmarks.table import Table
from benchmarks.timing import Settings, interleaved
from benchmarks.torchvision_ssd import torchvision_detector
from ssdnorm.cli import main

_NUM_CLASSES, _THRESHOLD = 21, 0.4
_PEER = "torchvision, one picture at a time"
_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def measure(settings: Settings, *, num_photos: int | None = None) -> Table:
    """JPEGs to pictures with boxes and a list of detections; the same random weights for both.

    Args:
        num_photos: in the folder.
    """
    number = num_photos or (2 if settings.quick else 256 if settings.on_gpu else 16)
    photos, what = load_photos(settings.images, number + 1)
    table = Table(
        "predict",
        f"{what} in a folder, 500 × 375 pixels, SSD300-VGG16 with 21 classes and random weights, on all cores, wall "
        "time: read and decode, detect, draw, encode and write. The command's start is left out: what it takes for one "
        "picture is subtracted. The peer is the usual loop with torchvision's detector and drawing.",
    )
    detector = torchvision_detector(_NUM_CLASSES).eval().to(settings.device)
    threads = torch.get_num_threads()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _, many = write_photo_dataset(folder / "many", photos[1:])
        _, one = write_photo_dataset(folder / "one", photos[:1])
        checkpoint = folder / "torchvision.pth"
        torch.save(detector.state_dict(), checkpoint)
        calls: dict[Any, Callable[[], Any]] = {
            _PEER: partial(_one_at_a_time, detector, many, folder / "peer", settings)
        }
        ours = list(_PRECISIONS) if settings.bf16 else ["fp32"]
        for name in ours:
            for images in (one, many):  # the first call of all pays for imports
                calls[name, images] = partial(_predict, checkpoint, images, folder / "ours", name, settings)
        try:
            torch.set_num_threads(os.cpu_count() or 1)
            rounds, warm_up = (1, 0) if settings.quick else (2, 1)
            times = interleaved(calls, rounds=rounds, warm_up=warm_up, clock=time.perf_counter)
        finally:
            torch.set_num_threads(threads)
    ms = {_PEER: times.ms(_PEER) / number}
    for name in ours:
        without_start = times.ms((name, many)) - times.ms((name, one))
        ms[f"ssdnorm predict, {name}"] = without_start / (len(photos) - 2)
    table.rows = [{"candidate": name, "ms_per_picture": x, "speedup": ms[_PEER] / x} for name, x in ms.items()]
    if not settings.on_gpu:
        speedups = {row["candidate"]: row["speedup"] for row in table.rows}
        table.measured = {f"predict.{name}": speedups.get(f"ssdnorm predict, {name}") for name in _PRECISIONS}
    return table


@torch.inference_mode()
def _one_at_a_time(detector: Any, folder: Path, output: Path, settings: Settings) -> None:
    output.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        picture = pil_to_tensor(Image.open(path).convert("RGB"))
        (found,) = detector([picture.to(settings.device).float() / 255])
        boxes = found["boxes"][found["scores"] > _THRESHOLD].cpu()
        to_pil_image(draw_bounding_boxes(picture, boxes)).save(output / path.name, quality=92)


def _predict(checkpoint: Path, folder: Path, output: Path, precision: str, settings: Settings) -> None:
    words = ["--output", str(output), "--score-threshold", str(_THRESHOLD), "--device", str(settings.device)]
    words += ["--precision", _PRECISIONS[precision]]
    with contextlib.redirect_stdout(io.StringIO()):
        if main(["predict", str(folder), "--checkpoint", str(checkpoint), *words]) != 0:
            raise RuntimeError("ssdnorm predict failed; its message stands above")
