"""Recompute batch norm's running statistics over many images after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssdnorm.layers.modes import restore_modes

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


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
) -> None:
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
        batches: image tensors ``(B, …)`` of this process; the last one is cut to reach ``num_images`` exactly.
        num_images: number per process; 1000 or more is usual. The images of all processes are pooled.
        forward: how to run a batch; ``model(batch)`` when not given.

    Raises:
        ValueError: no batch norm with running statistics, or fewer than ``num_images`` images (in any process).
    """
    layers = batch_norms(model)
    if not layers:
        raise ValueError("recompute_population_stats: the model has no batch norm with running statistics")
    if num_images < 1:
        raise ValueError(f"recompute_population_stats: num_images is 1 or more; got {num_images}")
    run = forward or (lambda model, batch: model(batch))
    parts: dict[str, list[_Moments]] = {name: [] for name in layers}
    before = running_statistics(model)
    seen = 0
    with restore_modes(model) as handles:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(partial(_keep_moments, parts[name])))
        try:
            model.eval()
            for layer in layers.values():
                layer.training = True
            for batch in batches:
                batch = batch[: num_images - seen]
                run(model, batch)
                seen += len(batch)
                if seen == num_images:
                    break
        finally:
            model.load_state_dict(before, strict=False)
    device = next(iter(before.values())).device
    missing = _sum_over_processes(torch.tensor([float(seen < num_images)], device=device)).item()
    if missing:
        raise ValueError(f"recompute_population_stats: {num_images} images asked for; the batches hold {seen}")
    for name, layer in layers.items():
        if parts[name]:
            _install(layer, parts[name])


_Moments = tuple[int, Tensor, Tensor]  # count; mean and sum of squared deviations per channel, in float64


def _keep_moments(kept: list[_Moments], _layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    x = args[0].float() if args[0].dtype in (torch.float16, torch.bfloat16) else args[0]
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    count = x.numel() // x.shape[1]
    kept.append((count, mean.double(), var.double() * count))


def _install(layer: _BatchNorm, parts: Sequence[_Moments]) -> None:
    """Merge the moments of all batches and processes (Chan et al. 1979) and make them the running statistics."""
    counts = torch.tensor([count for count, _, _ in parts], dtype=torch.float64, device=parts[0][1].device)
    means = torch.stack([mean for _, mean, _ in parts])
    count = _sum_over_processes(counts.sum())
    mean = _sum_over_processes((counts[:, None] * means).sum(0)) / count
    within = torch.stack([squares for _, _, squares in parts]).sum(0)
    deviations = _sum_over_processes(within + (counts[:, None] * (means - mean).square()).sum(0))
    var = deviations / (count - 1).clamp_min(1)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)


def _sum_over_processes(x: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
    return x
