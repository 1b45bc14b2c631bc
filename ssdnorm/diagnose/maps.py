"""This file is about the numbers that one feature map is described by."""

from __future__ import annotations

import torch
from torch import Tensor


def position_lengths(x: Tensor) -> Tensor:
    """L2 length over the channels at each position: the quantity of ParseNet's figure, and what L2Norm divides by.

    Computed in float32 at least: 256 squared already overflows float16.

    Shape:
        input ``(B, C, …)``; output ``(B, …)``.

    Example:
        >>> position_lengths(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]))
        tensor([[5., 0.]])
    """
    return torch.linalg.vector_norm(_wide(x), dim=1)


def root_mean_square(lengths: Tensor, num_channels: int) -> Tensor:
    """RMS of the single values, from the lengths of their positions.

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


def dead_channels(x: Tensor) -> Tensor:
    """Share of channels that are exactly 0 at all positions of the batch."""
    return is_dead(x).float().mean()


def _all_zero(x: Tensor, axes: list[int]) -> Tensor:
    return (x.amax(axes) == 0) & (x.amin(axes) == 0)  # NaN is not zero; twice as fast as comparing every value


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
