"""Where a detector loses AP: bars of the kinds of error."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ssdnorm.metrics.errors import KINDS, ErrorBreakdown
from ssdnorm.plots.colors import COLORS, HUES, IGNORED
from ssdnorm.plots.style import panels, styled

KIND_COLORS = dict(zip(KINDS, (COLORS[HUES[i]] for i in (4, 0, 3, 5, 1, 2)), strict=True))


@styled
def plot_errors(breakdown: ErrorBreakdown) -> Figure:
    """AP lost to each kind of error with its count, and to all false positives and all objects not found."""
    rows = [(kind, breakdown.delta_ap[kind], KIND_COLORS[kind], f"{breakdown.counts[kind]:,}") for kind in KINDS]
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
