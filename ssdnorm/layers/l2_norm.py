"""This file is about L2Norm, the layer that rescales every position of a feature map to a learnable length."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _l2_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula in plain operations, for compilers and exporters."""
    wide = x if x.dtype == torch.float64 else x.float()
    per_channel = weight.to(wide.dtype).reshape([1, -1] + [1] * (x.dim() - 2))
    return (wide * torch.rsqrt(wide.square().sum(1, keepdim=True) + eps) * per_channel).to(x.dtype)


class L2Norm(nn.Module):
    r"""Rescale every spatial position of a feature map to a learnable length.

    At each position the channel vector :math:`x` becomes

    .. math:: y_c = w_c \, x_c \, / \, \sqrt{\textstyle\sum_k x_k^2 + \epsilon}

    With all weights equal to ``scale`` the output has length ``scale`` everywhere, whatever the length of the
    input. SSD uses it on the conv4_3 tap, whose feature scale differs from that of the later taps.

    Sources:
        W. Liu et al., ParseNet (arXiv:1506.04579): the layer.
        W. Liu et al., SSD (arXiv:1512.02325): conv4_3, scale 20.

    Differs from the Caffe layer: the sum of squares is taken in float32 even for half-precision input,
    because 256 squared already overflows float16.

    Args:
        num_features: C, the channels of the input.
        scale: initial value of every weight (a length, unitless).
        eps: added to the sum of squares; keeps the gradient finite at x = 0.
        learnable: whether the weight is a parameter; otherwise it is a buffer of the same name.

    Shape:
        input ``(B, C, …)``, any float dtype; output the same shape and dtype.

    Example:
        >>> taps = torch.full((1, 4, 1, 1), 3.0)
        >>> L2Norm(4, scale=20.0)(taps).flatten().tolist()
        [10.0, 10.0, 10.0, 10.0]
    """

    def __init__(
        self,
        num_features: int,
        scale: float = 20.0,
        eps: float = 1e-10,
        *,
        learnable: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.scale = scale
        self.eps = eps
        weight = torch.empty(num_features, device=device, dtype=dtype)
        if learnable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every weight to ``scale``."""
        with torch.no_grad():
            self.weight.fill_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"L2Norm({self.num_features}) expects (B, {self.num_features}, …); got {tuple(x.shape)}")
        return _l2_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        fixed = "" if isinstance(self.weight, nn.Parameter) else ", learnable=False"
        return f"{self.num_features}, scale={self.scale}, eps={self.eps}{fixed}"
