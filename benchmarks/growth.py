"""This file is about how costs grow with images, objects and classes: several sizes, and the exponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.coco_files import write_coco_files
from benchmarks.made_up_outputs import trained_output, untrained_output
from benchmarks.made_up_set import made_up_data
from benchmarks.operators import top_functions, top_operators
from benchmarks.table import Goal, Settings, Table, interleaved
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.boxes.matcher import match_default_boxes
from ssdnorm.data import CocoDataset
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.metrics import evaluate_coco, evaluate_voc
from ssdnorm.models.post_process import PostProcess
from ssdnorm.structures import SSDOutput

Call = Callable[[], Any]

LINEAR = 1.1  # an exponent up to this is called linear: caches alone cost a few hundredths
_BATCHES, _OBJECTS, _CLASSES = (1, 2, 4, 8, 16, 32), (1, 5, 20, 50, 100, 200), (21, 81, 300, 1203)
_IMAGES, _FILES = (100, 300, 1000, 3000, 10_000), (100, 1000, 10_000, 100_000)
_BOXES_AN_IMAGE = 7
_SECONDS_A_CURVE = 20.0
_BY_OPERATORS = ("loss", "matching", "post-processing")  # parts that PyTorch's profiler sees into
_INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Curve:
    """One cost against one size.

    Args:
        part: what is done.
        against: which size grows; the others stay.
        sizes: rising.
        make: a size → a call of that size.
    """

    part: str
    against: str
    sizes: Sequence[int]
    make: Callable[[int], Call]


def measure(settings: Settings) -> Table:
    """Seconds at every size of every curve; the exponent of each; the goal that it is linear or less."""
    table = Table(
        name="growth",
        about="Time against size, the other sizes fixed, sizes in turns, best of the rounds. The exponent is the slope "
        "over the upper half of the sizes on logarithmic axes, where fixed costs count least: 1 is linear, 0 is none.",
    )
    with TemporaryDirectory() as folder:
        for curve in _curves(settings, Path(folder)):
            sizes = [size for size in curve.sizes if not settings.quick or size <= _quick_limit(curve)]
            calls = {size: curve.make(size) for size in sizes}
            repeats = 2 if settings.quick else 7
            times = interleaved(calls, repeats=repeats, at_most_s=_SECONDS_A_CURVE, clock=settings.clock)
            seconds = [min(times.seconds[size]) for size in sizes]
            exponent = fitted_exponent(sizes, seconds)
            table.rows += [
                {"part": curve.part, "against": curve.against, "size": size, "ms": 1e3 * second}
                for size, second in zip(sizes, seconds, strict=True)
            ]
            what = f"{curve.part} against {curve.against}"
            table.goals.append(Goal(what, LINEAR, exponent, "", at_most=True))
            if not table.goals[-1].met:
                top = top_operators if curve.part in _BY_OPERATORS else top_functions
                profiles = [f"at {size}: {top(calls[size])}" for size in sizes[-2:]]
                table.notes.append(f"Where the time of '{what}' goes, {'; '.join(profiles)}.")
    return table


def fitted_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log time over log size by least squares, over the upper half of the sizes, three at least.

    Example:
        >>> round(fitted_exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]), 3)
        2.0
    """
    number = min(len(sizes), max(3, math.ceil(len(sizes) / 2)))
    slope, _ = np.polyfit(np.log(sizes[-number:]), np.log(seconds[-number:]), 1)
    return float(slope)


def growth_figure(table: Table) -> Figure:
    """A panel for each size that grows, with a line of each part, on logarithmic axes; grey lines are linear growth."""
    panels = list(dict.fromkeys(row["against"] for row in table.rows))
    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    inks = dict(zip(dict.fromkeys(row["part"] for row in table.rows), _INK, strict=False))
    exponents = {goal.what: goal.measured for goal in table.goals}
    for axes, against in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        rows = [row for row in table.rows if row["against"] == against]
        for part in dict.fromkeys(row["part"] for row in rows):
            ink = inks[part]
            sizes, ms = zip(*[(row["size"], row["ms"]) for row in rows if row["part"] == part], strict=True)
            label = f"{part}: {exponents[f'{part} against {against}']:.2f}"
            axes.loglog(sizes, ms, "o-", color=ink, markersize=4, label=label)
            axes.loglog(sizes, [ms[-1] * size / sizes[-1] for size in sizes], color="0.8", linewidth=0.8, zorder=0)
        axes.set(xlabel=against, ylabel="ms" if against == panels[0] else "")
        axes.legend(fontsize=7, frameon=False, title="exponent", title_fontsize=7)
    return figure


def _curves(settings: Settings, folder: Path) -> list[Curve]:
    device = settings.device
    default_boxes = make_default_boxes("ssd300_coco").to(device)
    loss, post_process = MultiboxLoss(default_boxes).to(device), PostProcess(default_boxes).to(device)

    def training(images: int, objects: int, classes: int) -> Call:
        boxes, labels = (x.to(device) for x in _full_targets(images, objects, classes))
        output = untrained_output(images, len(default_boxes), classes)
        leaves = SSDOutput(*(x.to(device).requires_grad_() for x in output))

        def call() -> None:
            leaves.locs.grad = leaves.logits.grad = None
            torch.stack(list(loss(leaves, boxes, labels).values())).sum().backward()

        return call

    def matching(images: int, objects: int) -> Call:
        boxes, labels = (x.to(device) for x in _full_targets(images, objects, 21))
        return lambda: match_default_boxes(boxes, labels, default_boxes)

    def detecting(images: int, objects: int, classes: int) -> Call:
        output = SSDOutput(*(x.to(device) for x in trained_output(images, default_boxes.cpu(), classes, objects)))
        sizes = torch.tensor([[300, 300]] * images, device=device)
        return lambda: post_process(output, sizes)

    def reading(images: int) -> Call:
        place = folder / str(images)
        place.mkdir()
        files = write_coco_files(place, images, _BOXES_AN_IMAGE * images)
        return lambda: CocoDataset(*files)

    def evaluating(images: int, classes: int, evaluate: Callable[..., Any]) -> Call:
        truth, found = made_up_data(images, 20, classes)
        return lambda: evaluate(truth, found)

    return [
        Curve("loss", "images in a batch", _BATCHES, lambda n: training(n, 8, 21)),
        Curve("matching", "images in a batch", _BATCHES, lambda n: matching(n, 8)),
        Curve("post-processing", "images in a batch", _BATCHES, lambda n: detecting(n, 20, 21)),
        Curve("loss", "objects in an image", _OBJECTS, lambda n: training(2, n, 21)),
        Curve("matching", "objects in an image", _OBJECTS, lambda n: matching(2, n)),
        Curve("post-processing", "objects in an image", _OBJECTS, lambda n: detecting(2, n, 21)),
        Curve("loss", "classes", _CLASSES, lambda n: training(1, 8, n)),
        Curve("post-processing", "classes", _CLASSES, lambda n: detecting(1, 20, n)),
        Curve("COCO evaluation", "classes", _CLASSES, lambda n: evaluating(500, n, evaluate_coco)),
        Curve("COCO evaluation", "images of a data set", _IMAGES, lambda n: evaluating(n, 80, evaluate_coco)),
        Curve("VOC evaluation", "images of a data set", _IMAGES, lambda n: evaluating(n, 20, evaluate_voc)),
        Curve("reading annotations", "images of a data set", _FILES, reading),
    ]


def _full_targets(images: int, objects: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same number of objects in every image; sides 0.05 to 0.35."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(images, objects, 2, generator=generator) * 0.65
    size = 0.05 + torch.rand(images, objects, 2, generator=generator) * 0.3
    return torch.cat((corner, corner + size), dim=2), torch.randint(1, classes, (images, objects), generator=generator)


def _quick_limit(curve: Curve) -> int:
    """The largest size of a quick run: at least three sizes each, seconds in all."""
    return {"images in a batch": 4, "objects in an image": 50, "classes": 300}.get(curve.against, 1000)
