"""Batch norm: its frozen form, and checks for its usual pitfalls."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ssdnorm.layers.channel_norms import check_channels
from ssdnorm.layers.modes import restore_modes, run_on_shapes


class FrozenBatchNorm(nn.Module):
    r"""Batch norm with fixed statistics and affine parameters, the same in train and eval mode.

    .. math:: y_c = w_c \, (x_c - \mu_c) \, / \, \sqrt{\sigma^2_c + \epsilon} + b_c

    All four are buffers. A new layer is the exact identity. The state dict has the names of ``nn.BatchNorm2d``, so
    weights load in both directions. Nothing is saved for backward.

    Sources:
        K. He et al., Mask R-CNN (arXiv:1703.06870), section 3.1, and detectron2's layer of the same name.

    Differs from ``torchvision.ops.FrozenBatchNorm2d``, whose new layer multiplies by 0.999995 because eps is added to a
    variance of 1; here the variance starts at 1 - eps, as in detectron2.

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
        """Copy a batch norm (torch's, or torchvision's frozen one) with its values and device.

        Raises:
            ValueError: not a batch norm, or one without running statistics.
        """
        if not isinstance(norm, (_BatchNorm, *frozen_batch_norm_types())):
            raise ValueError(f"from_batch_norm: expected a batch norm; got {type(norm).__name__}")
        mean, eps = getattr(norm, "running_mean", None), getattr(norm, "eps", 0.0)
        if mean is None:
            raise ValueError(f"from_batch_norm: {norm} has no running statistics to freeze")
        frozen = cls(mean.numel(), eps).to(mean.device, mean.dtype)
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
        check_channels(self, x, self.num_features)
        per_channel = [1, -1] + [1] * (x.dim() - 2)
        scale, shift = self.scale_and_shift()
        return (x * scale.reshape(per_channel)).add_(shift.reshape(per_channel)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # saved by batch norm, absent here
        super()._load_from_state_dict(state_dict, prefix, *args)


def frozen_batch_norm_types() -> tuple[type[nn.Module], ...]:
    """``FrozenBatchNorm``, and torchvision's where torchvision is loaded (before that, no instance of it can exist)."""
    torchvision = sys.modules.get("torchvision.ops.misc")
    return (FrozenBatchNorm,) if torchvision is None else (FrozenBatchNorm, torchvision.FrozenBatchNorm2d)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm in a module by its frozen form, so that ``.train()`` has no effect on it.

    Build the optimizer afterwards: the affine parameters become buffers.

    Returns:
        The module, changed in place; if it is itself a batch norm, its frozen form.

    Raises:
        ValueError: a subclass with a forward of its own (timm's BatchNormAct2d), which would lose what it adds.

    Example:
        >>> freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(8))).train()
        Sequential(
          (0): FrozenBatchNorm(8, eps=1e-05)
        )
    """
    frozen: dict[int, nn.Module] = {}  # a norm that several parents share stays shared
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if is_plain_batch_norm(child):
            norm = frozen.setdefault(id(child), FrozenBatchNorm.from_batch_norm(child))
            if child is module:
                return norm
            parent, _, own_name = name.rpartition(".")
            setattr(module.get_submodule(parent), own_name, norm)
        elif isinstance(child, _BatchNorm):
            where, kind = name or "the module itself", type(child).__name__
            raise ValueError(f"freeze_batch_norm: {where} is a {kind}, which does more than a batch norm")
    return module


def is_plain_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm and nothing more (timm's BatchNormAct2d also applies an activation)."""
    return isinstance(module, _BatchNorm) and type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def check_batch_statistics(model: nn.Module, input_shape: Sequence[int], *, world_size: int = 1) -> None:
    """Reject a model in which a norm would compute train-mode statistics over a single value per channel.

    The variance of one value is 0, and PyTorch raises at the first step; SSD's last map is 1×1, so a batch of one image
    is enough. Batch and instance norms in eval mode are not checked. A group norm with one value per group is rejected
    in any mode, because its output does not depend on the image. The model runs once on shapes alone (the meta device);
    its weights, statistics and modes do not change.

    Args:
        model: in the mode it will train in; called with one float tensor.
        input_shape: shape of the input per process, e.g. ``(B, 3, 300, 300)``.
        world_size: number of processes, over which synchronised batch norm counts.

    Raises:
        ValueError: names each such layer, its input and possible fixes.

    Example:
        >>> check_batch_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (1, 3, 3, 3))
        Traceback (most recent call last):
        ValueError: 1: BatchNorm2d would take statistics over 1 value per channel (batch 1, map 1×1). Ways out: ...
    """
    counts: dict[str, tuple[int, Sequence[int]]] = {}  # the smallest number of values per layer, and that input's shape

    def record(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        count = math.prod(x.shape[2:])
        if isinstance(module, nn.GroupNorm):
            count *= x.shape[1] // module.num_groups
        elif isinstance(module, _BatchNorm):
            count *= x.shape[0] * (world_size if isinstance(module, nn.SyncBatchNorm) else 1)
        if name not in counts or count < counts[name][0]:
            counts[name] = count, tuple(x.shape)

    with restore_modes(model) as handles:
        for name, module in model.named_modules():
            per_batch = isinstance(module, _BatchNorm | _InstanceNorm) and module.training
            if per_batch or isinstance(module, nn.GroupNorm):
                handles.append(module.register_forward_pre_hook(partial(record, name)))
        try:
            run_on_shapes(model, input_shape)
        except ValueError:  # a norm rejects such a map in eval mode too; the message below is more specific
            if all(count > 1 for count, _ in counts.values()):
                raise
    single = [_describe(model, name, shape) for name, (count, shape) in counts.items() if count < 2]
    if single:
        raise ValueError(
            "; ".join(single) + ". Ways out: batch norm: a bigger batch on each process, sync_batch_norm on several, "
            "frozen_batch_norm, group_norm, or none there; group norm: fewer groups; instance norm: none there"
        )


def _describe(model: nn.Module, name: str, shape: Sequence[int]) -> str:
    norm = model.get_submodule(name)
    kind, unit = type(norm).__name__, "group" if isinstance(norm, nn.GroupNorm) else "channel"
    size = "×".join(str(n) for n in shape[2:]) or "none"
    return f"{name or kind}: {kind} would take statistics over 1 value per {unit} (batch {shape[0]}, map {size})"


def momentum_from_caffe(moving_average_fraction: float) -> float:
    """PyTorch's momentum from Caffe's ``moving_average_fraction``, the weight of the old average: 0.999 → 0.001."""
    return _weight_of_new("moving_average_fraction", moving_average_fraction)


def momentum_from_tensorflow(decay: float) -> float:
    """PyTorch's momentum from TensorFlow's decay (momentum in Keras), the weight of the old average: 0.97 → 0.03."""
    return _weight_of_new("decay", decay)


def _weight_of_new(name: str, weight_of_old: float) -> float:
    if not 0.0 <= weight_of_old < 1.0:
        raise ValueError(f"{name} is the weight of the old average, in [0, 1); got {weight_of_old}")
    return round(1.0 - weight_of_old, 12)
