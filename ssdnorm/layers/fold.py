"""This file is about folding batch norm into the convolution before it, for inference."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers.conv import ConvBlock
from ssdnorm.layers.frozen_batch_norm import FrozenBatchNorm, is_plain_batch_norm


def fold_batch_norm(model: nn.Module) -> nn.Module:
    r"""A copy of the model in eval mode in which convolutions have taken in the batch norm after them.

    .. math:: w' = s \, w \qquad b' = s \, (b - \mu) + \beta \qquad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    Folded are the pairs whose order is certain: the conv and norm of a ``ConvBlock``, and neighbours in an
    ``nn.Sequential``; batch, synchronised and frozen norms with running statistics. The slot keeps its place
    (``nn.Identity``). Every other norm stays. The numbers are computed in float64.

    Example:
        >>> from ssdnorm.layers.norms import norm_layer
        >>> fold_batch_norm(ConvBlock(3, 8, 3, norm=norm_layer("batch_norm"))).norm
        Identity()
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvBlock):
            if _can_fold(module.conv, module.norm):
                _fold(module.conv, module.norm)
                module.norm = nn.Identity()
        elif isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if _can_fold(module[i], module[i + 1]):
                    _fold(module[i], module[i + 1])
                    module[i + 1] = nn.Identity()
    return folded


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    if not isinstance(conv, nn.Conv2d):
        return False
    if isinstance(norm, FrozenBatchNorm | FrozenBatchNorm2d):
        return True
    return is_plain_batch_norm(norm) and norm.running_mean is not None


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    frozen = FrozenBatchNorm.from_batch_norm(norm).double()
    scale, shift = frozen.scale_and_shift()
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias.double()
    conv.weight.copy_(conv.weight.double() * scale.reshape(-1, 1, 1, 1))
    conv.bias = nn.Parameter((bias * scale + shift).to(conv.weight.dtype))
