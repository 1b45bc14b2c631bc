"""Figures as SVG that stands alone and inside a page: dark mode, words on hover, no ids that collide."""

from __future__ import annotations

import io
import warnings
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from ssdnorm.plots.colors import COLORS, css_variables
from ssdnorm.plots.style import STYLE

_SVG = "http://www.w3.org/2000/svg"
_METADATA = ("Creator", "Date", "Format", "Type")  # matplotlib writes them unless they are None
_HOVER = "hover: "
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif'
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def hover(words: str) -> str:
    """A ``gid`` for an artist that shows these words when the pointer rests on it."""
    return _HOVER + words


def figure_to_svg(figure: Figure, key: str, alt: str) -> str:
    """A figure as an ``<svg>`` element of class ``plot``. The same input gives the same string.

    Colours of the palette become CSS variables that the element defines itself, so that it follows the reader's light
    or dark mode in a file of its own as inside a page. Text stays text.

    Args:
        key: unique among the figures of a page; what the figure refers to by id depends on it.
        alt: what the figure shows, for readers who cannot see it.
    """
    buffer = io.BytesIO()
    options = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": key, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser's font has it
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}style":
            element.text = _style_sheet()
        if element.tag == f"{{{_SVG}}}g":  # matplotlib refers to paths and clip paths only
            name = element.attrib.pop("id", "")
            if name.startswith(_HOVER):
                title = ElementTree.Element(f"{{{_SVG}}}title")
                title.text = name.removeprefix(_HOVER)
                element.insert(0, title)
        if style := element.get("style"):
            for variable, color in COLORS.items():
                style = style.replace(color, f"var(--{variable})")
            element.set("style", style)
    width = 1.5 * 72 * figure.get_figwidth()
    root.attrib.update({"class": "plot", "role": "img", "aria-label": alt, "style": f"max-width: {width:.0f}px"})
    return ElementTree.tostring(root, encoding="unicode")


def _style_sheet() -> str:
    light, dark = css_variables()
    return (
        f".plot {{ {light} }} @media (prefers-color-scheme: dark) {{ .plot {{ {dark} }} }} "
        ".plot:root { background: var(--surface) } .plot * { stroke-linejoin: round; stroke-linecap: butt } "
        f".plot text {{ font-family: {_FONT} !important }}"
    )
