"""Combine convolution, norm, ReLU and dropout in a block; fold batch norm into convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssdnorm.layers.batch_norm import FrozenBatchNorm, frozen_batch_norm_types, is_plain_batch_norm
from ssdnorm.layers.norms import mark_norm


class ConvBlock(nn.Module):
    """Convolution → norm → ReLU → dropout, the building block of the backbone and the extra layers.

    The four slots ``conv``, ``norm``, ``relu``, ``dropout`` always exist; an empty one is ``nn.Identity``. A parameter
    therefore has the same name under every norm (``conv4_3.conv.weight``), and one weights file loads into all of them.

    The convolution keeps its bias under every norm, although a norm that subtracts the mean makes it redundant: all
    arms of a comparison then share their initial weights by name.

    Differs from Caffe's and gluon's batch-norm VGG, which drop or keep the bias implicitly, and from the paper, which
    has no dropout. A tap taken before the dropout (SSD's fc7) comes from ``before_dropout``.

    Args:
        kernel_size: side of the square kernel in cells.
        norm: norm factory ``channels -> Module``, as ``norm_layer`` returns it; None leaves the slot empty.
        stride, padding, dilation: in cells, as of ``nn.Conv2d``.
        dropout: probability of a zero in [0, 1); 0 leaves the slot empty.

    Shape:
        input ``(B, in_channels, H, W)``; output ``(B, out_channels, H', W')``.

    Example:
        >>> from ssdnorm.layers.norms import norm_layer
        >>> block = ConvBlock(3, 8, 3, norm=norm_layer("batch_norm"), padding=1)
        >>> block(torch.zeros(2, 3, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
        >>> block.dropout
        Identity()
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"ConvBlock: dropout is the probability of a zero, in [0, 1); got {dropout}")
        if isinstance(norm, str):
            raise ValueError(f"ConvBlock: norm is a factory, channels -> Module; got {norm!r}; use norm_layer")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation)
        self.norm = nn.Identity() if norm is None else mark_norm(norm(out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def before_dropout(self, x: Tensor) -> Tensor:
        """Convolution → norm → ReLU, the place of SSD's fc7 tap. Shape as in ``forward``."""
        return self.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.before_dropout(x))


def fold_batch_norm(model: nn.Module) -> nn.Module:
    r"""Copy a model for inference, with batch norms folded into the convolutions before them.

    .. math:: w' = s \, w \qquad b' = s \, (b - \mu) + \beta \qquad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    Folds batch, synchronised and frozen norms with running statistics wherever the order is certain: the conv and norm
    of a ``ConvBlock``, and neighbours in an ``nn.Sequential``. A folded norm becomes ``nn.Identity``; all other norms
    stay, also those after a convolution that stands in several places. The weights are computed in float64. The copy is
    in eval mode.

    Example:
        >>> from ssdnorm.layers.norms import norm_layer
        >>> fold_batch_norm(ConvBlock(3, 8, 3, norm=norm_layer("batch_norm"))).norm
        Identity()
    """
    folded = copy.deepcopy(model).eval()
    uses = Counter(child for parent in folded.modules() for child in parent._modules.values())
    for module in folded.modules():
        if isinstance(module, ConvBlock) and uses[module.conv] == 1:
            module.norm = _fold(module.conv, module.norm)
        elif isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if uses[module[i]] == 1:
                    module[i + 1] = _fold(module[i], module[i + 1])
    return folded


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """Fold a norm into a convolution if both can be; returns what replaces the norm."""
    has_statistics = is_plain_batch_norm(norm) and norm.running_mean is not None
    if not isinstance(conv, nn.Conv2d) or not (has_statistics or isinstance(norm, frozen_batch_norm_types())):
        return norm
    scale, shift = FrozenBatchNorm.from_batch_norm(norm).double().scale_and_shift()
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale.reshape(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype))  # a new one: another convolution may share the old
    conv.bias = nn.Parameter((bias * scale + shift).to(conv.weight.dtype))
    return nn.Identity()
