"""One style for every figure: colours, sizes, spines, and how each arm of a comparison is drawn."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogLocator, NullLocator

from ssdnorm.files import write_bytes
from ssdnorm.plots.colors import COLORS, HUES

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "d", "8")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5))
_TEXT, _TICKS = 10, 9
STYLE: Any = {
    "font.size": _TEXT,
    "text.color": COLORS["ink"],
    "text.parse_math": False,
    "axes.axisbelow": True,
    "axes.edgecolor": COLORS["soft"],
    "axes.grid": True,
    "axes.labelcolor": COLORS["soft"],
    "axes.labelsize": _TEXT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLORS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.8,
    "legend.fontsize": _TICKS,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": COLORS["soft"],
    "xtick.labelsize": _TICKS,
    "ytick.color": COLORS["soft"],
    "ytick.labelsize": _TICKS,
}

# Decorator of a plot function: its titles, legends and texts need no options of their own.
styled = matplotlib.rc_context(STYLE)


@styled
def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 7.0,
    height: float = 3.0,
    sharex: bool | Literal["none", "all", "row", "col"] = False,
    sharey: bool | Literal["none", "all", "row", "col"] = False,
) -> tuple[Figure, np.ndarray]:
    """A figure of a size in inches with ``(rows, columns)`` axes in the style, without pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    for each in axes.flat:  # ticks are made when drawn, out of the style's reach
        each.tick_params(color=COLORS["soft"], labelcolor=COLORS["soft"], labelsize=_TICKS)
    return figure, axes


def save(figure: Figure, path: str | Path, *, dpi: int = 150) -> None:
    """Write a figure whole or not at all; the suffix gives the format."""
    encoded = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name in any script
        figure.savefig(encoded, format=Path(path).suffix[1:], dpi=dpi)
    write_bytes(path, encoded.getbuffer(), durable=False)


def widen(axes: Axes, name: Literal["x", "y"], span: float) -> None:
    """Widen an axis to at least ``span`` around its middle, so that tiny differences look tiny."""
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    if high - low < span:
        limits = (low + high - span) / 2, (low + high + span) / 2
        axes.set_xlim(limits) if name == "x" else axes.set_ylim(limits)


def logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """Make an axis logarithmic with plain numbers at its ticks. Call it when everything is drawn."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    axes.set_xscale("log") if name == "x" else axes.set_yscale("log")
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps = (1, 2, 3, 5, 7) if decades < 1.2 else (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn in every figure: colour, marker and dashes together are unique."""

    hue: str  # a name in COLORS
    marker: str
    dashes: tuple[float, ...]

    @property
    def color(self) -> str:
        return COLORS[self.hue]

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a curve."""
        return {"color": self.color, "linestyle": (0, self.dashes) if self.dashes else "-"}

    @property
    def dot(self) -> dict[str, Any]:
        """Arguments of a filled point."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markeredgecolor": COLORS["surface"],
            "markeredgewidth": 0.8,
            "linestyle": "none",
        }

    def swatch(self) -> str:
        """Line and marker as a small SVG element for legends in HTML, coloured by the CSS variable of its hue."""
        marker = MarkerStyle(self.marker)
        outline = marker.get_path().transformed(marker.get_transform()).to_polygons()[0]
        corners = " ".join(f"{14 + 9 * x:.1f},{8 - 9 * y:.1f}" for x, y in np.asarray(outline))
        dashes = f' stroke-dasharray="{" ".join(f"{dash:g}" for dash in self.dashes)}"' if self.dashes else ""
        return (
            '<svg class="swatch" viewBox="0 0 28 16" width="28" height="16" aria-hidden="true" '
            f'style="color:var(--{self.hue})"><path d="M1 8H27" stroke="currentColor" stroke-width="2"{dashes}/>'
            f'<polygon points="{corners}" fill="currentColor"/></svg>'
        )


def arm_styles(names: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """A style for each arm: the baseline in grey, the others in the given order."""
    styles = {baseline: ArmStyle("grey", _MARKERS[0], _DASHES[0])}
    for i, name in enumerate(name for name in names if name != baseline):
        marker = _MARKERS[1 + i % (len(_MARKERS) - 1)]
        styles[name] = ArmStyle(HUES[i % len(HUES)], marker, _DASHES[i // len(HUES) % len(_DASHES)])
    return styles
