"""L2Norm: rescale every position of a feature map to a learnable length."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class L2Norm(nn.Module):
    r"""Rescale every spatial position of a feature map to a learnable length.

    At each position the channel vector :math:`x` becomes

    .. math:: y_c = w_c \, x_c \, / \, \sqrt{\textstyle\sum_k x_k^2 + \epsilon}

    With all weights equal to ``scale`` the output has length ``scale`` everywhere, whatever the length of the
    input. SSD uses it on the conv4_3 tap, whose feature scale differs from that of the later taps. It equals an
    RMS norm over the channels with weight ``scale / √C`` and ``eps / C``.

    Sources:
        W. Liu et al., ParseNet (arXiv:1506.04579), section 3.3: the layer.
        W. Liu et al., SSD (arXiv:1512.02325), section 3.1: conv4_3, scale 20.
        Caffe, branch ssd, ``src/caffe/layers/normalize_layer.cpp``: eps 1e-10, inside the root.

    Differs from the Caffe layer: the sum of squares is taken in float32 even for half-precision input, because 256
    squared already overflows float16. The norm is per position and the weight per channel; Caffe's defaults
    (``across_spatial``, ``channel_shared``) share them. A gradient beyond float16's range is clamped to it, so that an
    all-zero position does not make a mixed-precision step overflow.

    Differs from ``F.normalize(x) * w``, torchvision's form: eps is inside the root, not a floor of the length.

    Args:
        num_features: C, the channels of the input, 1 or more.
        scale: initial value of every weight (a length, unitless).
        eps: added to the sum of squares; above 0, keeps value and gradient finite at x = 0.
        learnable: whether the weight is a parameter; otherwise it is a buffer of the same name.

    Shape:
        input ``(B, C, …)``, any float dtype; output the same shape, dtype and memory format.

    Raises:
        ValueError: num_features below 1, eps not above 0; an input whose second axis is not C.

    Example:
        >>> taps = torch.full((1, 4, 1, 1), 3.0)
        >>> L2Norm(4, scale=20.0)(taps).flatten().tolist()
        [10.0, 10.0, 10.0, 10.0]
    """

    weight: Tensor

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
        if num_features < 1:
            raise ValueError(f"L2Norm: num_features is 1 or more; got {num_features}")
        if not eps > 0:
            raise ValueError(f"L2Norm: eps is above 0, or the gradient at x = 0 is not finite; got {eps}")
        self.num_features = num_features
        self.scale = float(scale)
        self.eps = float(eps)
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
        return _l2_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        learnable = "weight" in self._parameters
        return f"{self.num_features}, scale={self.scale:g}, eps={self.eps:g}, learnable={learnable}"


@torch.fx.wrap  # one node in a torch.fx graph, which cannot follow the branches
def _l2_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    if not torch.jit.is_scripting():
        if x.dim() < 2 or x.shape[1] != weight.shape[0]:
            channels = weight.shape[0]
            raise ValueError(f"L2Norm({channels}) expects (B, {channels}, …); got {tuple(x.shape)}")
        if x.dtype == torch.float16 and x.requires_grad:
            wide = _Widen.apply(x)
    # onnxscript's optimizer treats "+ eps" below 1e-8 as "+ 0" and removes it: scale both terms under the root
    stretch = max(1.0, 1e-6 / eps)
    inverse = torch.rsqrt(wide.square().sum(1, keepdim=True) * stretch + eps * stretch) * math.sqrt(stretch)
    per_channel = weight.to(wide.dtype).reshape([1, -1] + [1] * (x.dim() - 2))
    return (wide * inverse * per_channel).to(x.dtype)


class _Widen(torch.autograd.Function):
    """float16 -> float32 with a gradient that is clamped to float16's range: w / √eps = 2e6 at an all-zero position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        limits = torch.finfo(torch.float16)
        return grad.clamp(limits.min, limits.max).half()
