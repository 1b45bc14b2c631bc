"""This file is about what a demonstration is: a question, a function that measures, a function that draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

Numbers = dict[str, Any]


class Progress(Protocol):
    """Hands on what it is given, one after the other, and may show how far it is: ``tqdm``, or :func:`in_silence`."""

    def __call__(self, items: list[Any], /) -> Iterable[Any]: ...


def in_silence(items: list[Any], /) -> Iterable[Any]:
    """Progress that nobody sees."""
    return items


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of the catalogue.

    Attributes:
        question: what it asks, in a line.
        measure: ``measure(seed=…, progress=…)`` gives numbers that JSON can hold; the same seed, the same numbers.
        draw: those numbers → figures by name. It measures nothing.
        on_photographs: whether ``measure`` also takes ``images`` ``(B, 3, 300, 300)`` and ``weights``, a path.
    """

    question: str
    measure: Callable[..., Numbers]
    draw: Callable[[Numbers], dict[str, Figure]]
    on_photographs: bool = False


def for_json(value: Any) -> Any:
    """Numbers as JSON holds them: tensors become lists, floats keep six digits, and what is not finite becomes None.

    Example:
        >>> for_json({"cost": torch.tensor([1 / 3, float("nan")])})
        {'cost': [0.333333, None]}
    """
    if isinstance(value, dict):
        return {str(name): for_json(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return for_json(value.tolist())
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def generator(seed: int) -> torch.Generator:
    """A stream of random numbers of its own, so that a demonstration depends on its seed alone."""
    return torch.Generator().manual_seed(seed)
