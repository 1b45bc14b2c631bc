"""This file is about figures inside an HTML page: matplotlib's SVG with the page's colours, fonts and hover words."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogLocator, NullLocator

# CSS variable → colour on white and on dark ground. Figures are drawn in the first and refer to the variable.
# Arms: after Okabe and Ito, made darker or lighter until each has a contrast of 3 and more; arm-0 is the baseline.
PALETTE = {
    "ink": ("#1c2128", "#e8eaed"),
    "soft": ("#59626d", "#a4adb8"),
    "line": ("#dfe3e8", "#343b44"),
    "surface": ("#fffffe", "#15181c"),
    "arm-0": ("#4a5159", "#c3c9d0"),
    "arm-1": ("#0072b2", "#56b4e9"),
    "arm-2": ("#c84e00", "#ff8a4c"),
    "arm-3": ("#007f5a", "#2bc492"),
    "arm-4": ("#a33b80", "#e58fc4"),
    "arm-5": ("#946800", "#e6b73d"),
    "arm-6": ("#5a4fcf", "#a9a2ff"),
}
INK, SOFT, LINE, SURFACE = (PALETTE[name][0] for name in ("ink", "soft", "line", "surface"))

_NUM_COLOURS = 6  # besides the baseline's
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "d", "8")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5))
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "lines.solid_capstyle": "round",
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
}


@dataclass(frozen=True)
class ArmStyle:
    """What an arm looks like in every figure: colour, marker and dashes together are its own."""

    colour: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a curve."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "-"}

    @property
    def dot(self) -> dict[str, Any]:
        """Arguments of a filled point."""
        return {"color": self.colour, "marker": self.marker, "markeredgecolor": SURFACE, "linestyle": "none"}

    def swatch(self) -> Markup:
        """A small picture of line and marker, for legends; without words, since the arm's name stands beside it."""
        marker = MarkerStyle(self.marker)
        outline = marker.get_path().transformed(marker.get_transform()).to_polygons()[0]
        corners = " ".join(f"{14 + 9 * x:.1f},{8 - 9 * y:.1f}" for x, y in np.asarray(outline))
        dashes = f' stroke-dasharray="{" ".join(f"{dash:g}" for dash in self.dashes)}"' if self.dashes else ""
        colour = _variables(self.colour)
        return Markup(
            f'<svg class="swatch" viewBox="0 0 28 16" width="28" height="16" aria-hidden="true" style="color:{colour}">'
            f'<path d="M1 8H27" stroke="currentColor" stroke-width="2"{dashes}/>'
            f'<polygon points="{corners}" fill="currentColor"/></svg>'
        )


def arm_styles(names: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """A style for each arm, the baseline in grey, the others in the order given."""
    styles = {baseline: ArmStyle(PALETTE["arm-0"][0], _MARKERS[0], _DASHES[0])}
    for place, name in enumerate(name for name in names if name != baseline):
        colour = PALETTE[f"arm-{1 + place % _NUM_COLOURS}"][0]
        marker = _MARKERS[1 + place % (len(_MARKERS) - 1)]
        styles[name] = ArmStyle(colour, marker, _DASHES[place // _NUM_COLOURS % len(_DASHES)])
    return styles


class Canvas:
    """One figure with one set of axes, to be filled through ``axes`` and taken as ``svg``.

    A pixel of the page is a unit of the figure, so that its text has the size that it is given.

    Args:
        key: unique in the page; ids in the SVG begin with it.
        width, height: in pixels.
        left, bottom: of the axes, pixels from the figure's sides; room for tick labels.
        title: above the axes.
    """

    def __init__(
        self, key: str, *, width: int = 400, height: int = 280, left: int = 54, bottom: int = 42, title: str = ""
    ) -> None:
        self._key = key
        self._words: dict[str, str] = {}
        right, top = 10, 26 if title else 10
        sides = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        with matplotlib.rc_context(_STYLE):
            self._figure = Figure(figsize=(width / 72, height / 72), dpi=72)
            self.axes: Axes = self._figure.add_axes(sides)
            if title:
                self.axes.set_title(title, color=INK)

    def tell(self, words: str) -> str:
        """A ``gid`` for an artist that shows these words when the pointer rests on it."""
        gid = f"{self._key}-said-{len(self._words)}"
        self._words[gid] = words
        return gid

    def at_least(self, name: Literal["x", "y"], span: float) -> None:
        """Widen an axis that shows less than the span, so that nothings do not look like something."""
        low, high = getattr(self.axes, f"get_{name}lim")()
        if high - low < span:
            getattr(self.axes, f"set_{name}lim")((low + high - span) / 2, (low + high + span) / 2)

    def logarithmic(self, name: Literal["x", "y"]) -> None:
        """Make an axis logarithmic, with plain numbers beside it; after everything is drawn."""
        axis = {"x": self.axes.xaxis, "y": self.axes.yaxis}[name]
        getattr(self.axes, f"set_{name}scale")("log")
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        steps = (1, 2, 3, 5, 7) if decades < 1.2 else (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")

    def svg(self, alt: str) -> Markup:
        """The figure as an ``<svg>`` element.

        Args:
            alt: what it shows, for those who cannot see it.
        """
        buffer = io.StringIO()
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": self._key}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has it
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return Markup(_for_page(buffer.getvalue(), self._key, alt, self._words))


def _for_page(svg: str, key: str, alt: str, words: dict[str, str]) -> str:
    """Only what the page needs of a file by matplotlib, with ids of its own."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    begin = svg.index("<svg")
    _, width, height = re.search(r'viewBox="0 0 (([\d.]+) ([\d.]+))"', svg[begin:]).groups()  # type: ignore[union-attr]
    body = svg[svg.index(">", begin) + 1 :]
    for gid, said in words.items():
        body = body.replace(f'<g id="{gid}">', f"<g><title>{escape(said, quote=False)}</title>")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r'(<[a-zA-Z]+)? id="([^"]*)"', lambda m: _own_id(m, key, used), body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)  # as one property, or as several
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' (d|x|y|transform|points)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return f"{svg_head(key, float(width), float(height), alt)}\n{_variables(body)}"


def svg_head(key: str, width: float, height: float, alt: str) -> str:
    """How a figure begins: its size, and in words what it shows."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f'viewBox="0 0 {width:g} {height:g}" style="--width:{width:.0f}px"'
    return f'<svg class="plot" id="figure-{key}" {size} role="img" aria-label="{escape(alt)}" {names}>'


def _own_id(match: re.Match[str], key: str, used: set[str]) -> str:
    tag, name = match[1] or "", match[2]
    return f'{tag} id="{key}-{name}"' if name in used else tag


def _variables(svg: str) -> str:
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg
