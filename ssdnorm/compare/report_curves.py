"""This file is about the report's figures over training: metric, loss, feature scales, gradients, dead channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ssdnorm.compare.report_figures import Styles, plot_layers
from ssdnorm.compare.results import Results, Status
from ssdnorm.compare.run_logs import Curve, RunLog, mean_curve, read_run_log
from ssdnorm.compare.svg import Canvas

_PANEL = {"width": 300, "height": 205}
_LOSS_POINTS = 60  # means over neighbouring readings calm the curve of a loss
# a layer's place in SSD, by the digits of its name: conv4_3 before fc6 before conv8_2
_LATE = {"fc": 5, "head": 98, "tap": 99}


@dataclass(frozen=True)
class LoggedRun:
    """A run's curves, with what is needed to draw them."""

    seed: int
    status: Status
    log: RunLog


Logs = Mapping[str, Sequence[LoggedRun]]


@dataclass(frozen=True)
class ScaleRow:
    """The learned scales of an arm's tap norm, means over the seeds: at the first measured step and at the last."""

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


def plot_evaluations(results: Results, logs: Logs, styles: Styles) -> tuple[Markup, str] | None:
    """The metric over steps, with the name of the images that it was taken on; None from less than two evaluations."""
    counts: dict[str, int] = {}
    for run in _all(logs):
        for name, curve in run.log.evaluations.items():
            counts[name] = max(counts.get(name, 0), len(curve))
    if not counts or max(counts.values()) < 2:
        return None
    images = max(sorted(counts), key=lambda name: counts[name])
    svg = _plot_curves(
        "evaluations",
        logs,
        styles,
        lambda log: _scaled(log.evaluations.get(images), 100.0),
        label=f"{results.metric} on {images or 'evaluated'} images, points",
    )
    return svg, images


def plot_losses(logs: Logs, styles: Styles) -> Markup | None:
    """The training loss over steps; None where no run wrote one."""
    if not any(len(run.log.loss) > 1 for run in _all(logs)):
        return None
    return _plot_curves(
        "losses", logs, styles, lambda log: log.loss.thinned(_LOSS_POINTS), label="training loss", loss=True
    )


def plot_taps(logs: Logs, styles: Styles, statistic: str, label: str) -> list[Markup]:
    """A figure a tap: the statistic before its norm slot (dotted) and after it (solid), means over the seeds.

    All have the same vertical axis, so that taps can be compared.

    Args:
        statistic: ``length`` or ``rms``.
    """
    before = {arm: _means(runs, f"{statistic}_before") for arm, runs in logs.items()}
    after = {arm: _means(runs, f"{statistic}_after") for arm, runs in logs.items()}
    taps = _in_order(tap for means in after.values() for tap in means)
    values = [curve.values for means in (*before.values(), *after.values()) for curve in means.values() if len(curve)]
    positive = np.concatenate(values)[np.concatenate(values) > 0] if values else np.empty(0)
    if not len(positive):
        return []
    limits = (positive.min() / 1.4, positive.max() * 1.4)
    figures = []
    for tap in taps:
        canvas = Canvas(f"{statistic}-{tap}", title=tap, **_PANEL)
        for arm in logs:
            if tap not in after[arm]:
                continue
            style, out = styles[arm], after[arm][tap].thinned()
            into = before[arm].get(tap, after[arm][tap]).thinned()
            canvas.axes.plot(out.steps, out.values, linewidth=2, gid=canvas.tell(f"{arm}, after"), **style.line)
            if not np.array_equal(into.values, out.values):
                canvas.axes.plot(into.steps, into.values, linewidth=1.6, linestyle=(0, (1, 1.6)), color=style.colour,
                                 gid=canvas.tell(f"{arm}, before"))  # fmt: skip
        canvas.axes.set_ylim(*limits)
        canvas.logarithmic("y")
        _plain_steps(canvas)
        canvas.axes.set_xlabel("step")
        figures.append(canvas.svg(f"{label} at {tap}, before and after its norm, over steps"))
    return figures


def plot_scales(logs: Logs, styles: Styles) -> list[Markup]:
    """A figure a tap: learned scales over their first mean, with a band of one standard deviation over the channels."""
    means = {arm: _means(runs, "scale_mean") for arm, runs in logs.items()}
    stds = {arm: _means(runs, "scale_std") for arm, runs in logs.items()}
    figures = []
    for tap in _in_order(tap for found in means.values() for tap in found):
        canvas = Canvas(f"scales-{tap}", title=tap, **_PANEL)
        for arm in logs:
            mean, std = means[arm].get(tap), stds[arm].get(tap)
            if mean is None or std is None or not len(mean) or len(mean) != len(std) or mean.values[0] == 0:
                continue
            style, first = styles[arm], mean.values[0]
            canvas.axes.fill_between(mean.steps, (mean.values - std.values) / first, (mean.values + std.values) / first,
                                     color=style.colour, alpha=0.16, linewidth=0)  # fmt: skip
            canvas.axes.plot(mean.steps, mean.values / first, linewidth=2, gid=canvas.tell(arm), **style.line)
        _plain_steps(canvas)
        canvas.axes.set(xlabel="step", ylabel="scale ÷ scale at first")
        figures.append(canvas.svg(f"Learned scales at {tap} over steps, as a share of those at first"))
    return figures


def scale_rows(logs: Logs) -> list[ScaleRow]:
    """The learned scales as a table."""
    rows = []
    for arm, runs in logs.items():
        found = {name: _means(runs, f"scale_{name}") for name in ("mean", "std", "min", "max")}
        for tap in _in_order(found["mean"]):
            if len(found["mean"][tap]) and all(len(curves.get(tap, ())) for curves in found.values()):
                first, last = (float(found["mean"][tap].values[place]) for place in (0, -1))
                std, low, high = (float(found[name][tap].values[-1]) for name in ("std", "min", "max"))
                rows.append(ScaleRow(arm, tap, first, last, std, low, high))
    return rows


def plot_gradients(logs: Logs, styles: Styles) -> Markup | None:
    """Gradient norms by block; None where none were measured."""
    return _plot_by_layer("gradients", logs, styles, "gradient_norm", label="gradient norm", logarithmic=True)


def plot_dead_channels(logs: Logs, styles: Styles) -> Markup | None:
    """Share of dead channels by layer; None where none were measured."""
    return _plot_by_layer("dead", logs, styles, "dead_channels", label="dead channels, % of the layer's", factor=100)


def _plot_by_layer(
    key: str, logs: Logs, styles: Styles, statistic: str, *, label: str, logarithmic: bool = False, factor: float = 1.0
) -> Markup | None:
    """First value, and the median over the last quarter of the measurements."""
    values: dict[str, dict[str, tuple[float, float]]] = {}
    for arm, runs in logs.items():
        for layer, curve in _means(runs, statistic).items():
            if len(curve):
                last = float(np.median(curve.values[-max(1, len(curve) // 4) :]))
                pair = (factor * float(curve.values[0]), factor * last)
                if logarithmic:  # has no place for 0: a layer's first batch may hold nothing to learn from
                    pair = (pair[0] or pair[1], pair[1] or pair[0])
                if not logarithmic or min(pair) > 0:
                    values.setdefault(arm, {})[layer] = pair
    layers = _in_order(layer for by_layer in values.values() for layer in by_layer)
    return plot_layers(key, layers, values, styles, label=label, logarithmic=logarithmic) if layers else None


def _plot_curves(
    key: str,
    logs: Logs,
    styles: Styles,
    curve_of: Callable[[RunLog], Curve],
    *,
    label: str,
    loss: bool = False,
) -> Markup:
    """A thin line a run, a thick one for the mean of the finished; for losses a cross where a run diverged."""
    canvas = Canvas(key, height=290)
    axes = canvas.axes
    thick, faint = (2.2, 0.5) if len(logs) <= 6 else (1.6, 0.25)
    highest = _highest(logs, curve_of)  # a diverging loss must not flatten the others
    for arm, runs in logs.items():
        style = styles[arm]
        curves = [(run, curve_of(run.log)) for run in runs]
        for run, curve in curves:
            values = np.minimum(curve.values, highest)
            said = f"{arm}, seed {run.seed}" + ("" if run.status == "finished" else f", {run.status}")
            axes.plot(curve.steps, values, color=style.colour, linewidth=0.8, alpha=faint, gid=canvas.tell(said))
            if loss and run.status == "diverged" and len(curve):
                axes.plot(curve.steps[-1:], values[-1:], "x", color=style.colour, markersize=9, markeredgewidth=2.2,
                          clip_on=False, gid=canvas.tell(f"{said} after step {curve.steps[-1]:.0f}"))  # fmt: skip
        mean = mean_curve([curve for run, curve in curves if run.status == "finished"])
        if len(mean):
            marker = style.marker if len(mean) <= 30 else ""
            axes.plot(
                mean.steps, mean.values, linewidth=thick, marker=marker, gid=canvas.tell(f"{arm}, mean"), **style.line
            )
    if loss:
        canvas.logarithmic("y")
    else:
        canvas.at_least("y", 1.0)
    _plain_steps(canvas)
    axes.set(xlabel="step", ylabel=label)
    return canvas.svg(f"{label} over steps, by arm and seed")


def _highest(logs: Logs, curve_of: Callable[[RunLog], Curve]) -> float:
    """Of the runs that finished, or of all where none did; infinity without any value."""
    curves = [curve_of(run.log) for run in _all(logs) if run.status == "finished"]
    return max((float(curve.values.max()) for curve in curves if len(curve)), default=np.inf)


def _plain_steps(canvas: Canvas) -> None:
    canvas.axes.locator_params(axis="x", nbins=5, integer=True)
    canvas.axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")


def _means(runs: Sequence[LoggedRun], statistic: str) -> dict[str, Curve]:
    """Name → mean over the seeds that have it, of the finished runs, or of all where none finished."""
    chosen = [run for run in runs if run.status == "finished"] or runs
    names = dict.fromkeys(name for run in chosen for name in run.log.diagnostics.get(statistic, {}))
    return {
        name: mean_curve([run.log.diagnostics[statistic][name] for run in chosen if _has(run, statistic, name)])
        for name in names
    }


def _has(run: LoggedRun, statistic: str, name: str) -> bool:
    return name in run.log.diagnostics.get(statistic, {})


def _all(logs: Logs) -> Iterable[LoggedRun]:
    return (run for runs in logs.values() for run in runs)


def _scaled(curve: Curve | None, factor: float) -> Curve:
    return Curve(np.empty(0, np.int64), np.empty(0)) if curve is None else Curve(curve.steps, factor * curve.values)


def _in_order(names: Iterable[str]) -> list[str]:
    """Layers as the data passes them."""

    def place(name: str) -> tuple[float, ...]:
        digits = [int(word) for word in re.findall(r"\d+", name)]
        word = re.match(r"[a-z]*", name)
        late = _LATE.get(word[0] if word else "")
        if late is not None and late > 9:
            return (late,)
        return (*digits[:1], *digits[1:], 0) if digits else (97,)

    return sorted(dict.fromkeys(names), key=lambda name: (*place(name), 0))
