"""Count what a data set holds and how the default boxes of a network cover it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdnorm.boxes.coverage import shape_ious, suggest_default_boxes
from ssdnorm.boxes.default_boxes import DefaultBoxSpec
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.resize import height_and_width
from ssdnorm.tables import xywh_to_xyxy

COVERED = 0.5  # IoU from which the loss matches a default box
_SIZE_BINS = (0, 16, 32, 64, 128, float("inf"))  # pixels of the network's input


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers under a header."""

    header: tuple[str, ...]
    rows: list[tuple[object, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Objects:
    """The objects of a data set that are trained on, without crowd regions.

    Shape:
        boxes ``(N, 4)`` float32 xyxy in [0, 1] of their pictures; labels ``(N,)`` int64.
    """

    boxes: Tensor
    labels: Tensor

    @classmethod
    def of(cls, dataset: DetectionDataset) -> Objects:
        """All objects, cut to their pictures."""
        truth = dataset.ground_truth
        keep = ~truth.iscrowd
        if not dataset.train_on_difficult:
            keep &= ~truth.difficult
        sizes = truth.sizes[truth.image][keep][:, [1, 0, 1, 0]]
        boxes = np.clip(xywh_to_xyxy(truth.boxes[keep]) / np.maximum(sizes, 1), 0, 1)
        return cls(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(truth.labels[keep]))

    def sizes_px(self, spec: DefaultBoxSpec) -> Tensor:
        """Square root of the area in pixels of the network's input, ``(N,)``."""
        height, width = height_and_width(spec.image_size)
        return ((self.boxes[:, 2:] - self.boxes[:, :2]).prod(dim=1) * height * width).sqrt()

    def suggest(self, spec: DefaultBoxSpec) -> DefaultBoxSpec:
        """Default boxes fitted to the objects; see :func:`suggest_default_boxes`."""
        return suggest_default_boxes(self.boxes, self.labels, spec)

    def covered(self, spec: DefaultBoxSpec) -> Tensor:
        """Whether each object has a default box at IoU ≥ .5, ``(N,)`` bool."""
        return shape_ious(self.boxes, spec).amax(dim=1) >= COVERED


def picture_table(datasets: Mapping[str, DetectionDataset]) -> Table:
    """A row per split: pictures, their sizes and objects."""
    table = Table(("split", "pictures", "without objects", "objects", "per picture (median, most)", "width × height"))
    for name, dataset in datasets.items():
        truth = dataset.ground_truth
        counts, sizes = np.diff(truth.starts), truth.sizes
        low, high = (f"{sizes[i][1]} × {sizes[i][0]}" for i in sizes.prod(axis=1).argsort()[[0, -1]])
        per, span = f"{np.median(counts):g}, {counts.max()}", low if low == high else f"{low} … {high}"
        table.rows.append((name, len(dataset), int((counts == 0).sum()), int(counts.sum()), per, span))
    return table


def class_table(datasets: Mapping[str, DetectionDataset]) -> Table:
    """A row per class: objects in each split."""
    names = next(iter(datasets.values())).class_names
    counts = {
        split: np.bincount(dataset.ground_truth.labels, minlength=len(names) + 1)[1:]
        for split, dataset in datasets.items()
    }
    order = np.sum(list(counts.values()), axis=0).argsort(kind="stable")[::-1]
    rows: list[tuple[object, ...]] = [(names[k], *(int(count[k]) for count in counts.values())) for k in order]
    return Table(("class", *datasets), rows)


def coverage_tables(
    objects: Objects, specs: Mapping[str, DefaultBoxSpec], class_names: Sequence[str]
) -> tuple[Table, Table]:
    """Share of objects with a default box at IoU ≥ .5, for sets of default boxes, by class and by size in pixels."""
    covered = {name: objects.covered(spec) for name, spec in specs.items()}
    sizes = objects.sizes_px(next(iter(specs.values())))

    def rows(groups: Mapping[str, Tensor]) -> list[tuple[object, ...]]:
        return [
            (name, int(chosen.sum()), *(percent(cover[chosen]) for cover in covered.values()))
            for name, chosen in groups.items()
            if chosen.any()
        ]

    everything = {"all": torch.ones(len(sizes), dtype=torch.bool)}
    classes = {name: objects.labels == label for label, name in enumerate(class_names, 1)}
    bins = {
        f"{low} to {high:g} px" if high < np.inf else f"{low} px or more": (sizes >= low) & (sizes < high)
        for low, high in pairwise(_SIZE_BINS)
    }
    by_class = rows(classes)
    by_class.sort(key=lambda row: float(str(row[2]).rstrip("%")))
    return (
        Table(("class", "objects", *specs), rows(everything) + by_class),
        Table(("size in the network's input", "objects", *specs), rows(bins)),
    )


def tap_table(objects: Objects, spec: DefaultBoxSpec, taps: Sequence[str]) -> Table:
    """A row per tap: its default boxes, the objects that it covers best, and its shapes that are best for none."""
    best, shape = shape_ious(objects.boxes, spec).max(dim=1)
    table = Table(("tap", "cells", "step", "sizes", "ratios", "best for", "of these below IoU .5", "shapes never best"))
    start = 0
    for k, tap in enumerate(taps):
        number = spec.boxes_per_cell[k]
        here = (shape >= start) & (shape < start + number)
        ratios = [f"{r:g}" for ratio in spec.aspect_ratios[k] for r in (ratio, 1 / ratio)]
        sides = [f"{spec.min_sizes[k]:g}", f"{(spec.min_sizes[k] * spec.max_sizes[k]) ** 0.5:.0f}"]
        words = [f"square {side}" for side in sides] + [f"{float(ratio):.2g}" for ratio in ratios]
        unused = [words[j] for j in range(number) if not (shape == start + j).any()]
        rows, columns = spec.grids[k]
        step = spec.steps[k]
        steps = "×".join(f"{value:.0f}" for value in step) if isinstance(step, tuple) else f"{step:.0f}"
        table.rows.append((
            tap, f"{rows}×{columns}", steps, ", ".join(sides), ", ".join(f"{r:g}" for r in spec.aspect_ratios[k]),
            int(here.sum()), int((best[here] < COVERED).sum()), ", ".join(unused) or "–",
        ))  # fmt: skip
        start += number
    return table


def default_box_keys(spec: DefaultBoxSpec) -> dict[str, Any]:
    """The keys of ``model.default_boxes`` that make a spec whose sizes rise from tap to tap."""
    return {
        "sizes": [float(size) for size in (*spec.min_sizes, spec.max_sizes[-1])],
        "aspect_ratios": [[float(ratio) for ratio in ratios] for ratios in spec.aspect_ratios],
    }


def percent(values: Tensor) -> str:
    """The mean of booleans in per cent."""
    return f"{100 * float(values.float().mean()):.1f}%" if len(values) else "–"
