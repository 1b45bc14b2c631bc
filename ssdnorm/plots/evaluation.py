"""Figures of an evaluation: precision–recall curves and average precision per class."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.precision_recall import RECALLS, score_text
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import panels, styled

_MOST_CLASSES = 40


@styled
def plot_precision_recall(result: CocoResult) -> Figure:
    """Precision over recall at every IoU threshold, mean over the classes (all sizes, highest detection limit)."""
    figure, ((axes,),) = panels(width=6.4, height=4.8)
    curves = _mean_curves(result)
    for t, (threshold, curve) in enumerate(zip(result.iou_thresholds, curves, strict=True)):
        shade = 0.25 + 0.75 * (1 - t / max(1, len(curves) - 1))
        label = f"IoU {threshold:.2f}   AP {curve.mean():.3f}"
        axes.plot(RECALLS, curve, color=COLORS["blue"], alpha=shade, label=label)
    axes.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"Precision and recall, AP {result.metrics['AP']:.3f}")
    axes.legend()
    return figure


@styled
def plot_classes(result: CocoResult) -> Figure:
    """AP and AP50 per class, best first; of more than forty classes the first and the last twenty."""
    rows = [row for row in result.per_class.items() if row[1]["AP"] >= 0]
    rows.sort(key=lambda row: -row[1]["AP"])
    left_out = len(rows) - _MOST_CLASSES
    if left_out > 0:
        rows = rows[: _MOST_CLASSES // 2] + rows[-_MOST_CLASSES // 2 :]
    figure, ((axes,),) = panels(width=6.4, height=1.4 + 0.24 * max(1, len(rows)))
    y = np.arange(len(rows))
    axes.barh(y, [row["AP50"] for _, row in rows], color=COLORS["blue"], alpha=0.35, height=0.75, label="AP50")
    axes.barh(y, [row["AP"] for _, row in rows], color=COLORS["blue"], height=0.4, label="AP")
    for place, (_, row) in enumerate(rows):
        end = max(row["AP"], row["AP50"], 0.0)
        numbers = f"AP {row['AP']:.2f}, AP50 {score_text(row['AP50'], 2)}"
        axes.text(end + 0.01, place, numbers, va="center", fontsize=8, color=COLORS["soft"])
    axes.set_yticks(y, [name for name, _ in rows], fontsize=8)
    axes.set(xlim=(0, 1.3), ylim=(len(rows) - 0.4, -0.6), xlabel="average precision")
    note = f" ({left_out} classes in between left out)" if left_out > 0 else ""
    axes.set_title(f"Classes, best first{note}")
    if left_out > 0:
        axes.axhline(_MOST_CLASSES / 2 - 0.5, color=COLORS["soft"], linewidth=1, linestyle="--")
    axes.legend(loc="lower right")
    axes.grid(False, axis="y")
    return figure


def mean_curves(result: CocoResult) -> dict[str, Any]:
    """The curves of ``plot_precision_recall`` for JSON: ``recall``, and ``precision`` by IoU threshold."""
    curves = zip(result.iou_thresholds, _mean_curves(result).tolist(), strict=True)
    return {"recall": RECALLS.tolist(), "precision": {f"{t:.2f}": curve for t, curve in curves}}


def _mean_curves(result: CocoResult) -> np.ndarray:
    """``(T, 101)``: precision, mean over the classes that have objects (0 if there is none)."""
    precision = result.curves.precision[:, :, :, 0, -1]
    with_objects = precision[0, 0] > -1
    if not with_objects.any():
        return np.zeros(precision.shape[:2])
    return precision[:, :, with_objects].mean(2)
