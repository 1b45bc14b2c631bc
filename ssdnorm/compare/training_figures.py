"""Figures over training: metric, loss, feature lengths, learned scales, gradients, dead channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssdnorm.compare.curves import EMPTY, Curve, RunLog, mean_curve, read_run_log
from ssdnorm.compare.result_figures import PANEL, WIDTH, Styles
from ssdnorm.compare.results import Results, Status
from ssdnorm.plots.style import logarithmic, panels, styled, widen
from ssdnorm.plots.svg import figure_to_svg, hover

_LOSS_POINTS = 60  # a loss is smoothed by means over neighbouring readings
_LENGTHS = {"rms": "RMS of the values", "length": "L2 length over channels"}


@dataclass(frozen=True)
class LoggedRun:
    """A run's curves with its seed and status."""

    seed: int
    status: Status
    log: RunLog


Logs = Mapping[str, Sequence[LoggedRun]]


@dataclass(frozen=True)
class ScaleRow:
    """Learned scales of an arm's tap norm, means over the seeds: first and last mean, and the spread at the end."""

    arm: str
    tap: str
    first: float
    last: float
    std: float
    low: float
    high: float


def read_logs(results: Results, root: Path) -> Logs:
    """The curves of every arm's runs with its chosen learning rate, diverged ones included."""
    return {
        arm.name: [
            LoggedRun(run.seed, run.status, read_run_log(root / run.folder, results.metric))
            for run in arm.runs
            if run.lr == arm.lr
        ]
        for arm in results.arms
    }


def training_figures(results: Results, logs: Logs, styles: Styles) -> dict[str, Markup]:
    """Name → SVG of every figure that there is data for."""
    figures: dict[str, Markup] = {}

    def add(name: str, figure: Figure | None, alt: str) -> None:
        if figure is not None:
            figures[name] = Markup(figure_to_svg(figure, name, alt))

    images = evaluated_images(logs)
    if images is not None:
        label = f"{results.metric} on {images or 'evaluated'} images, points"
        add("evaluations", plot_evaluations(logs, styles, images, label), f"{label}, over steps by arm and seed")
    if any(len(run.log.loss) > 1 for run in _all(logs)):
        add("losses", plot_losses(logs, styles), "Training loss over steps by arm and seed")
    for statistic, label in _LENGTHS.items():
        for tap, figure in plot_taps(logs, styles, statistic).items():
            add(f"{statistic}-{tap}", figure, f"{label} at {tap}, before and after its norm, over steps")
    for tap, figure in plot_scales(logs, styles).items():
        add(f"scales-{tap}", figure, f"Learned scales at {tap} over steps, relative to the first")
    add("gradients", plot_by_layer(logs, styles, "gradient_norm", "gradient norm", log=True), "Gradient norm by block")
    dead = plot_by_layer(logs, styles, "dead_channels", "dead channels, % of the layer's", factor=100)
    add("dead", dead, "Share of dead channels by layer and arm")
    return figures


def evaluated_images(logs: Logs) -> str | None:
    """The images evaluated most often during training; None if fewer than twice."""
    counts: dict[str, int] = {}
    for run in _all(logs):
        for name, curve in run.log.evaluations.items():
            counts[name] = max(counts.get(name, 0), len(curve))
    return max(sorted(counts), key=lambda name: counts[name]) if max(counts.values(), default=0) > 1 else None


@styled
def plot_evaluations(logs: Logs, styles: Styles, images: str, label: str) -> Figure:
    """The metric over steps."""

    def curve_of(log: RunLog) -> Curve:
        curve = log.evaluations.get(images, EMPTY)
        return Curve(curve.steps, 100 * curve.values)

    figure, axes = _plot_curves(logs, styles, curve_of)
    widen(axes, "y", 1.0)
    axes.set_ylabel(label)
    return figure


@styled
def plot_losses(logs: Logs, styles: Styles) -> Figure:
    """The training loss over steps, with a cross where a run diverged; a diverging loss is cut off at the top."""

    def curve_of(log: RunLog) -> Curve:
        curve = log.loss.thinned(_LOSS_POINTS)
        return Curve(curve.steps, np.minimum(curve.values, highest))

    finished = [run.log.loss for run in _all(logs) if run.status == "finished" and len(run.log.loss)]
    highest = max((float(loss.thinned(_LOSS_POINTS).values.max()) for loss in finished), default=np.inf)
    figure, axes = _plot_curves(logs, styles, curve_of)
    for arm, run in ((arm, run) for arm, runs in logs.items() for run in runs if run.status == "diverged"):
        curve = curve_of(run.log)
        if len(curve):
            said = hover(f"{arm}, seed {run.seed}, diverged after step {curve.steps[-1]:.0f}")
            cross: Any = {"color": styles[arm].color, "markersize": 8, "markeredgewidth": 2.2, "clip_on": False}
            axes.plot(curve.steps[-1:], curve.values[-1:], "x", gid=said, **cross)
    logarithmic(axes, "y")
    axes.set_ylabel("training loss")
    return figure


@styled
def plot_taps(logs: Logs, styles: Styles, statistic: str) -> dict[str, Figure]:
    """Tap → figure: the statistic before its norm (dotted) and after it (solid), means over the seeds.

    All taps share one vertical axis.

    Args:
        statistic: ``length`` or ``rms``.
    """
    before = {arm: _means(runs, f"{statistic}_before") for arm, runs in logs.items()}
    after = {arm: _means(runs, f"{statistic}_after") for arm, runs in logs.items()}
    curves = [curve.values for means in (*before.values(), *after.values()) for curve in means.values()]
    values = np.concatenate([np.empty(0), *curves])
    values = values[values > 0]
    figures: dict[str, Figure] = {}
    for tap in in_order(tap for means in after.values() for tap in means) if len(values) else ():
        figures[tap], ((axes,),) = panels(**PANEL)
        axes.set_title(tap)
        for arm in logs:
            if tap not in after[arm]:
                continue
            style, out = styles[arm], after[arm][tap].thinned()
            into = before[arm].get(tap, after[arm][tap]).thinned()
            axes.plot(out.steps, out.values, gid=hover(f"{arm}, after"), **style.line)
            if not np.array_equal(into.values, out.values):
                dotted = {"color": style.color, "linewidth": 1.6, "linestyle": (0, (1, 1.6))}
                axes.plot(into.steps, into.values, gid=hover(f"{arm}, before"), **dotted)
        axes.set_ylim(values.min() / 1.4, values.max() * 1.4)
        logarithmic(axes, "y")
        _label_steps(axes)
    return figures


@styled
def plot_scales(logs: Logs, styles: Styles) -> dict[str, Figure]:
    """Tap → figure: learned scales relative to their first mean; band: one standard deviation over the channels."""
    means = {arm: _means(runs, "scale_mean") for arm, runs in logs.items()}
    stds = {arm: _means(runs, "scale_std") for arm, runs in logs.items()}
    figures: dict[str, Figure] = {}
    for tap in in_order(tap for found in means.values() for tap in found):
        figures[tap], ((axes,),) = panels(**PANEL)
        axes.set_title(tap)
        for arm in logs:
            mean, std = means[arm].get(tap, EMPTY), stds[arm].get(tap, EMPTY)
            if not len(mean) or len(mean) != len(std) or mean.values[0] == 0:
                continue
            style, first = styles[arm], mean.values[0]
            low, high = (mean.values - std.values) / first, (mean.values + std.values) / first
            axes.fill_between(mean.steps, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(mean.steps, mean.values / first, gid=hover(arm), **style.line)
        axes.set_ylabel("scale ÷ first scale")
        _label_steps(axes)
    return figures


def scale_rows(logs: Logs) -> list[ScaleRow]:
    """The learned scales as a table."""
    rows = []
    for arm, runs in logs.items():
        found = {name: _means(runs, f"scale_{name}") for name in ("mean", "std", "min", "max")}
        for tap in in_order(found["mean"]):
            if len(found["mean"][tap]) and all(len(curves.get(tap, ())) for curves in found.values()):
                first, last = (float(found["mean"][tap].values[place]) for place in (0, -1))
                std, low, high = (float(found[name][tap].values[-1]) for name in ("std", "min", "max"))
                rows.append(ScaleRow(arm, tap, first, last, std, low, high))
    return rows


@styled
def plot_by_layer(
    logs: Logs, styles: Styles, statistic: str, label: str, *, log: bool = False, factor: float = 1.0
) -> Figure | None:
    """A statistic by layer: first value hollow, median of the last quarter filled; None if it was not measured.

    Args:
        log: logarithmic axis; zeros are left out.
        factor: multiplies the values.
    """
    values: dict[str, dict[str, tuple[float, float]]] = {arm: {} for arm in logs}
    for arm, runs in logs.items():
        for layer, curve in _means(runs, statistic).items():
            if len(curve):
                first = factor * float(curve.values[0])
                last = factor * float(np.median(curve.values[-max(1, len(curve) // 4) :]))
                if log:  # the first batch may have no gradient
                    first, last = first or last, last or first
                if not log or min(first, last) > 0:
                    values[arm][layer] = first, last
    layers = in_order(layer for by_layer in values.values() for layer in by_layer)
    if not layers:
        return None
    figure, ((axes,),) = panels(width=WIDTH, height=0.6 + 0.27 * len(layers))
    for place, (arm, by_layer) in enumerate(values.items()):
        style, shift = styles[arm], 0.56 * (place / max(1, len(values) - 1) - 0.5)
        for layer, (first, last) in by_layer.items():
            y = layers.index(layer) + shift
            axes.plot([first, last], [y, y], color=style.color, linewidth=1, alpha=0.6)
            axes.plot([first], [y], marker=style.marker, markersize=4, color=style.color, fillstyle="none")
            said = hover(f"{layer}, {arm}: {first:.3g} at first, {last:.3g} at the end")
            axes.plot([last], [y], style.marker, markersize=5.5, color=style.color, markeredgecolor="none", gid=said)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    if log:
        logarithmic(axes, "x")
    else:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    return figure


def in_order(names: Iterable[str]) -> list[str]:
    """Layers in the order of the network: conv4_3 before fc6 before conv8_2, names without digits last."""
    return sorted(dict.fromkeys(names), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)] or [99], name))


def _plot_curves(logs: Logs, styles: Styles, curve_of: Callable[[RunLog], Curve]) -> tuple[Figure, Axes]:
    """A thin line per run, a thick one for the mean of the finished runs of an arm."""
    figure, ((axes,),) = panels(width=WIDTH, height=3.4)
    thick, faint = (2.2, 0.5) if len(logs) <= 6 else (1.6, 0.25)
    for arm, runs in logs.items():
        style = styles[arm]
        for run in runs:
            curve = curve_of(run.log)
            said = f"{arm}, seed {run.seed}" + ("" if run.status == "finished" else f", {run.status}")
            axes.plot(curve.steps, curve.values, color=style.color, linewidth=0.8, alpha=faint, gid=hover(said))
        mean = mean_curve([curve_of(run.log) for run in runs if run.status == "finished"])
        if len(mean):
            line = {**style.line, "linewidth": thick, "marker": style.marker if len(mean) <= 30 else ""}
            axes.plot(mean.steps, mean.values, markersize=5, gid=hover(f"{arm}, mean"), **line)
    _label_steps(axes)
    return figure, axes


def _label_steps(axes: Axes) -> None:
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    axes.set_xlabel("step")


def _means(runs: Sequence[LoggedRun], statistic: str) -> dict[str, Curve]:
    """Name → mean over the seeds that have it, of the finished runs, or of all if none finished."""
    chosen = [run for run in runs if run.status == "finished"] or runs
    found = [run.log.diagnostics.get(statistic, {}) for run in chosen]
    names = dict.fromkeys(name for curves in found for name in curves)
    return {name: mean_curve([curves[name] for curves in found if name in curves]) for name in names}


def _all(logs: Logs) -> Iterable[LoggedRun]:
    return (run for runs in logs.values() for run in runs)
