"""This file is about instance norm, with the memory format kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """Give each channel of each image mean 0 and variance 1 over its positions, then scale and shift it.

    Sources:
        D. Ulyanov et al., Instance Normalization (arXiv:1607.08022).

    Differs from ``nn.InstanceNorm2d``, whose place it takes: channels_last maps come back channels_last.

    Shape:
        input ``(B, C, H, W)``; output the same shape and memory format.

    Raises:
        ValueError: in train mode, on maps of one value, whose variance is 0 whatever the image.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[2:].numel() == 1:
            raise ValueError(f"instance norm over one value per channel in train mode; got {tuple(input.shape)}")
        return torch.group_norm(input, self.num_features, self.weight, self.bias, self.eps)
