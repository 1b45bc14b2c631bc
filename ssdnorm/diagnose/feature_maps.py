"""Statistics of a layer's feature maps: moments, lengths over the channels and their histogram, dead channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST_LENGTHS = 2**18  # of a layer, 1 MB; the 5 % quantile of so many is off by .04 % in rank
_PER_OCTAVE = 8


class LengthHistogram(NamedTuple):
    """Counts of lengths between ascending edges, eight bins per factor of 2; exact zeros are counted apart."""

    edges: list[float]
    counts: list[int]
    zeros: int


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of a layer's maps over all images, or of the gradients of the loss with respect to them.

    Quantiles and histogram are exact up to 262,144 positions; of more positions, half of so many or more are drawn.

    Attributes:
        channels: C, the size of axis 1.
        calls: how often the layer ran.
        mean, std, rms: of the single values; not finite if a value is not.
        length_mean: of the L2 length over the channels at each position.
        length_quantiles: of the finite lengths, by q (0.05, 0.25, 0.5, 0.75, 0.95).
        zero_positions: share of positions of length 0, in float32.
        dead_channels: share of channels that are 0 at all positions of all images.
        non_finite: number of positions whose length is not finite.
        histogram: of the finite lengths.
    """

    channels: int
    calls: int
    mean: float
    std: float
    rms: float
    length_mean: float
    length_quantiles: dict[float, float]
    zero_positions: float
    dead_channels: float
    non_finite: int
    histogram: LengthHistogram

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for JSON; NaN and infinity become None."""
        return {
            **{k: v if math.isfinite(v) else None for k, v in vars(self).items() if isinstance(v, int | float)},
            "length_quantiles": {str(q): v if math.isfinite(v) else None for q, v in self.length_quantiles.items()},
            "histogram": self.histogram._asdict(),
        }


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


class Maps:
    """One layer's maps: moments of the values by call, and the L2 lengths over the channels at each position."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.moments: list[tuple[int, float, float]] = []  # number of values, mean, variance
        self.alive = torch.zeros(channels, dtype=torch.bool)
        self.lengths: list[Tensor] = []  # of some positions
        self.share = 1.0  # of the positions whose lengths are kept
        self.generator = torch.Generator().manual_seed(0)
        self.num_positions, self.sum, self.zeros, self.non_finite = 0, 0.0, 0, 0

    def add(self, x: Tensor) -> None:
        """Count a map ``(B, C, …)``."""
        x = x if x.dtype == torch.float64 else x.float()  # 256 squared already overflows float16
        mean = x.mean()
        variance = (x - mean).square_().mean()  # eight times as fast as torch.var on channels-last maps
        self.moments.append((x.numel(), mean.item(), variance.item()))
        # a NaN is alive; eight times as fast as comparing every value
        self.alive |= (x.abs().sum([0, *range(2, x.dim())]) != 0).cpu()
        lengths = torch.linalg.vector_norm(x, dim=1).flatten().float().cpu()
        self.num_positions += len(lengths)
        self.sum += lengths.sum(dtype=torch.float64).item()
        self.zeros += int((lengths == 0).sum())
        self.non_finite += int((~lengths.isfinite()).sum())
        self.lengths.append(self._draw(lengths, self.share))
        while sum(map(len, self.lengths)) > _MOST_LENGTHS:
            self.lengths = [self._draw(torch.cat(self.lengths), 0.5)]
            self.share /= 2

    def _draw(self, lengths: Tensor, share: float) -> Tensor:
        return lengths if share == 1 else lengths[torch.rand(len(lengths), generator=self.generator) < share]

    def statistics(self) -> MapStatistics:
        """The statistics of all maps counted, one or more."""
        values, means, variances = torch.tensor(self.moments, dtype=torch.float64).T
        weights = values / values.sum()
        mean = float(weights @ means)
        std = math.sqrt(float(weights @ (variances + (means - mean).square())))
        lengths = torch.cat(self.lengths)
        finite = lengths[lengths.isfinite()]
        quantiles = [math.nan] * len(QUANTILES)
        if len(finite):
            quantiles = np.quantile(finite.numpy(), QUANTILES, method="lower").tolist()
        return MapStatistics(
            channels=self.channels,
            calls=len(self.moments),
            mean=mean,
            std=std,
            rms=math.hypot(mean, std),
            length_mean=self.sum / self.num_positions,
            length_quantiles=dict(zip(QUANTILES, quantiles, strict=True)),
            zero_positions=self.zeros / self.num_positions,
            dead_channels=1 - self.alive.float().mean().item(),
            non_finite=self.non_finite,
            histogram=length_histogram(finite),
        )
