"""This file is about finding an SSD's parts by the names of its modules, without knowing its classes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

_ROOMS = ("backbone", "extras")


@dataclass(frozen=True)
class SSDParts:
    """Where an SSD's features lie in a model that may wrap it (in a Lightning module, a detector, torch.compile).

    Attributes:
        tap_norms: the norm slot of each tap by the tap's name; ``nn.Identity`` where there is none.
        activations: the ReLU of each convolution block by the paper's layer name, in the order of the data.
    """

    tap_norms: dict[str, nn.Module]
    activations: dict[str, nn.Module]

    def tap_scales(self) -> dict[str, Tensor]:
        """The weights, one a channel, of the tap norms that have such."""
        weights = {name: getattr(norm, "weight", None) for name, norm in self.tap_norms.items()}
        return {name: w.detach() for name, w in weights.items() if isinstance(w, Tensor) and w.dim() == 1}


def find_ssd_parts(model: nn.Module) -> SSDParts | None:
    """The parts of the first features module in the model, or None if there is none.

    A features module is one with an ``nn.ModuleDict`` called ``tap_norms``. Its convolution blocks are the children of
    ``backbone`` and ``extras`` with modules ``conv`` and ``relu``; other backbones have none, and that is no error.
    """
    for module in model.modules():
        slots = getattr(module, "tap_norms", None)
        if isinstance(slots, nn.ModuleDict):
            activations = {
                name: block.get_submodule("relu")
                for room in _ROOMS
                if isinstance(getattr(module, room, None), nn.Module)
                for name, block in module.get_submodule(room).named_children()
                if all(isinstance(getattr(block, slot, None), nn.Module) for slot in ("conv", "relu"))
            }
            return SSDParts(dict(slots.items()), activations)
    return None


def block_of(parameter: str) -> str | None:
    """The block that a parameter's name belongs to, or None if it is part of neither features nor head.

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
        if word in _ROOMS and inner not in _ROOMS:
            return re.sub(r"_\d+$", "", inner or word)
    return None
