"""Figures over training: metric, loss, feature lengths, learned scales, gradients, dead channels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssdnorm.compare.curves import EMPTY, LOSS, Curve, Log, mean_curve, mean_log, read_log, thinned
from ssdnorm.compare.result_figures import PANEL, WIDTH, Figures, Styles
from ssdnorm.compare.results import Results, Run
from ssdnorm.plots.style import logarithmic, panels, styled, widen
from ssdnorm.plots.svg import hover

_LOSS_POINTS = 60  # a loss is smoothed by means over neighbouring readings
_LENGTHS = {"rms": "RMS of the values", "length": "L2 length over channels"}

Logs = Mapping[str, Sequence[tuple[Run, Log]]]  # arm → its runs, and what they logged
Means = Mapping[str, Log]  # arm → means over its runs


def read_logs(results: Results, root: Path) -> Logs:
    """What every arm's runs with its chosen learning rate logged, diverged ones included."""
    metric, arms = results.metric, results.arms
    return {arm.name: [(run, read_log(root / run.folder, metric)) for run in arm.chosen_runs] for arm in arms}


def mean_logs(logs: Logs) -> Means:
    """Arm → means over its finished runs, or over all if none finished."""
    finished = {arm: [log for run, log in runs if run.status == "finished"] for arm, runs in logs.items()}
    return {arm: mean_log(finished[arm] or [log for _, log in runs]) for arm, runs in logs.items()}


def evaluated_images(logs: Logs) -> str | None:
    """The images evaluated most often during training; None if fewer than twice."""
    curves = [each for runs in logs.values() for _, log in runs for each in log.items()]
    found = [(-len(curve), images) for (kind, images), curve in curves if kind == "evaluation" and len(curve) > 1]
    return min(found)[1] if found else None


def scale_rows(means: Means) -> list[dict[str, Any]]:
    """Learned scales of tap norms: first and last mean, and the spread at the end."""
    rows: list[dict[str, Any]] = []
    for arm, log in means.items():
        for tap in _names({arm: log}, "scale_mean"):
            found = {kind: log.get((f"scale_{kind}", tap), EMPTY)[:, 1] for kind in ("mean", "std", "min", "max")}
            if all(map(len, found.values())):
                last, std, low, high = (float(values[-1]) for values in found.values())
                row = {"first": float(found["mean"][0]), "last": last, "std": std, "low": low, "high": high}
                rows.append({"arm": arm, "tap": tap, **row})
    return rows


@styled
def training_figures(results: Results, logs: Logs, means: Means, styles: Styles) -> Figures:
    """Every figure that there is data for."""
    figures: Figures = {}
    images = evaluated_images(logs)
    if images is not None:
        label = f"{results.metric} on {images or 'evaluated'} images, points"
        figures["evaluations"] = _plot_evaluations(logs, styles, images, label), f"{label}, over steps by arm and seed"
    if any(len(log.get(LOSS, EMPTY)) > 1 for runs in logs.values() for _, log in runs):
        figures["losses"] = _plot_losses(logs, styles), "Training loss over steps by arm and seed"
    for statistic, label in _LENGTHS.items():
        if limits := _limits(means, statistic):
            for tap in _names(means, f"{statistic}_after"):
                figure = _plot_tap(means, styles, statistic, tap, limits)
                figures[f"{statistic}-{tap}"] = figure, f"{label} at {tap}, before and after its norm, over steps"
    for tap in _names(means, "scale_mean"):
        alt = f"Learned scales at {tap} over steps, relative to the first"
        figures[f"scales-{tap}"] = _plot_scales(means, styles, tap), alt
    if gradients := _plot_by_layer(means, styles, "gradient_norm", "gradient norm", log=True):
        figures["gradients"] = gradients, "Gradient norm by block"
    if dead := _plot_by_layer(means, styles, "dead_channels", "dead channels, % of the layer's", factor=100):
        figures["dead"] = dead, "Share of dead channels by layer and arm"
    return figures


def _plot_evaluations(logs: Logs, styles: Styles, images: str, label: str) -> Figure:
    key = ("evaluation", images)
    curves = {arm: [(run, log.get(key, EMPTY) * [1, 100]) for run, log in runs] for arm, runs in logs.items()}
    figure, axes = _plot_curves(curves, styles)
    widen(axes, "y", 1.0)
    axes.set_ylabel(label)
    return figure


def _plot_losses(logs: Logs, styles: Styles) -> Figure:
    """A cross marks where a run diverged; a diverging loss is cut off at the top."""
    curves = {
        arm: [(run, thinned(log.get(LOSS, EMPTY), _LOSS_POINTS)) for run, log in runs] for arm, runs in logs.items()
    }
    finished = [curve for runs in curves.values() for run, curve in runs if run.status == "finished"]
    highest = max((curve[:, 1].max() for curve in finished if len(curve)), default=np.inf)
    cut = {arm: [(run, np.minimum(curve, [np.inf, highest])) for run, curve in runs] for arm, runs in curves.items()}
    figure, axes = _plot_curves(cut, styles)
    cross: Any = {"marker": "x", "markersize": 8, "markeredgewidth": 2.2, "clip_on": False, "linestyle": "none"}
    for arm, runs in cut.items():
        for run, curve in runs:
            if run.status == "diverged" and len(curve):
                said = hover(f"{arm}, seed {run.seed}, diverged after step {curve[-1, 0]:.0f}")
                axes.plot(*curve[-1:].T, gid=said, color=styles[arm].color, **cross)
    logarithmic(axes, "y")
    axes.set_ylabel("training loss")
    return figure


def _plot_curves(curves: Mapping[str, Sequence[tuple[Run, Curve]]], styles: Styles) -> tuple[Figure, Axes]:
    """A thin line per run, a thick one for the mean of the finished runs of an arm."""
    figure, ((axes,),) = panels(width=WIDTH, height=3.4)
    thick, faint = (2.2, 0.5) if len(curves) <= 6 else (1.6, 0.25)
    for arm, runs in curves.items():
        style = styles[arm]
        for run, curve in runs:
            said = f"{arm}, seed {run.seed}" + ("" if run.status == "finished" else f", {run.status}")
            axes.plot(*curve.T, color=style.color, linewidth=0.8, alpha=faint, gid=hover(said))
        if finished := [curve for run, curve in runs if run.status == "finished" and len(curve)]:
            mean = mean_curve(finished)
            line = {**style.line, "linewidth": thick, "marker": style.marker if len(mean) <= 30 else ""}
            axes.plot(*mean.T, markersize=5, gid=hover(f"{arm}, mean"), **line)
    _label_steps(axes)
    return figure, axes


def _limits(means: Means, statistic: str) -> tuple[float, float] | None:
    """One vertical axis for all taps of a statistic."""
    kinds = f"{statistic}_before", f"{statistic}_after"
    curves = [curve[:, 1] for log in means.values() for (kind, _), curve in log.items() if kind in kinds]
    values = np.concatenate([np.empty(0), *curves])
    values = values[values > 0]
    return (values.min() / 1.4, values.max() * 1.4) if len(values) else None


def _plot_tap(means: Means, styles: Styles, statistic: str, tap: str, limits: tuple[float, float]) -> Figure:
    """A statistic before the tap's norm (dotted) and after it (solid)."""
    figure, ((axes,),) = panels(**PANEL)
    for arm, log in means.items():
        after = log.get((f"{statistic}_after", tap))
        if after is None:
            continue
        style, out, into = styles[arm], thinned(after), thinned(log.get((f"{statistic}_before", tap), after))
        axes.plot(*out.T, gid=hover(f"{arm}, after"), **style.line)
        if not np.array_equal(into[:, 1], out[:, 1]):
            dotted = {"color": style.color, "linewidth": 1.6, "linestyle": (0, (1, 1.6))}
            axes.plot(*into.T, gid=hover(f"{arm}, before"), **dotted)
    axes.set(title=tap, ylim=limits)
    logarithmic(axes, "y")
    _label_steps(axes)
    return figure


def _plot_scales(means: Means, styles: Styles, tap: str) -> Figure:
    """Learned scales relative to their first mean; band: one standard deviation over the channels."""
    figure, ((axes,),) = panels(**PANEL)
    for arm, log in means.items():
        (steps, mean), (_, std) = (log.get((f"scale_{kind}", tap), EMPTY).T for kind in ("mean", "std"))
        if len(mean) and len(mean) == len(std) and mean[0] != 0:
            style, first = styles[arm], mean[0]
            low, high = (mean - std) / first, (mean + std) / first
            axes.fill_between(steps, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(steps, mean / first, gid=hover(arm), **style.line)
    axes.set(title=tap, ylabel="scale ÷ first scale")
    _label_steps(axes)
    return figure


def _plot_by_layer(
    means: Means, styles: Styles, statistic: str, label: str, *, log: bool = False, factor: float = 1
) -> Figure | None:
    """First value hollow, median of the last quarter filled; a logarithmic axis leaves zeros out; None without data."""
    values: dict[tuple[str, str], tuple[float, float]] = {}
    for arm, logged in means.items():
        for (kind, layer), curve in logged.items():
            if kind == statistic:
                first = factor * float(curve[0, 1])
                last = factor * float(np.median(curve[-max(1, len(curve) // 4) :, 1]))
                if log:  # the first batch may have no gradient
                    first, last = first or last, last or first
                if not log or min(first, last) > 0:
                    values[arm, layer] = first, last
    layers = _in_order(layer for _, layer in values)
    if not layers:
        return None
    figure, ((axes,),) = panels(width=WIDTH, height=0.6 + 0.27 * len(layers))
    for (arm, layer), (first, last) in values.items():
        style, place = styles[arm], list(means).index(arm)
        y = layers.index(layer) + 0.56 * (place / max(1, len(means) - 1) - 0.5)
        axes.plot([first, last], [y, y], color=style.color, linewidth=1, alpha=0.6)
        axes.plot([first], [y], marker=style.marker, markersize=4, color=style.color, fillstyle="none")
        said = hover(f"{layer}, {arm}: {first:.3g} at first, {last:.3g} at the end")
        axes.plot([last], [y], style.marker, markersize=5.5, color=style.color, markeredgecolor="none", gid=said)
    axes.set_yticks(range(len(layers)), layers)
    axes.set(ylim=(len(layers) - 0.4, -0.6), xlabel=label)
    if log:
        logarithmic(axes, "x")
    else:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def _label_steps(axes: Axes) -> None:
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    axes.set_xlabel("step")


def _names(means: Means, statistic: str) -> list[str]:
    return _in_order(name for log in means.values() for kind, name in log if kind == statistic)


def _in_order(names: Iterable[str]) -> list[str]:
    """Layers in the order of the network: conv4_3 before fc6 before conv8_2, names without digits last."""
    return sorted(dict.fromkeys(names), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)] or [99], name))
