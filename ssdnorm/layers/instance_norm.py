"""This file is about instance norm, with the memory format kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """Give each channel of each image mean 0 and variance 1 over its positions, then scale and shift it.

    Sources:
        D. Ulyanov et al., Instance Normalization (arXiv:1607.08022).

    Differs from ``nn.InstanceNorm2d``: on a CPU channels_last maps come back channels_last (PyTorch's group norm on a
    GPU gives plain ones), it has a weight and a bias unless told otherwise, and no running statistics.

    Args:
        num_features: C, the channels of the input.
        eps: added to the variance.
        affine: whether there are a weight and a bias per channel.

    Shape:
        input ``(B, C, H, W)``; output the same shape and memory format.

    Raises:
        ValueError: other channels; in train mode, maps of one value, whose variance is 0 whatever the image.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__(num_features, eps, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            expected = f"(B, {self.num_features}, …)"
            raise ValueError(f"InstanceNorm({self.num_features}) expects {expected}; got {tuple(input.shape)}")
        if self.training and input.shape[2:].numel() == 1:
            raise ValueError(f"instance norm over one value per channel in train mode; got {tuple(input.shape)}")
        return torch.group_norm(input, self.num_features, self.weight, self.bias, self.eps)
