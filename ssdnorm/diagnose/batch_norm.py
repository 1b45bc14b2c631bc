"""This file is about batch norm's three statistics, running, batch and population, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssdnorm.diagnose.untouched import inner_model, untouched
from ssdnorm.layers.population_statistics import recompute_population_stats, running_statistics

Forward = Callable[[nn.Module, Tensor], Any]


@dataclass(frozen=True)
class Distance:
    """How far one mean and variance lie from another, over a layer's channels.

    Attributes:
        mean_shift: root mean square of (mean − population mean) / population standard deviation.
        variance_ratio: geometric mean of variance / population variance; channels above and below 1 cancel.
        variance_factor: exp(root mean square of log(variance / population variance)), 1 or more; nothing cancels.
        worst_variance_ratio: that of the channel furthest from 1.
    """

    mean_shift: float
    variance_ratio: float
    variance_factor: float
    worst_variance_ratio: float


@dataclass(frozen=True)
class LayerDistances:
    """One batch norm.

    Attributes:
        name: of the layer.
        channels: C.
        momentum: the share of the new batch; None for a plain average over all batches.
        num_batches_tracked: updates of the running statistics so far.
        running: their distance from the population's.
        batch: that of a batch's statistics: the distance of each batch, root mean square and geometric mean over them.
        image_means, image_variances: ``(N, C)`` float64, of each image alone, from which those of any batch follow.
        values_per_image: how many each of these was taken over.
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
    """Within it the model evaluates with other batch-norm statistics; afterwards it is as it was.

    Everything else is in eval mode, dropout too, so that outputs differ by the statistics alone.

    Args:
        model: also one that torch.compile or ``DistributedDataParallel`` wrapped.
        population: state-dict names → values, as ``batch_norm_distances`` gives them; for ``population`` alone.

    Raises:
        ValueError: ``population`` without values, or with a name that the model has not.
    """
    inner = inner_model(model)  # whose names are those of the population
    with untouched(model), torch.no_grad():
        model.eval()
        for layer in _layers(inner).values():
            layer.training = statistics == "batch"
        if statistics == "population":
            _load(inner, population or {})
        yield


def batch_norm_distances(
    model: nn.Module, batches: Sequence[Tensor], forward: Forward | None = None
) -> tuple[list[LayerDistances], dict[str, Tensor]]:
    """How far the running and the batch statistics of each layer lie from the population's.

    The population's are recomputed over all images (each layer normalising with its batch, weights standing still). The
    statistics of single images are taken in eval mode with the population's in place. The model stays as it was.

    Args:
        batches: image tensors ``(B, …)``; the batch statistics are those of these batches.
        forward: how to run a batch; ``model(batch)`` when not given.

    Returns:
        A row for each layer that runs, in the order of the model; and the population statistics by state-dict name.

    Raises:
        ValueError: a model without batch norms that have running statistics; no images.
    """
    model = inner_model(model)
    _check(model, batches)
    layers = _layers(model)
    batch_moments, image_moments = _Moments(layers, over_images=True), _Moments(layers, over_images=False)
    num_images = sum(len(batch) for batch in batches)
    with untouched(model) as handles:
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
            continue  # it never ran
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
    """The distance of one or several means and variances from the population's.

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


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def _load(model: nn.Module, population: Mapping[str, Tensor]) -> None:
    unknown = sorted(set(population) - set(model.state_dict()))
    if unknown or not population:
        raise ValueError(f"population: {f'no {unknown[0]!r} in the model' if unknown else 'no statistics given'}")
    model.load_state_dict(dict(population), strict=False)


def _check(model: nn.Module, batches: Sequence[Tensor]) -> None:
    if not _layers(model):
        raise ValueError("batch norm: the model has no batch norm with running statistics")
    if not sum(len(batch) for batch in batches):
        raise ValueError("batch norm: no images to take statistics over")


class _Moments:
    """Means and variances of what enters each layer, a row for each batch or for each image."""

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
