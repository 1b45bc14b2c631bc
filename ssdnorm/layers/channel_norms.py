"""This file is about layer norm and RMS norm over the channels at each position of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _check(layer: nn.Module, num_features: int, x: Tensor) -> None:
    if x.dim() < 2 or x.shape[1] != num_features:
        name = type(layer).__name__
        raise ValueError(f"{name}({num_features}) expects (B, {num_features}, …); got {tuple(x.shape)}")


class ChannelLayerNorm(nn.Module):
    """Layer norm over channels."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        _check(self, self.num_features, x)
        y = nn.functional.layer_norm(x.movedim(1, -1), (self.num_features,), self.weight, self.bias, self.eps)
        return y.movedim(-1, 1)


class ChannelRMSNorm(nn.Module):
    """RMS norm over channels."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        _check(self, self.num_features, x)
        y = nn.functional.rms_norm(x.movedim(1, -1), (self.num_features,), self.weight, self.eps)
        return y.movedim(-1, 1)
