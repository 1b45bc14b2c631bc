"""Statistics of activations and gradients by layer, for any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssdnorm.diagnose.feature_maps import LengthHistogram, is_dead, length_histogram, position_lengths
from ssdnorm.diagnose.layers import default_layers, find_layers
from ssdnorm.diagnose.model_state import preserve_state, unwrap_model

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST_LENGTHS = 2**18  # of a layer, 1 MB; the 5 % quantile of so many is off by .04 % in rank


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of a layer's maps over all images, or of the gradients of the loss with respect to them.

    Quantiles and histogram are exact up to 262,144 positions; of more positions, half of so many or more are drawn.

    Attributes:
        channels: C, the size of axis 1.
        calls: how often the layer ran.
        mean, std, rms: of the single values; not finite if a value is not.
        length_mean: of the L2 length over the channels at each position.
        length_quantiles: of the finite lengths, by q (0.05, 0.25, 0.5, 0.75, 0.95).
        zero_positions: share of positions of length 0, in float32.
        dead_channels: share of channels that are 0 at all positions of all images.
        non_finite: number of positions whose length is not finite.
        histogram: of the finite lengths.
    """

    channels: int
    calls: int
    mean: float
    std: float
    rms: float
    length_mean: float
    length_quantiles: dict[float, float]
    zero_positions: float
    dead_channels: float
    non_finite: int
    histogram: LengthHistogram

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for JSON; NaN and infinity become None."""
        return {
            **{k: v if math.isfinite(v) else None for k, v in vars(self).items() if isinstance(v, int | float)},
            "length_quantiles": {str(q): v if math.isfinite(v) else None for q, v in self.length_quantiles.items()},
            "histogram": self.histogram._asdict(),
        }


@dataclass(frozen=True)
class ActivationStatistics:
    """Result of ``activation_statistics``.

    Attributes:
        activations: by layer, in data order; see ``activation_statistics`` for the names.
        gradients: of the loss with respect to the same maps; empty without a loss.
        never_called: layers that never ran, or returned no map ``(B, C, …)`` of floats.
        num_images: number of images.
    """

    activations: dict[str, MapStatistics]
    gradients: dict[str, MapStatistics]
    never_called: tuple[str, ...]
    num_images: int

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "num_images": self.num_images,
            "activations": {name: row.as_json() for name, row in self.activations.items()},
            "gradients": {name: row.as_json() for name, row in self.gradients.items()},
            "never_called": list(self.never_called),
        }


def activation_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    train_mode: bool = False,
) -> ActivationStatistics:
    """Compute statistics of the maps of a model's layers over all batches, and of their gradients.

    Works on any module; axis 1 is the channels. Hooks read each map when it is computed, before a later in-place layer
    changes it. A layer that runs several times is counted under one name; maps with another number of channels
    (torchvision's ResNet uses one ReLU for three maps) are counted under ``name (256 channels)``. Several outputs (a
    tuple, list or dict of maps) are counted under ``name[0]``, or ``name[key]``. Model, outputs and ``.grad`` do not
    change. A compiled model runs in eager mode, one in ``DistributedDataParallel`` without its wrapper.

    Args:
        batches: arguments of ``forward``, one at a time.
        layers: names, see ``find_layers``; by default ``default_layers``.
        forward: how to run a batch; ``model(batch)`` when not given.
        loss: output, batch → scalar whose gradients are measured too; torchvision's detectors return losses in train
            mode only.
        train_mode: run the model in train mode (dropout on, batch norm with the batch's statistics).

    Raises:
        ValueError: no batches; an unknown layer; a requested layer that never runs; a model on which hooks do not work;
            a loss that does not depend on a trained parameter.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
        >>> found = activation_statistics(model, [torch.rand(2, 3, 5, 5)], layers=["0"])
        >>> found.activations["0"].channels, found.num_images
        (4, 2)
    """
    model = unwrap_model(model)
    measured = default_layers(model) if layers is None else find_layers(model, layers)
    activations: dict[str, _Maps] = {}
    gradients: dict[str, _Maps] = {}
    num_images = 0

    @torch.no_grad()
    def read(name: str, value: Any) -> None:
        for suffix, x in maps_in(value):
            key = name + suffix
            if key in activations and activations[key].channels != x.shape[1]:
                key = f"{key} ({x.shape[1]} channels)"
            activations.setdefault(key, _Maps(x.shape[1])).add(x.detach())
            if loss is not None and x.requires_grad:
                # on the tensor as it is now: after a later in-place layer it has another gradient
                x.register_hook(lambda grad, key=key: read_gradient(key, grad.detach()))

    @torch.no_grad()
    def read_gradient(key: str, grad: Tensor) -> None:
        gradients.setdefault(key, _Maps(grad.shape[1])).add(grad)

    with preserve_state(model) as handles, torch.set_grad_enabled(loss is not None):
        for name, layer in measured.items():
            if layer.side == "input":
                hook = layer.module.register_forward_pre_hook(lambda _, args, name=name: read(name, args[0]))
            else:
                hook = layer.module.register_forward_hook(lambda _, args, output, name=name: read(name, output))
            handles.append(hook)
        model.train(train_mode)
        for batch in batches:
            output = model(batch) if forward is None else forward(model, batch)
            num_images += _num_images(batch)
            if loss is not None:
                _run_backward(model, loss(output, batch))
    if num_images == 0:
        raise ValueError("activation_statistics: no images: the batches are empty")
    silent = [name for name in measured if not keys_of(name, activations)]
    if silent and layers is not None:
        raise ValueError(
            f"layers: {', '.join(silent)}: no map (B, C, …) came out: the layer never runs (its parts may be called "
            "one by one), or returns something else"
        )
    return ActivationStatistics(
        {name: maps.statistics() for name, maps in activations.items()},
        {name: maps.statistics() for name, maps in gradients.items()},
        tuple(silent),
        num_images,
    )


def maps_in(value: Any, suffix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The maps ``(B, C, …)`` in nested outputs, each with its place: ``""``, ``"[0]"``, ``"[key]"``."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dim() >= 2 and value.numel() > 0:
            yield suffix, value
    elif isinstance(value, Mapping | tuple | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from maps_in(inner, f"{suffix}[{key}]")


def keys_of(name: str, keys: Iterable[str]) -> list[str]:
    """The keys that belong to a layer: its name, its outputs, other numbers of channels."""
    return [key for key in keys if key == name or key.startswith((f"{name}[", f"{name} ("))]


def _run_backward(model: nn.Module, loss: Tensor) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained or not loss.requires_grad:
        raise ValueError("activation_statistics: no gradients: the loss depends on no trained parameter")
    torch.autograd.grad(loss, trained, allow_unused=True)  # runs the hooks; leaves .grad alone


def _num_images(batch: Any) -> int:
    images = getattr(batch, "images", batch)
    return len(images[0]) if isinstance(images, tuple) else len(images)


class _Maps:
    """One layer's maps: moments of the values by call, and the lengths of the positions."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.moments: list[tuple[int, float, float]] = []  # number of values, mean, variance
        self.alive = torch.zeros(channels, dtype=torch.bool)
        self.lengths: list[Tensor] = []  # of some positions
        self.share = 1.0  # of the positions whose lengths are kept
        self.generator = torch.Generator().manual_seed(0)
        self.num_positions, self.sum, self.zeros, self.non_finite = 0, 0.0, 0, 0

    def add(self, x: Tensor) -> None:
        lengths = position_lengths(x)
        x = x.to(lengths.dtype)  # float16 squared overflows
        mean = x.mean()
        variance = (x - mean).square_().mean()  # eight times as fast as torch.var on channels-last maps
        self.moments.append((x.numel(), mean.item(), variance.item()))
        self.alive |= ~is_dead(x).cpu()
        lengths = lengths.flatten().float().cpu()
        self.num_positions += len(lengths)
        self.sum += lengths.sum(dtype=torch.float64).item()
        self.zeros += int((lengths == 0).sum())
        self.non_finite += int((~lengths.isfinite()).sum())
        self.lengths.append(self._draw(lengths, self.share))
        while sum(map(len, self.lengths)) > _MOST_LENGTHS:
            self.lengths = [self._draw(torch.cat(self.lengths), 0.5)]
            self.share /= 2

    def _draw(self, lengths: Tensor, share: float) -> Tensor:
        return lengths if share == 1 else lengths[torch.rand(len(lengths), generator=self.generator) < share]

    def statistics(self) -> MapStatistics:
        values, means, variances = torch.tensor(self.moments, dtype=torch.float64).T
        weights = values / values.sum()
        mean = float(weights @ means)
        std = math.sqrt(float(weights @ (variances + (means - mean).square())))
        lengths = torch.cat(self.lengths)
        finite = lengths[lengths.isfinite()]
        quantiles = [math.nan] * len(QUANTILES)
        if len(finite):
            quantiles = np.quantile(finite.numpy(), QUANTILES, method="lower").tolist()
        return MapStatistics(
            channels=self.channels,
            calls=len(self.moments),
            mean=mean,
            std=std,
            rms=math.hypot(mean, std),
            length_mean=self.sum / self.num_positions if self.num_positions else math.nan,
            length_quantiles=dict(zip(QUANTILES, quantiles, strict=True)),
            zero_positions=self.zeros / self.num_positions if self.num_positions else math.nan,
            dead_channels=1 - self.alive.float().mean().item(),
            non_finite=self.non_finite,
            histogram=length_histogram(finite),
        )


def activation_table(found: ActivationStatistics) -> str:
    """Format activation statistics, one line per layer."""
    width = max([14, *map(len, found.activations)])
    head = (
        f"{'layer':{width}} {'channels':>8} {'mean':>9} {'std':>9} {'RMS':>9} {'length':>9} {'5 %':>9} {'median':>9} "
        f"{'95 %':>9} {'zero pos.':>9} {'dead ch.':>8}"
    )
    lines = [head + (f" {'gradient':>9}" if found.gradients else "")]
    for name, row in found.activations.items():
        q = row.length_quantiles
        numbers = (row.mean, row.std, row.rms, row.length_mean, q[0.05], q[0.5], q[0.95])
        line = f"{name:{width}} {row.channels:8d} " + " ".join(f"{value:9.4g}" for value in numbers)
        line += f" {row.zero_positions:9.2%} {row.dead_channels:8.1%}"
        if found.gradients:
            gradient = found.gradients.get(name)
            line += " " * 9 + "–" if gradient is None else f" {gradient.length_mean:9.3g}"
        lines.append(line + (f"   {row.non_finite} positions not finite" if row.non_finite else ""))
    return "\n".join(lines)
