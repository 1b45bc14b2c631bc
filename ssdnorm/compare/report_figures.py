"""This file is about the report's figures of final numbers: every seed, differences, learning rates, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from ssdnorm.compare.notation import amount, duration, interval, points, rate, shortened, signed_interval, signed_points
from ssdnorm.compare.results import Results
from ssdnorm.compare.svg import INK, LINE, SOFT, SURFACE, ArmStyle, Canvas

Styles = Mapping[str, ArmStyle]

_ROW = 54  # pixels an arm
_NAME = 0.36  # above the middle of its row
_RATE = 0.15  # least distance of two rates on one line, over that of the lowest to the highest

# what is paid → (axis label, how a value is written, attribute of Costs)
_COSTS = (
    ("training, img/s", amount, "images_per_second"),
    ("latency, ms an image", amount, "latency_ms"),
    ("parameters, millions", amount, "parameters"),
    ("GFLOPs an image", amount, "gflops"),
    ("peak memory, MiB", amount, "peak_memory_mib"),
    ("seconds to the target AP50", duration, "seconds_to_target"),
)


def plot_seeds(results: Results, styles: Styles) -> Markup:
    """The metric of every seed as a dot, joined over the arms, with mean and interval."""
    arms = [arm for arm in results.arms if results.metric in arm.metrics]
    canvas = Canvas("seeds", height=50 + _ROW * len(arms), left=14)
    axes = canvas.axes
    places: dict[int, list[tuple[float, int]]] = {}
    for row, arm in enumerate(arms):
        mean = arm.metrics[results.metric]
        style = styles[arm.name]
        name = shortened(arm.name, 25)
        _row_words(axes, row, name, f"{points(mean.mean)} {interval(mean)}")
        if mean.low is not None and mean.high is not None:
            said = f"{arm.name}: mean {points(mean.mean)}, 95 % interval {interval(mean)}"
            axes.plot([100 * mean.low, 100 * mean.high], [row, row], color=style.colour, alpha=0.28, linewidth=11,
                      solid_capstyle="butt", gid=canvas.tell(said))  # fmt: skip
        axes.plot([100 * mean.mean] * 2, [row - 0.19, row + 0.19], color=style.colour, linewidth=2.5)
        for run, value in zip(arm.chosen_runs, mean.values, strict=False):
            places.setdefault(run.seed, []).append((100 * value, row))
            said = f"{arm.name}, seed {run.seed}: {points(value)}"
            axes.plot([100 * value], [row], markersize=8, gid=canvas.tell(said), **style.dot)
    for pairs in places.values():
        axes.plot(*zip(*pairs, strict=True), color=SOFT, linewidth=0.8, alpha=0.55, zorder=1)
    _rows(canvas, len(arms), f"{results.metric}, points")
    return canvas.svg(
        f"{results.metric} of every seed by arm: "
        + "; ".join(f"{arm.name} mean {points(arm.metrics[results.metric].mean)}" for arm in arms)
    )


def plot_differences(results: Results, styles: Styles) -> Markup:
    """Arm minus baseline: interval over seeds (thick) and over test images (thin), every seed's difference as a dot."""
    arms = [arm for arm in results.arms if results.metric in arm.differences]
    canvas = Canvas("differences", height=50 + _ROW * len(arms), left=14)
    axes = canvas.axes
    axes.axvline(0, color=SOFT, linewidth=1.2)
    for row, arm in enumerate(arms):
        difference, style = arm.differences[results.metric], styles[arm.name]
        paired = difference.paired
        mean, words = signed_points(paired.mean), signed_interval(paired.low, paired.high)
        _row_words(axes, row, shortened(arm.name, 25), f"{mean} {words}")
        if paired.low is not None and paired.high is not None:
            said = f"{arm.name} − {results.baseline}: {mean}, 95 % interval over seeds {words}"
            axes.plot([100 * paired.low, 100 * paired.high], [row, row], color=style.colour, alpha=0.28, linewidth=11,
                      solid_capstyle="butt", gid=canvas.tell(said))  # fmt: skip
        axes.plot([100 * paired.mean] * 2, [row - 0.19, row + 0.19], color=style.colour, linewidth=2.5)
        for value in paired.values:
            said = f"{arm.name} − {results.baseline}: {signed_points(value)} with one seed"
            axes.plot([100 * value], [row], markersize=6, gid=canvas.tell(said), **style.dot)
        if difference.images is not None:
            low, high = difference.images
            said = f"{arm.name} − {results.baseline}: 95 % interval over test images {signed_interval(low, high)}"
            axes.plot([100 * low, 100 * high], [row + 0.3] * 2, color=style.colour, linewidth=1.5, marker="|",
                      markersize=7, gid=canvas.tell(said))  # fmt: skip
    _rows(canvas, len(arms), f"{results.metric} minus that of {shortened(results.baseline, 22)}, points")
    return canvas.svg(
        f"Difference of {results.metric} to {results.baseline}: "
        + "; ".join(f"{arm.name} {signed_points(arm.differences[results.metric].paired.mean)}" for arm in arms)
    )


def plot_rates(results: Results, styles: Styles) -> Markup:
    """The metric on the validation images over the learning rate, first seed, the chosen one ringed."""
    canvas = Canvas("rates", height=285, bottom=57)
    axes = canvas.axes
    for arm in results.arms:
        tried = [(row.lr, 100 * row.validation) for row in arm.rates if row.validation is not None]
        if not tried:
            continue
        style = styles[arm.name]
        axes.plot(*zip(*tried, strict=True), linewidth=1.6, **style.line)
        for lr, value in tried:
            chosen = lr == arm.lr
            said = f"{arm.name}, learning rate {rate(lr)}: {value:.1f} on validation{', chosen' if chosen else ''}"
            axes.plot([lr], [value], markersize=8, gid=canvas.tell(said), **style.dot)
            if chosen:
                axes.plot([lr], [value], "o", markersize=15, fillstyle="none", color=style.colour, markeredgewidth=1.6)
    axes.set_xscale("log")
    lrs = sorted({row.lr for arm in results.arms for row in arm.rates})
    axes.set_xticks(lrs, rate_labels(lrs))
    axes.set_xticks([], minor=True)
    axes.margins(0.12, 0.15)
    canvas.at_least("y", 1.0)
    axes.set(xlabel="learning rate", ylabel=f"{results.metric} on validation, points")
    return canvas.svg(f"{results.metric} on the validation images by learning rate, a line an arm")


def rate_labels(lrs: Sequence[float]) -> list[str]:
    """Rates beside a logarithmic axis: on a second line where the first has no room, and none where neither has.

    Args:
        lrs: ascending.
    """
    span = math.log(lrs[-1] / lrs[0])
    lines, labels = [-math.inf, -math.inf], []
    for lr in lrs:
        free = [line for line, last in enumerate(lines) if math.log(lr) - last >= _RATE * span]
        if free:
            lines[free[0]] = math.log(lr)
        labels.append("\n" * free[0] + rate(lr) if free else "")
    return labels


def plot_costs(results: Results, styles: Styles) -> list[Markup]:
    """The metric over each cost that differs between arms, a figure a cost."""
    figures = []
    for label, written, name in _COSTS:
        known = [
            (arm, getattr(arm.costs, name), arm.metrics[results.metric])
            for arm in results.arms
            if results.metric in arm.metrics and getattr(arm.costs, name) is not None
        ]
        if len({value for _, value, _ in known}) < 2:
            continue
        canvas = Canvas(f"costs-{name}", width=300, height=220)
        axes = canvas.axes
        for arm, value, mean in known:
            style, x = styles[arm.name], value / 1e6 if name == "parameters" else value
            if mean.low is not None and mean.high is not None:
                axes.plot([x, x], [100 * mean.low, 100 * mean.high], color=style.colour, linewidth=1.4, alpha=0.6)
            said = f"{arm.name}: {results.metric} {points(mean.mean)}, {label}: {written(x)}"
            axes.plot([x], [100 * mean.mean], markersize=10, gid=canvas.tell(said), **style.dot)
        axes.margins(0.14, 0.12)
        canvas.at_least("y", 1.0)
        axes.locator_params(axis="x", nbins=5)
        axes.set(xlabel=label, ylabel=f"{results.metric}, points")
        figures.append(canvas.svg(f"{results.metric} over {label}, a point an arm"))
    return figures


def plot_layers(
    key: str, rows: Sequence[str], values: Mapping[str, Mapping[str, tuple[float, float]]], styles: Styles, *,
    label: str, logarithmic: bool = False,
) -> Markup:  # fmt: skip
    """A value by layer and arm: hollow as it was at first, filled as it was in the end.

    Args:
        rows: layers, from top to bottom.
        values: arm → layer → (at first, in the end).
        label: of the axis.
    """
    canvas = Canvas(key, height=50 + 23 * len(rows), left=14 + 8 * max(map(len, rows)))
    axes = canvas.axes
    names = list(values)
    for place, name in enumerate(names):
        style = styles[name]
        shift = 0.0 if len(names) == 1 else 0.56 * (place / (len(names) - 1) - 0.5)
        for row, layer in enumerate(rows):
            if layer not in values[name]:
                continue
            first, last = values[name][layer]
            y = row + shift
            axes.plot([first, last], [y, y], color=style.colour, linewidth=1, alpha=0.6)
            axes.plot([first], [y], marker=style.marker, markersize=4, color=style.colour, fillstyle="none")
            said = f"{layer}, {name}: {first:.3g} at first, {last:.3g} in the end"
            axes.plot([last], [y], markersize=6, gid=canvas.tell(said), **{**style.dot, "markeredgecolor": "none"})
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if logarithmic:
        canvas.logarithmic("x")
    else:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    return canvas.svg(f"{label} by layer and arm")


def _row_words(axes: Axes, row: int, name: str, value: str) -> None:
    across = blended_transform_factory(axes.transAxes, axes.transData)
    text: Any = {"transform": across, "va": "center", "fontsize": 12, "parse_math": False}
    ground = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.5}  # nothing shows through
    axes.text(0.0, row - _NAME, name, color=INK, bbox=ground, **text)
    axes.text(1.0, row - _NAME, value, color=SOFT, ha="right", bbox=ground, **text)


def _rows(canvas: Canvas, num: int, label: str) -> None:
    """The look of a figure with an arm a row."""
    axes = canvas.axes
    axes.set_ylim(num - 0.5, -0.65)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for row in range(1, num):
        axes.axhline(row - 0.58, color=LINE, linewidth=0.8)
    canvas.at_least("x", 1.0)
    axes.set_xlabel(label)
