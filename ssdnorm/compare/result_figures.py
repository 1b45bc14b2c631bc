"""Figures of a comparison's final numbers: every seed, differences, power, learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from ssdnorm.compare.formatting import interval, points, shortened, signed_interval, signed_points
from ssdnorm.compare.results import ArmResult, Mean, Results
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import ArmStyle, logarithmic, panels, styled, widen
from ssdnorm.plots.svg import hover

Styles = Mapping[str, ArmStyle]
Figures = dict[str, tuple[Figure, str]]  # name → figure, and what it shows for readers who cannot see it
WIDTH = 4.6  # inches
PANEL: Any = {"width": 3.5, "height": 2.4}  # of one figure among several

_ROW = 0.62  # inches per arm
_NAME = 0.36  # of an arm, above the middle of its row
_LEGEND_COLUMNS = 3


@styled
def result_figures(results: Results, styles: Styles) -> Figures:
    """Every figure that there is data for; ``legend`` explains the arms of all of them."""
    metric = results.metric
    figures: Figures = {"legend": (_plot_legend(styles), "Legend: the arms")}
    if arms := [arm for arm in results.arms if metric in arm.metrics]:
        means = "; ".join(f"{arm.name} mean {points(arm.metrics[metric].mean)}" for arm in arms)
        figures["seeds"] = _plot_seeds(arms, metric, styles), f"{metric} of every seed per arm: {means}"
    if compared := [arm for arm in results.arms if metric in arm.differences]:
        gaps = "; ".join(f"{arm.name} {signed_points(arm.differences[metric].paired.mean)}" for arm in compared)
        figure = _plot_differences(compared, results, styles)
        figures["differences"] = figure, f"{metric} minus that of {results.baseline}: {gaps}"
    if results.detectable is not None:
        alt = f"Differences of {metric} that numbers of seeds find with a probability of 80 %, and those seen"
        figures["power"] = _plot_power(results, styles), alt
    if any(len(arm.rates) > 1 and row.validation is not None for arm in results.arms for row in arm.rates):
        alt = f"{metric} on the validation images by learning rate and arm"
        figures["rates"] = _plot_rates(results, styles), alt
    return figures


def _plot_legend(styles: Styles) -> Figure:
    columns = min(_LEGEND_COLUMNS, len(styles))
    figure = Figure(figsize=(0.2 + 2.7 * columns, 0.1 + 0.24 * math.ceil(len(styles) / columns)))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    for name, style in styles.items():
        axes.plot([], [], label=shortened(name, 34), marker=style.marker, **style.line)
    axes.legend(loc="center left", ncols=columns, borderpad=0)
    return figure


def _plot_seeds(arms: Sequence[ArmResult], metric: str, styles: Styles) -> Figure:
    """The metric of every seed as a dot, joined across the arms, with mean and interval."""
    figure, axes = _rows(len(arms), f"{metric}, points")
    by_seed: dict[int, list[tuple[float, int]]] = {}
    for row, arm in enumerate(arms):
        mean = arm.metrics[metric]
        _draw_mean(axes, row, arm.name, styles[arm.name], mean, f"{points(mean.mean)} {interval(mean)}", "")
        for run, value in zip(arm.finished_runs, mean.values, strict=False):
            by_seed.setdefault(run.seed, []).append((100 * value, row))
            said = hover(f"{arm.name}, seed {run.seed}: {points(value)}")
            axes.plot([100 * value], [row], markersize=7, gid=said, **styles[arm.name].dot)
    for pairs in by_seed.values():
        axes.plot(*zip(*pairs, strict=True), color=COLORS["soft"], linewidth=0.8, alpha=0.55, zorder=1)
    widen(axes, "x", 1.0)
    return figure


def _plot_differences(arms: Sequence[ArmResult], results: Results, styles: Styles) -> Figure:
    """Arm minus baseline: seeds as dots, mean, interval alone (band) and for all comparisons (line), margin (grey)."""
    baseline, metric = results.baseline, results.metric
    figure, axes = _rows(len(arms), f"{metric} minus that of {shortened(baseline, 22)}, points")
    axes.axvline(0, color=COLORS["soft"], linewidth=1.2)
    if results.margin is not None:
        axes.axvspan(-100 * results.margin, 100 * results.margin, color=COLORS["line"], alpha=0.5, linewidth=0)
    for row, arm in enumerate(arms):
        difference, style, names = arm.differences[metric], styles[arm.name], f"{arm.name} − {baseline}"
        shown = replace(difference.paired, low=difference.low, high=difference.high)
        text = f"{signed_points(shown.mean)} {signed_interval(shown.low, shown.high)}"
        _draw_mean(axes, row, arm.name, style, shown, text, f" − {baseline}")
        for value in shown.values:
            said = hover(f"{names}: {signed_points(value)} with one seed")
            axes.plot([100 * value], [row], markersize=5.5, gid=said, **style.dot)
        if arm.finding is not None:
            low, high = arm.finding.low, arm.finding.high
            said = hover(f"{names}: interval for all comparisons {signed_interval(low, high)}, {arm.verdict}")
            ends: Any = {"color": style.color, "linewidth": 1.5, "marker": "|", "markersize": 7}
            axes.plot([100 * low, 100 * high], [row + 0.3] * 2, gid=said, **ends)
    widen(axes, "x", 1.0)
    return figure


def _plot_power(results: Results, styles: Styles) -> Figure:
    """Over the number of seeds: what is found (solid), what equal arms are called equivalent within (dashed)."""
    figure, ((axes,),) = panels(width=WIDTH, height=3.3)
    seeds, found, within = (np.array(column) for column in zip(*results.detectable_by_seeds, strict=True))
    axes.plot(seeds, 100 * found, color=COLORS["ink"], gid=hover("found with a probability of 80 %"))
    dashed: Any = {"color": COLORS["soft"], "linestyle": (0, (4, 2)), "linewidth": 1.4}
    axes.plot(seeds, 100 * within, gid=hover("margin of equal arms with a probability of 80 %"), **dashed)
    if results.margin is not None:
        axes.axhline(100 * results.margin, color=COLORS["soft"], linewidth=0.8)
    for arm in results.arms:
        if arm.finding is not None:
            paired = arm.differences[results.metric].paired
            said = hover(f"{arm.name}: {signed_points(paired.mean)} with {len(paired.values)} seeds, {arm.verdict}")
            if paired.mean:
                axes.plot(
                    [len(paired.values)], [100 * abs(paired.mean)], markersize=8, gid=said, **styles[arm.name].dot
                )
    axes.set_xscale("log")
    axes.set_xticks([2, 3, 4, 5, 6, 8, 10, 15, 20], ["2", "3", "4", "5", "6", "8", "10", "15", "20"])
    axes.set_xticks([], minor=True)
    logarithmic(axes, "y")
    axes.set(xlabel="seeds per arm", ylabel=f"difference of {results.metric}, points")
    return figure


def _plot_rates(results: Results, styles: Styles) -> Figure:
    """The metric on the validation images over the learning rate; the chosen rate is ringed."""
    figure, ((axes,),) = panels(width=WIDTH, height=3.3)
    for arm in results.arms:
        style = styles[arm.name]
        rows = sorted(arm.rates, key=lambda row: row.lr)
        tried = {row.lr: 100 * row.validation for row in rows if row.validation is not None}
        axes.plot(list(tried), list(tried.values()), linewidth=1.6, **style.line)
        for lr, value in tried.items():
            chosen = ", chosen" if lr == arm.lr else ""
            said = hover(f"{arm.name}, learning rate {lr:g}: {value:.1f} on validation{chosen}")
            axes.plot([lr], [value], markersize=7, gid=said, **style.dot)
            if chosen:
                axes.plot([lr], [value], "o", markersize=13, fillstyle="none", color=style.color, markeredgewidth=1.6)
    axes.margins(0.12, 0.15)
    logarithmic(axes, "x")
    widen(axes, "y", 1.0)
    axes.set(xlabel="learning rate", ylabel=f"{results.metric} on validation, points")
    return figure


def _rows(num_rows: int, label: str) -> tuple[Figure, Axes]:
    """A figure with a row per arm, separated by lines."""
    figure, ((axes,),) = panels(width=WIDTH, height=0.55 + _ROW * num_rows)
    axes.set(ylim=(num_rows - 0.5, -0.65), yticks=[], xlabel=label)
    axes.spines["left"].set_visible(False)
    for row in range(1, num_rows):
        axes.axhline(row - 0.58, color=COLORS["line"], linewidth=0.8)
    return figure, axes


def _draw_mean(axes: Axes, row: int, name: str, style: ArmStyle, mean: Mean, text: str, minus: str) -> None:
    """Name and numbers above the row; interval as a band, mean as a stroke."""
    above: Any = {"transform": blended_transform_factory(axes.transAxes, axes.transData), "va": "center"}
    above["bbox"] = {"facecolor": COLORS["surface"], "edgecolor": "none", "pad": 0.5}  # no line shows through
    axes.text(0.0, row - _NAME, shortened(name, 25), **above)
    axes.text(1.0, row - _NAME, text, color=COLORS["soft"], ha="right", **above)
    if mean.low is not None and mean.high is not None:
        band: Any = {"color": style.color, "alpha": 0.28, "linewidth": 9, "solid_capstyle": "butt"}
        said = hover(f"{name}{minus}: mean and 95 % interval over seeds {text}")
        axes.plot([100 * mean.low, 100 * mean.high], [row, row], gid=said, **band)
    axes.plot([100 * mean.mean] * 2, [row - 0.19, row + 0.19], color=style.color, linewidth=2.5)
