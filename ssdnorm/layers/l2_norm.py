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

    In eager mode autograd saves only the input and one number per position for backward; the formula in plain
    operations would save twice the input. Compilers and exporters see the plain operations.

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
    if torch.jit.is_scripting():
        return _plain_l2_norm(x, weight, eps)
    if x.dim() < 2 or x.shape[1] != weight.shape[0]:
        channels = weight.shape[0]
        raise ValueError(f"L2Norm({channels}) expects (B, {channels}, …); got {tuple(x.shape)}")
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return _plain_l2_norm(x, weight, eps)
    if torch.compiler.is_compiling():
        wide = _Widen.apply(x) if x.dtype == torch.float16 else x
        return _plain_l2_norm(wide, weight, eps).to(x.dtype)
    y: Tensor = _L2NormFunction.apply(x, weight, eps)[0]
    return y


def _plain_l2_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula in plain operations, for compilers and exporters."""
    wide = _wide(x)
    # onnxscript's optimizer treats "+ eps" below 1e-8 as "+ 0" and removes it: scale both terms under the root
    stretch = max(1.0, 1e-6 / eps)
    inverse = torch.rsqrt(wide.square().sum(1, keepdim=True) * stretch + eps * stretch) * math.sqrt(stretch)
    return (wide * inverse * _per_channel(weight, wide)).to(x.dtype)


def _plain_backward(x: Tensor, weight: Tensor, eps: float, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients in plain operations, which autograd can differentiate again."""
    wide, grad = _wide(x), _wide(grad)
    per_channel, inverse = _per_channel(weight, wide), _inverse_length(wide, eps)
    product = grad * wide
    along = (product * per_channel).sum(1, keepdim=True) * inverse.square()
    grad_x = (grad * per_channel - wide * along) * inverse
    return _narrow(grad_x, x.dtype), _sum_over_positions(product * inverse).to(weight.dtype)


class _L2NormFunction(torch.autograd.Function):
    """The same in few passes over memory; saves only the input and one number per position for backward."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = _wide(x)
        if wide.stride(1) == 1:  # channels innermost, so a sum over them reads memory in order
            inverse = torch.linalg.vector_norm(wide, dim=1, keepdim=True).square_().add_(eps).rsqrt_()
            y = wide * _per_channel(weight, wide)
        else:
            y = wide.square()
            inverse = y.sum(1, keepdim=True).add_(eps).rsqrt_()
            torch.mul(wide, _per_channel(weight, wide), out=y)
        return y.mul_(inverse).to(x.dtype), inverse

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, _: None) -> tuple[Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = _wide(x)
        y_tangent = torch.zeros_like(wide)
        if x_tangent is not None:
            along = (wide * x_tangent).sum(1, keepdim=True) * inverse.square()
            y_tangent = (x_tangent - wide * along) * inverse * _per_channel(weight, wide)
        if weight_tangent is not None:
            y_tangent = y_tangent + wide * inverse * _per_channel(weight_tangent, wide)
        return y_tangent.to(x.dtype), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[tuple[Tensor, Tensor], Any]:
        def both(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            return _plain_l2_norm(x, weight, eps), _inverse_length(_wide(x), eps)

        return torch.func.vmap(both, in_dims[:2])(x, weight), (0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        x, weight, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, output[1])
        ctx.save_for_forward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *_plain_backward(x, weight, ctx.eps, grad), None
        wide, grad = _wide(x), _wide(grad)
        per_channel = _per_channel(weight, wide)
        product = grad * wide
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            along = (product * per_channel).sum(1, keepdim=True).mul_(inverse).mul_(inverse)
            grad_x = _narrow((grad * per_channel).addcmul_(wide, along, value=-1).mul_(inverse), x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = _sum_over_positions(product.mul_(inverse)).to(weight.dtype)
        return grad_x, grad_weight, None


class _Widen(torch.autograd.Function):
    """float16 -> float32; the gradient stays finite when it is cast back."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.float()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _narrow(grad, torch.float16)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _narrow(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a gradient; at an all-zero position it is w / √eps = 2e6, which overflows float16."""
    if dtype == torch.float16:
        grad = grad.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return grad.to(dtype)


def _per_channel(weight: Tensor, x: Tensor) -> Tensor:
    return weight.to(x.dtype).reshape([1, -1] + [1] * (x.dim() - 2))


def _inverse_length(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().sum(1, keepdim=True) + eps)


def _sum_over_positions(x: Tensor) -> Tensor:
    return x.sum([0, *range(2, x.dim())])
