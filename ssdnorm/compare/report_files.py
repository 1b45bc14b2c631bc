"""This file is about the report's figures as files of their own, for other documents."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from ssdnorm.compare.report_figures import Styles
from ssdnorm.compare.svg import PALETTE, svg_head
from ssdnorm.files import write_text

_LEGEND_WIDTH = 800  # pixels
_LINE = 24  # pixels of the legend
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif'


def write_figures(html: str, styles: Styles, folder: Path) -> None:
    """Write every figure of a report as ``<name>.svg``, and ``legend.svg``, which most of them need.

    They are the report's own elements; light or dark is the choice of whoever looks at them.

    Args:
        html: the report.
        styles: what is in the legend.
    """
    for found in re.finditer(r'<svg class="plot" id="figure-([^"]+)".*?</svg>', html, flags=re.DOTALL):
        write_text(folder / f"{found[1]}.svg", _standalone(found[0]))
    write_text(folder / "legend.svg", _standalone(_legend(styles)))


def _legend(styles: Styles) -> str:
    x, y, entries = 0, 0, []
    for name, style in styles.items():
        width = 50 + 8 * len(name)
        if x and x + width > _LEGEND_WIDTH:
            x, y = 0, y + _LINE
        text = f'<text x="36" y="13" font-size="13" fill="var(--ink)">{escape(name)}</text>'
        entries.append(f'<g transform="translate({x} {y + 4})">{style.swatch()}{text}</g>')
        x += width
    head = svg_head("legend", _LEGEND_WIDTH, y + _LINE, "Legend: the arms")
    return "\n".join([head, *entries, "</svg>"])


def _standalone(svg: str) -> str:
    """An element of the page with what the page's style sheet does for it."""
    light, dark = (" ".join(f"--{name}: {colours[mode]};" for name, colours in PALETTE.items()) for mode in (0, 1))
    style = (
        f"<style>:root {{ {light} background: var(--surface); font-family: {_FONT}; stroke-linejoin: round; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    )
    head, body = svg.split(">", 1)
    size = re.sub(r'.*viewBox="0 0 (\S+) (\S+)".*', r'width="\1" height="\2"', head)
    return f"{head} {size}>\n{style}{body}\n"
