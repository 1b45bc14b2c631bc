"""Compare batch norm's running, batch and population statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
            unknown = sorted(set(population or {}) - set(inner.state_dict()))
            if unknown or not population:
                reason = f"no {unknown[0]!r} in the model" if unknown else "no statistics given"
                raise ValueError(f"population: {reason}")
            inner.load_state_dict(dict(population), strict=False)
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
    num_images = sum(len(batch) for batch in batches)
    if not layers:
        raise ValueError("batch norm: the model has no batch norm with running statistics")
    if not num_images:
        raise ValueError("batch norm: no images to take statistics over")
    with preserve_state(model) as handles:
        of_batches = _keep_moments(layers, handles, by_image=False)
        recompute_population_stats(model, batches, num_images, forward=forward)
        for handle in handles:
            handle.remove()
        population = running_statistics(model)
        of_images = _keep_moments(layers, handles, by_image=True)
        with torch.no_grad():
            model.eval()
            for batch in batches:
                model(batch) if forward is None else forward(model, batch)
    rows = []
    for name, layer in layers.items():
        if not of_batches[name]:
            continue  # never ran
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = (population[f"{name}.{key}".lstrip(".")].double().cpu() for key in ("running_mean", "running_var"))
        batch_means, batch_vars, _ = zip(*of_batches[name], strict=True)
        image_means, image_vars, counts = zip(*of_images[name], strict=True)
        rows.append(
            LayerDistances(
                name=name,
                channels=layer.num_features,
                momentum=layer.momentum,
                num_batches_tracked=int(layer.num_batches_tracked or 0),
                running=distance(layer.running_mean, layer.running_var, mean, var, layer.eps),
                batch=distance(torch.cat(batch_means), torch.cat(batch_vars), mean, var, layer.eps),
                image_means=torch.cat(image_means),
                image_variances=torch.cat(image_vars),
                values_per_image=counts[-1],
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


_Moments = tuple[Tensor, Tensor, int]  # means and variances (n, C) on the host in float64; values per row


def _keep_moments(
    layers: Mapping[str, nn.Module], handles: list[RemovableHandle], *, by_image: bool
) -> dict[str, list[_Moments]]:
    """The moments of each layer's inputs from now on, of single images or of whole batches."""
    kept: dict[str, list[_Moments]] = {name: [] for name in layers}
    for name, layer in layers.items():
        handles.append(
            layer.register_forward_pre_hook(
                lambda _, args, rows=kept[name]: rows.append(_moments(args[0], by_image=by_image))
            )
        )
    return kept


@torch.no_grad()
def _moments(x: Tensor, *, by_image: bool) -> _Moments:
    x = x.reshape(*x.shape[:2], -1) if by_image else x.movedim(1, 0).flatten(1)[None]
    x = x if x.dtype == torch.float64 else x.float()
    var, mean = torch.var_mean(x, 2, correction=0 if by_image or x.shape[2] == 1 else 1)
    return mean.double().cpu(), var.double().cpu(), x.shape[2]
