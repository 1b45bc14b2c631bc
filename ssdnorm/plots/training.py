"""Figures of a training: the loss and the AP by step, and batches as the network sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ssdnorm.plots.boxes import contact_sheet, draw_boxes
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import panels, styled
from ssdnorm.structures import Batch

_PICTURES = 16


@styled
def plot_training(rows: Sequence[Mapping[str, str]]) -> Figure:
    """The loss in training and on evaluated images, and AP and AP50, by step, from the rows of ``metrics.csv``.

    The loss is drawn up to four times its last value, so that the first steps leave the others visible.
    """
    figure, ((losses, scores),) = panels(columns=2, width=10.0, height=3.8)
    _curve(losses, rows, "loss", "training", "grey")
    for evaluated_on, color in (("validation", "blue"), ("test", "orange")):
        there = [row for row in rows if row["evaluated_on"] == evaluated_on]
        _curve(losses, there, "eval_loss", evaluated_on, color, marker="o")
        _curve(scores, there, "AP", f"AP, {evaluated_on}", color, marker="o")
        _curve(scores, there, "AP50", f"AP50, {evaluated_on}", color, marker="o", linestyle="--")
    last = [float(row["loss"]) for row in rows if row["loss"]][-10:]
    if last and np.isfinite(last).all():
        losses.set_ylim(0, min(losses.get_ylim()[1], 4 * float(np.mean(last)) + 1e-6))
    losses.set(xlabel="step", title="Loss")
    scores.set(xlabel="step", title="Average precision", ylim=(0, 1.02))
    for axes in (losses, scores):
        if axes.get_lines():
            axes.legend()
    return figure


def _curve(axes: Axes, rows: Sequence[Mapping[str, str]], column: str, label: str, color: str, **style: Any) -> None:
    points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=COLORS[color], markersize=4, **style)


def draw_batch(batch: Batch, class_names: Sequence[str]) -> Image.Image:
    """The first images of a batch, augmented and resized as the network sees them, with their boxes."""
    pictures = []
    for image, boxes, labels in zip(batch.images[:_PICTURES], batch.boxes, batch.labels, strict=False):
        height, width = image.shape[-2:]
        real = labels > 0
        boxes_px = boxes[real].cpu().numpy() * [width, height, width, height]
        numbers = labels[real].tolist()
        pixels = image.permute(1, 2, 0).cpu().numpy()
        pictures.append(draw_boxes(pixels, boxes_px, [class_names[number - 1] for number in numbers], numbers))
    return contact_sheet(pictures)
