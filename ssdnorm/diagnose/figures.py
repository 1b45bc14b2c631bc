"""Figures of a diagnosis: lengths per tap and per layer, learned scales, batch norm's statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from ssdnorm.diagnose.activations import ActivationStatistics, keys_of
from ssdnorm.diagnose.batch_norm_advice import MEAN_SHIFT, VARIANCE_RATIO, BatchNormReport
from ssdnorm.diagnose.feature_maps import QUANTILES, MapStatistics
from ssdnorm.plots.colors import COLORS, HUES
from ssdnorm.plots.style import panels, styled

_BLUE, _ORANGE, _GREEN, _GREY = (COLORS[name] for name in ("blue", "orange", "green", "soft"))


@styled
def plot_lengths(arms: Mapping[str, ActivationStatistics], layers: Sequence[str] | None = None) -> Figure:
    """Histograms of the lengths of channel vectors at the taps, before and after their norms (arXiv:1506.04579).

    A row per tap, a column per arm. A tap without a norm has one histogram.

    Args:
        arms: statistics by name.
        layers: rows; by default the taps and conv5_3, or every layer of a model without taps.
    """
    first = next(iter(arms.values()))
    rows = [key for name in layers for key in keys_of(name, first.activations)] if layers else _tap_rows(first)
    width, height = 1.2 + 5.2 * len(arms), 1.2 + 0.62 * len(rows)
    figure, axes = panels(1, len(arms), width=width, height=height, sharex=True, sharey=True)
    for column, (ax, (arm, found)) in enumerate(zip(axes[0], arms.items(), strict=True)):
        for y, name in enumerate(rows):
            before, after = found.activations.get(name), found.activations.get(f"tap {name}")
            is_normed = before is not None and after is not None and before.length_mean != after.length_mean
            for row, colour in ((before, _BLUE), (after if is_normed else None, _ORANGE)):
                if row is not None:
                    _ridge(ax, row, y, colour)
            shown = before or after
            if shown is not None:
                words = _number(shown.length_quantiles[0.5])
                words += f" → {_number(after.length_quantiles[0.5])}" if is_normed and after is not None else ""
                ax.annotate(words, (1.01, y - 0.1), xycoords=("axes fraction", "data"), fontsize=8, color=_GREY)
        ax.set_xscale("log")
        ax.set_xlabel("L2 length over the channels")
        ax.set_title(arm)
        ax.annotate("median", (1.01, -0.85), xycoords=("axes fraction", "data"), fontsize=8, color=_GREY)
        if column == 0:
            ax.set_yticks(range(len(rows)), rows)
            ax.set_ylim(len(rows) - 0.4, -1.0)
            ax.plot([], [], color=_BLUE, linewidth=6, alpha=0.5, label="before its norm slot")
            ax.plot([], [], color=_ORANGE, linewidth=6, alpha=0.5, label="after")
        ax.grid(False, axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def plot_depth(arms: Mapping[str, ActivationStatistics]) -> Figure:
    """Lengths per layer: median, middle half and 5 to 95 %; mean gradients below if there are any.

    Gradients are drawn by their mean: the loss depends on few positions, so their median is 0.
    """
    with_gradients = any(found.gradients for found in arms.values())
    names = [name for name in next(iter(arms.values())).activations if not name.startswith("tap ")]
    width = max(4.6, 0.24 * len(names))
    rows = 1 + with_gradients
    figure, grid = panels(rows, len(arms), width=1 + width * len(arms), height=3.4 * rows, sharex=True, sharey="row")
    for column, (arm, found) in enumerate(arms.items()):
        _bands(grid[0][column], names, found.activations)
        grid[0][column].set_title(arm)
        if with_gradients:
            means = np.array([found.gradients[name].length_mean if name in found.gradients else 0 for name in names])
            grid[1][column].plot(np.arange(len(names)), np.where(means > 0, means, np.nan), ".-", color=_GREEN)
            grid[1][column].set_yscale("log")
        grid[-1][column].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    grid[0][0].set_ylabel("L2 length of activations")
    if with_gradients:
        grid[1][0].set_ylabel("mean L2 length of the loss's gradient")
    return figure


@styled
def plot_scales(arms: Mapping[str, Mapping[str, Tensor]], initial: Mapping[str, float]) -> Figure:
    """Sorted weights of each tap norm, a colour per arm.

    Args:
        arms: weights ``(C,)`` by tap, by arm.
        initial: value of all weights of a tap before training, drawn as a line.
    """
    taps = list(dict.fromkeys(name for weights in arms.values() for name in weights))
    figure, axes = panels(1, len(taps), width=1 + 3.6 * len(taps), height=3.4)
    for ax, tap in zip(axes[0], taps, strict=True):
        for (arm, weights), hue in zip(arms.items(), cycle(HUES)):
            if tap in weights:
                values = np.sort(weights[tap].float().cpu().numpy())
                label = f"{arm}: mean {values.mean():.2f}"
                ax.plot(np.linspace(0, 1, len(values)), values, color=COLORS[hue], label=label)
        if tap in initial:
            ax.axhline(initial[tap], color=_GREY, linewidth=1, linestyle="--", label=f"initial value {initial[tap]:g}")
        ax.set(xlabel="channels, sorted by weight (share)", ylabel="learned scale")
        ax.set_title(tap)
        ax.legend()
    return figure


@styled
def plot_batch_norm(report: BatchNormReport) -> Figure:
    """Running and batch statistics per layer against the population's, and the effect of momentum and batch size."""
    figure, ((means, variances), (mean_curves, variance_curves)) = panels(2, 2, width=11, height=7.6)
    x = np.arange(len(report.layers))
    for kind, colour, marker in (("running", _BLUE, "o"), ("batch", _ORANGE, ".")):
        label = kind if kind == "running" else f"one batch of {report.batch_size}"
        found = [getattr(row, kind) for row in report.layers]
        means.plot(x, [row.mean_shift for row in found], marker + "-", color=colour, label=label)
        variances.plot(x, [row.variance_ratio for row in found], marker + "-", color=colour, label=label)
    means.axhline(MEAN_SHIFT, color=_GREY, linewidth=1, linestyle="--", label="advice from here on")
    for line in (1 / VARIANCE_RATIO, VARIANCE_RATIO):
        variances.axhline(line, color=_GREY, linewidth=1, linestyle="--")
    means.set_ylabel("distance of means (σ)")
    variances.set_ylabel("variance / population's")
    variances.set_yscale("log", base=2)
    variances.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    variances.yaxis.set_minor_formatter(NullFormatter())
    short = [row.name.removesuffix(".norm").rpartition(".")[2] or row.name for row in report.layers]
    for ax in (means, variances):
        ax.set_xticks(x, short, rotation=90, fontsize=7)
        ax.legend()
    curves = report.curves
    for ax, errors, words in (
        (mean_curves, curves.mean_error, "error of running means (σ)"),
        (variance_curves, curves.variance_error, "error of running variances (share)"),
    ):
        for i, (size, row) in enumerate(zip(curves.batch_sizes, errors, strict=True)):
            shade = 0.3 + 0.7 * (i + 1) / len(curves.batch_sizes)
            ax.plot(curves.momenta, row, ".-", color=_GREEN, alpha=shade, label=f"batch of {size}")
        ax.set(xscale="log", yscale="log", xlabel="momentum", ylabel=f"expected {words}")
        ax.legend()
    return figure


def _tap_rows(found: ActivationStatistics) -> list[str]:
    taps = [name.removeprefix("tap ") for name in found.activations if name.startswith("tap ")]
    if not taps:
        return list(found.activations)
    return [name for name in found.activations if name in {*taps, "conv5_3"}]


def _ridge(ax: Axes, row: MapStatistics, y: float, colour: str) -> None:
    """The histogram with its base at ``y`` and height 0.8; a logarithmic axis cannot show positions of length 0."""
    edges, counts, _ = row.histogram
    if not counts:
        return
    heights = 0.8 * np.asarray(counts) / max(counts)
    ax.stairs(y - heights, edges, baseline=y, fill=True, color=colour, alpha=0.5, linewidth=0)
    ax.stairs(y - heights, edges, baseline=y, color=colour, linewidth=1)


def _bands(ax: Axes, names: Sequence[str], rows: Mapping[str, MapStatistics]) -> None:
    x = np.arange(len(names))
    quantiles = np.array([[rows[name].length_quantiles[q] if name in rows else 0 for q in QUANTILES] for name in names])
    p05, p25, median, p75, p95 = np.where(quantiles > 0, quantiles, np.nan).reshape(-1, len(QUANTILES)).T
    ax.fill_between(x, p05, p95, color=_BLUE, alpha=0.15, linewidth=0, label="5 – 95 %")
    ax.fill_between(x, p25, p75, color=_BLUE, alpha=0.3, linewidth=0, label="25 – 75 %")
    ax.plot(x, median, ".-", color=_BLUE, label="median")
    if (quantiles > 0).any():  # matplotlib refuses a logarithmic axis without a value
        ax.set_yscale("log")
    ax.legend()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
