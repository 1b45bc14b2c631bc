"""Format the numbers of a comparison: metrics in points of 100, intervals, p-values, costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from ssdnorm.compare.results import Mean

NOTHING = "–"


def points(value: float | None) -> str:
    """A metric in points of 100; a dash for None and for COCO's −1 ("no objects").

    Example:
        >>> points(0.2679), points(-1.0), points(None)
        ('26.8', '–', '–')
    """
    return NOTHING if value is None or value < 0 else f"{100 * value:.1f}"


def plain_points(value: float, digits: int | None = None) -> str:
    """A size in points of 100, with two significant digits at least.

    Example:
        >>> plain_points(0.0741), plain_points(0.0041), plain_points(0.31), plain_points(0.031, 1)
        ('7.4', '0.41', '31.0', '3.1')
    """
    return f"{100 * value:.{digits if digits is not None else 1 if value >= 0.01 else 2}f}"


def signed_points(value: float, digits: int = 2) -> str:
    """A difference in points of 100.

    Example:
        >>> signed_points(0.0041), signed_points(-0.012), signed_points(0.00001), signed_points(0.0041, 1)
        ('+0.41', '−1.20', '0.00', '+0.4')
    """
    number = f"{abs(100 * value):.{digits}f}"
    sign = "" if float(number) == 0 else "+" if value > 0 else "−"
    return sign + number


def interval(mean: Mean) -> str:
    """The 95 % interval of a metric's mean in points; empty if there is none.

    Example:
        >>> interval(Mean([0.2, 0.3], 0.25, 0.07, -0.01, 0.5)), interval(Mean([0.2], 0.2, None, None, None))
        ('[−1.0, 50.0]', '')
    """
    if mean.low is None or mean.high is None or mean.mean < 0:
        return ""
    return f"[{100 * mean.low:z.1f}, {100 * mean.high:z.1f}]".replace("-", "−")


def signed_interval(low: float | None, high: float | None) -> str:
    """The interval of a difference in points; empty if there is none.

    Example:
        >>> signed_interval(-0.002, 0.01), signed_interval(None, None)
        ('[−0.20, +1.00]', '')
    """
    return "" if low is None or high is None else f"[{signed_points(low)}, {signed_points(high)}]"


def p_value(p: float | None) -> str:
    """A p-value with three decimals.

    Example:
        >>> p_value(0.0312), p_value(0.00002), p_value(None)
        ('0.031', '< 0.001', '–')
    """
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float | None) -> str:
    """A cost with three significant digits and thin spaces between thousands.

    Example:
        >>> amount(1703456), amount(6.9272), amount(0.01234), amount(None)
        ('1\u202f703\u202f456', '6.93', '0.0123', '–')
    """
    if value is None:
        return NOTHING
    if abs(value) >= 100 or isinstance(value, int):
        return f"{round(value):,}".replace(",", "\u202f")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit.

    Example:
        >>> duration(42.4), duration(1800.7), duration(40000), duration(None)
        ('42 s', '30 min', '11.1 h', '–')
    """
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def in_words(value: Any) -> str:
    """A value of a config or a record on one line.

    Example:
        >>> in_words({"torch": "2.14", "seeds": [0, 1]}), in_words(None), in_words(True)
        ('torch 2.14, seeds 0, 1', 'none', 'yes')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(in_words(inner) for inner in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def breakable(name: str) -> Markup:
    """A name for HTML that may wrap after ``_``, ``-``, ``.`` or ``/``, unless a digit follows.

    Example:
        >>> breakable("batch_norm_conv4_3<")
        Markup('batch_<wbr>norm_<wbr>conv4_3&lt;')
    """
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_\-./])(?=\D)", name))


def shortened(name: str, most: int) -> str:
    """A name of at most ``most`` characters, cut in the middle.

    Example:
        >>> shortened("batch_norm", 20), shortened("backbone_group_norm_16", 13)
        ('batch_norm', 'backbo…orm_16')
    """
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[: most - 1 - half]}…{name[-half:]}"
