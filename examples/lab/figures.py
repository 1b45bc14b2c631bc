"""The style of the demonstrations' figures: one width, one type size, colours that everybody can tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# M. Okabe, K. Ito, Color Universal Design (2008)
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#8a8a8a",
)
_STYLE: Any = {"font.size": 9.5, "axes.titlesize": 10.5, "legend.fontsize": 8.5, "lines.linewidth": 1.8}


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure 7 inches wide with ``rows × columns`` axes: 700 pixels at 100 dots per inch.

    Args:
        height: inches.
        options: of matplotlib's ``Figure.subplots``, e.g. ``sharey=True``.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.0, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(True, color="#e6e6e6", linewidth=0.8)
        each.set_axisbelow(True)
    return figure, axes


def title(axes: Axes, words: str) -> None:
    """Words above the axes, on the left."""
    axes.set_title(words, loc="left", fontsize=_STYLE["axes.titlesize"])


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a frame, in small type."""
    axes.legend(frameon=False, fontsize=_STYLE["legend.fontsize"], **options)
