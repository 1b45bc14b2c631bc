"""This file is about frozen batch norm: a fixed scale and shift per channel that no training step changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers.sync_batch_norm import SyncBatchNorm


class FrozenBatchNorm(nn.Module):
    r"""Batch norm whose statistics and affine parameters are buffers, the same in train and in eval mode.

    .. math:: y_c = w_c \, (x_c - \mu_c) \, / \, \sqrt{\sigma^2_c + \epsilon} + b_c

    A new layer is the exact identity. The state dict has the names of ``nn.BatchNorm2d``, so weights go both ways.
    Nothing is kept for backward.

    Sources:
        K. He et al., Mask R-CNN (arXiv:1703.06870), section 3.1, and detectron2's layer of the same name.

    Differs from ``torchvision.ops.FrozenBatchNorm2d``: there a new layer multiplies by 0.999995, because the variance
    starts at 1 and eps is added; here the variance starts at 1 - eps, as in detectron2.

    Args:
        num_features: C, the channels of the input.
        eps: added to the variance.

    Shape:
        input ``(B, C, …)``, any float dtype; output the same shape and dtype.

    Example:
        >>> FrozenBatchNorm(2)(torch.tensor([[3.0, 0.1]]))
        tensor([[3.0000, 0.1000]])
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.full((num_features,), 1.0 - eps))

    @classmethod
    def from_batch_norm(cls, norm: nn.Module) -> FrozenBatchNorm:
        """The frozen form of a batch norm (torch's or torchvision's frozen one), with its numbers and its device.

        Raises:
            ValueError: not a batch norm, or one without running statistics.
        """
        if not isinstance(norm, _BatchNorm | FrozenBatchNorm2d | FrozenBatchNorm):
            raise ValueError(f"from_batch_norm: expected a batch norm; got {type(norm).__name__}")
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(f"from_batch_norm: {norm} has no running statistics to freeze")
        frozen = cls(norm.running_mean.numel(), norm.eps).to(norm.running_mean.device, norm.running_mean.dtype)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                if (value := getattr(norm, name)) is not None:
                    getattr(frozen, name).copy_(value)
        return frozen.train(norm.training)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The layer as ``y = scale · x + shift``, each ``(C,)``."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"FrozenBatchNorm({self.num_features}) expects (B, {self.num_features}, …); got {tuple(x.shape)}"
            )
        per_channel = [1, -1] + [1] * (x.dim() - 2)
        scale, shift = self.scale_and_shift()
        return (x * scale.reshape(per_channel)).add_(shift.reshape(per_channel)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # a batch norm has it, a frozen one does not
        super()._load_from_state_dict(state_dict, prefix, *args)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm in a module by its frozen form, so that ``.train()`` cannot thaw it.

    Args:
        module: changed in place, unless it is itself a batch norm. Build the optimizer afterwards: the affine
            parameters are no parameters any more.

    Returns:
        The module, or its frozen form.

    Raises:
        ValueError: a subclass with a forward of its own (timm's BatchNormAct2d), which would lose what it adds.

    Example:
        >>> freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(8))).train()
        Sequential(
          (0): FrozenBatchNorm(8, eps=1e-05)
        )
    """
    if _to_freeze(module, "the module itself"):
        return FrozenBatchNorm.from_batch_norm(module)
    done: dict[int, nn.Module] = {}
    for parent_name, parent in list(module.named_modules()):
        for name, child in list(parent.named_children()):
            if _to_freeze(child, f"{parent_name}.{name}".lstrip(".")):
                setattr(parent, name, done.setdefault(id(child), FrozenBatchNorm.from_batch_norm(child)))
    return module


def is_plain_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that does nothing else (timm's BatchNormAct2d has an activation as well)."""
    forwards = (_BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBatchNorm.forward)
    return isinstance(module, _BatchNorm) and type(module).forward in forwards


def _to_freeze(module: nn.Module, where: str) -> bool:
    if isinstance(module, _BatchNorm) and not is_plain_batch_norm(module):
        raise ValueError(f"freeze_batch_norm: {where} is a {type(module).__name__}, which does more than a batch norm")
    return is_plain_batch_norm(module)
