"""Recompute batch norm's running statistics over many images after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class StatisticsShift:
    """Difference between one layer's population statistics and the running ones that they replace.

    Attributes:
        name: the layer.
        mean_shift: largest difference of means over the channels, in population standard deviations.
        variance_ratio: the ratio of variances new / old furthest from 1.
        count: values averaged per channel, over all processes.
    """

    name: str
    mean_shift: float
    variance_ratio: float
    count: int


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copy all batch-norm statistics by state-dict name; ``load_state_dict(copy, strict=False)`` restores them."""
    return {
        f"{name}.{buffer}".lstrip("."): getattr(module, buffer).clone()
        for name, module in batch_norms(model).items()
        for buffer in _BUFFERS
    }


@torch.no_grad()
def recompute_population_stats(
    model: nn.Module,
    batches: Iterable[Tensor],
    num_images: int,
    *,
    forward: Callable[[nn.Module, Tensor], object] | None = None,
) -> list[StatisticsShift]:
    r"""Replace the running statistics of every batch norm by true averages over ``num_images`` images.

    Running statistics are an exponential average over recent batches, taken while the weights changed. Here the weights
    are fixed, each layer normalises with its batch as in training, and mean and variance are pooled over all values:

    .. math:: \mu = \tfrac1n \sum_i x_i \qquad \sigma^2 = \tfrac1{n-1} \sum_i (x_i - \mu)^2

    Everything but batch norm runs in eval mode, so dropout is off as in evaluation. Modes, momentum and
    ``num_batches_tracked`` do not change; frozen layers are skipped.

    Sources:
        Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576), section 3.

    Differs from fvcore's precise_bn: variances are pooled around the common mean instead of averaged per batch, so they
    include the spread of the batch means; and dropout is off.

    Args:
        model: any module with batch norms in train mode or eval mode.
        batches: image tensors ``(B, …)`` of this process; the last one is cut to reach ``num_images`` exactly.
        num_images: number per process; 1000 or more is usual. The images of all processes are pooled.
        forward: how to run a batch; ``model(batch)`` when not given.

    Returns:
        One row per layer, in model order.

    Raises:
        ValueError: no batch norm with running statistics, or fewer than ``num_images`` images (in any process).
    """
    layers = batch_norms(model)
    if not layers:
        raise ValueError("recompute_population_stats: the model has no batch norm with running statistics")
    if num_images < 1:
        raise ValueError(f"recompute_population_stats: num_images is 1 or more; got {num_images}")
    pooled = {name: _Pooled() for name in layers}
    modes = {module: module.training for module in model.modules()}
    before = {name: {b: getattr(layer, b).clone() for b in _BUFFERS} for name, layer in layers.items()}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, pool=pooled[name]: pool.add(args[0]))
        for name, layer in layers.items()
    ]
    try:
        model.eval()
        for layer in layers.values():
            layer.training = True
        seen = _run(model, batches, num_images, forward or (lambda model, batch: model(batch)))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        for name, layer in layers.items():
            for buffer, value in before[name].items():
                getattr(layer, buffer).copy_(value)
    device = next(iter(before.values()))["running_mean"].device
    missing = _sum_over_processes(torch.tensor([float(seen < num_images)], device=device)).item()
    if missing:
        raise ValueError(f"recompute_population_stats: {num_images} images asked for; the batches hold {seen}")
    return [_install(name, layer, pooled[name]) for name, layer in layers.items() if pooled[name].was_used()]


def _run(
    model: nn.Module, batches: Iterable[Tensor], num_images: int, forward: Callable[[nn.Module, Tensor], object]
) -> int:
    seen = 0
    for batch in batches:
        batch = batch[: num_images - seen]
        forward(model, batch)
        seen += batch.shape[0]
        if seen == num_images:
            break
    return seen


class _Pooled:
    """Count, mean and sum of squared deviations per channel, merged batch by batch in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, Tensor, Tensor]] = []

    def was_used(self) -> bool:
        return bool(self.parts)

    def add(self, x: Tensor) -> None:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        var, mean = torch.var_mean(wide, [0, *range(2, x.dim())], correction=0)
        count = x.numel() // x.shape[1]
        self.parts.append((count, mean.double(), var.double() * count))

    def over_processes(self) -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.tensor([part[0] for part in self.parts], dtype=torch.float64, device=self.parts[0][1].device)
        means = torch.stack([mean for _, mean, _ in self.parts])
        squares = torch.stack([square for _, _, square in self.parts])
        count = _sum_over_processes(counts.sum())
        mean = _sum_over_processes((counts[:, None] * means).sum(0)) / count
        deviations = squares.sum(0) + (counts[:, None] * (means - mean).square()).sum(0)
        return count, mean, _sum_over_processes(deviations)


def _sum_over_processes(x: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
    return x


def _install(name: str, layer: _BatchNorm, pooled: _Pooled) -> StatisticsShift:
    count, mean, deviations = pooled.over_processes()
    var = deviations / (count - 1).clamp_min(1)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    old_mean, old_var = layer.running_mean.double(), layer.running_var.double()
    ratios = (var + layer.eps) / (old_var + layer.eps)
    row = StatisticsShift(
        name,
        mean_shift=((mean - old_mean).abs() / (var + layer.eps).sqrt()).max().item(),
        variance_ratio=ratios[ratios.log().abs().argmax()].item(),
        count=int(count.item()),
    )
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    return row
