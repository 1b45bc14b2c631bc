"""Statistics of a feature map: lengths over the channels, zero positions, dead channels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_PER_OCTAVE = 64  # a bin is 1.1 % wide, which bounds the error of quantiles
_LOWEST, _HIGHEST = -60, 60  # powers of two, 1e-18 … 1e18; the outermost bins also count values beyond
_BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE


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


def root_mean_square(lengths: Tensor, num_channels: int) -> Tensor:
    """Root mean square of the values, from the lengths of their positions.

    Example:
        >>> root_mean_square(torch.tensor([[5.0, 0.0]]), 2)
        tensor(2.5000)
    """
    return (lengths.square().mean() / num_channels).sqrt()


def zero_positions(x: Tensor) -> Tensor:
    """Share of positions at which every channel is exactly 0. Shape: input ``(B, C, …)``, output a number."""
    return _all_zero(x, [1]).float().mean()


def is_dead(x: Tensor) -> Tensor:
    """Which channels are exactly 0 at all positions of the batch. Shape: input ``(B, C, …)``, output ``(C,)``."""
    return _all_zero(x, [0, *range(2, x.dim())])


def _all_zero(x: Tensor, axes: list[int]) -> Tensor:
    return (x.amax(axes) == 0) & (x.amin(axes) == 0)  # False for NaN; twice as fast as comparing every value


class LengthHistogram:
    """Count non-negative numbers in logarithmic bins of constant memory, from which quantiles are read.

    Exact zeros have a bin of their own. Numbers that are not finite are counted separately and excluded from quantiles.

    Example:
        >>> histogram = LengthHistogram()
        >>> histogram.add(torch.tensor([0.0, 1.0, 10.0, 10.0]))
        >>> histogram.zeros, histogram.quantile(0.5), histogram.quantile(1.0)
        (1, 1.0, 10.0)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.sums = np.zeros(_BINS)
        self.zeros = 0
        self.non_finite = 0

    def add(self, lengths: Tensor) -> None:
        """Count the values of a tensor of any shape."""
        flat = lengths.detach().flatten().float()
        finite = flat[flat.isfinite()]
        positive = finite[finite > 0]
        places = ((positive.log2() - _LOWEST) * _PER_OCTAVE).floor().clamp(0, _BINS - 1).long()
        self.counts += torch.bincount(places, minlength=_BINS).cpu().numpy()
        self.sums += torch.bincount(places, positive, minlength=_BINS).cpu().double().numpy()
        self.zeros += finite.numel() - positive.numel()
        self.non_finite += flat.numel() - finite.numel()

    @property
    def total(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum()) + self.zeros

    def quantile(self, q: float) -> float:
        """Quantile ``q`` with an error of at most 1.1 % (the mean of its bin); NaN without values."""
        if self.total == 0:
            return math.nan
        rank = q * (self.total - 1)
        if rank < self.zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), rank - self.zeros, side="right"))
        return float(self.sums[place] / self.counts[place])

    def bins(self, per_octave: int = 4) -> tuple[list[float], list[int]]:
        """Edges and counts of coarser bins, ``per_octave`` per factor of 2 (a divisor of 64), without the zeros."""
        coarse = self.counts.reshape(-1, _PER_OCTAVE // per_octave).sum(1)
        filled = np.flatnonzero(coarse)
        if not len(filled):
            return [], []
        first, last = int(filled[0]), int(filled[-1]) + 1
        edges = 2.0 ** (np.arange(first, last + 1) / per_octave + _LOWEST)
        return edges.tolist(), coarse[first:last].tolist()
