"""Compare batch norm's running, batch and population statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssdnorm.diagnose.model_state import preserve_state, unwrap_model
from ssdnorm.layers.population_statistics import batch_norms, recompute_population_stats, running_statistics

Forward = Callable[[nn.Module, Tensor], Any]


@dataclass(frozen=True)
class Distance:
    """Distance of a mean and variance from the population's, over a layer's channels.

    Attributes:
        mean_shift: root mean square of (mean − population mean) / population standard deviation.
        variance_ratio: geometric mean of variance / population variance; channels above and below 1 cancel.
        variance_factor: exp(root mean square of log(variance / population variance)), at least 1; does not cancel.
        worst_variance_ratio: the ratio of the channel furthest from 1.
    """

    mean_shift: float
    variance_ratio: float
    variance_factor: float
    worst_variance_ratio: float


@dataclass(frozen=True)
class LayerDistances:
    """Distances of one batch norm's statistics from the population's.

    Attributes:
        name: of the layer.
        channels: C.
        momentum: weight of the new batch; None for a plain average over all batches.
        num_batches_tracked: updates of the running statistics so far.
        running: distance of the running statistics.
        batch: distance of a batch's statistics, averaged over the batches (root mean square, geometric mean).
        image_means, image_variances: ``(N, C)`` float64, of each image, from which those of any batch follow.
        values_per_image: number of values that each of these was computed over.
        eps: added to the variance in the layer.
    """

    name: str
    channels: int
    momentum: float | None
    num_batches_tracked: int
    running: Distance
    batch: Distance
    image_means: Tensor
    image_variances: Tensor
    values_per_image: int
    eps: float


@contextmanager
def batch_norm_uses(
    model: nn.Module,
    statistics: Literal["batch", "running", "population"],
    population: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Evaluate a model with other batch-norm statistics, and restore it on exit.

    Everything else is in eval mode, so that outputs differ by the statistics alone.

    Args:
        model: may be wrapped by torch.compile or ``DistributedDataParallel``.
        population: values by state-dict name, as ``batch_norm_distances`` returns them; for ``population`` only.

    Raises:
        ValueError: ``population`` without values, or with a name that the model does not have.
    """
    inner = unwrap_model(model)  # has the names of the population
    with preserve_state(model), torch.no_grad():
        model.eval()
        for layer in batch_norms(inner).values():
            layer.training = statistics == "batch"
        if statistics == "population":
            _load(inner, population or {})
        yield


def batch_norm_distances(
    model: nn.Module, batches: Sequence[Tensor], forward: Forward | None = None
) -> tuple[list[LayerDistances], dict[str, Tensor]]:
    """Compute the distances of the running and batch statistics of each layer from the population's.

    Population statistics are recomputed over all images with fixed weights, each layer normalising with its batch. The
    statistics of single images are taken in eval mode with the population's in place. The model does not change.

    Args:
        batches: image tensors ``(B, …)``; the batch statistics are those of these batches.
        forward: how to run a batch; ``model(batch)`` when not given.

    Returns:
        One row per layer that runs, in model order; and the population statistics by state-dict name.

    Raises:
        ValueError: no batch norm with running statistics, or no images.
    """
    model = unwrap_model(model)
    layers = batch_norms(model)
    if not layers:
        raise ValueError("batch norm: the model has no batch norm with running statistics")
    if not sum(len(batch) for batch in batches):
        raise ValueError("batch norm: no images to take statistics over")
    batch_moments, image_moments = _Moments(layers, over_images=True), _Moments(layers, over_images=False)
    num_images = sum(len(batch) for batch in batches)
    with preserve_state(model) as handles:
        handles += batch_moments.hooks()
        recompute_population_stats(model, batches, num_images, forward=forward)
        for handle in handles:
            handle.remove()
        population = running_statistics(model)
        handles += image_moments.hooks()
        with torch.no_grad():
            model.eval()
            for batch in batches:
                model(batch) if forward is None else forward(model, batch)
    rows = []
    for name, layer in layers.items():
        if not batch_moments.means[name]:
            continue  # never ran
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = (population[f"{name}.{key}".lstrip(".")].double().cpu() for key in ("running_mean", "running_var"))
        batch_means, batch_vars, _ = batch_moments.of(name)
        image_means, image_vars, count = image_moments.of(name)
        rows.append(
            LayerDistances(
                name=name,
                channels=layer.num_features,
                momentum=layer.momentum,
                num_batches_tracked=int(layer.num_batches_tracked or 0),
                running=distance(layer.running_mean, layer.running_var, mean, var, layer.eps),
                batch=distance(batch_means, batch_vars, mean, var, layer.eps),
                image_means=image_means,
                image_variances=image_vars,
                values_per_image=count,
                eps=layer.eps,
            )
        )
    return rows, population


def distance(mean: Tensor, var: Tensor, population_mean: Tensor, population_var: Tensor, eps: float) -> Distance:
    """Distance of one or several means and variances from the population's.

    Shape:
        mean, var ``(C,)`` or ``(n, C)``; the population's ``(C,)``.

    Example:
        >>> one = torch.ones(2)
        >>> distance(1 + one, 4 * one, one, one, eps=0.0)
        Distance(mean_shift=1.0, variance_ratio=4.0, variance_factor=4.0, worst_variance_ratio=4.0)
    """
    mean, var = mean.detach().double().cpu(), var.detach().double().cpu()
    population_mean, population_var = population_mean.double(), population_var.double() + eps
    shifts = (mean - population_mean) / population_var.sqrt()
    logs = ((var + eps) / population_var).log()
    return Distance(
        mean_shift=shifts.square().mean().sqrt().item(),
        variance_ratio=logs.mean().exp().item(),
        variance_factor=logs.square().mean().sqrt().exp().item(),
        worst_variance_ratio=logs.flatten()[logs.abs().argmax()].exp().item(),
    )


def _load(model: nn.Module, population: Mapping[str, Tensor]) -> None:
    unknown = sorted(set(population) - set(model.state_dict()))
    if unknown or not population:
        raise ValueError(f"population: {f'no {unknown[0]!r} in the model' if unknown else 'no statistics given'}")
    model.load_state_dict(dict(population), strict=False)


class _Moments:
    """Means and variances of each layer's input, one row per batch or per image."""

    def __init__(self, layers: Mapping[str, _BatchNorm], *, over_images: bool) -> None:
        self.layers = layers
        self.over_images = over_images
        self.means: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.variances: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.counts: dict[str, int] = {}

    def hooks(self) -> list[Any]:
        return [
            layer.register_forward_pre_hook(lambda _, args, name=name: self._add(name, args[0]))
            for name, layer in self.layers.items()
        ]

    @torch.no_grad()
    def _add(self, name: str, x: Tensor) -> None:
        axes = [*range(2, x.dim())]
        wide = x if x.dtype == torch.float64 else x.float()
        count = x[0, 0].numel() * (len(x) if self.over_images else 1)
        if self.over_images:
            var, mean = torch.var_mean(wide, [0, *axes], correction=1 if count > 1 else 0)
            var, mean = var[None], mean[None]
        elif axes:
            var, mean = torch.var_mean(wide, axes, correction=0)
        else:
            var, mean = torch.zeros_like(wide), wide
        self.means[name].append(mean.cpu().double())
        self.variances[name].append(var.cpu().double())
        self.counts[name] = count

    def of(self, name: str) -> tuple[Tensor, Tensor, int]:
        return torch.cat(self.means[name]), torch.cat(self.variances[name]), self.counts[name]
