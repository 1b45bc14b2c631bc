"""This file is about batch norm's two usual mishaps: statistics over one value, and a momentum of another framework."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


def check_batch_statistics(model: nn.Module, input_shape: Sequence[int], *, world_size: int = 1) -> None:
    """Refuse a model in which a norm would take train-mode statistics over a single value per channel.

    The variance of one value is 0: PyTorch stops at the first step, and SSD's last map is 1×1, so a batch of one image
    is enough. Batch and instance norms in eval mode are left out; a group norm with one value a group is refused in any
    mode, since it gives 0 whatever the image. The model runs once on shapes alone (the meta device); its weights,
    statistics and modes stay as they are.

    Args:
        model: in the mode it will train in; called with one tensor of floats.
        input_shape: shape of the input on one process, e.g. ``(B, 3, 300, 300)``.
        world_size: number of processes, which synchronised batch norm counts together.

    Raises:
        ValueError: names each such layer, its count and the ways out.

    Example:
        >>> check_batch_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (1, 3, 3, 3))
        Traceback (most recent call last):
        ValueError: 1: BatchNorm2d would take statistics over 1 value per channel (batch 1, map 1×1). Ways out: ...
    """
    counts: dict[str, tuple[int, Sequence[int]]] = {}
    handles = []
    modes = {module: module.training for module in model.modules()}

    def record(name: str, module: nn.Module, x: Tensor) -> None:
        count = math.prod(x.shape[2:])
        if isinstance(module, nn.GroupNorm):
            count *= x.shape[1] // module.num_groups
        elif isinstance(module, _BatchNorm):
            count *= x.shape[0] * (world_size if isinstance(module, nn.SyncBatchNorm) else 1)
        if name not in counts or count < counts[name][0]:
            counts[name] = count, tuple(x.shape)

    for name, module in model.named_modules():
        per_batch = isinstance(module, _BatchNorm | _InstanceNorm) and module.training
        if per_batch or isinstance(module, nn.GroupNorm):
            hook = lambda module, args, name=name: record(name, module, args[0])  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
    try:
        model.eval()
        on_meta = {
            n: torch.empty_like(t, device="meta") for n, t in (*model.named_parameters(), *model.named_buffers())
        }
        with torch.no_grad():
            functional_call(model, on_meta, (torch.empty(*input_shape, device="meta"),))
    except ValueError:  # a norm refuses such a map in eval mode too; the message below says more
        if all(count > 1 for count, _ in counts.values()):
            raise
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    lonely = [_describe(model, name, shape) for name, (count, shape) in counts.items() if count < 2]
    if lonely:
        raise ValueError(
            "; ".join(lonely) + ". Ways out: batch norm: a bigger batch on each process, sync_batch_norm on several, "
            "frozen_batch_norm, group_norm, or none there; group norm: fewer groups; instance norm: none there"
        )


def _describe(model: nn.Module, name: str, shape: Sequence[int]) -> str:
    kind = type(model.get_submodule(name)).__name__
    size = "×".join(str(n) for n in shape[2:]) or "none"
    over = "1 value per group" if isinstance(model.get_submodule(name), nn.GroupNorm) else "1 value per channel"
    return f"{name or kind}: {kind} would take statistics over {over} (batch {shape[0]}, map {size})"


def momentum_from_caffe(moving_average_fraction: float) -> float:
    """PyTorch's momentum, the share of the new batch, from Caffe's fraction of the old average.

    Example:
        >>> momentum_from_caffe(0.999)
        0.001
    """
    return _share_of_the_new("moving_average_fraction", moving_average_fraction)


def momentum_from_tensorflow(decay: float) -> float:
    """PyTorch's momentum, the share of the new batch, from TensorFlow's decay (Keras calls it momentum).

    Example:
        >>> momentum_from_tensorflow(0.97)
        0.03
    """
    return _share_of_the_new("decay", decay)


def _share_of_the_new(name: str, share_of_the_old: float) -> float:
    if not 0.0 <= share_of_the_old < 1.0:
        raise ValueError(f"{name} is the share of the old average, in [0, 1); got {share_of_the_old}")
    return round(1.0 - share_of_the_old, 12)
