"""Layer norm and RMS norm over the channels of each position, and instance norm over the positions of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelLayerNorm(nn.LayerNorm):
    r"""Normalise the channels of each position to mean 0 and variance 1, then scale and shift each channel.

    .. math:: y_c = w_c \, (x_c - \bar x) \, / \, \sqrt{\textstyle\frac1C\sum_k (x_k - \bar x)^2 + \epsilon} + b_c

    Sources:
        J. L. Ba et al., Layer Normalization (arXiv:1607.06450); over channels alone as in Z. Liu et al., A ConvNet
        for the 2020s (arXiv:2201.03545).

    Differs from ``nn.LayerNorm``, which normalises the last axes, and from ``nn.GroupNorm(1, C)``, which normalises
    over all positions of an image as well.

    Args:
        num_features: C, the channels of the input.
        eps: added to the variance.
        affine: whether there are a weight and a bias per channel.

    Shape:
        input ``(B, C, …)``; output the same shape and memory format.

    Example:
        >>> ChannelLayerNorm(2)(torch.tensor([[1.0, 3.0]])).round(decimals=3)
        tensor([[-1.,  1.]], grad_fn=<RoundBackward1>)
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__(num_features, eps, elementwise_affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        check_channels(self, input, self.normalized_shape[0])
        affine = _like(self.weight, input), _like(self.bias, input)
        return _channels_back(F.layer_norm(input.movedim(1, -1), self.normalized_shape, *affine, self.eps), input)


class ChannelRMSNorm(nn.RMSNorm):
    r"""Normalise the channels of each position to a mean square of 1, then scale each channel.

    .. math:: y_c = w_c \, x_c \, / \, \sqrt{\textstyle\frac1C\sum_k x_k^2 + \epsilon}

    Equals ``L2Norm`` with scale √C and eps · C: the same layer with another initial length.

    Sources:
        B. Zhang and R. Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467).

    Arguments as of ``ChannelLayerNorm``; there is no bias.

    Shape:
        input ``(B, C, …)``; output the same shape and memory format.

    Example:
        >>> ChannelRMSNorm(2)(torch.tensor([[3.0, 3.0]])).round(decimals=3)
        tensor([[1., 1.]], grad_fn=<RoundBackward1>)
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__(num_features, eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(self, x, self.normalized_shape[0])
        weight = _like(self.weight, x)
        return _channels_back(F.rms_norm(x.movedim(1, -1), self.normalized_shape, weight, self.eps), x)


class InstanceNorm(nn.InstanceNorm2d):
    r"""Normalise each channel of each image to mean 0 and variance 1 over its positions, then scale and shift it.

    .. math::
        y_{cp} = w_c (x_{cp} - \bar x_c) \, / \, \sqrt{\textstyle\frac1P\sum_q (x_{cq} - \bar x_c)^2 + \epsilon} + b_c

    Sources:
        D. Ulyanov et al., Instance Normalization (arXiv:1607.08022).

    Differs from ``nn.InstanceNorm2d``: affine by default, no running statistics, and on a CPU a channels_last input
    gives a channels_last output (on a GPU, PyTorch's group norm gives a contiguous one).

    Shape:
        input ``(B, C, H, W)``; output the same shape and memory format.

    Raises:
        ValueError: other channels; in train mode, maps of one value, whose variance is always 0.

    Example:
        >>> InstanceNorm(1)(torch.tensor([[[[1.0, 3.0]]]])).round(decimals=3)
        tensor([[[[-1.,  1.]]]], grad_fn=<RoundBackward1>)
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__(num_features, eps, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        check_channels(self, input, self.num_features)
        if self.training and input.shape[2:].numel() == 1:
            raise ValueError(f"instance norm over one value per channel in train mode; got {tuple(input.shape)}")
        return torch.group_norm(input, self.num_features, self.weight, self.bias, self.eps)


def check_channels(layer: nn.Module, x: Tensor, channels: int) -> None:
    """Raise a ValueError for an input that is not ``(B, channels, …)``."""
    if x.dim() < 2 or x.shape[1] != channels:
        raise ValueError(f"{type(layer).__name__}({channels}) expects (B, {channels}, …); got {tuple(x.shape)}")


def _like(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    """Cast to the dtype of x: the fused kernels take one dtype and compute statistics in float32."""
    return None if parameter is None else parameter.to(x.dtype)


def _channels_back(y: Tensor, x: Tensor) -> Tensor:
    """``(B, …, C)`` -> ``(B, C, …)`` in the memory format of x."""
    y = y.movedim(-1, 1)
    return y.contiguous() if x.is_contiguous() else y
