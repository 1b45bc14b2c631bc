"""Find the layers to measure in a model, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ssdnorm.messages import did_you_mean

_PARTS = ("backbone", "extras")


@dataclass(frozen=True)
class SSDParts:
    """The layers of an SSD's features.

    Attributes:
        tap_norms: norm slot by tap; ``nn.Identity`` where there is no norm.
        activations: ReLU of each convolution block by the paper's layer name, in data order.
    """

    tap_norms: dict[str, nn.Module]
    activations: dict[str, nn.Module]

    def tap_scales(self) -> dict[str, Tensor]:
        """Weights of the tap norms that have one per channel."""
        weights = {name: getattr(norm, "weight", None) for name, norm in self.tap_norms.items()}
        return {name: w.detach() for name, w in weights.items() if isinstance(w, Tensor) and w.dim() == 1}


def find_ssd_parts(model: nn.Module) -> SSDParts | None:
    """Find the first features module of a model that may wrap it (in a Lightning module or a detector), or None.

    A features module has an ``nn.ModuleDict`` called ``tap_norms``. Its convolution blocks are the children of
    ``backbone`` and ``extras`` with modules ``conv`` and ``relu``; other backbones may have none.
    """
    for module in model.modules():
        slots = getattr(module, "tap_norms", None)
        if isinstance(slots, nn.ModuleDict):
            activations = {
                name: block.get_submodule("relu")
                for part in _PARTS
                for name, block in (getattr(module, part, None) or nn.Identity()).named_children()
                if all(isinstance(getattr(block, slot, None), nn.Module) for slot in ("conv", "relu"))
            }
            return SSDParts(dict(slots.items()), activations)
    return None


def block_of(parameter: str) -> str | None:
    """The block that a parameter belongs to by its name; None outside of features and head.

    Example:
        >>> block_of("model.features.backbone.conv4_3.conv.weight")
        'conv4'
        >>> block_of("features.tap_norms.conv4_3.weight"), block_of("head.locs.fc7.bias")
        ('tap_norms', 'head')
    """
    words = [word for word in parameter.split(".")[:-1] if word != "_orig_mod"]  # torch.compile's wrapper
    for word, inner in zip(words, [*words[1:], ""], strict=True):
        if word in ("tap_norms", "head"):
            return word
        if word in _PARTS and inner not in _PARTS:
            return re.sub(r"_\d+$", "", inner or word)
    return None


@dataclass(frozen=True)
class MeasuredLayer:
    """A module whose input or output is measured, over all its calls and outputs."""

    module: nn.Module
    side: Literal["input", "output"] = "output"


def default_layers(model: nn.Module) -> dict[str, MeasuredLayer]:
    """The layers measured by default.

    In an SSD: every convolution block after its ReLU, by the paper's name, and ``tap <name>``, each tap after its norm.
    In any other model: the output of every module without children, by its name.

    Example:
        >>> list(default_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())))
        ['0', '1']
    """
    parts = find_ssd_parts(model)
    if parts is None:
        leaves = {name: m for name, m in model.named_modules() if not any(m.children())}
        return {name or type(module).__name__: MeasuredLayer(module) for name, module in leaves.items()}
    layers = {name: MeasuredLayer(relu) for name, relu in parts.activations.items()}
    for name, norm in parts.tap_norms.items():
        if name not in layers:
            layers[name] = MeasuredLayer(norm, "input")
    return layers | {f"tap {name}": MeasuredLayer(norm) for name, norm in parts.tap_norms.items()}


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, MeasuredLayer]:
    """Find layers by name: those of :func:`default_layers`, and any module's output by its full name.

    Raises:
        ValueError: an unknown name; the message has the nearest guess.
    """
    known = {name: MeasuredLayer(module) for name, module in model.named_modules() if name} | default_layers(model)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            some = ", ".join(list(default_layers(model))[:40])
            raise ValueError(f"layers: no layer {name!r}; choose some of: {some}, or any module by its name.{hint}")
    return {name: known[name] for name in names}


def scale_statistics(weight: Tensor) -> dict[str, float]:
    """Mean, standard deviation, smallest and largest of a tap norm's weights."""
    w = weight.float()
    numbers = {"mean": w.mean(), "std": w.std(correction=0), "min": w.min(), "max": w.max()}
    return {name: value.item() for name, value in numbers.items()}


def scale_table(weights: Mapping[str, Tensor], initial: Mapping[str, float]) -> str:
    """Format the weights of the tap norms, one line per tap."""
    lines = [f"{'tap norm':14} {'initial':>8} {'mean':>8} {'std':>8} {'min':>8} {'max':>8}"]
    for name, weight in weights.items():
        start = f"{initial[name]:8.3g}" if name in initial else f"{'–':>8}"
        lines.append(f"{name:14} {start} " + " ".join(f"{value:8.3f}" for value in scale_statistics(weight).values()))
    return "\n".join(lines)
