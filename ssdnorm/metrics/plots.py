"""This file is about pictures of an evaluation: precision-recall curves, bars of the classes, bars of the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssdnorm.files import replaced_file
from ssdnorm.metrics.bootstrap import Interval
from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.drawing import KIND_COLOURS
from ssdnorm.metrics.errors import KINDS, ErrorBreakdown
from ssdnorm.metrics.precision_recall import RECALLS

_BLUE, _LIGHT_BLUE, _GREY = "#0072b2", "#9ecae1", "#666666"
_MOST_CLASSES = 40


def plot_precision_recall(result: CocoResult) -> Figure:
    """Precision over recall for every IoU threshold, mean over the classes (all sizes, highest detection limit)."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    curves = _mean_curves(result)
    for t, (threshold, curve) in enumerate(zip(result.iou_thresholds, curves, strict=True)):
        shade = 0.25 + 0.75 * (1 - t / max(1, len(curves) - 1))
        label = f"IoU {threshold:.2f}   AP {curve.mean():.3f}"
        axes.plot(RECALLS, curve, color=_BLUE, alpha=shade, linewidth=1.8, label=label)
    axes.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"Precision and recall, AP {result.metrics['AP']:.3f}", loc="left")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def plot_classes(result: CocoResult) -> Figure:
    """AP and AP50 of every class, best first (the first and last twenty where there are more than forty)."""
    rows = sorted(result.per_class.items(), key=lambda item: -item[1]["AP"])
    rows = [row for row in rows if row[1]["AP"] >= 0]
    left_out = len(rows) - _MOST_CLASSES
    if left_out > 0:
        rows = rows[: _MOST_CLASSES // 2] + rows[-_MOST_CLASSES // 2 :]
    figure = Figure(figsize=(6.4, 1.4 + 0.24 * max(1, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(rows))
    axes.barh(y, [row["AP50"] for _, row in rows], color=_LIGHT_BLUE, height=0.75, label="AP50")
    axes.barh(y, [row["AP"] for _, row in rows], color=_BLUE, height=0.4, label="AP")
    for place, (_, row) in enumerate(rows):
        end = max(row["AP"], row["AP50"], 0.0)
        axes.text(end + 0.01, place, f"{row['AP']:.2f}", va="center", fontsize=8, color=_GREY)
    axes.set_yticks(y, [name for name, _ in rows], fontsize=8)
    axes.set(xlim=(0, 1.08), ylim=(len(rows) - 0.4, -0.6), xlabel="average precision")
    note = f" ({left_out} classes in between left out)" if left_out > 0 else ""
    axes.set_title(f"Classes, best first{note}", loc="left")
    if left_out > 0:
        axes.axhline(_MOST_CLASSES / 2 - 0.5, color=_GREY, linewidth=1, linestyle="--")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    _plain(axes)
    axes.grid(False, axis="y")
    return figure


def plot_errors(breakdown: ErrorBreakdown) -> Figure:
    """AP that each kind of error costs, with its count, and what all false positives and unfound objects cost."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    rows = [(kind, breakdown.delta_ap[kind], KIND_COLOURS[kind], f"{breakdown.counts[kind]:,}") for kind in KINDS]
    rows += [("all false positives", breakdown.delta_ap_false_positives, "#bbbbbb", "")]
    rows += [("all not found", breakdown.delta_ap_false_negatives, "#bbbbbb", "")]
    y = np.r_[np.arange(len(KINDS)), len(KINDS) + 0.5, len(KINDS) + 1.5]
    values = [value for _, value, _, _ in rows]
    axes.barh(y, values, color=[colour for _, _, colour, _ in rows], height=0.7)
    room = max([*values, 0.01])
    for place, (_, value, _, count) in zip(y, rows, strict=True):
        words = f"{value:.3f}" + (f"   ({count})" if count else "")
        axes.text(max(value, 0.0) + 0.015 * room, place, words, va="center", fontsize=8, color=_GREY)
    axes.set_yticks(y, [name for name, _, _, _ in rows])
    axes.set(xlim=(min(0.0, *values), 1.25 * room), ylim=(y[-1] + 0.6, -0.6))
    axes.set_xlabel(f"AP at IoU {breakdown.iou_threshold:g} gained if mended (number of errors)")
    axes.set_title(f"Where AP is lost, AP {breakdown.ap:.3f}", loc="left")
    _plain(axes)
    axes.grid(False, axis="y")
    return figure


def write_report(
    folder: str | Path,
    result: CocoResult,
    *,
    breakdown: ErrorBreakdown | None = None,
    intervals: dict[str, Interval] | None = None,
    formats: tuple[str, ...] = ("png", "svg"),
) -> list[Path]:
    """Write the pictures, and ``evaluation.json`` with the numbers behind them, into a folder.

    Files: ``precision_recall``, ``classes`` and (with a breakdown) ``errors``, each as PNG and SVG.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"precision_recall": plot_precision_recall(result), "classes": plot_classes(result)}
    if breakdown is not None:
        figures["errors"] = plot_errors(breakdown)
    paths = []
    for name, figure in figures.items():
        for suffix in formats:
            paths.append(folder / f"{name}.{suffix}")
            with replaced_file(paths[-1]) as unfinished:
                figure.savefig(unfinished, dpi=150)
    paths.append(folder / "evaluation.json")
    with replaced_file(paths[-1]) as unfinished:
        unfinished.write_text(json.dumps(_numbers(result, breakdown, intervals), indent=2) + "\n", encoding="utf-8")
    return paths


def _numbers(
    result: CocoResult, breakdown: ErrorBreakdown | None, intervals: dict[str, Interval] | None
) -> dict[str, Any]:
    curves = {f"{t:.2f}": curve.tolist() for t, curve in zip(result.iou_thresholds, _mean_curves(result), strict=True)}
    return {
        "backend": result.backend,
        "metrics": result.metrics,
        "per_class": result.per_class,
        "precision_recall": {"recall": RECALLS.tolist(), "precision": curves},
        "errors": breakdown.to_json() if breakdown is not None else None,
        "intervals": {name: vars(interval) for name, interval in intervals.items()} if intervals else None,
    }


def _mean_curves(result: CocoResult) -> np.ndarray:
    """``(T, 101)``: precision, mean over the classes that have objects (0 if there is none)."""
    precision = result.curves.precision[:, :, :, 0, -1]
    with_objects = precision[0, 0] > -1
    if not with_objects.any():
        return np.zeros(precision.shape[:2])
    return precision[:, :, with_objects].mean(2)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
