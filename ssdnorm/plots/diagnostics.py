"""Figures of where a detector fails: kinds of error, confusions, calibration and F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ssdnorm.metrics.errors import KINDS, ErrorBreakdown
from ssdnorm.metrics.thresholds import ScoreCurves
from ssdnorm.plots.colors import COLORS, HUES, IGNORED
from ssdnorm.plots.style import panels, styled

_MOST_NAMES = 40
_KIND_COLORS = dict(zip(KINDS, (COLORS[HUES[i]] for i in (4, 0, 3, 5, 1, 2)), strict=True))


@styled
def plot_errors(breakdown: ErrorBreakdown) -> Figure:
    """AP lost to each kind of error with its count, and to all false positives and all objects not found."""
    rows = [(kind, breakdown.delta_ap[kind], _KIND_COLORS[kind], f"{breakdown.counts[kind]:,}") for kind in KINDS]
    rows += [("all false positives", breakdown.delta_ap_false_positives, IGNORED, "")]
    rows += [("all not found", breakdown.delta_ap_false_negatives, IGNORED, "")]
    y = np.r_[np.arange(len(KINDS)), len(KINDS) + 0.5, len(KINDS) + 1.5]
    values = [value for _, value, _, _ in rows]
    figure, ((axes,),) = panels(width=6.4, height=3.4)
    axes.barh(y, values, color=[color for _, _, color, _ in rows], height=0.7)
    longest = max([*values, 0.01])
    for place, (_, value, _, count) in zip(y, rows, strict=True):
        text = f"{value:.3f}" + (f"   ({count})" if count else "")
        axes.text(max(value, 0.0) + 0.015 * longest, place, text, va="center", fontsize=8, color=COLORS["soft"])
    axes.set_yticks(y, [name for name, _, _, _ in rows])
    axes.set(xlim=(min(0.0, *values), 1.25 * longest), ylim=(y[-1] + 0.6, -0.6))
    axes.set_xlabel(f"AP at IoU {breakdown.iou_threshold:g} gained if corrected (number of errors)")
    axes.set_title(f"Where AP is lost, AP {breakdown.ap:.3f}")
    axes.grid(False, axis="y")
    return figure


@styled
def plot_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Each class's objects by the class they are detected as, as shares of the row.

    Shape:
        matrix ``(C + 1, C + 1)``: annotated classes by row, detected ones by column, background last.
    """
    names = [*class_names, "background"]
    side = float(np.clip(2.5 + 0.3 * len(names), 4.5, 14))
    figure, ((axes,),) = panels(width=side + 0.8, height=side)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 12:
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    if len(names) <= _MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(False)
    axes.set(xlabel="detected as", ylabel="annotated as")
    axes.set_title("Confusions, shares of each row")
    figure.colorbar(image, ax=axes, fraction=0.046)
    return figure


@styled
def plot_calibration(calibration: Mapping[str, Any]) -> Figure:
    """The share of hits among the detections of each bin of scores; a calibrated detector lies on the diagonal."""
    figure, ((axes,),) = panels(width=5.2, height=4.8)
    names = ("bin_lower", "bin_upper", "avg_confidence", "avg_accuracy")
    bins = [row for row in calibration["bins"] if row["count"]]
    lower, upper, score, share = (np.array([row[name] for row in bins]) for name in names)
    axes.plot([0, 1], [0, 1], color=COLORS["soft"], linewidth=1, linestyle="--")
    axes.bar(lower, share, width=0.94 * (upper - lower), align="edge", color=COLORS["blue"], alpha=0.35)
    axes.plot(score, share, color=COLORS["blue"], marker="o", markersize=4)
    axes.set(xlabel="score", ylabel="share of hits", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Calibration, expected error {calibration['ece']:.3f}")
    return figure


@styled
def plot_scores(curves: ScoreCurves) -> Figure:
    """Precision, recall and F1 of all classes together against the lowest score that is kept."""
    figure, ((axes,),) = panels(width=6.4, height=4.0)
    for name, color in (("precision", "grey"), ("recall", "orange"), ("f1", "blue")):
        axes.plot(curves.scores, getattr(curves, name), color=COLORS[color], label=name.replace("f1", "F1"))
    title, best = "Precision, recall and F1", curves.best()
    if best is not None:
        axes.plot(best["threshold"], best["f1"], color=COLORS["blue"], marker="o")
        title = f"F1, at most {best['f1']:.3f} with scores above {best['threshold']:.3f}"
    axes.set(xlabel="detections with at least this score", ylabel="share", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title)
    axes.legend()
    return figure
