"""This file is about ConvBlock: a convolution, its norm, its ReLU and its dropout, in slots that always exist."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ssdnorm.layers.norm_parameters import mark_norm


class ConvBlock(nn.Module):
    """Convolution → norm → ReLU → dropout, the one building block of the backbone and the extra layers.

    The four slots ``conv``, ``norm``, ``relu``, ``dropout`` always exist; an empty one is ``nn.Identity``. So a
    parameter has one name under every norm (``conv4_3.conv.weight``), and one file of weights loads into all of them.

    The convolution keeps its bias under every norm, although a norm that subtracts the mean makes it redundant: then
    all arms of a comparison share the same initial weights by name, and L2Norm and RMS norm, which subtract
    nothing, are treated like the rest.

    Differs from the dropout-free paper and from Caffe's and gluon's batch-norm VGG, which drop or keep the bias
    silently: here dropout and norm are arguments, and the order is fixed. A tap taken before the dropout (SSD's fc7)
    comes from ``before_dropout``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel in cells.
        norm: norm factory ``channels -> Module``, as ``norm_layer`` gives it; None leaves the slot empty.
        stride: step of the kernel in cells.
        padding: zeros added on each side in cells.
        dilation: distance between the taps of the kernel in cells.
        dropout: probability of a zero in [0, 1); 0 leaves the slot empty.

    Shape:
        input ``(B, in_channels, H, W)``; output ``(B, out_channels, H', W')``.

    Example:
        >>> import torch
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
        """Convolution → norm → ReLU: where SSD's fc7 tap is taken. Shape as in ``forward``."""
        return self.relu(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.before_dropout(x))
