"""The palette of all figures and pictures, distinguishable with colour blindness."""

from __future__ import annotations

# Name → colour on white and on dark ground. Hues after Okabe and Ito (Color Universal Design, 2008), darkened or
# lightened until each has a contrast of 3 with its ground (4.5 for text: ink, soft).
PALETTE = {
    "ink": ("#1c2128", "#e8eaed"),
    "soft": ("#59626d", "#a4adb8"),
    "line": ("#dfe3e8", "#343b44"),
    "surface": ("#fffffe", "#15181c"),
    "grey": ("#4a5159", "#c3c9d0"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#c84e00", "#ff8a4c"),
    "green": ("#007f5a", "#2bc492"),
    "pink": ("#a33b80", "#e58fc4"),
    "ochre": ("#946800", "#e6b73d"),
    "violet": ("#5a4fcf", "#a9a2ff"),
}
COLORS = {name: light for name, (light, _) in PALETTE.items()}
HUES = ("blue", "orange", "green", "pink", "ochre", "violet")

# Boxes on photographs, drawn on a dark edge: light, so that black captions can be read on them.
BOX_COLORS = ("#62c4ff", "#ffb02e", "#7ee787", "#ff8ad4", "#fff04d", "#c9b0ff")

# States of a box: a hit or an object that was found; a false positive; an object that was not found; crowd regions;
# an object beside no detections.
HIT, WRONG, MISSED, IGNORED, OBJECT = "#00c853", COLORS["orange"], COLORS["pink"], "#b0b0b0", "#ffffff"


def css_variables() -> tuple[str, str]:
    """The palette as CSS declarations: on white ground, and on dark ground.

    Example:
        >>> css_variables()[1].split("; ")[0]
        '--ink: #e8eaed'
    """
    light, dark = ("; ".join(f"--{name}: {both[mode]}" for name, both in PALETTE.items()) for mode in (0, 1))
    return light, dark


def relative_luminance(color: str) -> float:
    """Relative luminance of a ``#rrggbb`` colour, 0 for black to 1 for white.

    Sources:
        WCAG 2.2, definition of relative luminance.
    """
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_color(ground: str) -> str:
    """Black or white, whichever has the higher contrast with a ``#rrggbb`` ground."""
    return "#000000" if relative_luminance(ground) > 0.179 else "#ffffff"  # where both contrasts are equal
