"""Statistics of activations and gradients by layer, for any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssdnorm.diagnose.feature_maps import Maps, MapStatistics
from ssdnorm.diagnose.layers import default_layers, find_layers
from ssdnorm.diagnose.model_state import preserve_state, unwrap_model


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
    activations: dict[str, Maps] = {}
    gradients: dict[str, Maps] = {}
    num_images = 0

    @torch.no_grad()
    def read(name: str, value: Any) -> None:
        for suffix, x in maps_in(value):
            key = name + suffix
            if key in activations and activations[key].channels != x.shape[1]:
                key = f"{key} ({x.shape[1]} channels)"
            activations.setdefault(key, Maps(x.shape[1])).add(x.detach())
            if loss is not None and x.requires_grad:
                # on the tensor as it is now: after a later in-place layer it has another gradient
                x.register_hook(lambda grad, key=key: read_gradient(key, grad.detach()))

    @torch.no_grad()
    def read_gradient(key: str, grad: Tensor) -> None:
        gradients.setdefault(key, Maps(grad.shape[1])).add(grad)

    with preserve_state(model) as handles, torch.set_grad_enabled(loss is not None):
        for name, layer in measured.items():
            if layer.side == "input":
                handles.append(layer.module.register_forward_pre_hook(lambda _, args, name=name: read(name, args[0])))
            else:
                handles.append(layer.module.register_forward_hook(lambda _, args, y, name=name: read(name, y)))
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
