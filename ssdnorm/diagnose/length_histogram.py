"""This file is about a histogram of lengths over all magnitudes, from which quantiles are read."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_PER_OCTAVE = 64  # a bin is 1.1 % wide, and so no quantile is further off
_LOWEST, _HIGHEST = -60, 60  # powers of two: 1e-18 … 1e18; what lies outside is counted in the outermost bins
_BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE


class LengthHistogram:
    """Counts of non-negative numbers in bins of equal ratio, and of exact zeros; its size does not grow with the data.

    Numbers that are not finite are counted apart and are in no quantile.

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
        """Count all of them; any shape."""
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
        """How many finite numbers were counted."""
        return int(self.counts.sum()) + self.zeros

    def quantile(self, q: float) -> float:
        """The number below which a share ``q`` lies, to 1.1 %: its bin's mean; NaN where nothing was counted."""
        if self.total == 0:
            return math.nan
        rank = q * (self.total - 1)
        if rank < self.zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), rank - self.zeros, side="right"))
        return float(self.sums[place] / self.counts[place])

    def bins(self, per_octave: int = 4) -> tuple[list[float], list[int]]:
        """Edges and counts of coarser bins from the smallest to the largest number counted; the zeros are left out.

        Args:
            per_octave: bins from a number to its double; a divisor of 64.
        """
        if _PER_OCTAVE % per_octave:
            raise ValueError(f"per_octave: a divisor of {_PER_OCTAVE}; got {per_octave}")
        coarse = self.counts.reshape(-1, _PER_OCTAVE // per_octave).sum(1)
        filled = np.flatnonzero(coarse)
        if not len(filled):
            return [], []
        first, last = int(filled[0]), int(filled[-1]) + 1
        edges = 2.0 ** (np.arange(first, last + 1) / per_octave + _LOWEST)
        return edges.tolist(), coarse[first:last].tolist()
