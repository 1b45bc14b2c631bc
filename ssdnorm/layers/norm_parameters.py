"""This file is about which modules are norms, and so which parameters of a model belong to norms."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from ssdnorm.layers.frozen_batch_norm import FrozenBatchNorm
from ssdnorm.layers.l2_norm import L2Norm

NORM_TYPES: tuple[type[nn.Module], ...] = (
    L2Norm,
    FrozenBatchNorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    _NormBase,  # torch's batch, sync-batch and instance norms, whatever their dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    FrozenBatchNorm2d,
)
_MARK = "is_ssdnorm_norm"


def mark_norm(module: nn.Module) -> nn.Module:
    """Mark a module as a norm, whatever its class, and return it. Marks survive deepcopy and pickle."""
    setattr(module, _MARK, True)
    return module


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: an instance of ``NORM_TYPES``, or marked by ``mark_norm``."""
    return isinstance(module, NORM_TYPES) or getattr(module, _MARK, False)


def norm_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters that belong to norms, as in ``model.named_parameters()``."""
    shared = {id(parameter) for module in model.modules() if is_norm(module) for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in shared}
