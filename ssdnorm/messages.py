"""Suggest the nearest known name in messages about unknown ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(got: object, names: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message that has listed the choices; nothing if none of them is near, whatever their case.

    Args:
        prefix: what the guess is shown with in front.

    Example:
        >>> did_you_mean("Batchnorm", ["batch_norm", "none"]), did_you_mean("zzz", ["none"])
        (" Did you mean 'batch_norm'?", '')
    """
    by_lower = {name.lower(): name for name in reversed(list(names))}
    near = get_close_matches(str(got).lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {prefix + by_lower[near[0]]!r}?" if near else ""
