"""This file is about refusing words of a command line that nothing takes."""

from __future__ import annotations

from collections.abc import Sequence


def no_more_words(rest: Sequence[str]) -> None:
    """Refuse what no option of a command took.

    Raises:
        ValueError: naming the first word.
    """
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see --help")
