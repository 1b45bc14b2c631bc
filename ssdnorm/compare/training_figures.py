"""Figures over training: metric, loss, feature lengths, learned scales, gradients, dead channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssdnorm.compare.curves import EMPTY, Curve, Diagnostics, RunLog, mean_curve, mean_diagnostics, read_run_log
from ssdnorm.compare.result_figures import PANEL, WIDTH, Figures, Styles
from ssdnorm.compare.results import Results
from ssdnorm.plots.style import logarithmic, panels, styled, widen
from ssdnorm.plots.svg import hover

_LOSS_POINTS = 60  # a loss is smoothed by means over neighbouring readings
_LENGTHS = {"rms": "RMS of the values", "length": "L2 length over channels"}

Logs = Mapping[str, Sequence[RunLog]]  # arm → its runs


def read_logs(results: Results, root: Path) -> Logs:
    """What every arm's runs with its chosen learning rate logged, diverged ones included."""
    return {arm.name: [read_run_log(run, root, results.metric) for run in arm.chosen_runs] for arm in results.arms}


def evaluated_images(logs: Logs) -> str | None:
    """The images evaluated most often during training; None if fewer than twice."""
    counts: dict[str, int] = {}
    for run in _all(logs):
        for name, curve in run.evaluations.items():
            counts[name] = max(counts.get(name, 0), len(curve))
    return max(sorted(counts), key=lambda name: counts[name]) if max(counts.values(), default=0) > 1 else None


def scale_rows(logs: Logs) -> list[dict[str, Any]]:
    """Learned scales of tap norms, means over the seeds: first and last mean, and the spread at the end."""
    rows: list[dict[str, Any]] = []
    for arm, means in _means(logs).items():
        found = {name: means.get(f"scale_{name}", {}) for name in ("mean", "std", "min", "max")}
        for tap in _in_order(found["mean"]):
            if all(len(curves.get(tap, EMPTY)) for curves in found.values()):
                last, std, low, high = (float(curves[tap].values[-1]) for curves in found.values())
                first = float(found["mean"][tap].values[0])
                rows.append(
                    {"arm": arm, "tap": tap, "first": first, "last": last, "std": std, "low": low, "high": high}
                )
    return rows


@styled
def training_figures(results: Results, logs: Logs, styles: Styles) -> Figures:
    """Every figure that there is data for."""
    figures: Figures = {}
    images, means = evaluated_images(logs), _means(logs)
    if images is not None:
        label = f"{results.metric} on {images or 'evaluated'} images, points"
        figures["evaluations"] = _plot_evaluations(logs, styles, images, label), f"{label}, over steps by arm and seed"
    if any(len(run.loss) > 1 for run in _all(logs)):
        figures["losses"] = _plot_losses(logs, styles), "Training loss over steps by arm and seed"
    for statistic, label in _LENGTHS.items():
        for tap, figure in _plot_taps(means, styles, statistic).items():
            figures[f"{statistic}-{tap}"] = figure, f"{label} at {tap}, before and after its norm, over steps"
    for tap, figure in _plot_scales(means, styles).items():
        figures[f"scales-{tap}"] = figure, f"Learned scales at {tap} over steps, relative to the first"
    if gradients := _plot_by_layer(means, styles, "gradient_norm", "gradient norm", log=True):
        figures["gradients"] = gradients, "Gradient norm by block"
    if dead := _plot_by_layer(means, styles, "dead_channels", "dead channels, % of the layer's", factor=100):
        figures["dead"] = dead, "Share of dead channels by layer and arm"
    return figures


def _plot_evaluations(logs: Logs, styles: Styles, images: str, label: str) -> Figure:

    def curve_of(log: RunLog) -> Curve:
        curve = log.evaluations.get(images, EMPTY)
        return Curve(curve.steps, 100 * curve.values)

    figure, axes = _plot_curves(logs, styles, curve_of)
    widen(axes, "y", 1.0)
    axes.set_ylabel(label)
    return figure


def _plot_losses(logs: Logs, styles: Styles) -> Figure:
    """The training loss over steps, with a cross where a run diverged; a diverging loss is cut off at the top."""

    def curve_of(log: RunLog) -> Curve:
        curve = log.loss.thinned(_LOSS_POINTS)
        return Curve(curve.steps, np.minimum(curve.values, highest))

    finished = [run.loss for run in _all(logs) if run.status == "finished" and len(run.loss)]
    highest = max((float(loss.thinned(_LOSS_POINTS).values.max()) for loss in finished), default=np.inf)
    figure, axes = _plot_curves(logs, styles, curve_of)
    for arm, runs in logs.items():
        for run in runs:
            curve = curve_of(run)
            if run.status == "diverged" and len(curve):
                said = hover(f"{arm}, seed {run.seed}, diverged after step {curve.steps[-1]:.0f}")
                cross: Any = {"color": styles[arm].color, "markersize": 8, "markeredgewidth": 2.2, "clip_on": False}
                axes.plot(curve.steps[-1:], curve.values[-1:], "x", gid=said, **cross)
    logarithmic(axes, "y")
    axes.set_ylabel("training loss")
    return figure


def _plot_taps(means: Mapping[str, Diagnostics], styles: Styles, statistic: str) -> dict[str, Figure]:
    """Tap → figure: the statistic before its norm (dotted) and after it (solid), on one vertical axis for all taps."""
    before = {arm: found.get(f"{statistic}_before", {}) for arm, found in means.items()}
    after = {arm: found.get(f"{statistic}_after", {}) for arm, found in means.items()}
    curves = [curve.values for by_tap in (*before.values(), *after.values()) for curve in by_tap.values()]
    values = np.concatenate([np.empty(0), *curves])
    values = values[values > 0]
    figures: dict[str, Figure] = {}
    for tap in _in_order(tap for by_tap in after.values() for tap in by_tap) if len(values) else ():
        figures[tap], ((axes,),) = panels(**PANEL)
        for arm, by_tap in after.items():
            if tap not in by_tap:
                continue
            style, out = styles[arm], by_tap[tap].thinned()
            into = before[arm].get(tap, by_tap[tap]).thinned()
            axes.plot(out.steps, out.values, gid=hover(f"{arm}, after"), **style.line)
            if not np.array_equal(into.values, out.values):
                dotted = {"color": style.color, "linewidth": 1.6, "linestyle": (0, (1, 1.6))}
                axes.plot(into.steps, into.values, gid=hover(f"{arm}, before"), **dotted)
        axes.set(title=tap, ylim=(values.min() / 1.4, values.max() * 1.4))
        logarithmic(axes, "y")
        _label_steps(axes)
    return figures


def _plot_scales(means: Mapping[str, Diagnostics], styles: Styles) -> dict[str, Figure]:
    """Tap → figure: learned scales relative to their first mean; band: one standard deviation over the channels."""
    figures: dict[str, Figure] = {}
    for tap in _in_order(tap for found in means.values() for tap in found.get("scale_mean", ())):
        figures[tap], ((axes,),) = panels(**PANEL)
        for arm, found in means.items():
            mean, std = (found.get(f"scale_{name}", {}).get(tap, EMPTY) for name in ("mean", "std"))
            if not len(mean) or len(mean) != len(std) or mean.values[0] == 0:
                continue
            style, first = styles[arm], mean.values[0]
            low, high = (mean.values - std.values) / first, (mean.values + std.values) / first
            axes.fill_between(mean.steps, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(mean.steps, mean.values / first, gid=hover(arm), **style.line)
        axes.set(title=tap, ylabel="scale ÷ first scale")
        _label_steps(axes)
    return figures


def _plot_by_layer(
    means: Mapping[str, Diagnostics],
    styles: Styles,
    statistic: str,
    label: str,
    *,
    log: bool = False,
    factor: float = 1,
) -> Figure | None:
    """A statistic by layer: first value hollow, median of the last quarter filled; None if it was not measured.

    Args:
        log: logarithmic axis; zeros are left out.
        factor: multiplies the values.
    """
    values: dict[str, dict[str, tuple[float, float]]] = {arm: {} for arm in means}
    for arm, found in means.items():
        for layer, curve in found.get(statistic, {}).items():
            if len(curve):
                first = factor * float(curve.values[0])
                last = factor * float(np.median(curve.values[-max(1, len(curve) // 4) :]))
                if log:  # the first batch may have no gradient
                    first, last = first or last, last or first
                if not log or min(first, last) > 0:
                    values[arm][layer] = first, last
    layers = _in_order(layer for by_layer in values.values() for layer in by_layer)
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
    axes.set(ylim=(len(layers) - 0.4, -0.6), xlabel=label)
    if log:
        logarithmic(axes, "x")
    else:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


def _plot_curves(logs: Logs, styles: Styles, curve_of: Callable[[RunLog], Curve]) -> tuple[Figure, Axes]:
    """A thin line per run, a thick one for the mean of the finished runs of an arm."""
    figure, ((axes,),) = panels(width=WIDTH, height=3.4)
    thick, faint = (2.2, 0.5) if len(logs) <= 6 else (1.6, 0.25)
    for arm, runs in logs.items():
        style = styles[arm]
        for run in runs:
            curve = curve_of(run)
            said = f"{arm}, seed {run.seed}" + ("" if run.status == "finished" else f", {run.status}")
            axes.plot(curve.steps, curve.values, color=style.color, linewidth=0.8, alpha=faint, gid=hover(said))
        mean = mean_curve([curve_of(run) for run in runs if run.status == "finished"])
        if len(mean):
            line = {**style.line, "linewidth": thick, "marker": style.marker if len(mean) <= 30 else ""}
            axes.plot(mean.steps, mean.values, markersize=5, gid=hover(f"{arm}, mean"), **line)
    _label_steps(axes)
    return figure, axes


def _label_steps(axes: Axes) -> None:
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    axes.set_xlabel("step")


def _in_order(names: Iterable[str]) -> list[str]:
    """Layers in the order of the network: conv4_3 before fc6 before conv8_2, names without digits last."""
    return sorted(dict.fromkeys(names), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)] or [99], name))


def _means(logs: Logs) -> dict[str, Diagnostics]:
    """Arm → diagnostics, means over its finished runs, or over all if none finished."""
    return {
        arm: mean_diagnostics(
            [run.diagnostics for run in runs if run.status == "finished"] or [run.diagnostics for run in runs]
        )
        for arm, runs in logs.items()
    }


def _all(logs: Logs) -> Iterable[RunLog]:
    return (run for runs in logs.values() for run in runs)
